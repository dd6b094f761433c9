// SPDX-License-Identifier: Apache-2.0

import Packet
import TestSupport
import Testing

@testable import Fabric

@Suite struct Leases {
    static func message(
        _ kind: UInt8, _ mac: MACAddress, client: IPv4Address = .any, options: [UInt8] = [], broadcast: Bool = false
    ) -> [UInt8] {
        built(240) {
            $0.put(0x0101_0600 as UInt32, at: 0)
            $0.put(0xCAFE_F00D as UInt32, at: 4)
            $0.put(broadcast ? 0x8000 as UInt16 : 0, at: 10)
            $0.put(client, at: 12)
            $0.put(mac, at: 28)
            $0.put(0x6382_5363 as UInt32, at: 236)
        } + [53, 1, kind] + options + [255]
    }

    /// What a DHCP answer says: kind, your address, destination.
    private func read(_ frame: [UInt8]?) -> (kind: UInt8, address: IPv4Address, to: IPv4Address, mac: MACAddress)? {
        guard let frame else { return nil }
        return reading(frame) { bytes in
            EthernetView(bytes).flatMapView { ethernet in
                IPv4View(ethernet.payload).flatMapView { packet in
                    guard packet.checksumIsValid, packet.payloadChecksumIsValid else { return nil }
                    return UDPView(packet.payload).flatMapView { datagram in
                        DHCPv4View(datagram.payload).flatMapView { message in
                            message.kind.map { ($0, message.yourAddress, packet.destination, ethernet.destination) }
                        }
                    }
                }
            }
        }
    }

    @Test func fourSteps() throws {
        let bench = try Bench()
        let a = bench.a
        func send(_ message: [UInt8], from source: IPv4Address = .any, to destination: IPv4Address = .broadcast)
            -> [UInt8]
        {
            Record.frame(
                a.mac, destination == .broadcast ? .broadcast : gatewayMAC, EtherType.ipv4,
                Record.ipv4(source, destination, 17, Record.udp(68, 67, message)))
        }
        let offer = read(bench.answer(send(Self.message(DHCPv4Kind.discover, a.mac))))
        #expect(offer?.kind == DHCPv4Kind.offer && offer?.address == a.v4 && offer?.to == a.v4 && offer?.mac == a.mac)
        let loud = read(bench.answer(send(Self.message(DHCPv4Kind.discover, a.mac, broadcast: true))))
        #expect(loud?.to == .broadcast && loud?.mac == .broadcast)
        let own: [UInt8] = [50, 4] + (0..<4).map { UInt8(a.v4.value >> UInt32(24 - $0 * 8) & 255) }
        let server: [UInt8] = [54, 4, 10, 0, 0, 1]
        let lease = read(bench.answer(send(Self.message(DHCPv4Kind.request, a.mac, options: own + server))))
        #expect(lease?.kind == DHCPv4Kind.acknowledge && lease?.address == a.v4)
        // Renewed, straight to the server.
        let renewal = Self.message(DHCPv4Kind.request, a.mac, client: a.v4)
        let renewed = read(bench.answer(send(renewal, from: a.v4, to: gateway4)))
        #expect(renewed?.kind == DHCPv4Kind.acknowledge && renewed?.to == a.v4)
        // One of another network's addresses, as a clone would ask for that was moved.
        let refusal = read(bench.answer(send(Self.message(DHCPv4Kind.request, a.mac, options: [50, 4, 10, 0, 9, 9]))))
        #expect(refusal?.kind == DHCPv4Kind.refuse && refusal?.address == .any && refusal?.to == .broadcast)
        #expect(
            bench.verdict(send(Self.message(DHCPv4Kind.request, a.mac, options: own + [54, 4, 9, 9, 9, 9])))
                == .drop(.notForUs))
        #expect(bench.verdict(send(Self.message(DHCPv4Kind.discover, bench.b.mac))) == .drop(.spoofedMAC))
        #expect(bench.verdict(send([1, 2, 3])) == .drop(.malformedDHCP))
    }

    /// What is answered without being asked for by a user has a limit, of which nobody else has less; it comes back with
    /// time.
    @Test func answersAreLimited() throws {
        let bench = try Bench()
        func ask(_ who: Endpoint) -> [UInt8] {
            Record.frame(
                who.mac, .broadcast, EtherType.ipv4,
                Record.ipv4(.any, .broadcast, 17, Record.udp(68, 67, Self.message(DHCPv4Kind.discover, who.mac))))
        }
        for _ in 0..<100 { #expect(bench.answer(ask(bench.a)) != nil) }
        #expect(bench.verdict(ask(bench.a)) == .drop(.errorLimit))
        let six = bench.a.send6(
            Record.udp(546, 547, [DHCPv6Kind.informationRequest, 1, 2, 3, 0, 1, 0, 2, 7, 7]),
            to: MACAddress(multicast: .allDHCPServers), .allDHCPServers, from: bench.a.linkLocal)
        #expect(bench.verdict(six) == .drop(.errorLimit))
        #expect(bench.count(.errorLimit) == 2)
        // An error is not told either, but what it is about is counted as what it is.
        let nowhere = bench.a.send4(Record.udp(1, 2), to: gatewayMAC, v4("10.0.0.99"))
        #expect(bench.verdict(nowhere) == .drop(.noSuchNeighbor) && bench.count(.errorLimit) == 2)
        #expect(bench.answer(ask(bench.b), port: 1) != nil && bench.count(.errorLimit, port: 1) == 0)
        bench.now += 1_000_000_000
        #expect(bench.answer(ask(bench.a)) != nil && bench.answer(six) != nil)
    }

    /// A network of one family has nothing of the other to give.
    @Test func whatThereIsNoAddressFor() throws {
        let six = try Bench(hasIPv4: false)
        let discover = Record.frame(
            six.a.mac, .broadcast, EtherType.ipv4,
            Record.ipv4(.any, .broadcast, 17, Record.udp(68, 67, Self.message(DHCPv4Kind.discover, six.a.mac))))
        #expect(six.verdict(discover) == .drop(.noAddress) && six.count(.noAddress) == 1)
        let four = try Bench(hasIPv6: false)
        let solicitation = four.a.send6(
            [133, 0, 0, 0, 0, 0, 0, 0], to: MACAddress(multicast: .allRouters), .allRouters, number: IPProtocol.icmpv6,
            from: four.a.linkLocal, hopLimit: 255)
        #expect(four.verdict(solicitation) == .drop(.noAddress) && four.count(.noAddress) == 1)
        // A question from an address of the link's: the answer would have nowhere to go.
        let both = try Bench()
        let question = both.a.send6(
            Record.udp(5000, 53, query("b")), to: gatewayMAC, v6("fe80::1"), from: both.a.linkLocal)
        #expect(both.verdict(question) == .drop(.noAddress) && both.count(.noAddress) == 1)
    }

    @Test func six() throws {
        let bench = try Bench()
        let a = bench.a
        let client: [UInt8] = [0, 1, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 1]
        let association: [UInt8] = [0, 3, 0, 12, 0, 0, 0, 9] + [UInt8](repeating: 0, count: 8)
        func ask(_ kind: UInt8, _ options: [UInt8]) -> [UInt8] {
            a.send6(
                Record.udp(546, 547, [kind, 1, 2, 3] + options), to: MACAddress(multicast: .allDHCPServers),
                .allDHCPServers, from: a.linkLocal)
        }
        func read(_ frame: [UInt8]?) -> (kind: UInt8, address: IPv6Address?)? {
            guard let frame else { return nil }
            return reading(frame[62...]) { bytes in
                DHCPv6View(bytes).flatMapView { ($0.kind, $0.associationAddress) }
            }
        }
        let offered = read(bench.answer(ask(DHCPv6Kind.solicit, client + association)))
        #expect(offered?.kind == DHCPv6Kind.advertise && offered?.address == a.v6)
        let rapid = read(bench.answer(ask(DHCPv6Kind.solicit, client + association + [0, 14, 0, 0])))
        #expect(rapid?.kind == DHCPv6Kind.reply && rapid?.address == a.v6)
        let given = read(bench.answer(ask(DHCPv6Kind.request, client + association)))
        #expect(given?.kind == DHCPv6Kind.reply && given?.address == a.v6)
        #expect(read(bench.answer(ask(DHCPv6Kind.informationRequest, client)))?.kind == DHCPv6Kind.reply)
        #expect(bench.verdict(ask(DHCPv6Kind.solicit, association)) == .drop(.malformedDHCP))
        #expect(bench.verdict(ask(DHCPv6Kind.request, client + [0, 2, 0, 2, 9, 9])) == .drop(.notForUs))
    }

    @Test func routerSolicitation() throws {
        let bench = try Bench()
        let a = bench.a
        let ask = a.send6(
            [133, 0, 0, 0, 0, 0, 0, 0], to: MACAddress(multicast: .allRouters), .allRouters, number: IPProtocol.icmpv6,
            from: a.linkLocal, hopLimit: 255)
        let answer = try #require(bench.answer(ask))
        reading(answer[54...]) { bytes in
            let message = NDPView(bytes)
            #expect(message?.type == ICMPv6Type.routerAdvertisement && message?.mac(1) == gatewayMAC)
            let prefix = message.flatMapView {
                $0.option(NDPOptionKind.prefix).flatMapView { ($0.byte(0), $0.byte(1)) }
            }
            // Autonomous: the address that it makes of the prefix is the one that it was given.
            #expect(prefix?.0 == 64 && prefix?.1 == 0xC0)
        }
    }

    @Test func echoes() throws {
        let bench = try Bench()
        let (a, b) = (bench.a, bench.b)
        let pong = try #require(bench.answer(a.send4(Record.echo(), to: gatewayMAC, gateway4, number: 1)))
        reading(pong[14...]) { bytes in
            let packet = IPv4View(bytes)
            #expect(packet?.checksumIsValid == true && packet?.destination == a.v4 && packet?.source == gateway4)
            #expect(
                packet.flatMapView { ICMPView($0.payload).flatMapView { $0.checksumIsValid && $0.type == 0 } } == true)
        }
        for target in [gateway6, v6("fe80::1")] {
            let pong6 = try #require(
                bench.answer(a.send6(Record.echo(128), to: gatewayMAC, target, number: IPProtocol.icmpv6)))
            reading(pong6[14...]) { bytes in
                #expect(
                    IPv6View(bytes).flatMapView { packet in packet.upper.map { packet.checksumIsValid($0) } } == true)
                #expect(IPv6View(bytes)?.source == target)
            }
            #expect(pong6[54] == 129)
        }
        #expect(bench.verdict(a.send4(Record.echo(), to: b.mac, b.v4, number: 1)) == .forward(PortID(1)))
    }

    @Test func queriesAreHandedOver() throws {
        let bench = try Bench()
        let a = bench.a
        let query = a.send4(Record.udp(4000, 53, [UInt8](repeating: 0, count: 20)), to: gatewayMAC, gateway4)
        #expect(
            bench.verdict(query)
                == .query(
                    NameQuery(endpoint: a.id, network: 0, offset: 54, length: 20, isIPv6: false, clientPort: 4000)))
        var broken = query
        broken[60] ^= 1
        #expect(bench.verdict(broken) == .drop(.badChecksum))
    }

    @Test func tooManyQueriesAreDropped() throws {
        let bench = try Bench()
        func isTaken(_ machine: Endpoint, port: Int) -> Bool {
            let query = machine.send4(Record.udp(4000, 53, [UInt8](repeating: 0, count: 20)), to: gatewayMAC, gateway4)
            guard case .query = bench.verdict(query, port: port) else { return false }
            return true
        }
        // A thousand at once, and those whose time comes meanwhile: a microsecond lies between any two.
        let taken = (0..<2000).count { _ in isTaken(bench.a, port: 0) }
        #expect((1000...1005).contains(taken), "\(taken)")
        #expect(isTaken(bench.b, port: 1))
        bench.now += 10_000_000
        #expect((20...21).contains((0..<100).count { _ in isTaken(bench.a, port: 0) }))
    }
}
