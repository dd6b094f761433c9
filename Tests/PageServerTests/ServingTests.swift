// SPDX-License-Identifier: Apache-2.0

import Glibc
import MachineAPI
import Platform
import Synchronization
import TestSupport
import Testing
import Wire

@testable import PageServer

/// A server on a thread of its own, and clients as monitors are them, without machines.
@Suite struct ServingTests {
    private static func withServer(
        trailer: [UInt8] = [],
        _ body: (_ socket: String, _ content: [UInt8], _ server: Running) throws -> Void
    ) throws {
        let directory = "/tmp/martlet-pages-\(getpid())-\(monotonicNanoseconds())"
        try Files.makeDirectories(directory)
        defer { try? Files.removeTree(directory) }
        var generator = SeededGenerator(3)
        // 2 MiB, of which every other 100 KiB or so is a hole.
        var content = [UInt8](repeating: 0, count: 2 << 20)
        let file = try Descriptor.open("\(directory)/memory", .createNew)
        try file.truncate(to: UInt64(content.count))
        for start in stride(from: 0, to: content.count - 32 * 4096, by: 50 * 4096) {
            let bytes = generator.bytes(25 * 4096)
            content.replaceSubrange(start..<start + bytes.count, with: bytes)
            try bytes.withUnsafeBytes { try file.writeAll($0, at: UInt64(start)) }
        }
        try trailer.withUnsafeBytes { try file.writeAll($0, at: UInt64(content.count)) }
        let server = try Running("\(directory)/memory", "\(directory)/socket")
        defer { server.end() }
        try body("\(directory)/socket", content, server)
    }

    @Test func allClientsSeeTheFile() throws {
        try Self.withServer { socket, content, server in
            let one = try Client(socket, size: content.count)
            let other = try Client(socket, size: content.count)
            // Scattered, then all of it.
            for offset in stride(from: 0, to: content.count, by: 7 * 4096) {
                #expect(one.bytes(offset, 4096) == Array(content[offset..<offset + 4096]))
            }
            #expect(one.bytes(0, content.count) == content)
            // What one writes the other does not see.
            memset(one.memory.start, 1, 3 * 4096)
            #expect(other.bytes(0, content.count) == content)
            #expect(one.bytes(0, 4096) == Array(repeating: 1, count: 4096))
            #expect(server.lines.withLock { $0 } == [])
        }
    }

    @Test func whatIsTakenAwayIsZeroAfterwards() throws {
        try Self.withServer { socket, content, _ in
            let client = try Client(socket, size: content.count)
            #expect(client.bytes(0, 20 * 4096) == Array(content[..<(20 * 4096)]))
            #expect(madvise(client.memory.start + 8192, 5 * 4096, MADV_DONTNEED) == 0)
            // Also what nobody has seen yet.
            #expect(madvise(client.memory.start + 60 * 4096, 4096, MADV_DONTNEED) == 0)
            #expect(client.bytes(0, 8192) == Array(content[..<8192]))
            #expect(client.bytes(8192, 5 * 4096) == Array(repeating: 0, count: 5 * 4096))
            #expect(client.bytes(60 * 4096, 4096) == Array(repeating: 0, count: 4096))
            #expect(client.bytes(61 * 4096, 4096) == Array(content[(61 * 4096)..<(62 * 4096)]))
        }
    }

    /// Several threads of one client fault and take away at the same time.
    @Test func manyThreadsOfOneClient() throws {
        try Self.withServer { socket, content, server in
            let client = try Client(socket, size: content.count)
            let start = UInt(bitPattern: client.memory.start)
            let wrong = Mutex(0)
            let join = try (0..<4).map { index in
                let finished = try EventCounterBox()
                _ = try Platform.Thread(name: "fault \(index)", stackSizeInBytes: 256 << 10) {
                    var generator = SeededGenerator(UInt64(index))
                    for _ in 0..<400 {
                        let offset = Int.random(in: 0..<content.count / 4096, using: &generator) * 4096
                        guard let place = UnsafeMutableRawPointer(bitPattern: start + UInt(offset)) else { return }
                        if index == 3 {
                            if offset < 64 * 4096 { madvise(place, 4096, MADV_DONTNEED) }
                            continue
                        }
                        let bytes = Array(UnsafeRawBufferPointer(start: place, count: 4096))
                        let isRight = bytes == Array(content[offset..<offset + 4096])
                        let mayBeZero = offset < 64 * 4096 && bytes.allSatisfy { $0 == 0 }
                        if !isRight, !mayBeZero { wrong.withLock { $0 += 1 } }
                    }
                    finished.counter.signal()
                }
                return finished
            }
            for counter in join { counter.wait() }
            #expect(wrong.withLock { $0 } == 0)
            #expect(server.lines.withLock { $0 } == [])
        }
    }

    @Test func hostileClientsAreGivenUpAndOthersGoOn() throws {
        try Self.withServer { socket, content, server in
            let good = try Client(socket, size: content.count)
            // Larger than the file.
            let large = try Client(socket, size: content.count * 2)
            #expect(try large.isGivenUp())
            // One that makes its userfaultfd a blocking one, so that reading it might wait.
            let blocking = try Client(socket, size: content.count)
            #expect(blocking.bytes(0, 4096) == Array(content[..<4096]))
            let flags = fcntl(blocking.faults.descriptor.raw, F_GETFL)
            _ = fcntl(blocking.faults.descriptor.raw, F_SETFL, flags & ~O_NONBLOCK)
            let start = UInt(bitPattern: blocking.memory.start)
            let (isOver, other) = (try EventCounterBox(), try EventCounterBox())
            _ = try Platform.Thread(name: "removal") {
                // More than one: the first may come while the server still reads on after the page above, and then it is
                // no news to it.
                repeat {
                    if let place = UnsafeMutableRawPointer(bitPattern: start) { madvise(place, 4096, MADV_DONTNEED) }
                } while !isOver.isSignaled
                other.counter.signal()
            }
            #expect(try blocking.isGivenUp())
            isOver.counter.signal()
            // Its own thread waits for somebody to read; that is us now.
            _ = fcntl(blocking.faults.descriptor.raw, F_SETFL, flags)
            while try !other.isSignaled && blocking.faults.events().isEmpty { sched_yield() }
            other.wait()
            #expect(good.bytes(0, content.count) == content)
            #expect(server.lines.withLock { $0.count } == 2)
        }
    }

    /// Machines of another snapshot have no business here; those that do not say which, as Firecracker's, are served.
    @Test func anotherSnapshotsMachineIsGivenUpAndToldWhy() throws {
        let size = 2 << 20
        let own = String(repeating: "ab", count: 16)
        try Self.withServer(trailer: snapshotTrailer(memorySize: size, snapshot: 0xab, kind: 0)) {
            socket, content, server in
            for snapshot in [own, nil] {
                let client = try Client(socket, size: size, snapshot: snapshot)
                #expect(client.bytes(0, size) == content)
            }
            let stranger = try Client(socket, size: size, snapshot: String(repeating: "cd", count: 16))
            let words = String(decoding: try stranger.connection.readAll(limit: 4096), as: UTF8.self)
            #expect(words.contains("cdcd") && words.contains(own), "\(words)")
            #expect(server.lines.withLock { $0.filter { $0.contains(own) }.count } == 1)
        }
        // The file of another monitor does not say whose it is.
        try Self.withServer { socket, content, _ in
            let client = try Client(socket, size: size, snapshot: own)
            #expect(client.bytes(0, size) == content)
        }
    }

    @Test func theEndOfAClientIsNoted() throws {
        try Self.withServer { socket, content, server in
            for _ in 0..<20 {
                let client = try Client(socket, size: content.count)
                #expect(client.bytes(0, 4096) == Array(content[..<4096]))
                // It says no more: the server lets go of it.
                _ = shutdown(client.connection.raw, Int32(SHUT_WR))
                #expect(try client.isGivenUp())
            }
            // One that ends without a word is no matter to the next.
            for _ in 0..<20 { _ = try Client(socket, size: content.count) }
            let last = try Client(socket, size: content.count)
            #expect(last.bytes(4096, 4096) == Array(content[4096..<8192]))
            #expect(server.lines.withLock { $0 } == [])
        }
    }

    @Test func aDiffIsNoMemoryToServe() throws {
        let directory = "/tmp/martlet-pages-\(getpid())-\(monotonicNanoseconds())"
        try Files.makeDirectories(directory)
        defer { try? Files.removeTree(directory) }
        let memory = [UInt8](repeating: 1, count: 4096)
        for kind in [0, 1] as [UInt32] {
            let path = "\(directory)/memory-\(kind)"
            try Files.writeAtomically(memory + snapshotTrailer(memorySize: 4096, snapshot: 7, kind: kind), to: path)
            if kind == 0 {
                #expect(try MemoryImage(path: path).snapshot == String(repeating: "07", count: 16))
            } else {
                let error = #expect(throws: PageServerError.self) { _ = try MemoryImage(path: path).size }
                #expect("\(error.map { "\($0)" } ?? "")".contains("a diff's"))
            }
        }
    }

    @Test func filesThatAreNoMemoryAreNamed() throws {
        #expect(throws: PageServerError.self) { _ = try MemoryImage(path: "/no/such/memory").size }
        let error = #expect(throws: PageServerError.self) { _ = try MemoryImage(path: "/proc/self/exe-").size }
        #expect("\(error.map { "\($0)" } ?? "")".contains("/proc/self/exe-"))
    }
}

/// A counter that several threads share.
private final class EventCounterBox: Sendable {
    let counter: EventCounter
    init() throws { counter = try EventCounter() }
    var isSignaled: Bool {
        var poller = pollfd(fd: counter.descriptor.raw, events: Int16(POLLIN), revents: 0)
        return poll(&poller, 1, 0) > 0
    }
    func wait() {
        var poller = pollfd(fd: counter.descriptor.raw, events: Int16(POLLIN), revents: 0)
        _ = poll(&poller, 1, -1)
    }
}
