// SPDX-License-Identifier: Apache-2.0

import Packet
import TestSupport
import Testing

@testable import Fabric

private func record(_ announcement: Announcement) -> [UInt8] {
    var length = 0
    let bytes = built(FrameLayout.longest) { length = announcement.write(to: &$0) }
    return Array(bytes[..<length])
}

/// What a machine believes of its neighbours: it learns when it asks, and takes what it is told of those it knows, as
/// Linux does.
private struct Cache {
    var stations: [IPAddress: MACAddress] = [:]

    mutating func hear(_ record: [UInt8]) {
        let heard: (IPAddress, MACAddress)? = reading(Array(record.dropFirst(12))) { bytes in
            EthernetView(bytes).flatMapView { ethernet in
                switch ethernet.type {
                case EtherType.arp:
                    ARPView(ethernet.payload).flatMapView { packet in
                        guard ethernet.destination == .broadcast, packet.senderAddress == packet.targetAddress,
                            packet.senderMAC == ethernet.source
                        else { return nil }
                        return (.v4(packet.senderAddress), packet.senderMAC)
                    }
                case EtherType.ipv6:
                    IPv6View(ethernet.payload).flatMapView { packet in
                        guard packet.hopLimit == 255, packet.destination == .allNodes,
                            let upper = packet.upper, packet.checksumIsValid(upper)
                        else { return nil }
                        return NDPView(packet.bytes.dropping(upper.offset)).flatMapView { message in
                            guard message.type == ICMPv6Type.neighborAdvertisement, let target = message.target,
                                let mac = message.mac(NDPOptionKind.targetMAC), packet.source == target
                            else { return nil }
                            return (.v6(target), mac)
                        }
                    }
                default: nil
                }
            }
        }
        guard let heard else {
            Issue.record("no announcement")
            return
        }
        if stations[heard.0] != nil { stations[heard.0] = heard.1 }
    }
}

@Suite struct Neighbors {
    @Test func anAddressThatMovesIsAnnounced() throws {
        var state = NamespaceState(identity: 1)
        _ = try state.addNetwork(name: "blue", subnet: IPv4Prefix("10.1.0.0/16"), prefix: IPv6Prefix("fd00::/64"))
        var memory = NeighborMemory()
        var request = EndpointRequest(name: "db", network: "blue")
        (request.ipv4, request.ipv6) = (v4("10.1.0.7"), v6("fd00::7"))
        func come(_ mac: String) throws -> [Announcement] {
            request.mac = MACAddress(mac)
            let endpoint = try state.add(request)
            defer { try? state.remove(endpoint.id) }
            return memory.welcome(endpoint, in: state.table)
        }
        #expect(try come("02:00:00:00:00:01").isEmpty)
        // The same station, once more.
        #expect(try come("02:00:00:00:00:01").isEmpty)
        let moved = try come("02:00:00:00:00:02")
        #expect(moved.map(\.address) == [.v4(v4("10.1.0.7")), .v6(v6("fd00::7"))])
        #expect(moved.allSatisfy { $0.mac == MACAddress("02:00:00:00:00:02") })
        // Back again, with another IPv6 address: that one nobody has known.
        request.ipv6 = v6("fd00::8")
        #expect(try come("02:00:00:00:00:01").map(\.address) == [.v4(v4("10.1.0.7"))])
        // As it stands in RFC 5227 §3 and in RFC 4861 §4.4: an override that nobody has asked for.
        let arp = record(moved[0])
        #expect(arp.count == 12 + 14 + 28 && arp[..<12].allSatisfy { $0 == 0 })
        let station: [UInt8] = [2, 0, 0, 0, 0, 2]
        #expect(Array(arp[12..<26]) == [UInt8](repeating: 0xff, count: 6) + station + [8, 6])
        #expect(
            Array(arp[26...]) == [0, 1, 8, 0, 6, 4, 0, 1] + station + [10, 1, 0, 7, 0, 0, 0, 0, 0, 0, 10, 1, 0, 7])
        let advertisement = record(moved[1])
        #expect(Array(advertisement[12..<18]) == [0x33, 0x33, 0, 0, 0, 1] && advertisement[70] == 0x20)
    }

    /// Machines that come, go and ask, in several networks: nobody believes what is not so.
    @Test func cachesAreRightAfterEveryChange() throws {
        var random = SeededGenerator(11)
        for round in 0..<UInt64(fuzzRounds(40)) {
            var state = NamespaceState(identity: round)
            for name in ["blue", "red"] {
                _ = try state.addNetwork(
                    name: name, subnet: IPv4Prefix("10.1.0.0/24"), prefix: IPv6Prefix("fd00::/64"))
            }
            var memory = NeighborMemory()
            var caches: [EndpointID: Cache] = [:]
            var told = 0
            for step in 0..<150 {
                let machines = state.table.endpoints
                switch Int.random(in: 0..<3, using: &random) {
                case 0:
                    var request = EndpointRequest(
                        name: "m\(step)", network: Bool.random(using: &random) ? "blue" : "red")
                    request.ipv4 = IPv4Address(10, 1, 0, UInt8.random(in: 2...6, using: &random))
                    request.ipv6 = v6("fd00::\(Int.random(in: 2...6, using: &random))")
                    request.mac = MACAddress(local: UInt64.random(in: 0..<40, using: &random))
                    guard let endpoint = try? state.add(request) else { continue }
                    for announcement in memory.welcome(endpoint, in: state.table) {
                        told += 1
                        let bytes = record(announcement)
                        for other in machines where other.network == endpoint.network {
                            caches[other.id, default: Cache()].hear(bytes)
                        }
                    }
                case 1:
                    guard let gone = machines.randomElement(using: &random) else { continue }
                    caches[gone.id] = nil
                    try state.remove(gone.id)
                default:
                    guard let asker = machines.randomElement(using: &random),
                        let asked = machines.filter({ $0.network == asker.network && $0.id != asker.id })
                            .randomElement(using: &random)
                    else { continue }
                    caches[asker.id, default: Cache()].stations[.v4(asked.v4)] = asked.mac
                    caches[asker.id, default: Cache()].stations[.v6(asked.v6)] = asked.mac
                }
                for machine in state.table.endpoints {
                    for other in state.table.endpoints where other.network == machine.network {
                        for address in [IPAddress.v4(other.v4), .v6(other.v6)] {
                            let believed = caches[machine.id]?.stations[address]
                            #expect(believed == nil || believed == other.mac || other.id == machine.id)
                        }
                    }
                }
            }
            #expect(told > 0)
        }
    }

    @Test func theMemoryIsBounded() throws {
        var state = NamespaceState(identity: 1)
        _ = try state.addNetwork(name: "blue", subnet: IPv4Prefix("10.0.0.0/8"), hasIPv6: false)
        var memory = NeighborMemory()
        var endpoint = try state.add(EndpointRequest(name: "stays", network: "blue"))
        #expect(memory.welcome(endpoint, in: state.table).isEmpty)
        var passing = endpoint
        for index in 0..<UInt32(NeighborMemory.limit + 10) {
            passing.ipv4 = IPv4Address(0x0A10_0000 + index)
            _ = memory.welcome(passing, in: state.table)
        }
        // What is there is still known.
        endpoint.mac = MACAddress(local: 5)
        #expect(memory.welcome(endpoint, in: state.table).count == 1)
    }
}
