// SPDX-License-Identifier: Apache-2.0

import Fabric
import Packet
import TestSupport
import Testing

@Suite struct Forwarding {
    @Test func siblings() throws {
        let bench = try Bench()
        let record = bench.a.send4(Record.udp(1, 2), to: bench.b.mac, bench.b.v4)
        let sent = bench.send(record)
        #expect(sent.verdict == .forward(PortID(1)) && sent.record == record)
        #expect(bench.verdict(bench.a.send6(Record.udp(1, 2), to: bench.b.mac, bench.b.v6)) == .forward(PortID(1)))
        // Back, by the link's addresses.
        let back = bench.b.send6(
            Record.udp(1, 2), to: bench.a.mac, bench.a.linkLocal, from: bench.b.linkLocal)
        #expect(bench.verdict(back, port: 1) == .forward(PortID(0)))
        #expect(bench.router.counters(of: PortID(0)).framesFromMachine == 2)
        #expect(bench.router.counters(of: PortID(0)).dropped == 0)
    }

    @Test func networksAreApart() throws {
        let bench = try Bench()
        // The same addresses in both: what red's a sends to b's address finds nobody.
        #expect(bench.red.v4 == bench.a.v4 && bench.red.mac == bench.a.mac && bench.red.v6 == bench.a.v6)
        #expect(
            bench.verdict(bench.red.send4(Record.udp(1, 2), to: bench.b.mac, bench.b.v4), port: 2)
                == .drop(.unknownMAC))
        let arp = Record.frame(
            bench.red.mac, .broadcast, EtherType.arp, Record.arp(from: bench.red.mac, bench.red.v4, for: bench.b.v4))
        #expect(bench.verdict(arp, port: 2) == .drop(.noSuchNeighbor))
        let flood = bench.a.send4(Record.udp(1, 5353), to: .broadcast, .broadcast)
        #expect(bench.verdict(flood) == .flood(network: 0))
        var members: [PortID] = []
        bench.router.forEachMember(of: 0, except: PortID(0)) { members.append($0) }
        #expect(members == [PortID(1)])
    }

    @Test func byWayOfTheGateway() throws {
        let bench = try Bench()
        let sent = bench.send(bench.a.send4(Record.udp(1, 2), to: gatewayMAC, bench.b.v4, ttl: 9))
        #expect(sent.verdict == .forward(PortID(1)))
        reading(sent.record[12...]) { bytes in
            let frame = EthernetView(bytes)
            #expect(frame?.destination == bench.b.mac && frame?.source == gatewayMAC)
            let packet = frame.flatMapView { IPv4View($0.payload)?.checksumIsValid }
            #expect(packet == true)
            #expect(frame.flatMapView { IPv4View($0.payload)?.timeToLive } == 8)
        }
        let six = bench.send(bench.a.send6(Record.udp(1, 2), to: gatewayMAC, bench.b.v6, hopLimit: 9))
        #expect(six.verdict == .forward(PortID(1)) && six.record[26 + 7] == 8)
        // An ICMP error where the hops are used up.
        let dead = bench.answer(bench.a.send4(Record.udp(1, 2), to: gatewayMAC, bench.b.v4, ttl: 1))
        #expect(dead?[14 + 20] == ICMPType.timeExceeded)
        #expect(bench.count(.timeExceeded) == 1)
    }

    @Test func outside() throws {
        let bench = try Bench()
        let remote = v4("192.0.2.1")
        #expect(
            bench.verdict(bench.a.send4(Record.udp(1, 2), to: gatewayMAC, remote))
                == .outside(
                    OutsidePacket(
                        endpoint: bench.a.id, offset: 26, isIPv6: false, protocolNumber: 17, transportOffset: 46,
                        isForGateway: false)))
        #expect(
            bench.verdict(bench.a.send6(Record.udp(1, 2), to: gatewayMAC, v6("2001:db8::1")))
                == .outside(
                    OutsidePacket(
                        endpoint: bench.a.id, offset: 26, isIPv6: true, protocolNumber: 17, transportOffset: 66,
                        isForGateway: false)))
        guard case .outside(let own) = bench.verdict(bench.a.send4(Record.udp(1, 99), to: gatewayMAC, gateway4)) else {
            Issue.record("not handed to the gateway")
            return
        }
        #expect(own.isForGateway)
        for address in ["127.0.0.1", "0.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"] {
            #expect(
                bench.verdict(bench.a.send4(Record.udp(1, 2), to: gatewayMAC, v4(address))) == .drop(.noRoute),
                "\(address)")
        }
        for address in ["::1", "::", "fe80::5", "ff02::1"] {
            #expect(bench.verdict(bench.a.send6(Record.udp(1, 2), to: gatewayMAC, v6(address))) == .drop(.noRoute))
        }
    }

    /// As far as the gateway, a path is seen by traceroute; what lies behind it is the host's.
    @Test func hopsAreCounted() throws {
        let bench = try Bench()
        let probe = Record.udp(40_000, 33_434)
        let answer = try #require(bench.answer(bench.a.send4(probe, to: gatewayMAC, v4("192.0.2.1"), ttl: 1)))
        reading(answer) { bytes in
            let found = EthernetView(bytes).flatMapView { frame in
                IPv4View(frame.payload).flatMapView { packet -> (IPv4Address, UInt8, Bool)? in
                    ICMPView(packet.payload).flatMapView { message in
                        let isQuoted = IPv4View(quoted: message.payload).flatMapView {
                            $0.destination == v4("192.0.2.1") && $0.payload.u16(2) == 33_434
                        }
                        return (packet.source, message.type, message.checksumIsValid && isQuoted == true)
                    }
                }
            }
            #expect(found?.0 == gateway4 && found?.1 == ICMPType.timeExceeded && found?.2 == true)
        }
        let six = try #require(bench.answer(bench.a.send6(probe, to: gatewayMAC, v6("2001:db8::1"), hopLimit: 1)))
        reading(six) { bytes in
            let found = EthernetView(bytes).flatMapView { frame in
                IPv6View(frame.payload).flatMapView { packet -> (IPv6Address, UInt8)? in
                    ICMPView(packet.payload).flatMapView { (packet.source, $0.type) }
                }
            }
            #expect(found?.0 == gateway6 && found?.1 == ICMPv6Type.timeExceeded)
        }
        #expect(bench.count(.timeExceeded) == 2)
        // The gateway itself is reached by the last hop.
        #expect(bench.answer(bench.a.send4(Record.echo(), to: gatewayMAC, gateway4, number: 1, ttl: 1)) != nil)
        // An error about an error is never sent.
        let error = bench.a.send4(
            Record.echo(ICMPType.unreachable, size: 28), to: gatewayMAC, v4("192.0.2.1"), number: 1, ttl: 1)
        #expect(bench.verdict(error) == .drop(.timeExceeded))
    }

    /// What a machine says of connections that the gateway has called it for is handed to the gateway.
    @Test func errorsForTheGateway() throws {
        let bench = try Bench()
        let four = bench.a.send4(
            Record.echo(ICMPType.unreachable, size: 28), to: gatewayMAC, gateway4, number: IPProtocol.icmp)
        guard case .outside(let packet) = bench.verdict(four) else {
            Issue.record("not handed on")
            return
        }
        #expect(packet.isForGateway && packet.protocolNumber == IPProtocol.icmp)
        for type in [ICMPv6Type.unreachable, ICMPv6Type.packetTooBig] {
            let six = bench.a.send6(
                Record.echo(type, size: 48), to: gatewayMAC, gateway6, number: IPProtocol.icmpv6)
            guard case .outside = bench.verdict(six) else {
                Issue.record("type \(type) is not handed on")
                return
            }
        }
        let redirect = bench.a.send4(
            Record.echo(ICMPType.redirect, size: 28), to: gatewayMAC, gateway4, number: IPProtocol.icmp)
        #expect(bench.verdict(redirect) == .drop(.notForUs))
    }

    @Test func internalNetworksStayInside() throws {
        let bench = try Bench(isInternal: true)
        let answer = try #require(bench.answer(bench.a.send4(Record.udp(1, 2), to: gatewayMAC, v4("192.0.2.1"))))
        #expect(answer[34] == ICMPType.unreachable && answer[35] == ICMPUnreachable.prohibited)
        let six = try #require(bench.answer(bench.a.send6(Record.udp(1, 2), to: gatewayMAC, v6("2001:db8::1"))))
        #expect(six[54] == ICMPv6Type.unreachable && six[55] == ICMPv6Unreachable.prohibited)
        #expect(bench.count(.networkIsInternal) == 2)
    }

    @Test func fragmentsThatWaitInVainAreCounted() throws {
        let bench = try Bench()
        let part = Record.ipv4(bench.a.v4, v4("192.0.2.1"), 17, [UInt8](repeating: 7, count: 1480), more: true)
        #expect(bench.verdict(Record.frame(bench.a.mac, gatewayMAC, EtherType.ipv4, part)) == .drop(.fragmentWaits))
        let deadline = bench.router.expire(now: bench.now)
        #expect(deadline != nil && bench.count(.fragmentTimeout) == 0)
        let next = bench.router.expire(now: deadline ?? 0)
        #expect(next == nil && bench.count(.fragmentTimeout) == 1)
    }

    @Test func fragmentsAreJoinedForTheOutside() throws {
        let bench = try Bench()
        let datagram = Record.udp(5, 6, [UInt8](repeating: 7, count: 2000))
        let parts = [datagram[..<1480], datagram[1480...]].map { part in
            Record.frame(
                bench.a.mac, gatewayMAC, EtherType.ipv4,
                Record.ipv4(
                    bench.a.v4, v4("192.0.2.1"), 17, Array(part), fragmentOffset: part.startIndex,
                    more: part.startIndex == 0))
        }
        #expect(bench.verdict(parts[1]) == .drop(.fragmentWaits))
        let verdict = bench.verdict(parts[0])
        guard case .outsideReassembled(let packet) = verdict else {
            Issue.record("\(verdict)")
            return
        }
        #expect(packet.transportOffset == 46)
        reading(bench.reply[26...]) { #expect(IPv4View($0)?.payload.byteCount == 2008) }
        // Between siblings they travel as they are.
        let direct = Record.frame(
            bench.a.mac, bench.b.mac, EtherType.ipv4,
            Record.ipv4(bench.a.v4, bench.b.v4, 17, Array(datagram[1480...]), fragmentOffset: 1480))
        #expect(bench.verdict(direct) == .forward(PortID(1)))
    }

    @Test func whoIsNotThere() throws {
        let bench = try Bench()
        #expect(
            bench.verdict(bench.a.send4(Record.udp(1, 2), to: bench.sleeping.mac, bench.sleeping.v4))
                == .drop(.notAttached))
        // Its address is answered for all the same.
        let arp = Record.frame(
            bench.a.mac, .broadcast, EtherType.arp, Record.arp(from: bench.a.mac, bench.a.v4, for: bench.sleeping.v4))
        #expect(bench.answer(arp) != nil)
        let answer = try #require(bench.answer(bench.a.send4(Record.udp(1, 2), to: gatewayMAC, v4("10.0.0.99"))))
        #expect(answer[34] == ICMPType.unreachable && answer[35] == ICMPUnreachable.host)
        #expect(
            bench.verdict(bench.a.send4(Record.udp(1, 2), to: bench.b.mac, bench.b.v4), port: 7)
                == .drop(.unattachedPort))
    }

    @Test func tooLarge() throws {
        let bench = try Bench()
        let large = bench.a.send4(Record.udp(1, 2, [UInt8](repeating: 0, count: 1600)), to: bench.b.mac, bench.b.v4)
        let answer = try #require(bench.answer(large))
        #expect(answer[34] == 3 && answer[35] == 4 && answer[40] == 5 && answer[41] == 0xDC)
        let six = bench.a.send6(Record.udp(1, 2, [UInt8](repeating: 0, count: 1600)), to: bench.b.mac, bench.b.v6)
        #expect(try #require(bench.answer(six))[54] == ICMPv6Type.packetTooBig)
    }

    @Test func gatewayPacketsGetTheirHeaders() throws {
        let bench = try Bench()
        var record = [UInt8](repeating: 0, count: 200)
        var space = record.mutableSpan
        var raw = space.mutableBytes
        let packet = InsidePacket(endpoint: bench.b.id, length: 100, isIPv6: true)
        #expect(bench.router.deliver(packet, in: &raw) == .forward(PortID(1)))
        reading(record[12...]) {
            #expect(EthernetView($0)?.destination == bench.b.mac && EthernetView($0)?.type == EtherType.ipv6)
        }
    }
}

extension Optional where Wrapped: ~Escapable {
    /// `map` for views, which cannot leave the closure.
    func flatMapView<Result>(_ body: (borrowing Wrapped) -> Result?) -> Result? {
        switch self {
        case .some(let view): body(view)
        case .none: nil
        }
    }
}
