// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import TestSupport
import Testing
import Virtio
import VirtioTestSupport

@testable import Machine

private typealias Operation = VsockHeader.Operation

/// A guest's socket driver: keeps the receive queue filled, sends packets, and waits for those it expects.
final class SocketDriver {
    static let bufferSize = 4096
    let harness: DeviceHarness
    private var buffers: [UInt16: UInt64] = [:]
    private let outgoing: UInt64
    private var isSupplying: Bool

    init(path: String, supplying: Bool = true, features: UInt64 = .max) throws {
        let device = try VsockDevice(guestCID: 3, path: path, memory: try DeviceHarness.makeMemory())
        harness = try DeviceHarness(device, features: features)
        outgoing = harness.allocate(1 << 20)
        isSupplying = supplying
        if supplying { try supply() }
    }

    func supply() throws {
        isSupplying = true
        for _ in 0..<64 { try addBuffer(harness.allocate(Self.bufferSize)) }
        try harness.notify(0)
    }

    private func addBuffer(_ address: UInt64) throws {
        // Every other one has its header's place cut in two.
        let cut = address / 64 % 2 == 0 ? 20 : 44
        let head = try harness.queues[0].add([
            DriverBuffer(address, cut, writable: true),
            DriverBuffer(address + UInt64(cut), Self.bufferSize - cut, writable: true),
        ])
        buffers[try #require(head)] = address
    }

    func send(
        _ operation: UInt16, host: UInt32, guest: UInt32, data: [UInt8] = [], flags: UInt32 = 0,
        bufferSize: UInt32 = 1 << 20, forwarded: UInt32 = 0
    ) throws {
        var header = VsockHeader()
        header.sourceCID = 3
        header.destinationCID = 2
        header.sourcePort = guest
        header.destinationPort = host
        header.operation = operation
        header.count = UInt32(data.count)
        header.flags = flags
        header.bufferSize = bufferSize
        header.forwarded = forwarded
        var bytes = [UInt8](repeating: 0, count: 44)
        bytes.withUnsafeMutableBytes { header.store(into: $0) }
        try harness.memory.write(bytes + data, at: outgoing)
        var buffers = [DriverBuffer(outgoing, 44)]
        if !data.isEmpty { buffers.append(DriverBuffer(outgoing + 44, data.count)) }
        _ = try harness.transact(1, buffers)
    }

    /// The next packet from the host.
    func receive() throws -> (header: VsockHeader, data: [UInt8]) {
        let used = try harness.nextUsed(0)
        let found = buffers.removeValue(forKey: used.head)
        let address = try #require(found)
        let bytes = try harness.memory.read(address, count: Int(used.count))
        let header = bytes.withUnsafeBytes { VsockHeader($0) }
        #expect(header.sourceCID == 2 && header.destinationCID == 3)
        #expect(bytes.count == 44 + Int(header.count))
        if isSupplying {
            try addBuffer(address)
            try harness.notify(0)
        }
        return (header, Array(bytes[44...]))
    }

    func expect(_ operation: UInt16, flags: UInt32 = 0) throws -> VsockHeader {
        let (header, _) = try receive()
        #expect(header.operation == operation && header.flags == flags)
        return header
    }
}

/// A program on the host's side.
func connectToGuest(_ path: String, port: UInt32) throws -> SharedDescriptor {
    let socket = SharedDescriptor(try UnixSocket.connect(to: path))
    try socket.descriptor.writeAll(Array("CONNECT \(port)\n".utf8))
    return socket
}

func readBytes(_ socket: SharedDescriptor, _ count: Int) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var done = 0
    while done < count {
        try waitUntilReadable(socket.raw)
        let got = try bytes.withUnsafeMutableBytes {
            try socket.descriptor.read(into: UnsafeMutableRawBufferPointer(rebasing: $0[done...]))
        }
        guard case .bytes(let more) = got else { return Array(bytes[..<done]) }
        done += more
    }
    return bytes
}

func readLine(_ socket: SharedDescriptor) throws -> String {
    var line: [UInt8] = []
    while line.last != UInt8(ascii: "\n") {
        let byte = try readBytes(socket, 1)
        if byte.isEmpty { break }
        line += byte
    }
    return String(decoding: line, as: UTF8.self)
}

@Suite struct VsockDeviceTests {
    let scratch: ScratchDirectory
    var path: String { "\(scratch.path)/vsock" }

    init() throws { scratch = try ScratchDirectory() }

    @Test(arguments: [UInt64.max, 0])
    func hostConnects(features: UInt64) throws {
        let driver = try SocketDriver(path: path, features: features)
        #expect(driver.harness.configuration(8) == [3, 0, 0, 0, 0, 0, 0, 0])
        // What is sent behind the greeting at once belongs to the guest.
        let socket = try connectToGuest(path, port: 1024)
        try socket.descriptor.writeAll(Array("early".utf8))
        let request = try driver.expect(Operation.request)
        #expect(request.destinationPort == 1024)
        #expect(request.bufferSize == VsockConnection.bufferSize)
        try driver.send(Operation.response, host: request.sourcePort, guest: 1024)
        #expect(try readLine(socket) == "OK \(request.sourcePort)\n")
        let (header, data) = try driver.receive()
        #expect(header.operation == Operation.data && data == Array("early".utf8))
        try driver.send(Operation.data, host: request.sourcePort, guest: 1024, data: Array("answer".utf8))
        #expect(try readBytes(socket, 6) == Array("answer".utf8))
        // The guest closes: the socket ends, the guest gets its reset.
        try driver.send(Operation.shutdown, host: request.sourcePort, guest: 1024, flags: 3)
        _ = try driver.expect(Operation.reset)
        #expect(try readBytes(socket, 1) == [])
    }

    @Test func guestRefuses() throws {
        let driver = try SocketDriver(path: path)
        let socket = try connectToGuest(path, port: 7)
        let request = try driver.expect(Operation.request)
        try driver.send(Operation.reset, host: request.sourcePort, guest: 7)
        #expect(try readBytes(socket, 1) == [])
    }

    @Test(arguments: [
        "CONNECT 4294967296\n", "CONNECT \n", "connect 5\n", "CONNECT 5x\n", "\n", "GET / HTTP/1.1\r\nHost: guest\r\n",
    ])
    func nonsenseIsClosed(greeting: String) throws {
        let driver = try SocketDriver(path: path)
        let socket = SharedDescriptor(try UnixSocket.connect(to: path))
        try socket.descriptor.writeAll(Array(greeting.utf8))
        // A socket that is closed with something unread ends with an error.
        let end = try? readBytes(socket, 1)
        #expect(end == [] || end == nil)
        _ = driver
    }

    @Test func guestConnectsOrIsRefused() throws {
        let driver = try SocketDriver(path: path)
        try driver.send(Operation.request, host: 52, guest: 1000)
        let refusal = try driver.expect(Operation.reset)
        #expect(refusal.sourcePort == 52 && refusal.destinationPort == 1000)
        let listener = try UnixSocket.listen(at: "\(path)_52", nonBlocking: false)
        try driver.send(Operation.request, host: 52, guest: 1000)
        _ = try driver.expect(Operation.response)
        let accepted = try UnixSocket.accept(on: listener, nonBlocking: false)
        guard let accepted else { throw DeviceHarness.Failure.noInterrupt }
        let socket = SharedDescriptor(accepted)
        try socket.descriptor.writeAll([1, 2, 3])
        #expect(try driver.receive().data == [1, 2, 3])
        // An unknown stream's packet is answered by a reset, its reset by nothing.
        try driver.send(Operation.reset, host: 52, guest: 77)
        try driver.send(Operation.data, host: 52, guest: 77, data: [1])
        #expect(try driver.expect(Operation.reset).destinationPort == 77)
    }

    @Test func halfCloses() throws {
        let driver = try SocketDriver(path: path)
        let socket = try connectToGuest(path, port: 9)
        let port = try driver.expect(Operation.request).sourcePort
        try driver.send(Operation.response, host: port, guest: 9)
        _ = try readLine(socket)
        // The host's program has sent all: the guest goes on.
        try socket.descriptor.writeAll([5])
        shutdown(socket.raw, Int32(SHUT_WR))
        #expect(try driver.receive().data == [5])
        _ = try driver.expect(Operation.shutdown, flags: VsockHeader.Shutdown.send)
        try driver.send(Operation.data, host: port, guest: 9, data: [6, 7])
        #expect(try readBytes(socket, 2) == [6, 7])
        try driver.send(Operation.shutdown, host: port, guest: 9, flags: VsockHeader.Shutdown.send)
        #expect(try readBytes(socket, 1) == [])
        try driver.send(Operation.shutdown, host: port, guest: 9, flags: 3)
        _ = try driver.expect(Operation.reset)
    }

    @Test func programThatGoesAwayEndsBothDirections() throws {
        let driver = try SocketDriver(path: path)
        var socket: SharedDescriptor? = try connectToGuest(path, port: 9)
        let port = try driver.expect(Operation.request).sourcePort
        try driver.send(Operation.response, host: port, guest: 9)
        _ = try socket.map(readLine)
        try socket?.descriptor.writeAll([1])
        socket = nil
        var flags: UInt32 = 0
        var data: [UInt8] = []
        while flags != 3 || data != [1] {
            let (header, bytes) = try driver.receive()
            flags |= header.flags
            data += bytes
        }
        try driver.send(Operation.reset, host: port, guest: 9)
    }

    /// Beyond our buffer is a breach, and what the guest sends to a program that does not read stays within it.
    @Test func creditIsKept() throws {
        let driver = try SocketDriver(path: path)
        let socket = try connectToGuest(path, port: 9)
        let port = try driver.expect(Operation.request).sourcePort
        try driver.send(Operation.response, host: port, guest: 9)
        _ = try readLine(socket)
        var random = SeededGenerator(2)
        var sent: [UInt8] = []
        var known: UInt32 = 0
        // As much as the credit allows, until it says no more comes.
        while UInt32(sent.count) - known < VsockConnection.bufferSize {
            let room = VsockConnection.bufferSize - (UInt32(sent.count) - known)
            let bytes = random.bytes(Int(min(room, 32768)))
            try driver.send(Operation.data, host: port, guest: 9, data: bytes)
            sent += bytes
            try driver.send(Operation.creditRequest, host: port, guest: 9)
            var header = try driver.receive().header
            while header.forwarded < known { header = try driver.receive().header }
            known = header.forwarded
        }
        #expect(try readBytes(socket, sent.count) == sent)
        // The program has read: the guest hears of it unasked.
        var header = try driver.receive().header
        while header.forwarded != UInt32(sent.count) { header = try driver.receive().header }
        #expect(header.operation == Operation.creditUpdate)
        try driver.send(
            Operation.data, host: port, guest: 9,
            data: [UInt8](repeating: 0, count: Int(VsockConnection.bufferSize) + 1))
        _ = try driver.expect(Operation.reset)
    }

    @Test func guestWithoutRoomOrBuffersIsNotPushed() throws {
        let driver = try SocketDriver(path: path)
        let socket = try connectToGuest(path, port: 9)
        let port = try driver.expect(Operation.request).sourcePort
        try driver.send(Operation.response, host: port, guest: 9, bufferSize: 10)
        _ = try readLine(socket)
        try socket.descriptor.writeAll(Array(0..<25))
        #expect(try driver.receive().data == Array(0..<10))
        _ = try driver.expect(Operation.creditRequest)
        try driver.send(Operation.creditUpdate, host: port, guest: 9, bufferSize: 10, forwarded: 4)
        #expect(try driver.receive().data == Array(10..<14))
        _ = try driver.expect(Operation.creditRequest)
        try driver.send(Operation.creditUpdate, host: port, guest: 9, bufferSize: 100, forwarded: 14)
        #expect(try driver.receive().data == Array(14..<25))
    }

    @Test func programsWaitForTheDriver() throws {
        let device = try VsockDevice(guestCID: 3, path: path, memory: try DeviceHarness.makeMemory())
        let socket = try connectToGuest(path, port: 5)
        let harness = try DeviceHarness(device)
        let buffer = harness.allocate(4096)
        let used = try harness.transact(0, [DriverBuffer(buffer, 4096, writable: true)])
        #expect(used.count == 44)
        #expect(try harness.memory.load(UInt16.self, at: buffer + 30) == Operation.request)
        // A reset of the device ends its streams.
        try harness.bringUp()
        #expect(try readBytes(socket, 1) == [])
    }

    /// A guest that gives the event's buffer back while the device's thread is still at telling it is heard.
    @Test func aRestoredDeviceHearsAGuestThatIsQuicker() throws {
        for round in 0..<20 {
            let driver = try SocketDriver(path: "\(path).\(round)")
            let harness = driver.harness
            let buffer = [DriverBuffer(try harness.allocate([9, 9, 9, 9]), 4, writable: true)]
            _ = try harness.queues[2].add(buffer)
            try harness.notify(2)
            harness.device.attachedLoop?.stop()
            try harness.device.attachedLoop?.performAndWait {}
            let state = harness.device.captureState()
            let device = try VsockDevice(guestCID: 3, path: "\(path).\(round).restored", memory: harness.memory)
            #expect(device.restore(state))
            let socket = try connectToGuest("\(path).\(round).restored", port: 5)
            // An interrupt takes its time where many wait for it.
            try harness.queues[2].wantInterrupt()
            let interrupt = device.interrupt.descriptor.raw
            let waiters = Waiters(32) { try? waitUntilReadable(interrupt) }
            let thread = try LoopThread()
            try device.attach(to: thread.loop)
            thread.start()
            while try harness.queues[2].takeUsed() == nil {}
            _ = try harness.queues[2].add(buffer)
            if try harness.queues[2].needsKick() { device.notifiers[2].event.signal() }
            waiters.join()
            // The program's call, which waits for that, comes.
            var used: DriverQueue.Used?
            while used == nil {
                try harness.queues[0].wantInterrupt()
                used = try harness.queues[0].takeUsed()
                guard used == nil else { break }
                try waitUntilReadable(device.interrupt.descriptor.raw)
                _ = device.interrupt.drain()
            }
            #expect(used?.count == 44)
            thread.end()
            _ = socket.raw
        }
    }

    @Test func transportResetIsAnEvent() throws {
        let driver = try SocketDriver(path: path)
        let socket = try connectToGuest(path, port: 5)
        _ = try driver.expect(Operation.request)
        let device = try #require(driver.harness.device as? VsockDevice)
        let buffer = try driver.harness.allocate([9, 9, 9, 9])
        _ = try driver.harness.queues[2].add([DriverBuffer(buffer, 4, writable: true)])
        try device.attachedLoop?.performAndWait { _ = device.resetTransport() }
        #expect(try driver.harness.nextUsed(2).count == 4)
        #expect(try driver.harness.memory.read(buffer, count: 4) == [0, 0, 0, 0])
        #expect(try readBytes(socket, 1) == [])
    }
}

/// Threads that all do the same.
private final class Waiters {
    private var threads: [pthread_t] = []
    private let body: @Sendable () -> Void

    init(_ count: Int, _ body: @escaping @Sendable () -> Void) {
        self.body = body
        for _ in 0..<count {
            var thread = pthread_t()
            pthread_create(&thread, nil, runWaiter, Unmanaged.passUnretained(self).toOpaque())
            threads.append(thread)
        }
    }

    func join() {
        for thread in threads { pthread_join(thread, nil) }
        threads = []
    }

    fileprivate func run() { body() }
}

private func runWaiter(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let context else { return nil }
    Unmanaged<Waiters>.fromOpaque(context).takeUnretainedValue().run()
    return nil
}
