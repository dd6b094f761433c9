// SPDX-License-Identifier: Apache-2.0

import Fabric
import Packet
import TestSupport
import Testing

/// A hostile machine pretends to be somebody else.
@Suite struct Spoofing {
    @Test func addresses() throws {
        let bench = try Bench()
        let (a, b) = (bench.a, bench.b)
        let udp = Record.udp(1, 2)
        let cases: [([UInt8], DropReason)] = [
            (Record.frame(b.mac, b.mac, EtherType.ipv4, Record.ipv4(a.v4, b.v4, 17, udp)), .spoofedMAC),
            (Record.frame(gatewayMAC, b.mac, EtherType.ipv4, Record.ipv4(a.v4, b.v4, 17, udp)), .spoofedMAC),
            (Record.frame(a.mac, b.mac, EtherType.ipv4, Record.ipv4(b.v4, b.v4, 17, udp)), .spoofedIPv4),
            (Record.frame(a.mac, b.mac, EtherType.ipv4, Record.ipv4(gateway4, b.v4, 17, udp)), .spoofedIPv4),
            (Record.frame(a.mac, b.mac, EtherType.ipv4, Record.ipv4(.any, b.v4, 17, udp)), .spoofedIPv4),
            (Record.frame(a.mac, b.mac, EtherType.ipv6, Record.ipv6(b.v6, b.v6, 17, udp)), .spoofedIPv6),
            (Record.frame(a.mac, b.mac, EtherType.ipv6, Record.ipv6(b.linkLocal, b.v6, 17, udp)), .spoofedIPv6),
            (Record.frame(a.mac, b.mac, EtherType.ipv6, Record.ipv6(v6("fe80::1"), b.v6, 17, udp)), .spoofedIPv6),
            (Record.frame(a.mac, b.mac, EtherType.ipv6, Record.ipv6(.any, b.v6, 17, udp)), .spoofedIPv6),
            (Record.frame(a.mac, b.mac, EtherType.ipv6, Record.ipv6(v6("fd00:1::99"), b.v6, 17, udp)), .spoofedIPv6),
            (Record.frame(a.mac, b.mac, EtherType.ipv4, Record.ipv4(a.v4, v4("192.0.2.1"), 17, udp)), .misdirected),
            (Record.frame(a.mac, a.mac, EtherType.ipv4, Record.ipv4(a.v4, a.v4, 17, udp)), .misdirected),
            (Record.frame(a.mac, .broadcast, EtherType.ipv4, Record.ipv4(a.v4, b.v4, 17, udp)), .misdirected),
            (Record.frame(a.mac, MACAddress(0x0255), EtherType.ipv4, Record.ipv4(a.v4, b.v4, 17, udp)), .unknownMAC),
            (Record.frame(a.mac, b.mac, 0x88CC, udp), .otherEtherType),
            (Record.frame(a.mac, b.mac, EtherType.vlan, [0, 5, 8, 0] + Record.ipv4(a.v4, b.v4, 17, udp)), .vlanTag),
            (Array(Record.frame(a.mac, b.mac, EtherType.ipv4, [])[..<25]), .malformedFrame),
            (Record.frame(a.mac, b.mac, EtherType.ipv4, [0x45, 0, 0, 20]), .malformedIPv4),
            (Record.frame(a.mac, b.mac, EtherType.ipv6, [0x60, 0, 0, 20]), .malformedIPv6),
        ]
        for (index, (record, reason)) in cases.enumerated() {
            let before = bench.count(reason)
            #expect(bench.verdict(record) == .drop(reason), "case \(index)")
            #expect(bench.count(reason) == before + 1)
        }
        // A wrong checksum does not reach the gateway; source routes reach nobody.
        var broken = a.send4(udp, to: gatewayMAC, v4("192.0.2.1"))
        broken[26 + 10] ^= 1
        #expect(bench.verdict(broken) == .drop(.badChecksum))
        let routed = built(28) {
            $0.put([0x46, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0] as [UInt8], at: 0)
            $0.put(a.v4, at: 12)
            $0.put(b.v4, at: 16)
            $0.put([131, 4, 4, 0] as [UInt8], at: 20)
        }
        #expect(bench.verdict(Record.frame(a.mac, b.mac, EtherType.ipv4, routed)) == .drop(.sourceRoute))
    }

    @Test func arp() throws {
        let bench = try Bench()
        let (a, b) = (bench.a, bench.b)
        func arp(_ packet: [UInt8]) -> [UInt8] { Record.frame(a.mac, .broadcast, EtherType.arp, packet) }
        let answer = try #require(bench.answer(arp(Record.arp(from: a.mac, a.v4, for: b.v4))))
        reading(answer) { bytes in
            let packet = EthernetView(bytes).flatMapView {
                ARPView($0.payload).flatMapView { ($0.senderMAC, $0.senderAddress) }
            }
            #expect(packet?.0 == b.mac && packet?.1 == b.v4)
        }
        let gateway = try #require(bench.answer(arp(Record.arp(from: a.mac, a.v4, for: gateway4))))
        reading(gateway) { #expect(EthernetView($0)?.source == gatewayMAC) }
        let cases: [([UInt8], DropReason)] = [
            (Record.arp(from: b.mac, a.v4, for: gateway4), .spoofedARP),
            (Record.arp(from: a.mac, b.v4, for: b.v4), .spoofedARP),
            (Record.arp(from: a.mac, gateway4, for: b.v4), .spoofedARP),
            (Record.arp(ARPPacket.reply, from: a.mac, gateway4, for: b.v4), .spoofedARP),
            (Record.arp(ARPPacket.reply, from: a.mac, a.v4, for: b.v4), .announcement),
            (Record.arp(from: a.mac, a.v4, for: a.v4), .announcement),
            (Record.arp(from: a.mac, .any, for: a.v4), .announcement),
            (Record.arp(from: a.mac, a.v4, for: v4("10.0.0.77")), .noSuchNeighbor),
            ([0, 1, 8, 0, 6, 4, 0], .malformedARP),
        ]
        for (index, (packet, reason)) in cases.enumerated() {
            #expect(bench.verdict(arp(packet)) == .drop(reason), "case \(index)")
        }
        // Before it takes an address that is not its own, it is told that there is somebody.
        for target in [b.v4, v4("10.0.0.77"), gateway4] {
            #expect(bench.answer(arp(Record.arp(from: a.mac, .any, for: target))) != nil)
        }
    }

    @Test func neighbours() throws {
        let bench = try Bench()
        let (a, b) = (bench.a, bench.b)
        func ndp(_ message: [UInt8], from source: IPv6Address, to destination: IPv6Address, hopLimit: UInt8 = 255)
            -> [UInt8]
        {
            a.send6(
                message, to: MACAddress(multicast: destination), destination, number: IPProtocol.icmpv6, from: source,
                hopLimit: hopLimit)
        }
        let ask = Record.solicitation(for: b.v6, from: a.mac)
        let answer = try #require(bench.answer(ndp(ask, from: a.v6, to: b.v6.solicitedNode)))
        reading(answer) { bytes in
            let found = EthernetView(bytes).flatMapView { frame in
                IPv6View(frame.payload).flatMapView { packet -> (MACAddress, IPv6Address)? in
                    guard let upper = packet.upper, packet.checksumIsValid(upper), packet.hopLimit == 255 else {
                        return nil
                    }
                    return NDPView(packet.payload).flatMapView { message in
                        message.mac(NDPOptionKind.targetMAC).flatMap { mac in message.target.map { (mac, $0) } }
                    }
                }
            }
            #expect(found?.0 == b.mac && found?.1 == b.v6)
        }
        for target in [gateway6, v6("fe80::1"), b.linkLocal] {
            #expect(
                bench.answer(
                    ndp(Record.solicitation(for: target, from: a.mac), from: a.linkLocal, to: target.solicitedNode))
                    != nil)
        }
        let cases: [([UInt8], DropReason)] = [
            (ndp(ask, from: b.v6, to: b.v6.solicitedNode), .spoofedNDP),
            (ndp(Record.solicitation(for: b.v6, from: b.mac), from: a.v6, to: b.v6.solicitedNode), .spoofedNDP),
            (ndp(ask, from: a.v6, to: b.v6.solicitedNode, hopLimit: 254), .malformedNDP),
            (ndp(Array(ask[..<20]), from: a.v6, to: b.v6.solicitedNode), .malformedNDP),
            (ndp(Record.solicitation(for: v6("fd00:1::5"), from: a.mac), from: a.v6, to: .allNodes), .noSuchNeighbor),
            (
                ndp(
                    built(32) { NeighborAdvertisement(target: b.v6, mac: a.mac).write(to: &$0, at: 0) }, from: a.v6,
                    to: .allNodes),
                .spoofedNDP
            ),
            (
                ndp(
                    built(32) { NeighborAdvertisement(target: a.v6, mac: a.mac).write(to: &$0, at: 0) }, from: a.v6,
                    to: .allNodes),
                .announcement
            ),
            (ndp([134, 0, 0, 0] + [UInt8](repeating: 0, count: 12), from: a.linkLocal, to: .allNodes), .rogueRouter),
            (ndp([137, 0, 0, 0] + [UInt8](repeating: 0, count: 36), from: a.linkLocal, to: b.v6), .redirect),
            (ndp([143, 0, 0, 0, 0, 0, 0, 0], from: .any, to: v6("ff02::16"), hopLimit: 1), .membershipReport),
        ]
        for (index, (record, reason)) in cases.enumerated() {
            #expect(bench.verdict(record) == .drop(reason), "case \(index)")
        }
    }

    @Test func claims() throws {
        let bench = try Bench()
        let (a, b) = (bench.a, bench.b)
        func probe(_ target: IPv6Address, _ who: Endpoint) -> [UInt8] {
            who.send6(
                Record.probe(for: target), to: MACAddress(multicast: target.solicitedNode), target.solicitedNode,
                number: IPProtocol.icmpv6, from: .any, hopLimit: 255)
        }
        // Its own are free; others' are not, and neither is one that it was not given.
        #expect(bench.verdict(probe(a.v6, a)) == .drop(.probe) && bench.verdict(probe(a.linkLocal, a)) == .drop(.probe))
        for target in [b.v6, b.linkLocal, gateway6, v6("fe80::1"), v6("fd00:1::1234")] {
            #expect(bench.answer(probe(target, a)) != nil, "\(target)")
        }
        #expect(bench.count(.spoofedNDP) == 5)
        // An address on the link of its own choice can be claimed, once, and then is its own.
        let chosen = v6("fe80::aaaa")
        let send = a.send6(Record.udp(1, 2), to: b.mac, b.linkLocal, from: chosen)
        #expect(bench.verdict(send) == .drop(.spoofedIPv6))
        #expect(bench.verdict(probe(chosen, a)) == .drop(.probe))
        #expect(bench.verdict(send) == .forward(PortID(1)))
        #expect(bench.answer(probe(chosen, b), port: 1) != nil)
        let back = b.send6(Record.udp(1, 2), to: a.mac, chosen, from: b.linkLocal)
        #expect(bench.verdict(back, port: 1) == .forward(PortID(0)))
        bench.router.close(PortID(0))
        #expect(bench.verdict(send) == .drop(.spoofedIPv6))
    }

    @Test func servers() throws {
        let bench = try Bench()
        let (a, b) = (bench.a, bench.b)
        let offer = Record.udp(67, 68, [UInt8](repeating: 0, count: 240))
        #expect(bench.verdict(a.send4(offer, to: b.mac, b.v4)) == .drop(.rogueServer))
        #expect(bench.verdict(a.send4(offer, to: .broadcast, .broadcast)) == .drop(.rogueServer))
        #expect(bench.verdict(a.send4(offer, to: gatewayMAC, b.v4)) == .drop(.rogueServer))
        let other = Record.udp(1234, 68, [UInt8](repeating: 0, count: 240))
        #expect(bench.verdict(a.send4(other, to: b.mac, b.v4)) == .drop(.rogueServer))
        // Some clients look at the port that it is for alone.
        for source: UInt16 in [547, 1234] {
            let offer = Record.udp(source, 546)
            #expect(
                bench.verdict(a.send6(offer, to: b.mac, b.linkLocal, from: a.linkLocal)) == .drop(.rogueServer))
            #expect(bench.verdict(a.send6(offer, to: gatewayMAC, b.v6)) == .drop(.rogueServer))
        }
    }

    /// Who claims another's address before that is there does not have it afterwards.
    @Test func claimsEndWhenTheOwnerComes() throws {
        let bench = try Bench()
        let (a, b) = (bench.a, bench.b)
        let late = MACAddress(0x02AA_BBCC_DDEE)
        let target = IPv6Address(linkLocal: late)
        let probe = a.send6(
            Record.probe(for: target), to: MACAddress(multicast: target.solicitedNode), target.solicitedNode,
            number: IPProtocol.icmpv6, from: .any, hopLimit: 255)
        let send = a.send6(Record.udp(1, 2), to: b.mac, b.linkLocal, from: target)
        #expect(bench.verdict(probe) == .drop(.probe))
        #expect(bench.verdict(send) == .forward(PortID(1)))
        var request = EndpointRequest(name: "late", network: "blue")
        request.mac = late
        _ = try bench.state.add(request)
        bench.router.replace(bench.state.table)
        #expect(bench.verdict(send) == .drop(.spoofedIPv6))
        #expect(bench.answer(probe) != nil)
    }

    @Test func floodsAreLimited() throws {
        let bench = try Bench()
        let record = bench.a.send4(Record.udp(1, 5353), to: .broadcast, .broadcast)
        var passed = 0
        for _ in 0..<5000 { if bench.verdict(record) == .flood(network: 0) { passed += 1 } }
        #expect(passed < 420 && bench.count(.multicastLimit) == UInt64(5000 - passed))
        // Others are not affected, and a second later it may again.
        #expect(
            bench.verdict(bench.b.send4(Record.udp(1, 5353), to: .broadcast, .broadcast), port: 1) == .flood(network: 0)
        )
        bench.now += 1_000_000_000
        #expect(bench.verdict(record) == .flood(network: 0))
        // Errors too.
        let lost = bench.a.send4(Record.udp(1, 2), to: gatewayMAC, v4("10.0.0.99"))
        let answers = (0..<1000).count { _ in bench.answer(lost) != nil }
        #expect(answers < 110 && bench.count(.noSuchNeighbor) == 1000)
    }
}
