// SPDX-License-Identifier: Apache-2.0

import Glibc
import MachineAPI
import Platform
import Synchronization
import TestSupport
import Testing
import Virtio

@testable import Machine

/// Memory that a foreign handler hands over, without a machine.
@Suite struct ServedMemoryTests {
    /// The handler's program: started, it listens.
    private final class Handler {
        private let process: ChildProcess
        private var input: Descriptor?
        private let output: Descriptor

        init(_ socket: String, _ content: String) throws {
            let script = splitPath(#filePath).directory + "/page-handler.py"
            let inputs = try Pipe()
            let outputs = try Pipe()
            var specification = ProcessSpecification(
                "/usr/bin/env", ["env", "python3", script, socket, content], environment: processEnvironment())
            specification.descriptors = [inputs.reading.raw, outputs.writing.raw, 2]
            process = try ChildProcess(specification)
            output = outputs.reading
            let writing = inputs.writing
            input = consume writing
            guard try line() == "listening" else { throw SystemError("python3", script, code: ENOEXEC) }
        }

        deinit {
            input = nil
            _ = try? process.killAndWait()
        }

        func line() throws -> String {
            var text: [UInt8] = []
            var byte = [UInt8](repeating: 0, count: 1)
            while case .bytes = try byte.withUnsafeMutableBytes({ try output.read(into: $0) }), byte[0] != 0x0a {
                text += byte
            }
            return String(decoding: text, as: UTF8.self)
        }

        /// It ends, and with it its connection.
        func end() throws {
            input = nil
            _ = try process.wait()
        }
    }

    /// Where a machine's end by the loss of its memory is noted; whoever loses it waits for ever, as the process would
    /// have ended.
    private final class Loss: Sendable {
        let reason = Mutex<String?>(nil)
        let noted: EventCounter
        init() throws { noted = try EventCounter() }

        func note(_ text: String) -> Never {
            reason.withLock { $0 = text }
            noted.signal()
            while true { pause() }
        }

        func wait() -> String {
            var poller = pollfd(fd: noted.descriptor.raw, events: Int16(POLLIN), revents: 0)
            _ = poll(&poller, 1, -1)
            return reason.withLock { $0 ?? "" }
        }
    }

    @Test func aForeignHandlerHandsItOver() throws {
        let directory = "/tmp/martlet-served-\(getpid())-\(monotonicNanoseconds())"
        try Files.makeDirectories(directory)
        defer { try? Files.removeTree(directory) }
        var generator = SeededGenerator(11)
        let content = generator.bytes(64 * 4096)
        try Files.writeAtomically(content, to: "\(directory)/memory")
        let handler = try Handler("\(directory)/socket", "\(directory)/memory")
        // Two ranges, with a hole between.
        let memory = try GuestMemory(anonymous: [0..<48 * 4096, 1 << 20..<1 << 20 + 16 * 4096])
        let loss = try Loss()
        let server = try ServedMemory(of: memory, at: "\(directory)/socket") { loss.note($0) }
        #expect(try handler.line() == "[[196608, 0], [65536, 196608]]")
        for page in [47, 0, 13] {
            #expect(
                try memory.read(UInt64(page) * 4096, count: 4096) == Array(content[page * 4096..<(page + 1) * 4096]))
        }
        #expect(try memory.read(1 << 20, count: 16 * 4096) == Array(content[(48 * 4096)...]))
        // All of it: what a fork needs, and a snapshot.
        try memory.populate(0..<memory.byteCount, writing: false)
        #expect(try memory.read(0, count: 48 * 4096) == Array(content[..<(48 * 4096)]))
        #expect(loss.reason.withLock { $0 } == nil)
        try handler.end()
        #expect(loss.wait().contains("\(directory)/socket is gone"))
        withExtendedLifetime(server) {}
    }

    @Test func theEndOfTheMachineIsNoLoss() throws {
        let directory = "/tmp/martlet-served-\(getpid())-\(monotonicNanoseconds())"
        try Files.makeDirectories(directory)
        defer { try? Files.removeTree(directory) }
        try Files.writeAtomically([UInt8](repeating: 1, count: 4096), to: "\(directory)/memory")
        let handler = try Handler("\(directory)/socket", "\(directory)/memory")
        let memory = try GuestMemory(anonymous: [0..<4096])
        let loss = try Loss()
        let server = try ServedMemory(of: memory, at: "\(directory)/socket") { loss.note($0) }
        server.end()
        try handler.end()
        #expect(loss.reason.withLock { $0 } == nil)
    }

    @Test func aServerThatIsNotThereIsNamed() throws {
        let memory = try GuestMemory(anonymous: [0..<4096])
        let error = #expect(throws: MachineError.self) {
            _ = try ServedMemory(of: memory, at: "/no/such/socket") { fatalError($0) }
        }
        #expect("\(error.map { "\($0)" } ?? "")".contains("the memory server at /no/such/socket"))
    }
}
