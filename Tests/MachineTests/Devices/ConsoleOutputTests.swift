// SPDX-License-Identifier: Apache-2.0

import CLinux
import Glibc
import Platform
import TestSupport
import Testing
import VirtioTestSupport

@testable import Machine

/// A console that nobody reads: neither opening it nor writing to it ever waits.
@Suite struct ConsoleOutputTests {
    private let directory: ScratchDirectory

    init() throws { directory = try ScratchDirectory() }

    /// Has the guest write more than all buffers on the way hold, and ends the device's loop, which does not come to an end
    /// where it waits.
    private func fill(_ sink: consuming Descriptor) throws -> Serial16550 {
        let serial = try Serial16550(sink: SharedDescriptor(sink))
        let thread = try LoopThread()
        try serial.attach(to: thread.loop)
        thread.start()
        for index in 0..<400_000 {
            withUnsafeBytes(of: UInt8(truncatingIfNeeded: index)) { serial.write(port: 0x3f8, bytes: $0) }
        }
        thread.end()
        serial.finish()
        return serial
    }

    /// What came through in order, from the first byte on.
    /// - Parameter least: how many bytes are sure to have come.
    private func expectBeginning(_ reading: borrowing Descriptor, least: Int = 4097) throws {
        try reading.setNonBlocking()
        var space = [UInt8](repeating: 0, count: 1 << 20)
        guard case .bytes(let count) = try space.withUnsafeMutableBytes({ try reading.read(into: $0) }) else {
            Issue.record("nothing came")
            return
        }
        #expect(count >= least)
        #expect((0..<count).allSatisfy { space[$0] == UInt8(truncatingIfNeeded: $0) })
    }

    @Test func aNamedPipeWithoutAReader() throws {
        let path = "\(directory.path)/console"
        #expect(mkfifo(path, 0o600) == 0)
        let sink = try ConsoleOutput.file(path)
        let mayWait = ConsoleOutput.mayWait(sink)
        #expect(!mayWait)
        let serial = try fill(sink)
        #expect(serial.droppedByteCount > 0)
        // As long as the machine has it, a reader that comes later finds what was kept.
        try expectBeginning(try Descriptor.open(path, .readOnly.nonBlocking))
    }

    /// The same pipe as others have, who did not ask for it to be non-blocking.
    @Test func aStandardOutputThatIsNotRead() throws {
        let pipe = try Pipe()
        let sink = try ConsoleOutput.standard(pipe.writing.raw)
        let mayWait = ConsoleOutput.mayWait(sink)
        #expect(!mayWait)
        #expect(clinux_fcntl(pipe.writing.raw, F_GETFL, 0) & O_NONBLOCK == 0)
        #expect(try fill(sink).droppedByteCount > 0)
        try expectBeginning(pipe.reading)
    }

    /// What cannot be opened once more is asked first.
    @Test(arguments: [true, false]) func blockingDescriptors(isSocket: Bool) throws {
        if isSocket {
            let pair = try UnixSocket.pair()
            let sink = try ConsoleOutput.standard(pair.first.raw)
            let mayWait = ConsoleOutput.mayWait(sink)
            #expect(mayWait)
            #expect(try fill(sink).droppedByteCount > 0)
            // A socket counts its room by writes, and each may be of a byte.
            try expectBeginning(pair.second, least: 1)
        } else {
            let pipe = try Pipe()
            #expect(try fill(try pipe.writing.duplicate()).droppedByteCount > 0)
            try expectBeginning(pipe.reading)
        }
    }

    /// A file takes everything.
    @Test func aFile() throws {
        let path = "\(directory.path)/log"
        let sink = try ConsoleOutput.file(path)
        let serial = try Serial16550(sink: SharedDescriptor(sink))
        for _ in 0..<1000 { withUnsafeBytes(of: UInt8(65)) { serial.write(port: 0x3f8, bytes: $0) } }
        serial.finish()
        #expect(try Files.read(path, limit: 1 << 20) == [UInt8](repeating: 65, count: 1000))
        #expect(throws: SystemError.self) { _ = try ConsoleOutput.file("\(directory.path)/none/log") }
    }
}
