// SPDX-License-Identifier: Apache-2.0

import Fabric
import FabricAPI
import Glibc
import Packet
import Platform
import TestSupport
import Testing

@testable import Gateway

/// A link that keeps what it is given.
final class FakeLink: InsideLink {
    var packets: [(InsidePacket, [UInt8])] = []
    var room = Int.max

    func capabilities(of endpoint: EndpointID) -> LinkCapabilities { LinkCapabilities() }
    func hasRoom(for endpoint: EndpointID) -> Bool { packets.count < room }
    func send(
        _ packet: InsidePacket, head: UnsafeRawBufferPointer, payload first: UnsafeRawBufferPointer,
        _ second: UnsafeRawBufferPointer
    ) { packets.append((packet, Array(head) + first + second)) }
    func flush() {}
}

/// A gateway whose machine is written out by hand, and whose outside is this host's loopback.
final class Bench {
    let link = FakeLink()
    let gateway: Gateway
    let port: UInt16
    let isIPv6: Bool
    var now: UInt64 = 1_000_000
    private let machine = EndpointID(7)
    private let own: IPv6Address
    private let other: IPv6Address

    init(transport: String = "tcp", isIPv6: Bool = false, _ change: (inout Quotas) -> Void = { _ in }) throws {
        self.isIPv6 = isIPv6
        own = isIPv6 ? IPv6Address("fd00::2") ?? .any : IPv6Address(mapping: IPv4Address(10, 0, 0, 2))
        other = isIPv6 ? IPv6Address("fd00::1") ?? .any : IPv6Address(mapping: IPv4Address(10, 0, 0, 1))
        gateway = try Gateway(link: link, now: now)
        var settings = InsideMachine(
            endpoint: machine, gatewayIPv4: IPv4Address(10, 0, 0, 1), gatewayIPv6: IPv6Address("fd00::1"))
        settings.ipv4 = IPv4Address(10, 0, 0, 2)
        settings.ipv6 = IPv6Address("fd00::2")
        change(&settings.quotas)
        gateway.set(settings, now: now)
        let wanted = try PublishedPorts(parsing: "\(isIPv6 ? "[::1]" : "127.0.0.1"):0:80/\(transport)")
        port = try #require(try gateway.publish([wanted], for: machine).ports.first).hostPort
    }

    var connections: Int { gateway.usage(of: machine)?.connections ?? -1 }

    /// A client of the published port.
    func client(_ kind: InternetSocket.Kind = .stream) throws -> Descriptor {
        let socket = try InternetSocket.make(kind, ipv4: !isIPv6)
        try socket.setNonBlocking(false)
        _ = try InternetSocket.connect(socket, to: try socketAddress(isIPv6 ? "::1" : "127.0.0.1", port))
        return socket
    }

    /// Lets the gateway do what comes for it from the host, and waits for that: other things come too, such as changes of
    /// the host's addresses.
    func work(until isDone: () -> Bool) throws {
        while !isDone() {
            var event = pollfd(fd: gateway.eventDescriptor, events: Int16(POLLIN), revents: 0)
            try #require(poll(&event, 1, 30_000) == 1)
            gateway.work(now: now)
        }
    }

    /// The same until the machine has been sent something.
    func workUntilSent() throws { try work { !link.packets.isEmpty } }

    struct Seen {
        var number: UInt8
        var outsidePort: UInt16 = 0
        var flags = TCPFlags()
        var sequence: UInt32 = 0
        var payload: [UInt8] = []
        var isFragment = false
        /// From the IP header on.
        var bytes: [UInt8] = []
    }

    /// What the machine has been sent since it was last looked at.
    func seen() -> [Seen] {
        defer { link.packets.removeAll() }
        return link.packets.map { packet, record in
            let bytes = Array(record.dropFirst(FrameLayout.packet))
            let headerLength = isIPv6 ? IPv6Header.length : IPv4Header.length
            var seen = Seen(number: bytes[isIPv6 ? 6 : 9], bytes: bytes)
            seen.isFragment =
                isIPv6 ? bytes[6] == IPProtocol.fragment : bytes[6] & 0x3F != 0 || bytes[7] != 0
            guard !seen.isFragment else { return seen }
            let rest = Array(bytes.dropFirst(headerLength))
            let span = rest.span
            if seen.number == IPProtocol.tcp, let view = TCPView(span.bytes) {
                seen.outsidePort = view.sourcePort
                seen.flags = view.flags
                seen.sequence = view.sequence
                seen.payload = view.payload.array
            } else {
                seen.outsidePort = span.bytes.u16(0)
                seen.payload = Array(rest.dropFirst(8))
            }
            return seen
        }
    }

    /// The machine sends a transport's bytes to the gateway's address.
    func send(_ number: UInt8, _ payload: [UInt8]) { send([(number, payload)]) }

    /// The same in one batch.
    func send(_ packets: [(number: UInt8, payload: [UInt8])]) {
        // They stay where they are until the gateway is flushed.
        let records = packets.map { record($0, $1) }
        for (packet, record) in zip(packets, records) {
            gateway.receive(
                OutsidePacket(
                    endpoint: machine, offset: FrameLayout.packet, isIPv6: isIPv6, protocolNumber: packet.number,
                    transportOffset: FrameLayout.packet + (isIPv6 ? IPv6Header.length : IPv4Header.length),
                    isForGateway: true), record: UnsafeRawBufferPointer(record), now: now)
        }
        gateway.flush(now: now)
        for record in records { record.deallocate() }
    }

    private func record(_ number: UInt8, _ payload: [UInt8]) -> UnsafeMutableRawBufferPointer {
        let headerLength = isIPv6 ? IPv6Header.length : IPv4Header.length
        let transport = FrameLayout.packet + headerLength
        let record = built(transport + payload.count) {
            var header = VirtioNetHeader()
            header.flags = VirtioNetHeader.needsChecksum
            header.write(to: &$0, at: 0)
            if let source = own.mappedIPv4, let destination = other.mappedIPv4 {
                IPv4Header(
                    protocolNumber: number, source: source, destination: destination, payloadLength: payload.count
                ).write(to: &$0, at: FrameLayout.packet)
            } else {
                IPv6Header(nextHeader: number, source: own, destination: other, payloadLength: payload.count)
                    .write(to: &$0, at: FrameLayout.packet)
            }
            $0.put(payload, at: transport)
        }
        let space = UnsafeMutableRawBufferPointer.allocate(byteCount: record.count, alignment: 8)
        space.copyBytes(from: record)
        return space
    }

    func segment(_ flags: TCPFlags, to port: UInt16, sequence: UInt32, acknowledging: UInt32) {
        send(IPProtocol.tcp, bytes(flags, to: port, sequence: sequence, acknowledging: acknowledging))
    }

    func bytes(
        _ flags: TCPFlags, to port: UInt16, sequence: UInt32, acknowledging: UInt32, payload: [UInt8] = []
    ) -> [UInt8] {
        var header = TCPHeader(
            sourcePort: 80, destinationPort: port, sequence: sequence, acknowledgment: acknowledging, flags: flags,
            window: 60_000)
        if flags.contains(.synchronize) { header.options.maximumSegmentSize = 1460 }
        return built(header.encodedLength + payload.count) {
            header.write(to: &$0, at: 0)
            $0.put(payload, at: header.encodedLength)
        }
    }

    /// Says by ICMP that a packet did not get there.
    func complain(of packet: [UInt8], type: UInt8, code: UInt8, parameter: UInt32 = 0) {
        let quoted = Array(packet.prefix((isIPv6 ? 40 : 20) + 8))
        send(
            isIPv6 ? IPProtocol.icmpv6 : IPProtocol.icmp,
            built(8 + quoted.count) {
                ICMPMessage(type: type, code: code, parameter: parameter).write(to: &$0, at: 0)
                $0.put(quoted, at: 8)
            })
    }

    /// Says that it was too long.
    func complain(of packet: [UInt8], limit: Int) {
        if isIPv6 {
            complain(of: packet, type: ICMPv6Type.packetTooBig, code: 0, parameter: UInt32(limit))
        } else {
            complain(
                of: packet, type: ICMPType.unreachable, code: ICMPUnreachable.fragmentationNeeded,
                parameter: UInt32(limit))
        }
    }

    /// A client's connection, answered by the machine, whose first number is 100.
    func connect() throws -> Connection {
        let client = try client()
        try workUntilSent()
        let syn = try #require(seen().last)
        #expect(syn.flags == .synchronize)
        segment([.synchronize, .acknowledge], to: syn.outsidePort, sequence: 100, acknowledging: syn.sequence &+ 1)
        #expect(seen().map(\.flags) == [.acknowledge])
        return Connection(client, port: syn.outsidePort, sequence: syn.sequence &+ 1)
    }
}

/// A client of the host's whose connection the machine has answered.
final class Connection {
    private(set) var client: Descriptor?
    /// The gateway's port towards the machine, and the number of its first byte.
    let port: UInt16
    let sequence: UInt32

    init(_ client: consuming Descriptor, port: UInt16, sequence: UInt32) {
        self.client = consume client
        self.port = port
        self.sequence = sequence
    }

    func write(_ bytes: [UInt8]) throws {
        switch client {
        case .some(let client): try client.writeAll(bytes)
        case .none: throw SystemError("write", code: EBADF)
        }
    }

    /// What is there; it waits for something.
    func read(_ limit: Int) throws -> [UInt8] {
        guard let raw = client?.raw else { throw SystemError("read", code: EBADF) }
        var space = [UInt8](repeating: 0, count: limit)
        let count = recv(raw, &space, limit, 0)
        guard count >= 0 else { throw SystemError("read", code: errno) }
        return Array(space[..<count])
    }

    func close() { client = nil }

    func reset() {
        switch client {
        case .some(let client): InternetSocket.resetOnClose(client)
        case .none: break
        }
        close()
    }
}
