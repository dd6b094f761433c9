// SPDX-License-Identifier: Apache-2.0

import CLinux
import Glibc
import MachineAPI
import Platform
import TestSupport
import Testing
import Wire

@testable import PageServer

/// What clients say first, be it what it may.
@Suite struct HandshakeTests {
    static let fileSize: UInt64 = 1 << 20

    /// As Firecracker 1.17 sends it.
    @Test func firecrackersHandoffIsRead() throws {
        let text =
            #"[{"base_host_virt_addr":140000000000000,"size":524288,"offset":0,"page_size":4096,"page_size_kib":4096},"#
            + #"{"base_host_virt_addr":140001000001536,"size":524288,"offset":524288,"page_size":4096,"page_size_kib":4096}]"#
        let handoff = try Handshake.parse(Array(text.utf8), fileSize: Self.fileSize)
        #expect(handoff?.regions.map(\.offset) == [0, 524_288])
        #expect(handoff?.regions.map(\.size) == [524_288, 524_288])
        // What we send ourselves is the same.
        let ours = MemoryHandoff(regions: handoff?.regions ?? [])
        #expect(ours.json.encoded() == Array(text.utf8))
    }

    @Test(arguments: [
        (#"[{"base_host_virt_addr":4096,"size":4096,"offset":0,"page_size_kib":4096}]"#, 4096 as UInt64),
        (#"[{"base_host_virt_addr":4096,"size":4096,"offset":0}]"#, 4096),
        (
            #"[{"base_host_virt_addr":2097152,"size":2097152,"offset":0,"page_size":2097152,"new":{"a":[1]}}]"#,
            2_097_152
        ),
    ])
    func olderAndNewerMonitors(text: String, pageSize: UInt64) throws {
        let handoff = try Handshake.parse(Array(text.utf8), fileSize: 4 << 20)
        #expect(handoff?.regions.first?.pageSize == pageSize)
    }

    @Test(arguments: [
        ("{}", "does not begin with an array"), ("[]", "one range at least"), ("[1]", "an object is wanted"),
        (#"[{"size":4096,"offset":0}]"#, "base_host_virt_addr is missing"),
        (#"[{"base_host_virt_addr":4096,"size":2097152,"offset":0}]"#, "are not in a file of"),
        (#"[{"base_host_virt_addr":4096,"size":4096,"offset":1048576}]"#, "are not in a file of"),
        (#"[{"base_host_virt_addr":4096,"size":4096,"offset":18446744073709547520}]"#, "too large"),
        (#"[{"base_host_virt_addr":-4096,"size":4096,"offset":0}]"#, "negative"),
        (#"[{"base_host_virt_addr":4097,"size":4096,"offset":0}]"#, "whole pages"),
        (#"[{"base_host_virt_addr":4096,"size":0,"offset":0}]"#, "too small"),
        (#"[{"base_host_virt_addr":4096,"size":4096,"offset":0,"page_size":5000}]"#, "power of two"),
        (#"[{"base_host_virt_addr":4096,"size":4096,"offset":0,"page_size":1}]"#, "too small"),
        (
            #"[{"base_host_virt_addr":4096,"size":8192,"offset":0},{"base_host_virt_addr":8192,"size":4096,"offset":0}]"#,
            "overlaps"
        ),
        (
            #"[{"base_host_virt_addr":4096,"size":1048576,"offset":0},{"base_host_virt_addr":2097152,"size":4096,"offset":0}]"#,
            "larger than the file"
        ),
        ("[[[[[[[[[[1]]]]]]]]]]", "deep"), (#"[{"base_host_virt_addr":"0","size":1,"offset":1}]"#, "an integer"),
    ])
    func whatIsNoHandoffIsNamed(text: String, reason: String) {
        let error = #expect(throws: ClientFailure.self) {
            try Handshake.parse(Array(text.utf8), fileSize: Self.fileSize)
        }
        #expect("\(error.map { "\($0)" } ?? "")".contains(reason), "\(String(describing: error))")
    }

    /// A member of ours, which other servers leave alone.
    @Test func theSnapshotIsSaid() throws {
        let name = "00112233445566778899aabbccddeeff"
        let regions = [
            MemoryHandoff.Region(address: 4096, size: 4096, offset: 0),
            MemoryHandoff.Region(address: 16_384, size: 4096, offset: 4096),
        ]
        let ours = MemoryHandoff(regions: regions, snapshot: name)
        #expect(try Handshake.parse(ours.json.encoded(), fileSize: Self.fileSize) == ours)
        for wrong in [#""a""#, #"5"#] {
            let text =
                #"[{"base_host_virt_addr":4096,"size":4096,"offset":0,"snapshot_id":"b"},"#
                + #"{"base_host_virt_addr":8192,"size":4096,"offset":0,"snapshot_id":\#(wrong)}]"#
            #expect(throws: ClientFailure.self) { try Handshake.parse(Array(text.utf8), fileSize: Self.fileSize) }
        }
    }

    @Test func manyRangesAreTooMany() {
        let one = #"{"base_host_virt_addr":4096,"size":4096,"offset":0}"#
        let text = "[" + Array(repeating: one, count: 65).joined(separator: ",") + "]"
        #expect(throws: ClientFailure.self) { try Handshake.parse(Array(text.utf8), fileSize: Self.fileSize) }
    }

    // MARK: - Over a socket

    private struct Ends: ~Copyable {
        let client: Descriptor
        let server: Descriptor
        init() throws {
            let pair = try UnixSocket.pair()
            try pair.second.setNonBlocking()
            client = pair.first
            server = pair.second
        }
    }

    /// A pipe whose writing end is sent about: once nobody has it any more, the other end says so.
    private final class Passenger {
        private let reading: Descriptor
        private(set) var writing: Descriptor?

        init() throws {
            let pipe = try Pipe()
            reading = pipe.reading
            let writing = pipe.writing
            self.writing = consume writing
            try reading.setNonBlocking()
        }

        var raw: Int32 { writing?.raw ?? -1 }

        /// Closes this end; whether it was the last.
        func isAllThereWas() throws -> Bool {
            writing = nil
            var byte = [UInt8](repeating: 0, count: 1)
            return try byte.withUnsafeMutableBytes { try reading.read(into: $0) } == .endOfFile
        }
    }

    private func send(_ bytes: [UInt8], _ descriptors: [Int32], over socket: borrowing Descriptor) {
        var numbers = descriptors
        _ = bytes.withUnsafeBytes {
            clinux_send_descriptors(socket.raw, $0.baseAddress, $0.count, &numbers, numbers.count)
        }
    }

    private static let good = Array(#"[{"base_host_virt_addr":4096,"size":4096,"offset":0}]"#.utf8)

    @Test func itMayComeInPieces() throws {
        let ends = try Ends()
        let faults = try Userfault()
        var handshake = Handshake()
        for (index, byte) in Self.good.enumerated() {
            #expect(try handshake.isWaiting(ends.server))
            send([byte], index == 0 ? [faults.descriptor.raw] : [], over: ends.client)
        }
        // Read as one.
        #expect(try !handshake.isWaiting(ends.server))
    }

    @Test func descriptorsOfOtherKindsAndNumbersAreRefused() throws {
        let faults = try Userfault()
        let cases: [(count: Int, hasFaults: Bool, reason: String)] = [
            (0, false, "no descriptor"), (1, false, "no userfaultfd"), (1, true, "more than one"),
            (16, false, "more than one"),
        ]
        for (count, hasFaults, reason) in cases {
            let passenger = try Passenger()
            do {
                let ends = try Ends()
                var handshake = Handshake()
                let numbers = Array(repeating: passenger.raw, count: count)
                send(Self.good, hasFaults ? [faults.descriptor.raw] + numbers : numbers, over: ends.client)
                let error = #expect(throws: ClientFailure.self) { _ = try handshake.isWaiting(ends.server) }
                #expect("\(error.map { "\($0)" } ?? "")".contains(reason))
            }
            #expect(try passenger.isAllThereWas(), "\(reason)")
        }
    }

    /// Anything at all: it is refused or waited for, and nothing stays open.
    @Test func rubbish() throws {
        var generator = SeededGenerator(7)
        let passenger = try Passenger()
        for _ in 0..<fuzzRounds(3000) {
            let ends = try Ends()
            var handshake = Handshake()
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                var bytes = Self.good
                switch Int.random(in: 0...3, using: &generator) {
                case 0: bytes = generator.bytes(Int.random(in: 1...200, using: &generator))
                case 1:
                    for _ in 0..<Int.random(in: 1...4, using: &generator) {
                        bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(
                            in: 0x20...0x7f, using: &generator)
                    }
                case 2: bytes.removeLast(Int.random(in: 1..<bytes.count, using: &generator))
                default: bytes = Array(repeating: 0x5b, count: Int.random(in: 1...20_000, using: &generator))
                }
                let count = Int.random(in: 0...3, using: &generator)
                send(bytes, Array(repeating: passenger.raw, count: count), over: ends.client)
                do { _ = try handshake.isWaiting(ends.server) } catch { break }
            }
        }
        #expect(try passenger.isAllThereWas())
    }
}

extension Handshake {
    /// Whether more has to come before the handoff is whole.
    fileprivate mutating func isWaiting(_ socket: borrowing Descriptor) throws -> Bool {
        guard let result = try read(from: socket, fileSize: HandshakeTests.fileSize) else { return true }
        #expect(result.handoff.regions.count == 1)
        return false
    }
}
