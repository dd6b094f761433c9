// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Synchronization
import TestSupport
import Testing
import Virtio
import VirtioTestSupport

@testable import Machine

private typealias Operation = VsockHeader.Operation

/// A guest's program that sends everything back, on every stream, within the credit it is given.
private final class Echo {
    struct Stream {
        var waiting: [UInt8] = []
        var sent: UInt32 = 0
        var received: UInt32 = 0
        var hostBuffer: UInt32 = 0
        var hostForwarded: UInt32 = 0
        var hostHasEnded = false
        var hasClosed = false
    }

    let driver: SocketDriver
    var streams: [UInt64: Stream] = [:]
    var ended = 0

    init(_ driver: SocketDriver) { self.driver = driver }

    func run(until count: Int) throws {
        while ended < count { try take(try driver.receive()) }
    }

    private func take(_ packet: (header: VsockHeader, data: [UInt8])) throws {
        let (header, data) = packet
        let key = UInt64(header.sourcePort) << 32 | UInt64(header.destinationPort)
        if header.operation == Operation.reset {
            if streams.removeValue(forKey: key) != nil { ended += 1 }
            return
        }
        var stream = streams[key] ?? Stream()
        stream.hostBuffer = header.bufferSize
        stream.hostForwarded = header.forwarded
        stream.received &+= UInt32(data.count)
        stream.waiting += data
        func send(_ operation: UInt16, _ data: [UInt8] = [], flags: UInt32 = 0) throws {
            try driver.send(
                operation, host: header.sourcePort, guest: header.destinationPort, data: data, flags: flags,
                bufferSize: 100_000, forwarded: stream.received)
        }
        switch header.operation {
        case Operation.request: try send(Operation.response)
        case Operation.creditRequest: try send(Operation.creditUpdate)
        case Operation.shutdown: stream.hostHasEnded = true
        default: break
        }
        while !stream.waiting.isEmpty {
            let credit = stream.hostBuffer &- (stream.sent &- stream.hostForwarded)
            let count = min(Int(credit), stream.waiting.count, 20_000)
            guard count > 0 else { break }
            let piece = Array(stream.waiting[..<count])
            stream.waiting.removeFirst(count)
            stream.sent &+= UInt32(count)
            try send(Operation.data, piece)
        }
        if stream.hostHasEnded, stream.waiting.isEmpty, !stream.hasClosed {
            stream.hasClosed = true
            try send(Operation.shutdown, flags: 3)
        }
        streams[key] = stream
    }
}

/// What a host's program does: sends its bytes, says so, reads what comes back.
private final class Program: Sendable {
    let path: String
    let seed: UInt64
    let count: Int
    let outcome = Mutex<String?>(nil)

    init(path: String, seed: UInt64, count: Int) {
        self.path = path
        self.seed = seed
        self.count = count
    }

    func run() {
        var random = SeededGenerator(seed)
        let bytes = random.bytes(count)
        let result: String
        do {
            let socket = try connectToGuest(path, port: 500)
            let line = try readLine(socket)
            try socket.descriptor.writeAll(bytes)
            shutdown(socket.raw, Int32(SHUT_WR))
            let back = try readBytes(socket, count + 1)
            result = line.hasPrefix("OK ") && back == bytes ? "equal" : "\(line) \(back.count) of \(count) bytes"
        } catch {
            result = "\(error)"
        }
        outcome.withLock { $0 = result }
    }
}

private func runProgram(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let context else { return nil }
    Unmanaged<Program>.fromOpaque(context).takeRetainedValue().run()
    return nil
}

@Suite struct VsockStreamsTests {
    /// Streams at once, large and small, both ways: every byte comes back, in order, to whom it belongs.
    @Test(arguments: [(1, 3_000_000), (40, 150_000)])
    func everythingComesBack(streams: Int, count: Int) throws {
        let scratch = try ScratchDirectory()
        let driver = try SocketDriver(path: "\(scratch.path)/vsock")
        var programs: [(program: Program, thread: pthread_t)] = []
        for seed in 0..<streams {
            let program = Program(path: "\(scratch.path)/vsock", seed: UInt64(seed), count: count + seed)
            var thread = pthread_t()
            pthread_create(&thread, nil, runProgram, Unmanaged.passRetained(program).toOpaque())
            programs.append((program, thread))
        }
        try Echo(driver).run(until: streams)
        for (program, thread) in programs {
            pthread_join(thread, nil)
            #expect(program.outcome.withLock { $0 } == "equal")
        }
    }

    @Test(arguments: 0..<4 as Range<UInt64>)
    func hostileDriver(seed: UInt64) throws {
        let scratch = try ScratchDirectory()
        let path = "\(scratch.path)/vsock"
        let device = try VsockDevice(guestCID: 3, path: path, memory: try DeviceHarness.makeMemory())
        let listener = try UnixSocket.listen(at: "\(path)_1")
        var programs: [SharedDescriptor] = []
        for port in 0..<8 as Range<UInt32> { programs.append(try connectToGuest(path, port: port)) }
        try fuzzQueues(device, seed: seed, rounds: 150) { random in
            var header = VsockHeader()
            header.sourceCID = 3
            header.destinationCID = 2
            header.sourcePort = UInt32.random(in: 0..<8, using: &random)
            header.destinationPort =
                Bool.random(using: &random) ? 1 : (1 << 30) + UInt32.random(in: 0..<8, using: &random)
            header.operation = UInt16.random(in: 0...8, using: &random)
            header.count = [0, 1, 100, 512, 100_000, .max].randomElement(using: &random) ?? 0
            header.flags = UInt32.random(in: 0...3, using: &random)
            header.bufferSize = [0, 1, 5000, .max].randomElement(using: &random) ?? 0
            header.forwarded = [0, 1, .max].randomElement(using: &random) ?? 0
            var bytes = [UInt8](repeating: 0, count: 44)
            bytes.withUnsafeMutableBytes { header.store(into: $0) }
            return bytes
        }
        listener.close()
    }
}
