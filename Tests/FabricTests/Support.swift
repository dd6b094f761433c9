// SPDX-License-Identifier: Apache-2.0

import Fabric
import Packet
import TestSupport

func v4(_ text: String) -> IPv4Address { IPv4Address(text) ?? .any }
func v6(_ text: String) -> IPv6Address { IPv6Address(text) ?? .any }
func name(_ text: String) -> DNSName { DNSName(text) ?? DNSName() }

/// Two networks with the same subnet: `blue` with machines a (port 0), b (1) and s (none), `red` with machine a (2) of
/// the same addresses as blue's a.
final class Bench {
    var state: NamespaceState
    var router: Router
    let a: Endpoint
    let b: Endpoint
    let sleeping: Endpoint
    let red: Endpoint
    var now: UInt64 = 1_000_000_000_000
    var reply = [UInt8](repeating: 0, count: FrameLayout.longest)

    /// Blue has addresses of both families, or of one.
    init(isInternal: Bool = false, hasIPv4: Bool = true, hasIPv6: Bool = true) throws {
        var state = NamespaceState(identity: 0x12_3456_789A)
        let subnet = IPv4Prefix("10.0.0.0/24")
        let prefix = IPv6Prefix("fd00:1::/64")
        var blue = Network(
            name: "blue", subnet: hasIPv4 ? subnet : nil, gateway: hasIPv4 ? gateway4 : .any,
            prefix: hasIPv6 ? prefix : nil)
        blue.isInternal = isInternal
        try state.add(blue)
        _ = try state.addNetwork(name: "red", subnet: subnet, prefix: prefix)
        let a = try state.add(EndpointRequest(name: "a", network: "blue"))
        let b = try state.add(EndpointRequest(name: "b", network: "blue"))
        let sleeping = try state.add(EndpointRequest(name: "s", network: "blue"))
        let red = try state.add(EndpointRequest(name: "a", network: "red"))
        try state.attach(a.id, to: PortID(0))
        try state.attach(b.id, to: PortID(1))
        try state.attach(red.id, to: PortID(2))
        var router = Router()
        for index in 0..<3 {
            router.open(PortID(index))
            router.setOffloads(Offloads(features: 0x182), of: PortID(index))
        }
        router.replace(state.table)
        self.state = state
        self.router = router
        (self.a, self.b, self.sleeping, self.red) = (a, b, sleeping, red)
    }

    /// What the router does with a record, and what it made of it.
    func send(_ record: [UInt8], port: Int = 0) -> (verdict: Verdict, record: [UInt8]) {
        var record = record
        var space = record.mutableSpan
        var raw = space.mutableBytes
        now += 1000
        var given = [UInt8](repeating: 0, count: FrameLayout.longest)
        let verdict: Verdict
        do {
            var answer = given.mutableSpan
            var answerRaw = answer.mutableBytes
            verdict = router.receive(&raw, from: PortID(port), now: now, reply: &answerRaw)
        }
        reply = given
        return (verdict, record)
    }

    func verdict(_ record: [UInt8], port: Int = 0) -> Verdict { send(record, port: port).verdict }

    /// The frame that the router answers with, without its virtio header.
    func answer(_ record: [UInt8], port: Int = 0) -> [UInt8]? {
        guard case .reply(let length) = verdict(record, port: port) else { return nil }
        return Array(reply[12..<length])
    }

    func count(_ reason: DropReason, port: Int = 0) -> UInt64 { router.counters(of: PortID(port))[reason] }
}

let gatewayMAC = Network.gatewayMAC
let gateway4 = IPv4Address(10, 0, 0, 1)
let gateway6 = v6("fd00:1::1")

/// Records as a machine would send them.
enum Record {
    static func frame(
        _ source: MACAddress, _ destination: MACAddress, _ type: UInt16, _ payload: [UInt8],
        header: VirtioNetHeader = VirtioNetHeader()
    ) -> [UInt8] {
        built(26 + payload.count) {
            header.write(to: &$0, at: 0)
            EthernetHeader(destination: destination, source: source, type: type).write(to: &$0, at: 12)
            $0.put(payload, at: 26)
        }
    }

    static func ipv4(
        _ source: IPv4Address, _ destination: IPv4Address, _ number: UInt8, _ payload: [UInt8], ttl: UInt8 = 64,
        fragmentOffset: Int = 0, more: Bool = false
    ) -> [UInt8] {
        built(20 + payload.count) {
            var header = IPv4Header(
                protocolNumber: number, source: source, destination: destination, payloadLength: payload.count)
            header.timeToLive = ttl
            header.fragmentOffset = fragmentOffset
            header.moreFragments = more
            header.dontFragment = false
            header.identification = 5
            header.write(to: &$0, at: 0)
            $0.put(payload, at: 20)
            if fragmentOffset == 0, !more {
                Transport.fillChecksum(
                    &$0, at: 20, length: payload.count, protocolNumber: number, source: source,
                    destination: destination)
            }
        }
    }

    static func ipv6(
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

    static func udp(_ source: UInt16, _ destination: UInt16, _ payload: [UInt8] = [1, 2, 3]) -> [UInt8] {
        built(8 + payload.count) {
            UDPHeader(sourcePort: source, destinationPort: destination, payloadLength: payload.count)
                .write(to: &$0, at: 0)
            $0.put(payload, at: 8)
        }
    }

    static func echo(_ type: UInt8 = ICMPType.echoRequest, size: Int = 8) -> [UInt8] {
        built(8 + size) {
            ICMPMessage(type: type, identifier: 1, sequence: 2).write(to: &$0, at: 0)
            if type < 128 { ICMPMessage.fillChecksum(&$0, at: 0, length: 8 + size) }
        }
    }

    static func arp(
        _ operation: UInt16 = ARPPacket.request, from mac: MACAddress, _ address: IPv4Address, for target: IPv4Address
    ) -> [UInt8] {
        built(28) {
            ARPPacket(
                operation: operation, senderMAC: mac, senderAddress: address, targetMAC: .zero, targetAddress: target
            ).write(to: &$0, at: 0)
        }
    }

    static func solicitation(for target: IPv6Address, from mac: MACAddress) -> [UInt8] {
        built(32) { NeighborSolicitation(target: target, mac: mac).write(to: &$0, at: 0) }
    }

    /// One that asks whether an address is free: without the option.
    static func probe(for target: IPv6Address) -> [UInt8] {
        Array(solicitation(for: target, from: .zero)[..<24])
    }
}

extension Endpoint {
    var v4: IPv4Address { ipv4 ?? .any }
    var v6: IPv6Address { ipv6 ?? .any }

    func send4(
        _ payload: [UInt8], to destination: MACAddress, _ address: IPv4Address, number: UInt8 = IPProtocol.udp,
        ttl: UInt8 = 64
    ) -> [UInt8] {
        Record.frame(mac, destination, EtherType.ipv4, Record.ipv4(v4, address, number, payload, ttl: ttl))
    }

    func send6(
        _ payload: [UInt8], to destination: MACAddress, _ address: IPv6Address, number: UInt8 = IPProtocol.udp,
        from source: IPv6Address? = nil, hopLimit: UInt8 = 64
    ) -> [UInt8] {
        Record.frame(
            mac, destination, EtherType.ipv6,
            Record.ipv6(source ?? v6, address, number, payload, hopLimit: hopLimit))
    }
}
