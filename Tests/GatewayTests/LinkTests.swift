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
private final class Bench {
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
    func send(_ number: UInt8, _ payload: [UInt8]) {
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
        record.withUnsafeBytes {
            gateway.receive(
                OutsidePacket(
                    endpoint: machine, offset: FrameLayout.packet, isIPv6: isIPv6, protocolNumber: number,
                    transportOffset: transport, isForGateway: true), record: $0, now: now)
        }
        gateway.flush(now: now)
    }

    func segment(_ flags: TCPFlags, to port: UInt16, sequence: UInt32, acknowledging: UInt32, window: UInt16 = 60_000) {
        var header = TCPHeader(
            sourcePort: 80, destinationPort: port, sequence: sequence, acknowledgment: acknowledging, flags: flags,
            window: window)
        if flags.contains(.synchronize) { header.options.maximumSegmentSize = 1460 }
        send(IPProtocol.tcp, built(header.encodedLength) { header.write(to: &$0, at: 0) })
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
private final class Connection {
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

    func close() { client = nil }

    func reset() {
        switch client {
        case .some(let client): InternetSocket.resetOnClose(client)
        case .none: break
        }
        close()
    }
}

@Suite struct FullLinks {
    /// What has ended is gone, whether the machine can be told or not.
    @Test func aClosedFlowDoesNotLinger() throws {
        let bench = try Bench()
        bench.link.room = 0
        do {
            let early = try bench.client()
            try bench.work { bench.connections == 1 }
            #expect(bench.connections == 1 && bench.link.packets.isEmpty)
            InternetSocket.resetOnClose(early)
        }
        try bench.work { bench.connections == 0 }
        #expect(bench.connections == 0)

        bench.link.room = .max
        let connection = try bench.connect()
        bench.link.room = 0
        connection.reset()
        try bench.work { bench.connections == 0 }
        #expect(bench.connections == 0 && bench.link.packets.isEmpty)
        // Whatever the machine sends next tells it.
        bench.link.room = .max
        bench.segment(
            [.acknowledge, .push], to: connection.port, sequence: 101, acknowledging: connection.sequence)
        #expect(bench.seen().map(\.flags) == [.reset])
        // There is room again: nobody is left who waits for it.
        bench.gateway.resume(EndpointID(7), now: bench.now)
        #expect(bench.link.packets.isEmpty)
    }

    @Test func whatWaitsGoesOn() throws {
        let bench = try Bench()
        bench.link.room = 0
        let client = try bench.client()
        try bench.work { bench.connections == 1 }
        bench.gateway.resume(EndpointID(7), now: bench.now)
        #expect(bench.link.packets.isEmpty && bench.connections == 1)
        bench.link.room = .max
        bench.gateway.resume(EndpointID(7), now: bench.now)
        #expect(bench.seen().map(\.flags) == [.synchronize])
        client.close()
    }
}

@Suite struct TimeWait {
    /// The host's client closes first, so the gateway has the wait.
    private func useOnce(_ bench: Bench) throws {
        let connection = try bench.connect()
        connection.close()
        try bench.workUntilSent()
        #expect(bench.seen().map(\.flags) == [[.finish, .acknowledge]])
        bench.segment(
            [.finish, .acknowledge], to: connection.port, sequence: 101, acknowledging: connection.sequence &+ 1)
        #expect(bench.seen().map(\.flags) == [.acknowledge])
    }

    @Test func theOldestMakesRoom() throws {
        let bench = try Bench { $0.resting = 4 }
        for round in 1...12 {
            try useOnce(bench)
            #expect(bench.connections == min(round, 4))
        }
        // A minute later they are over.
        bench.now += 59_000_000
        bench.gateway.work(now: bench.now)
        #expect(bench.connections == 4)
        bench.now += 2_000_000
        bench.gateway.work(now: bench.now)
        #expect(bench.connections == 0)
    }

    @Test func newConnectionsHaveTheirPlace() throws {
        let bench = try Bench { $0.connections = 8 }
        for round in 1...20 {
            try useOnce(bench)
            #expect(bench.connections == min(round, 8))
        }
        #expect(bench.gateway.counters.overQuota == 0)
        // Those that are in use are not ended for it.
        let used = try (0..<8).map { _ in try bench.connect() }
        let refused = try bench.client()
        try bench.work { bench.gateway.counters.overQuota == 1 }
        #expect(bench.gateway.counters.overQuota == 1 && bench.connections == 8 && bench.link.packets.isEmpty)
        refused.close()
        for connection in used { connection.close() }
    }
}

@Suite struct PathMTU {
    private let bytes = (0..<5000).map { UInt8(truncatingIfNeeded: $0 &* 31) }

    @Test(arguments: [false, true]) func segmentsBecomeSmaller(isIPv6: Bool) throws {
        let bench = try Bench(isIPv6: isIPv6)
        let connection = try bench.connect()
        let (port, sequence) = (connection.port, connection.sequence)
        try connection.write(bytes)
        try bench.workUntilSent()
        let before = bench.seen()
        let largest = try #require(before.first)
        let headers = isIPv6 ? 60 : 40
        #expect(largest.bytes.count == 1500 && largest.sequence == sequence)
        // Nobody is believed who quotes what was never sent, or another connection.
        var wrong = largest.bytes
        wrong[headers - 20 + 4] ^= 0x40
        bench.complain(of: wrong, limit: 1300)
        wrong = largest.bytes
        wrong[headers - 20] ^= 1
        bench.complain(of: wrong, limit: 1300)
        #expect(bench.seen().isEmpty)

        bench.complain(of: largest.bytes, limit: 1300)
        let again = bench.seen()
        #expect(again.allSatisfy { $0.bytes.count <= 1300 && $0.outsidePort == port })
        #expect(again.first?.sequence == sequence && again.flatMap(\.payload) == bytes)
        // Too little to be true.
        bench.complain(of: try #require(again.first).bytes, limit: 68)
        #expect(bench.seen().allSatisfy { $0.bytes.count <= (isIPv6 ? 1280 : 576) })
        connection.close()
    }

    @Test(arguments: [false, true]) func datagramsGoInPieces(isIPv6: Bool) throws {
        let bench = try Bench(transport: "udp", isIPv6: isIPv6)
        let client = try bench.client(.datagram)
        try client.writeAll(Array(bytes[..<1400]))
        try bench.workUntilSent()
        let whole = bench.seen()
        #expect(whole.count == 1 && whole[0].payload.count == 1400 && !whole[0].isFragment)
        bench.complain(of: whole[0].bytes, limit: 1280)
        try client.writeAll(Array(bytes[..<1400]))
        try bench.workUntilSent()
        let pieces = bench.seen()
        #expect(pieces.count == 2 && pieces.allSatisfy { $0.isFragment && $0.bytes.count <= 1280 })
        client.close()
    }

    /// A machine that rejects by ICMP is heard at once, not after the last repetition.
    @Test(arguments: [false, true]) func aRejectedConnectionEnds(isIPv6: Bool) throws {
        let bench = try Bench(isIPv6: isIPv6)
        let client = try bench.client()
        try bench.workUntilSent()
        let syn = try #require(bench.seen().first)
        bench.complain(
            of: syn.bytes, type: isIPv6 ? ICMPv6Type.unreachable : ICMPType.unreachable,
            code: isIPv6 ? ICMPv6Unreachable.port : ICMPUnreachable.port)
        #expect(bench.connections == 0 && bench.gateway.counters.publishedRefused == 1)
        var byte: UInt8 = 0
        #expect(recv(client.raw, &byte, 1, 0) == -1 && errno == ECONNRESET)
        client.close()
    }
}
