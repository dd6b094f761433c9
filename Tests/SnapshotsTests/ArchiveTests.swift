// SPDX-License-Identifier: Apache-2.0

import Platform
import TestSupport
import Testing

@testable import Snapshots

/// Takes an archive into a directory, believing its first line on the files' lengths.
private final class Receiver: ArchiveReceiver {
    let scratch: Scratch
    let lengths: [ArchivedFile: UInt64]
    var manifest: [UInt8] = []
    var state: [UInt8] = []

    init(_ scratch: Scratch, _ lengths: [ArchivedFile: UInt64]) {
        self.scratch = scratch
        self.lengths = lengths
    }

    func take(manifest: [UInt8], state: [UInt8]) throws -> [ArchivedFile: UInt64] {
        self.manifest = manifest
        self.state = state
        return lengths
    }

    func create(_ file: ArchivedFile) throws -> Descriptor {
        try Descriptor.open("\(scratch.path)/\(file.name)", .create, permissions: 0o600)
    }
}

/// Reads from bytes, a few at a time.
private func source(_ bytes: [UInt8], atMost limit: Int = 7001) -> (UnsafeMutableRawBufferPointer) throws -> Int {
    var position = 0
    return { buffer in
        let count = min(buffer.count, limit, bytes.count - position)
        for index in 0..<count { buffer[index] = bytes[position + index] }
        position += count
        return count
    }
}

@Suite struct ArchiveTests {
    private static let memoryLength: UInt64 = 2 << 20 | 4096
    private static let lengths: [ArchivedFile: UInt64] = [.memory: memoryLength, .disk(0): 8192, .disk(1): 300 * 4096]

    /// Sparse pages, a chunk that comes twice, one of zeros that is no hole, and a last one that is not whole.
    private func make(_ scratch: Scratch) throws -> [UInt8] {
        var generator = SeededGenerator(5)
        let chunk = generator.bytes(256 << 10)
        let memory = try scratch.write(
            "source-memory", length: Self.memoryLength,
            [
                (0, chunk), (256 << 10, [UInt8](repeating: 0, count: 256 << 10)), (512 << 10, chunk),
                (768 << 10 | 8192, generator.bytes(4096)), (Self.memoryLength - 4096, generator.bytes(4096)),
            ])
        let first = try scratch.write("source-0", length: 8192, [(0, generator.bytes(8192))])
        let second = try scratch.write("source-1", length: 300 * 4096, [(100 * 4096, generator.bytes(5 * 4096))])
        var bytes: [UInt8] = []
        var writer = try ArchiveWriter { bytes += $0 }
        try writer.writeManifest(Array(#"{"a": 1}"#.utf8))
        try writer.writeState(generator.bytes(1000))
        try writer.write(.memory, from: memory)
        try writer.write(.disk(0), from: first)
        try writer.write(.disk(1), from: second)
        try writer.finish()
        return bytes
    }

    @Test func whatIsWrittenIsRead() throws {
        let scratch = try Scratch()
        let bytes = try make(scratch)
        let receiver = Receiver(scratch, Self.lengths)
        var reader = ArchiveReader(from: source(bytes), to: receiver)
        try reader.read()
        #expect(receiver.manifest == Array(#"{"a": 1}"#.utf8) && receiver.state.count == 1000)
        #expect(try scratch.read("memory") == scratch.read("source-memory"))
        #expect(try scratch.read("disk-0") == scratch.read("source-0"))
        #expect(try scratch.read("disk-1") == scratch.read("source-1"))
        // One chunk, two pages, the disks' and what tells of them: no zeros, and nothing twice.
        #expect(bytes.count < (256 << 10) + 2 * 4096 + 8192 + 5 * 4096 + 4096)
    }

    @Test func lengthsThatAreNotTheSnapshotsAreRefused() throws {
        let scratch = try Scratch()
        let bytes = try make(scratch)
        for wrong in [
            Self.lengths.merging([.memory: Self.memoryLength + 4096]) { $1 },
            Self.lengths.filter { $0.key != .disk(1) },
            Self.lengths.merging([.disk(2): 4096]) { $1 },
        ] {
            var reader = ArchiveReader(from: source(bytes), to: Receiver(scratch, wrong))
            #expect(throws: SnapshotsError.self) { try reader.read() }
        }
    }

    /// Cut short, gone on with, or with any one bit turned over: it is refused, and no length that it says is believed.
    @Test func damageIsSeen() throws {
        let scratch = try Scratch()
        let bytes = try make(scratch)
        func isRefused(_ bytes: [UInt8]) -> Bool {
            var reader = ArchiveReader(from: source(bytes, atMost: 1 << 20), to: Receiver(scratch, Self.lengths))
            do {
                try reader.read()
                return false
            } catch { return error is SnapshotsError }
        }
        #expect(isRefused(bytes + [0]))
        for count in stride(from: 0, to: bytes.count, by: 9973) { #expect(isRefused(Array(bytes[..<count]))) }
        var generator = SeededGenerator(6)
        // The heads of records are where lengths are; the chunks' bytes have digests.
        for _ in 0..<fuzzRounds(150) {
            var spoiled = bytes
            let place = Int.random(in: 0..<(Bool.random(using: &generator) ? 1200 : bytes.count), using: &generator)
            // Whether a record that nobody knows is passed over is all that this bit says.
            spoiled[place] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
            #expect(isRefused(spoiled), "byte \(place)")
        }
    }

    /// Records in any order and of any length, under digests that fit where the writer makes them.
    @Test func anySequenceOfRecordsIsReadOrRefused() throws {
        let scratch = try Scratch()
        var generator = SeededGenerator(7)
        for _ in 0..<fuzzRounds(300) {
            var bytes = ArchiveFormat.header
            bytes += ArchiveFormat.recordHeader(1, length: 2) + Array("{}".utf8)
            bytes += ArchiveFormat.recordHeader(2, length: 0)
            for _ in 0..<Int.random(in: 0..<6, using: &generator) {
                let length = [0, 16, 40, 48, 4144, 8240].randomElement(using: &generator) ?? 0
                var payload = generator.bytes(length)
                // Numbers that mean something, as often as not.
                for place in stride(from: 0, to: min(16, length), by: 8) where Bool.random(using: &generator) {
                    let number =
                        [0, 1, 2, 4096, 8192, 256 << 10, 2 << 20, Self.memoryLength, .max]
                        .randomElement(using: &generator) ?? 0
                    withUnsafeBytes(of: number.littleEndian) { payload.replaceSubrange(place..<place + 8, with: $0) }
                }
                let said = Bool.random(using: &generator) ? length : Int(generator.next() >> 1)
                bytes += ArchiveFormat.recordHeader(
                    UInt32.random(in: 0..<9, using: &generator), length: said,
                    isRequired: Bool.random(using: &generator))
                bytes += payload
            }
            var reader = ArchiveReader(from: source(bytes), to: Receiver(scratch, Self.lengths))
            #expect(throws: (any Error).self) { try reader.read() }
        }
    }

    /// One as the format's first version has it, made by other means than ours, with a record of a later one.
    @Test func oldArchivesAreRead() throws {
        let scratch = try Scratch()
        let bytes = try corpusFile("version-1.archive")
        let receiver = Receiver(scratch, [.memory: 3 << 18 | 4096, .disk(0): 4096])
        var reader = ArchiveReader(from: source(bytes), to: receiver)
        try reader.read()
        #expect(receiver.manifest == Array(#"{"a":1}"#.utf8) && receiver.state == Array("state".utf8))
        let memory = try scratch.read(ArchivedFile.memory.name)
        #expect(memory.count == 3 << 18 | 4096)
        #expect(memory[4096..<8192] == memory[2 << 18 | 4096..<2 << 18 | 8192])
        #expect(memory[8192..<2 << 18].allSatisfy { $0 == 0 } && !memory[(3 << 18)...].allSatisfy { $0 == 0 })
        #expect(try scratch.read(ArchivedFile.disk(0).name).count == 4096)
    }
}
