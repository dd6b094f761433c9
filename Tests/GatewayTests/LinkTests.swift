// SPDX-License-Identifier: Apache-2.0

import Fabric
import FabricAPI
import Glibc
import Packet
import Platform
import TestSupport
import Testing

@testable import Gateway

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

@Suite struct Answers {
    /// A port that is published on all addresses answers from the one that was asked; what one client asks of two of them
    /// are two flows.
    @Test func comeFromWhereTheQuestionWent() throws {
        let bench = try Bench(transport: "udp")
        let published = try bench.gateway.publish([PublishedPorts(parsing: "0:80/udp")], for: EndpointID(7))
        let port = try #require(published.ports.first).hostPort
        let client = try InternetSocket.bound(to: SocketAddress(ipv4: 0x7F00_0001, port: 0))
        let asked = [0x7F00_0002, 0x7F00_0003, 0x7F00_0001].map { SocketAddress(ipv4: $0, port: port) }
        let none = UnsafeRawBufferPointer(start: nil, count: 0)
        var flows: [UInt16] = []
        for (index, address) in asked.enumerated() {
            let code = [UInt8(index)].withUnsafeBytes { InternetSocket.send(client.raw, $0, none, to: address) }
            #expect(code == 0)
            try bench.workUntilSent()
            let seen = bench.seen()
            #expect(seen.map(\.payload) == [[UInt8(index)]])
            flows.append(try #require(seen.first).outsidePort)
        }
        #expect(Set(flows).count == 3 && bench.gateway.usage(of: EndpointID(7))?.datagramFlows == 3)
        let space = DatagramSpace()
        for (flow, address) in zip(flows, asked) {
            bench.send(
                IPProtocol.udp,
                built(9) { UDPHeader(sourcePort: 80, destinationPort: flow, payloadLength: 1).write(to: &$0, at: 0) })
            var event = pollfd(fd: client.raw, events: Int16(POLLIN), revents: 0)
            try #require(poll(&event, 1, 30_000) == 1)
            #expect(space.receive(from: client.raw) == 1 && space.peer(0) == address)
        }
    }

    @Test func comeFromWhereTheQuestionWentOverIPv6() throws {
        let bench = try Bench(transport: "udp", isIPv6: true)
        let published = try bench.gateway.publish([PublishedPorts(parsing: "0:80/udp")], for: EndpointID(7))
        let port = try #require(published.ports.first).hostPort
        let client = try InternetSocket.make(.datagram, ipv4: false)
        _ = try InternetSocket.connect(client, to: try socketAddress("::1", port))
        try client.writeAll([5])
        try bench.workUntilSent()
        let flow = try #require(bench.seen().first).outsidePort
        bench.send(
            IPProtocol.udp,
            built(9) { UDPHeader(sourcePort: 80, destinationPort: flow, payloadLength: 1).write(to: &$0, at: 0) })
        var event = pollfd(fd: client.raw, events: Int16(POLLIN), revents: 0)
        #expect(poll(&event, 1, 30_000) == 1 && bench.gateway.counters.hostWouldNotTake == 0)
    }
}

@Suite struct ScarceMemory {
    /// Of eight connections to a machine that acknowledges nothing, four have all the memory. The others wait in line,
    /// without a timer of their own, and go on one by one as memory is given back; who has had his turn waits again.
    @Test func flowsWaitInLine() throws {
        let bench = try Bench { $0.bufferInBytes = 64 << 10 }
        let connections = try (0..<8).map { _ in try bench.connect() }
        let bytes = [UInt8](repeating: 7, count: 40_000)
        func acknowledge(_ index: Int, _ count: Int) {
            bench.segment(
                .acknowledge, to: connections[index].port, sequence: 101,
                acknowledging: connections[index].sequence &+ UInt32(count))
        }
        var sent: [UInt16: Int] = [:]
        func look() { for seen in bench.seen() { sent[seen.outsidePort, default: 0] += seen.payload.count } }
        func count(_ index: Int) -> Int { sent[connections[index].port] ?? 0 }
        // Something in each one's buffer, so that none has more than the least.
        for (index, connection) in connections.enumerated() {
            try connection.write(Array(bytes[..<5000]))
            try bench.work {
                look()
                return count(index) > 0 || bench.gateway.machines.values.contains { $0.hungry.count == index - 3 }
            }
        }
        #expect((0..<8).map { count($0) > 0 } == [true, true, true, true, false, false, false, false])
        // Nothing happens until somebody acknowledges: the next timer is a retransmission's.
        #expect(bench.gateway.deadline > bench.now + 100_000)
        for turn in 0..<4 {
            // The one that gives back wants more itself, and is the last then.
            try connections[turn].write(Array(bytes[..<5000]))
            acknowledge(turn, 5000)
            look()
            #expect(count(4 + turn) > 0, "\(turn)")
            #expect(count(turn) == 5000, "\(turn)")
        }
        // All have all in the end.
        for _ in 0..<8 {
            for index in 0..<8 where count(index) > 0 { acknowledge(index, count(index)) }
            bench.gateway.work(now: bench.now)
            look()
        }
        #expect((0..<8).map(count) == [10_000, 10_000, 10_000, 10_000, 5000, 5000, 5000, 5000])
        #expect(bench.gateway.usage(of: EndpointID(7))?.bufferInBytes == 0)
        for connection in connections { connection.reset() }
        try bench.work { bench.connections == 0 }
    }
}

@Suite struct Turns {
    /// Sockets that have more to give than a turn takes do not keep the gateway: machines have their turn between.
    @Test func aTurnEnds() throws {
        let bench = try Bench(transport: "udp")
        let ports = try (0..<300).map { _ in
            try #require(
                try bench.gateway.publish(
                    [PublishedPorts(parsing: "127.0.0.1:0:80/udp")], for: EndpointID(7)
                ).ports.first
            ).hostPort
        }
        let client = try InternetSocket.make(.datagram, ipv4: true)
        func send(to address: SocketAddress) throws {
            let code = [1 as UInt8].withUnsafeBytes {
                InternetSocket.send(client.raw, $0, UnsafeRawBufferPointer(start: nil, count: 0), to: address)
            }
            try #require(code == 0)
        }
        // Of what is on its way at a time, the kernel keeps a thousand at the most (net.core.netdev_max_backlog), which a busy
        // machine needs: so the client waits for one of its own behind each port's.
        let last = try InternetSocket.make(.datagram, ipv4: true)
        try InternetSocket.bind(last, to: SocketAddress(ipv4: 0x7F00_0001, port: 0))
        let lastAddress = try InternetSocket.localAddress(last)
        for port in ports {
            for _ in 0..<150 { try send(to: SocketAddress(ipv4: 0x7F00_0001, port: port)) }
            try send(to: lastAddress)
            var event = pollfd(fd: last.raw, events: Int16(POLLIN), revents: 0)
            try #require(poll(&event, 1, 30_000) == 1)
            var byte: UInt8 = 0
            try #require(recv(last.raw, &byte, 1, 0) == 1)
        }
        bench.gateway.work(now: bench.now)
        let first = bench.link.packets.count
        // 256 events of four bursts.
        #expect(first > 0 && first <= 256 * 128)
        // What is left is reported again.
        try bench.work { bench.link.packets.count == 300 * 150 }
    }
}

/// Who breaks a connection off has often said why just before.
@Suite struct Breaks {
    private let words = Array("no more, because".utf8)

    @Test func whatTheMachineSaidBeforeItsResetArrives() throws {
        let bench = try Bench()
        let connection = try bench.connect()
        let (port, sequence) = (connection.port, connection.sequence)
        bench.send([
            (
                IPProtocol.tcp,
                bench.bytes(.acknowledge, to: port, sequence: 101, acknowledging: sequence, payload: words)
            ),
            (
                IPProtocol.tcp,
                bench.bytes(.reset, to: port, sequence: 101 + UInt32(words.count), acknowledging: sequence)
            ),
        ])
        #expect(bench.connections == 0)
        #expect(try connection.read(100) == words)
        #expect(throws: SystemError("read", code: ECONNRESET)) { try connection.read(100) }
    }

    /// With and without something on its way to who has gone.
    @Test(arguments: [false, true]) func whatTheHostsPeerSaidBeforeItsResetArrives(isWriting: Bool) throws {
        let bench = try Bench()
        let connection = try bench.connect()
        let (port, sequence) = (connection.port, connection.sequence)
        try connection.write(words)
        connection.reset()
        if isWriting {
            let late = bench.bytes(.acknowledge, to: port, sequence: 101, acknowledging: sequence, payload: [1, 2, 3])
            bench.send(IPProtocol.tcp, late)
        }
        try bench.work { bench.connections == 0 }
        let seen = bench.seen()
        #expect(seen.flatMap(\.payload) == words && seen.first?.sequence == sequence)
        #expect(seen.last?.flags.contains(.reset) == true && seen.last?.sequence == sequence &+ UInt32(words.count))
        #expect(!seen.contains { $0.flags.contains(.finish) })
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
