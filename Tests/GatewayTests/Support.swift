// SPDX-License-Identifier: Apache-2.0

import CLinux
import Glibc
import Packet
import Platform
import Synchronization
import TestSupport
import Testing

/// A blocking socket that gives up after 5 minutes: what is slow is not wrong.
final class TestSocket: Sendable {
    let descriptor: Descriptor

    private init(_ descriptor: consuming Descriptor) throws {
        try descriptor.setNonBlocking(false)
        var time = timeval(tv_sec: 300, tv_usec: 0)
        for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
            setsockopt(descriptor.raw, SOL_SOCKET, option, &time, socklen_t(MemoryLayout<timeval>.size))
        }
        self.descriptor = descriptor
    }

    static func listen(in namespace: String, _ address: String, _ port: UInt16 = 0) throws -> TestSocket {
        try inside(namespace) {
            try TestSocket(try InternetSocket.listen(at: try socketAddress(address, port), backlog: 1024))
        }
    }

    static func connect(in namespace: String, _ address: String, _ port: UInt16) throws -> TestSocket {
        try inside(namespace) {
            let socket = try TestSocket(
                try InternetSocket.make(.stream, ipv4: try socketAddress(address, port).isIPv4))
            guard try InternetSocket.connect(socket.descriptor, to: try socketAddress(address, port)) == .done else {
                throw SystemError("connect", code: ETIMEDOUT)
            }
            return socket
        }
    }

    /// A UDP socket.
    static func datagrams(in namespace: String, _ address: String, _ port: UInt16 = 0) throws -> TestSocket {
        try inside(namespace) { try TestSocket(try InternetSocket.bound(to: try socketAddress(address, port))) }
    }

    func connect(_ address: String, _ port: UInt16) throws {
        _ = try InternetSocket.connect(descriptor, to: try socketAddress(address, port))
    }

    func accept() throws -> (TestSocket, SocketAddress) {
        var peer = SocketAddress(ipv4: 0, port: 0)
        guard let socket = try InternetSocket.accept(on: descriptor, peer: &peer) else {
            throw SystemError("accept4", code: ETIMEDOUT)
        }
        return (try TestSocket(socket), peer)
    }

    var port: UInt16 { get throws { try InternetSocket.localAddress(descriptor).port } }

    func send(_ bytes: [UInt8]) throws {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(descriptor.raw, $0.baseAddress.map { $0 + sent }, $0.count - sent, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { throw SystemError("send") }
            sent += count
        }
    }

    /// One call's worth; empty at the end.
    func receive(_ limit: Int = 1 << 16) throws -> [UInt8] {
        var space = [UInt8](repeating: 0, count: limit)
        let count = recv(descriptor.raw, &space, limit, 0)
        guard count >= 0 else { throw SystemError("recv") }
        return Array(space[..<count])
    }

    /// A datagram and who sent it, so that it can be answered.
    func receiveDatagram() throws -> ([UInt8], SocketAddress) {
        let space = DatagramSpace()
        var event = pollfd(fd: descriptor.raw, events: Int16(POLLIN), revents: 0)
        guard poll(&event, 1, 300_000) == 1, space.receive(from: descriptor.raw) > 0, let peer = space.peer(0) else {
            throw SystemError("recvmmsg", code: ETIMEDOUT)
        }
        return (Array(space.bytes(0)), peer)
    }

    func send(_ bytes: [UInt8], to peer: SocketAddress) -> Int32 {
        bytes.withUnsafeBytes {
            InternetSocket.send(descriptor.raw, $0, UnsafeRawBufferPointer(start: nil, count: 0), to: peer)
        }
    }

    func receiveAll() throws -> [UInt8] {
        var result: [UInt8] = []
        while true {
            let bytes = try receive(1 << 18)
            if bytes.isEmpty { return result }
            result += bytes
        }
    }

    func finish() { InternetSocket.finishSending(descriptor) }
    func resetOnClose() { InternetSocket.resetOnClose(descriptor) }
}

func socketAddress(_ text: String, _ port: UInt16) throws -> SocketAddress {
    if let address = IPv4Address(text) { return SocketAddress(ipv4: address.value, port: port) }
    let address = try #require(IPv6Address(text))
    return SocketAddress(ipv6High: address.high, low: address.low, port: port)
}

/// Something that goes on in a thread meanwhile.
final class Meanwhile<Result: Sendable>: Sendable {
    private let value = Mutex<Swift.Result<Result, any Error>?>(nil)
    private let ended: Pipe

    init(_ body: @escaping @Sendable () throws -> Result) throws {
        ended = try Pipe()
        let raw = dup(ended.writing.raw)
        _ = try Thread(name: "meanwhile", stackSizeInBytes: 1 << 20) { [self] in
            let end = Descriptor(owning: raw)
            let result = Swift.Result { try body() }
            value.withLock { $0 = result }
            _ = try? end.writeAll([1])
        }
    }

    func result() throws -> Result {
        var event = pollfd(fd: ended.reading.raw, events: Int16(POLLIN), revents: 0)
        guard poll(&event, 1, 300_000) == 1, let result = value.withLock({ $0 }) else {
            throw SystemError("poll", code: ETIMEDOUT)
        }
        return try result.get()
    }
}

@discardableResult
func shell(_ line: String) throws -> ProcessEnd {
    var specification = ProcessSpecification(
        "/bin/sh", ["sh", "-c", line], environment: ["PATH=/usr/sbin:/usr/bin:/bin"])
    specification.descriptors = [-1, -1, 2]
    return try ChildProcess(specification).wait()
}
