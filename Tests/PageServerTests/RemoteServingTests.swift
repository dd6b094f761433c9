// SPDX-License-Identifier: Apache-2.0

import Glibc
import MachineAPI
import Platform
import Synchronization
import TestSupport
import Testing
import Wire

@testable import PageServer

/// A server whose memory is another host's: that is at the other end of a pair of sockets.
@Suite struct RemoteServingTests {
    private static let snapshot = String(repeating: "ab", count: 16)
    private static let size = 40 * Int(PageStream.chunkSize) + 3 * 4096

    /// A directory with a memory file as snapshots have it, of which much is holes.
    private final class Memory {
        let directory = "/tmp/martlet-remote-\(getpid())-\(monotonicNanoseconds())"
        let content: [UInt8]
        var path: String { "\(directory)/memory" }
        var socket: String { "\(directory)/socket" }

        init() throws {
            try Files.makeDirectories(directory)
            var generator = SeededGenerator(21)
            var content = [UInt8](repeating: 0, count: RemoteServingTests.size)
            let file = try Descriptor.open("\(directory)/memory", .createNew)
            try file.truncate(to: UInt64(content.count))
            for start in stride(from: 4096, to: content.count - 30 * 4096, by: 37 * 4096) {
                let bytes = generator.bytes(Int.random(in: 1...23, using: &generator) * 4096)
                content.replaceSubrange(start..<start + bytes.count, with: bytes)
                try bytes.withUnsafeBytes { try file.writeAll($0, at: UInt64(start)) }
            }
            let trailer = snapshotTrailer(memorySize: content.count, snapshot: 0xab, kind: 0)
            try trailer.withUnsafeBytes { try file.writeAll($0, at: UInt64(content.count)) }
            self.content = content
        }

        deinit { try? Files.removeTree(directory) }

        /// Serves what comes over a stream.
        func serve(_ stream: consuming Descriptor, silence: UInt64 = 60_000_000_000) throws -> Running {
            let (raw, directory) = (stream.release(), directory)
            return try Running(socket) { listener, stop, log in
                let input = Descriptor(owning: raw)
                let output = try input.duplicate()
                let source = try PageSource(
                    input: input, output: output, cacheIn: directory, snapshot: RemoteServingTests.snapshot,
                    memorySize: UInt64(RemoteServingTests.size), silence: silence)
                return try PageServer(try source.makeImage(), source: source, listener: listener, stop: stop, log: log)
            }
        }
    }

    /// Sends the memory to the other end of a stream, on a thread; what that came to.
    private static func send(_ memory: String, _ stream: consuming Descriptor) throws -> Ending {
        let raw = stream.release()
        return try Ending {
            let input = Descriptor(owning: raw)
            let output = try input.duplicate()
            var greeting = [UInt8](repeating: 0, count: PageStream.greetingSize)
            #expect(try greeting.withUnsafeMutableBytes { try input.read(into: $0) } == .bytes(greeting.count))
            #expect(try PageStream.snapshot(greeting: greeting) == snapshot)
            var sender = PageSender(try MemoryImage(path: memory), input: input, output: output)
            try sender.run()
        }
    }

    /// All that a socket has until its other end is closed.
    private static func words(_ client: borrowing Client) throws -> String {
        String(decoding: try client.connection.readAll(limit: 4096), as: UTF8.self)
    }

    // MARK: - As it should be

    @Test func allClientsSeeTheOtherHostsMemory() throws {
        let memory = try Memory()
        let ends = try UnixSocket.pair()
        let sender = try Self.send(memory.path, ends.first)
        let server = try memory.serve(ends.second)
        let one = try Client(memory.socket, size: Self.size, snapshot: Self.snapshot)
        let other = try Client(memory.socket, size: Self.size, snapshot: Self.snapshot)
        for offset in stride(from: Self.size - 4096, to: 0, by: -13 * 4096) {
            #expect(one.bytes(offset, 4096) == Array(memory.content[offset..<offset + 4096]))
        }
        // Taken away before it has come, and afterwards.
        #expect(madvise(other.memory.start + 8192, 3 * 4096, MADV_DONTNEED) == 0)
        #expect(other.bytes(8192, 3 * 4096) == [UInt8](repeating: 0, count: 3 * 4096))
        #expect(one.bytes(0, Self.size) == memory.content)
        #expect(other.bytes(5 * 4096, Self.size - 5 * 4096) == Array(memory.content[(5 * 4096)...]))
        server.end()
        #expect(server.lines.withLock { $0 } == [])
        // It has nobody to send to any more, which is no failure.
        #expect(sender.wait() == nil)
        // The cache has no name.
        #expect(try Files.list(memory.directory).sorted() == ["memory", "socket"])
    }

    /// Many threads of several clients wait for the same chunks: each is asked for once.
    @Test func whatManyWaitForComesOnce() throws {
        let memory = try Memory()
        let ends = try UnixSocket.pair()
        let raw = ends.first.release()
        let content = memory.content
        let counting = try CountingHost(raw, content)
        let server = try memory.serve(ends.second)
        let clients = try (0..<3).map { _ in try ClientBox(memory.socket) }
        let endings = try clients.flatMap { client in
            try (0..<3).map { index in
                try Ending {
                    for chunk in 0..<8 {
                        let offset = (chunk * 3 + index) % 8 * Int(PageStream.chunkSize)
                        let isRight = client.client.bytes(offset, 65_536) == Array(content[offset..<offset + 65_536])
                        guard isRight else { throw ClientFailure.silent }
                    }
                }
            }
        }
        for ending in endings { #expect(ending.wait() == nil) }
        server.end()
        let offsets = counting.wait()
        #expect(Set(offsets).count == offsets.count)
        #expect(Set(offsets).isSuperset(of: (0..<8).map { $0 * PageStream.chunkSize }))
    }

    private final class ClientBox: @unchecked Sendable {  // Only read, and its memory is.
        let client: Client
        init(_ socket: String) throws { client = try Client(socket, size: RemoteServingTests.size) }
    }

    /// Another host by hand, which notes what it is asked.
    private final class CountingHost: Sendable {
        private let offsets = Mutex<[UInt64]>([])
        private let ending = Mutex<Ending?>(nil)

        init(_ raw: Int32, _ content: [UInt8]) throws {
            let ending = try Ending { [self] in
                let stream = Descriptor(owning: raw)
                try stream.writeAll(RemoteServingTests.announcement)
                var requests = [UInt8](repeating: 0, count: PageStream.greetingSize)
                _ = try requests.withUnsafeMutableBytes { try stream.read(into: $0) }
                requests = [UInt8](repeating: 0, count: 8)
                while case .bytes = try requests.withUnsafeMutableBytes({ try stream.read(into: $0) }) {
                    let offset = requests.integer(at: 0, as: UInt64.self) ?? .max
                    offsets.withLock { $0.append(offset) }
                    try stream.writeAll(RemoteServingTests.answer(offset, pages: .max))
                    try stream.writeAll(Array(content[Int(offset)..<Int(offset) + 65_536]))
                }
            }
            self.ending.withLock { $0 = ending }
        }

        func wait() -> [UInt64] {
            #expect(ending.withLock { $0 }?.wait() == nil)
            return offsets.withLock { $0 }
        }
    }

    /// That all chunks have data.
    private static var announcement: [UInt8] {
        PageAnnouncement(memorySize: UInt64(size), snapshot: snapshot, data: [.max], first: [0]).encoded()
    }

    private static func answer(_ offset: UInt64, pages: UInt16) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.appendInteger(offset)
        bytes.appendInteger(pages)
        return bytes + [UInt8](repeating: 0, count: 6)
    }

    // MARK: - As it may be

    /// What comes instead of an answer, and what everybody is told then.
    @Test func whoLiesIsNotBelievedAndMachinesAreToldSo() throws {
        let page = [UInt8](repeating: 7, count: 4096)
        let cases: [(bytes: [UInt8], isClosed: Bool, reason: String)] = [
            ([], true, "has ended the stream"),
            (Self.answer(65_536, pages: 1) + page, false, "not asked for"),
            (Self.answer(0, pages: 1)[..<8] + [1, 0, 1, 0, 0, 0, 0, 0] + page, false, "not asked for"),
            (Self.answer(0, pages: 1) + page + Self.answer(0, pages: 1), false, "not asked for"),
            (Self.answer(0, pages: 3) + page, true, "has ended the stream"),
            ([], false, "has not answered for"),
        ]
        for (bytes, isClosed, reason) in cases {
            let memory = try Memory()
            let ends = try UnixSocket.pair()
            let server = try memory.serve(
                ends.second, silence: bytes.isEmpty && !isClosed ? 20_000_000 : 60_000_000_000)
            let stream = ends.first
            try stream.writeAll(Self.announcement)
            let client = try Client(memory.socket, size: Self.size)
            let start = UInt(bitPattern: client.memory.start)
            let fault = try Ending { _ = UnsafePointer<UInt8>(bitPattern: start)?.pointee }
            try Self.expectGreeting(on: stream)
            var request: UInt64 = 1
            #expect(read(stream.raw, &request, 8) == 8 && request == 0)
            try stream.writeAll(bytes)
            if isClosed { _ = shutdown(stream.raw, Int32(SHUT_WR)) }
            server.join()
            #expect(server.lines.withLock { $0.contains { $0.contains(reason) } }, "\(reason)")
            let words = try Self.words(client)
            #expect(words.contains(reason), "\(words)")
            // Who waits is let go by nobody now but by the test.
            _ = client.faults.zero(UInt64(start), count: 4096)
            #expect(fault.wait() == nil)
        }
    }

    private static func expectGreeting(on stream: borrowing Descriptor) throws {
        var greeting = [UInt8](repeating: 0, count: PageStream.greetingSize)
        let count = try greeting.withUnsafeMutableBytes { try stream.read(into: $0) }
        #expect(count == .bytes(greeting.count))
    }

    /// A process that was killed has read nothing more: that is an end as any other.
    @Test func anEndWithRequestsUnread() throws {
        let memory = try Memory()
        let ends = try UnixSocket.pair()
        let server = try memory.serve(ends.second)
        let stream = ends.first
        try stream.writeAll(Self.announcement)
        let client = try Client(memory.socket, size: Self.size)
        let start = UInt(bitPattern: client.memory.start)
        let fault = try Ending { _ = UnsafePointer<UInt8>(bitPattern: start)?.pointee }
        try Self.expectGreeting(on: stream)
        var poller = pollfd(fd: stream.raw, events: Int16(POLLIN), revents: 0)
        #expect(poll(&poller, 1, -1) == 1)
        stream.close()
        server.join()
        #expect(server.lines.withLock { $0 } == ["the other host has ended the stream"])
        #expect(try Self.words(client) == "the other host has ended the stream")
        _ = client.faults.zero(UInt64(start), count: 4096)
        #expect(fault.wait() == nil)
    }

    @Test func whatIsNoAnnouncementEndsTheServer() throws {
        let other = PageAnnouncement(
            memorySize: UInt64(Self.size), snapshot: String(repeating: "cd", count: 16), data: [1], first: [])
        for (bytes, reason) in [
            (Array("bash: martlet: command not found\n".utf8) + [UInt8](repeating: 10, count: 64), "MARTPAGE"),
            ([], "before it said what it has"), (Array(Self.announcement.dropLast(3)), "before it said what it has"),
            (other.encoded(), "cdcdcd"),
        ] {
            let memory = try Memory()
            let ends = try UnixSocket.pair()
            let server = try memory.serve(ends.second)
            try ends.first.writeAll(bytes)
            _ = shutdown(ends.first.raw, Int32(SHUT_WR))
            server.join()
            let lines = server.lines.withLock { $0 }
            #expect(lines.count == 1 && lines[0].contains(reason), "\(lines)")
        }
    }

    /// Any answers at all: the stream is given up, or goes on, and what is kept is as long as it was.
    @Test func anyAnswers() throws {
        var generator = SeededGenerator(22)
        let memory = try Memory()
        for _ in 0..<fuzzRounds(300) {
            let ends = try UnixSocket.pair()
            let input = ends.second
            let output = try input.duplicate()
            var source = try PageSource(
                input: input, output: output, cacheIn: memory.directory, snapshot: Self.snapshot,
                memorySize: UInt64(Self.size))
            var image = try source.makeImage()
            var bytes = Self.announcement
            let isSpoiled = UInt8.random(in: 0...3, using: &generator) == 0
            if isSpoiled {
                bytes[Int.random(in: 0..<bytes.count, using: &generator)] ^=
                    1 << UInt8.random(in: 0..<8, using: &generator)
            }
            try ends.first.writeAll(bytes)
            do {
                _ = try source.receive(&image)
                for _ in 0..<5 {
                    image.want(UInt64.random(in: 0..<UInt64(Self.size), using: &generator)..<UInt64(Self.size))
                    try source.ask(&image)
                    for _ in 0..<3 {
                        let chunk = UInt64.random(in: 0..<42, using: &generator)
                        let pages = generator.next() as UInt16
                        let isShort = Bool.random(using: &generator)
                        try ends.first.writeAll(
                            Self.answer(chunk * (isShort ? 4096 : PageStream.chunkSize), pages: pages)
                                + generator.bytes(isShort ? 100 : pages.nonzeroBitCount * 4096))
                        _ = try source.receive(&image)
                    }
                }
            } catch { #expect(error is StreamFailure || error is SystemError) }
            #expect(image.size == UInt64(Self.size))
        }
        #expect(try Files.list(memory.directory) == ["memory"])
    }

    /// Any requests at all: answered where they are some, else the sender ends.
    @Test func anyRequests() throws {
        var generator = SeededGenerator(23)
        let memory = try Memory()
        for round in 0..<fuzzRounds(100) {
            let ends = try UnixSocket.pair()
            let sender = try Self.send(memory.path, ends.first)
            try ends.second.writeAll(PageStream.greeting(wanting: Self.snapshot))
            var announcement = [UInt8](repeating: 0, count: PageStream.headerSize + 24)
            #expect(recv(ends.second.raw, &announcement, announcement.count, Int32(MSG_WAITALL)) == announcement.count)
            var isRight = true
            for _ in 0..<Int.random(in: 0...4, using: &generator) {
                var offset = UInt64.random(in: 0...40, using: &generator) * PageStream.chunkSize
                if UInt8.random(in: 0...5, using: &generator) == 0 {
                    offset = [1, 41 << 16, .max, 1 << 40, 4096].randomElement(using: &generator) ?? 1
                }
                var request: [UInt8] = []
                request.appendInteger(offset)
                try ends.second.writeAll(request)
                guard offset % PageStream.chunkSize == 0, offset < UInt64(Self.size) else {
                    isRight = false
                    break
                }
                var head = [UInt8](repeating: 0, count: 16)
                #expect(recv(ends.second.raw, &head, 16, Int32(MSG_WAITALL)) == 16)
                #expect(head.integer(at: 0, as: UInt64.self) == offset)
                let pages = head.integer(at: 8, as: UInt16.self) ?? 0
                for page in 0..<16 where pages >> UInt16(page) & 1 != 0 {
                    var bytes = [UInt8](repeating: 0, count: 4096)
                    #expect(recv(ends.second.raw, &bytes, 4096, Int32(MSG_WAITALL)) == 4096)
                    let place = Int(offset) + page * 4096
                    #expect(bytes == Array(memory.content[place..<place + 4096]))
                }
            }
            if isRight, round % 2 == 0 {
                try ends.second.writeAll([1, 2, 3])
                isRight = false
            }
            _ = shutdown(ends.second.raw, Int32(SHUT_WR))
            #expect((sender.wait() == nil) == isRight)
        }
    }
}
