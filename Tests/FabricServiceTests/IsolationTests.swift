// SPDX-License-Identifier: Apache-2.0

import CLinux
import Fabric
import FabricAPI
import Glibc
import Packet
import Platform
import TestSupport
import Testing
import Wire

/// A hostile machine at a real port: what it sends that is not its own reaches nobody, is counted where a user sees it,
/// and leaves the others what is theirs. Nothing of it leaves the process: what the gateway lets through is its own.
@Suite struct Isolation {
    private static let gateway4 = IPv4Address(10, 99, 0, 1)
    private static let gateway6 = IPv6Address("fd00:99::1") ?? .any

    private static func frame(
        _ source: MACAddress, _ destination: MACAddress, _ type: UInt16, _ payload: [UInt8]
    ) -> [UInt8] {
        built(26 + payload.count) {
            EthernetHeader(destination: destination, source: source, type: type).write(to: &$0, at: 12)
            $0.put(payload, at: 26)
        }
    }

    private static func ipv4(
        _ source: IPv4Address, _ destination: IPv4Address, _ number: UInt8, _ payload: [UInt8], offset: Int = 0,
        more: Bool = false, identification: UInt16 = 0
    ) -> [UInt8] {
        built(20 + payload.count) {
            var header = IPv4Header(
                protocolNumber: number, source: source, destination: destination, payloadLength: payload.count)
            header.dontFragment = false
            header.fragmentOffset = offset
            header.moreFragments = more
            header.identification = identification
            header.write(to: &$0, at: 0)
            $0.put(payload, at: 20)
            guard offset == 0, !more, Transport.checksumOffset(of: number) != nil else { return }
            Transport.fillChecksum(
                &$0, at: 20, length: payload.count, protocolNumber: number, source: source, destination: destination)
        }
    }

    private static func ipv6(
        _ source: IPv6Address, _ destination: IPv6Address, _ number: UInt8, _ payload: [UInt8], hopLimit: UInt8 = 64
    ) -> [UInt8] {
        built(40 + payload.count) {
            var header = IPv6Header(
                nextHeader: number, source: source, destination: destination, payloadLength: payload.count)
            header.hopLimit = hopLimit
            header.write(to: &$0, at: 0)
            $0.put(payload, at: 40)
            Transport.fillChecksum(
                &$0, at: 40, length: payload.count, protocolNumber: number, source: source, destination: destination)
        }
    }

    private static func udp(_ source: UInt16, _ destination: UInt16, _ payload: [UInt8] = [1, 2, 3]) -> [UInt8] {
        built(8 + payload.count) {
            UDPHeader(sourcePort: source, destinationPort: destination, payloadLength: payload.count)
                .write(to: &$0, at: 0)
            $0.put(payload, at: 8)
        }
    }

    private static func syn(_ source: UInt16, _ destination: UInt16) -> [UInt8] {
        built(20) {
            TCPHeader(
                sourcePort: source, destinationPort: destination, sequence: 1, acknowledgment: 0,
                flags: .synchronize, window: 1000
            ).write(to: &$0, at: 0)
        }
    }

    private static func arp(
        _ mac: MACAddress, _ address: IPv4Address, for target: IPv4Address, _ operation: UInt16 = ARPPacket.request
    ) -> [UInt8] {
        built(28) {
            ARPPacket(
                operation: operation, senderMAC: mac, senderAddress: address, targetMAC: .zero, targetAddress: target
            ).write(to: &$0, at: 0)
        }
    }

    /// What `inspect` says of a machine, and of the gateway.
    private func inspect(_ client: Client, _ id: String) throws -> (machine: JSON, gateway: JSON) {
        guard case .inspected(let state) = try client.ask(.inspect) else { throw SystemError("inspect", code: EPROTO) }
        let machines = state["machines"]?.arrayValue ?? []
        return (try #require(machines.first { $0["id"] == .string(id) }), state["gateway"] ?? .null)
    }

    private func hostileFrames(_ a: Machine, _ b: Machine) -> [(DropReason, [UInt8])] {
        let (four, six) = (EtherType.ipv4, EtherType.ipv6)
        let plain = Self.udp(1, 2)
        func ndp(_ message: [UInt8], _ source: IPv6Address, _ destination: IPv6Address) -> [UInt8] {
            Self.frame(
                a.mac, MACAddress(multicast: destination), six,
                Self.ipv6(source, destination, IPProtocol.icmpv6, message, hopLimit: 255))
        }
        let advertisement = built(32) { NeighborAdvertisement(target: b.address6, mac: a.mac).write(to: &$0, at: 0) }
        let solicitation = built(32) { NeighborSolicitation(target: b.address6, mac: b.mac).write(to: &$0, at: 0) }
        let ownLink = IPv6Address(linkLocal: a.mac)
        let routed = built(28) {
            // A loose source route by way of another.
            $0.put([0x46, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0] as [UInt8], at: 0)
            $0.put(a.address, at: 12)
            $0.put(b.address, at: 16)
            $0.put([131, 4, 4, 0] as [UInt8], at: 20)
        }
        var broken = Self.ipv4(a.address, Self.gateway4, 17, plain)
        broken[10] ^= 1
        var offload = Self.frame(a.mac, b.mac, four, Self.ipv4(a.address, b.address, 17, plain))
        offload[0] = VirtioNetHeader.needsChecksum
        offload[6] = 0xFF
        let far = IPv4Address(192, 0, 2, 1)
        func fragment(_ offset: Int, _ count: Int, more: Bool, _ identification: UInt16) -> [UInt8] {
            Self.frame(
                a.mac, Network.gatewayMAC, four,
                Self.ipv4(
                    a.address, far, 17, [UInt8](repeating: 0, count: count), offset: offset, more: more,
                    identification: identification))
        }
        return [
            (.spoofedMAC, Self.frame(b.mac, b.mac, four, Self.ipv4(a.address, b.address, 17, plain))),
            (.spoofedMAC, Self.frame(Network.gatewayMAC, b.mac, four, Self.ipv4(a.address, b.address, 17, plain))),
            (.spoofedIPv4, Self.frame(a.mac, b.mac, four, Self.ipv4(b.address, b.address, 17, plain))),
            (.spoofedIPv4, Self.frame(a.mac, b.mac, four, Self.ipv4(Self.gateway4, b.address, 17, plain))),
            (.spoofedIPv4, Self.frame(a.mac, Network.gatewayMAC, four, Self.ipv4(.loopback, far, 17, plain))),
            (.spoofedIPv6, Self.frame(a.mac, b.mac, six, Self.ipv6(b.address6, b.address6, 17, plain))),
            (.spoofedIPv6, Self.frame(a.mac, b.mac, six, Self.ipv6(Self.gateway6, b.address6, 17, plain))),
            (.spoofedARP, Self.frame(a.mac, .broadcast, EtherType.arp, Self.arp(b.mac, a.address, for: b.address))),
            (
                .spoofedARP,
                Self.frame(
                    a.mac, .broadcast, EtherType.arp,
                    Self.arp(a.mac, Self.gateway4, for: b.address, ARPPacket.reply))
            ),
            (.spoofedNDP, ndp(advertisement, a.address6, .allNodes)),
            (.spoofedNDP, ndp(solicitation, a.address6, b.address6.solicitedNode)),
            (.rogueRouter, ndp([134, 0, 0, 0] + [UInt8](repeating: 0, count: 12), ownLink, .allNodes)),
            (.redirect, ndp([137, 0, 0, 0] + [UInt8](repeating: 0, count: 36), ownLink, b.address6)),
            (
                .rogueServer,
                Self.frame(
                    a.mac, b.mac, four,
                    Self.ipv4(a.address, b.address, 17, Self.udp(67, 68, [UInt8](repeating: 0, count: 240))))
            ),
            (.malformedARP, Self.frame(a.mac, .broadcast, EtherType.arp, [0, 1, 8, 0, 6, 4, 0])),
            (.malformedIPv4, Self.frame(a.mac, b.mac, four, [0x4F, 0, 0, 20])),
            (.malformedIPv6, Self.frame(a.mac, b.mac, six, [0x60, 0, 0, 20])),
            (.malformedNDP, ndp([135, 0, 0, 0], a.address6, .allNodes)),
            (.malformedOffload, offload),
            (.badChecksum, Self.frame(a.mac, Network.gatewayMAC, four, broken)),
            (.sourceRoute, Self.frame(a.mac, b.mac, four, routed)),
            (.vlanTag, Self.frame(a.mac, b.mac, EtherType.vlan, [0, 5, 8, 0])),
            (.otherEtherType, Self.frame(a.mac, b.mac, 0x88CC, plain)),
            (.misdirected, Self.frame(a.mac, b.mac, four, Self.ipv4(a.address, far, 17, plain))),
            (.unknownMAC, Self.frame(a.mac, MACAddress(0x0255), four, Self.ipv4(a.address, b.address, 17, plain))),
            (
                .noSuchNeighbor,
                Self.frame(
                    a.mac, Network.gatewayMAC, four, Self.ipv4(a.address, IPv4Address(10, 99, 0, 200), 17, plain))
            ),
            // The host's loopback, by its number.
            (
                .noRoute,
                Self.frame(a.mac, Network.gatewayMAC, four, Self.ipv4(a.address, .loopback, 6, Self.syn(1, 80)))
            ),
            (
                .noRoute,
                Self.frame(a.mac, Network.gatewayMAC, six, Self.ipv6(a.address6, .loopback, 6, Self.syn(1, 80)))
            ),
            (
                .tooLarge,
                Self.frame(
                    a.mac, b.mac, four,
                    Self.ipv4(a.address, b.address, 17, Self.udp(1, 2, .init(repeating: 0, count: 1600))))
            ),
            // A name asked for from an address that the table does not have.
            (
                .noAddress,
                Self.frame(
                    a.mac, Network.gatewayMAC, six,
                    Self.ipv6(ownLink, Self.gateway6, IPProtocol.udp, Self.udp(5000, 53, Machine.question("b"))))
            ),
            // Fragments that overlap, that would be too long together, and more unfinished packets than one may have.
            (.fragmentWaits, fragment(0, 800, more: true, 1)), (.fragmentOverlap, fragment(400, 800, more: false, 1)),
            (.fragmentLength, fragment(65_528, 800, more: false, 2)),
            (.fragmentWaits, fragment(0, 800, more: true, 3)), (.fragmentWaits, fragment(0, 800, more: true, 4)),
            (.fragmentWaits, fragment(0, 800, more: true, 5)), (.fragmentWaits, fragment(0, 800, more: true, 6)),
            (.fragmentLimit, fragment(0, 800, more: true, 7)),
        ]
    }

    @Test func hostileFramesReachNobodyAndAreCounted() throws {
        let served = try Served()
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let b = try Machine(try client.attach("b"))
        _ = try b.resolve("a")
        var expected: [DropReason: UInt64] = [:]
        for (reason, record) in hostileFrames(a, b) {
            try a.send(record)
            expected[reason, default: 0] += 1
        }
        // What comes after all that is the first that the sibling sees.
        try a.send(a.datagram(to: b.address, b.mac, 1, 2, Array("honest".utf8)))
        #expect(try b.receive().suffix(6) == Array("honest".utf8))
        let (machine, gateway) = try inspect(client, "a")
        for reason in DropReason.allCases {
            #expect(machine["dropped"]?[reason.name]?.unsignedValue == expected[reason] ?? 0, "\(reason)")
        }
        #expect(gateway["connectionsOpened"]?.unsignedValue == 0 && gateway["datagramFlowsOpened"]?.unsignedValue == 0)
        let innocent = try inspect(client, "b").machine
        #expect(innocent["framesToMachine"]?.unsignedValue == 2)
    }

    /// Addresses that mean the host, its link or its cloud, however they are written; each is answered.
    @Test func theHostIsNotReached() throws {
        let served = try Served()
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        _ = try a.resolve("a")
        let four = [IPv4Address(169, 254, 169, 254), IPv4Address(169, 254, 0, 1)]
        let six = ["::ffff:7f00:1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::1", "::7f00:1"]
        for address in four {
            for (number, payload) in [(IPProtocol.tcp, Self.syn(1, 80)), (IPProtocol.udp, Self.udp(1, 53))] {
                try a.send(
                    Self.frame(
                        a.mac, Network.gatewayMAC, EtherType.ipv4, Self.ipv4(a.address, address, number, payload)))
                let answer = try a.receive()
                #expect(
                    answer[26 + 9] == IPProtocol.icmp && answer[46] == ICMPType.unreachable
                        && answer[47] == ICMPUnreachable.prohibited, "\(address)")
            }
        }
        for text in six {
            let address = try #require(IPv6Address(text))
            try a.send(
                Self.frame(
                    a.mac, Network.gatewayMAC, EtherType.ipv6,
                    Self.ipv6(a.address6, address, IPProtocol.tcp, Self.syn(1, 80))))
        }
        _ = try client.ask(.inspect)
        let (machine, gateway) = try inspect(client, "a")
        let refused = ["forbiddenAddress", "malformed"].reduce(0) { $0 + (gateway[$1]?.unsignedValue ?? 0) }
        #expect(refused + (machine["dropped"]?["noRoute"]?.unsignedValue ?? 0) == 9)
        #expect(gateway["forbiddenAddress"]?.unsignedValue ?? 0 >= 7)
        #expect(gateway["connectionsOpened"]?.unsignedValue == 0 && gateway["datagramFlowsOpened"]?.unsignedValue == 0)
    }

    /// Two networks with the same addresses: what one's machine sends to the other's address stays in its own.
    @Test func networksAreApart() throws {
        let (blue, red) = (try Served(), try Served())
        let (blueClient, redClient) = (try blue.client(), try red.client())
        let a = try Machine(try blueClient.attach("a") { $0.address = IPv4Address(10, 99, 0, 10) })
        let there = try Machine(try redClient.attach("there") { $0.address = IPv4Address(10, 99, 0, 20) })
        _ = try there.resolve("there")
        try a.send(
            Self.frame(
                a.mac, .broadcast, EtherType.arp, Self.arp(a.mac, a.address, for: there.address)))
        try a.send(a.datagram(to: there.address, there.mac, 1, 2, [1]))
        try a.send(a.datagram(to: there.address, Network.gatewayMAC, 1, 2, [1]))
        #expect(try a.receive()[46] == ICMPType.unreachable)
        #expect(addresses(try a.resolve("there")) == (DNSCode.noSuchName, []))
        let dropped = try inspect(blueClient, "a").machine["dropped"]
        #expect(dropped?["noSuchNeighbor"]?.unsignedValue == 2 && dropped?["unknownMAC"]?.unsignedValue == 1)
        #expect(try inspect(redClient, "there").machine["framesToMachine"]?.unsignedValue == 1)
    }

    @Test func floodsOfQuestionsAndConnectionsLeaveTheOthersTheirShare() throws {
        // However slow the machine is that this runs on, its flood is above this.
        let served = try Served(queryLimit: TokenBucket(perSecond: 1, burst: 1000))
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let b = try Machine(try client.attach("b"))
        _ = try b.resolve("a")
        // The flooder reads its answers, or the network would have to drop them; how many there are does not matter.
        let raw = dup(a.socket.raw)
        let reading = try Thread(name: "answers", stackSizeInBytes: 1 << 20) {
            var space = [UInt8](repeating: 0, count: 70_000)
            while read(raw, &space, space.count) > 0 {}
            close(raw)
        }
        let question = Machine.question("b")
        for index in 0..<6000 as Range<UInt16> {
            try a.send(a.datagram(to: Self.gateway4, Network.gatewayMAC, 1024 + index, 53, question))
            // To the name server, whose streams are few, and to a port where nobody is.
            let port: UInt16 = index % 2 == 0 ? 53 : 81
            try a.send(
                Self.frame(
                    a.mac, Network.gatewayMAC, EtherType.ipv4,
                    Self.ipv4(a.address, Self.gateway4, IPProtocol.tcp, Self.syn(1024 + index, port))))
            if index % 1000 == 0 { #expect(addresses(try b.resolve("a.blue")) == (0, [a.address])) }
        }
        #expect(addresses(try b.resolve("a.blue")) == (0, [a.address]))
        let (machine, _) = try inspect(client, "a")
        #expect(machine["dropped"]?["queryLimit"]?.unsignedValue ?? 0 > 0)
        let innocent = try inspect(client, "b").machine
        #expect(innocent["dropped"]?["queryLimit"]?.unsignedValue == 0)
        #expect(try client.ask(.detach(id: "a")) == .done)
        reading.join()
        #expect(addresses(try b.resolve("b")) == (0, [b.address]))
    }

    /// A sibling's flood of a machine that reads slowly does not keep what comes for it from outside from its turn.
    @Test func aFloodLeavesPublishedPortsTheirShare() throws {
        let served = try Served()
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let published = try PublishedPorts(parsing: "127.0.0.1:0:80")
        let endpoint = try client.attach("b") { $0.published = [published] }
        let b = try Machine(endpoint)
        let port = try #require(endpoint.published.first).hostPort
        _ = try b.resolve("a")
        let payload = [UInt8](repeating: 7, count: 1400)
        for index in 0..<8000 as Range<UInt16> { try a.send(a.datagram(to: b.address, b.mac, index, 1, payload)) }
        _ = try a.resolve("b")
        #expect(try inspect(client, "a").machine["dropped"]?["queueFull"]?.unsignedValue ?? 0 > 0)
        let caller = try InternetSocket.make(.stream, ipv4: true)
        try caller.setNonBlocking(false)
        _ = try InternetSocket.connect(caller, to: SocketAddress(ipv4: 0x7F00_0001, port: port))
        // Each question is answered after what has come before it.
        while try inspect(client, "b").gateway["connectionsPublished"]?.unsignedValue == 0 {}
        var isCalled = false
        var behind = 0
        let queued = 8000 - (try inspect(client, "a").machine["dropped"]?["queueFull"]?.unsignedValue ?? 0)
        for _ in 0..<queued + 1 {
            let record = try b.receive()
            if record[26 + 9] == IPProtocol.tcp { isCalled = true } else if isCalled { behind += 1 }
        }
        // In its turn, not when the flood is over.
        #expect(isCalled && behind > 100)
    }
}
