// SPDX-License-Identifier: Apache-2.0

import AllocationCounter
import Fabric
import Packet
import Platform
import TestSupport

/// What one packet costs the router, in batches of 32, without any socket.
@main struct RouteFrames {
    static let batch = 32
    static let rounds = 20_000
    static let repetitions = 7

    static func main() throws {
        let bench = try Bench(machines: 256)
        print("| packet | ns | Mpps a core | allocations |")
        print("|---|---:|---:|---:|")
        for (name, records) in bench.cases() {
            let (nanoseconds, allocations) = bench.measure(records)
            let rate = Double(Int(100_000 / nanoseconds)) / 100
            print("| \(name) | \(Double(Int(nanoseconds * 10)) / 10) | \(rate) | \(allocations) |")
        }
    }
}

final class Bench {
    var router = Router()
    let endpoints: [Endpoint]
    var reply = [UInt8](repeating: 0, count: FrameLayout.longest)

    init(machines: Int) throws {
        var state = NamespaceState(identity: 1)
        _ = try state.addNetwork(name: "blue", subnet: IPv4Prefix("10.0.0.0/16"), prefix: IPv6Prefix("fd00::/64"))
        for index in 0..<machines {
            let endpoint = try state.add(EndpointRequest(name: "m\(index)", network: "blue"))
            try state.attach(endpoint.id, to: PortID(index))
            router.open(PortID(index))
        }
        router.replace(state.table)
        endpoints = state.table.endpoints
    }

    func cases() -> [(String, [[UInt8]])] {
        let a = endpoints[0]
        let any = IPv4Address.any
        func each(_ make: (Endpoint) -> [UInt8]) -> [[UInt8]] {
            (0..<RouteFrames.batch).map { make(endpoints[1 + $0 * 7]) }
        }
        func v4(_ size: Int, _ mac: MACAddress? = nil, _ address: IPv4Address? = nil) -> [[UInt8]] {
            each { frame4(a, mac ?? $0.mac, address ?? $0.ipv4 ?? any, size: size) }
        }
        let remote = IPv4Address(192, 0, 2, 1)
        return [
            ("IPv4, 64 bytes, to a sibling", v4(64)), ("IPv4, 1500 bytes, to a sibling", v4(1514)),
            ("IPv6, 78 bytes, to a sibling", each { frame6(a, $0.mac, $0.ipv6 ?? .any, size: 78) }),
            ("IPv4, 64 bytes, to a sibling by way of the gateway", v4(64, Network.gatewayMAC)),
            ("IPv4, 64 bytes, to the outside", v4(64, Network.gatewayMAC, remote)),
            ("IPv4, 64 bytes, from a forged address", each { frame4($0, a.mac, a.ipv4 ?? any, size: 64) }),
            ("ARP request, answered", each { arp(a, $0.ipv4 ?? any) }),
            ("echo request to the gateway, answered", v4(98, Network.gatewayMAC, IPv4Address(10, 0, 0, 1)).map(echo)),
        ]
    }

    /// The least time of several runs, in nanoseconds a packet, and the allocations of a whole run.
    func measure(_ records: [[UInt8]]) -> (Double, UInt64) {
        var best = UInt64.max
        var allocations: UInt64 = 0
        var sum = 0
        let arena = UnsafeMutableRawBufferPointer.allocate(byteCount: RouteFrames.batch * 2048, alignment: 64)
        defer { arena.deallocate() }
        for (index, record) in records.enumerated() {
            UnsafeMutableRawBufferPointer(rebasing: arena[(index * 2048)...]).copyBytes(from: record)
        }
        let originals = UnsafeMutableRawBufferPointer.allocate(byteCount: RouteFrames.batch * 64, alignment: 64)
        defer { originals.deallocate() }
        for (index, record) in records.enumerated() {
            UnsafeMutableRawBufferPointer(rebasing: originals[(index * 64)...]).copyBytes(from: record.prefix(40))
        }
        var given = reply
        var answerSpace = given.mutableSpan
        var answer = answerSpace.mutableBytes
        let lengths = records.map(\.count)
        var now: UInt64 = 1
        for _ in 0..<RouteFrames.repetitions {
            let before = counted_allocations()
            let start = monotonicNanoseconds()
            for _ in 0..<RouteFrames.rounds {
                now &+= 1_000_000_000
                for index in 0..<RouteFrames.batch {
                    let start = index * 2048
                    // What goes by way of the gateway is rewritten: each time it starts as it came.
                    UnsafeMutableRawBufferPointer(rebasing: arena[start..<(start + 40)]).copyMemory(
                        from: UnsafeRawBufferPointer(rebasing: originals[(index * 64)..<(index * 64 + 40)]))
                    var record = UnsafeMutableRawBufferPointer(rebasing: arena[start..<(start + lengths[index])])
                        .mutableBytes
                    if case .forward = router.receive(&record, from: PortID(0), now: now, reply: &answer) { sum += 1 }
                }
            }
            best = min(best, monotonicNanoseconds() - start)
            allocations = counted_allocations() - before
        }
        precondition(sum >= 0)
        return (Double(best) / Double(RouteFrames.rounds * RouteFrames.batch), allocations)
    }
}

/// A UDP datagram in a frame of so many bytes, behind a virtio header.
func frame4(_ source: Endpoint, _ mac: MACAddress, _ address: IPv4Address, size: Int) -> [UInt8] {
    built(12 + size) {
        EthernetHeader(destination: mac, source: source.mac, type: EtherType.ipv4).write(to: &$0, at: 12)
        IPv4Header(
            protocolNumber: IPProtocol.udp, source: source.ipv4 ?? .any, destination: address, payloadLength: size - 34
        ).write(to: &$0, at: 26)
        UDPHeader(sourcePort: 1, destinationPort: 2, payloadLength: size - 42).write(to: &$0, at: 46)
    }
}

func frame6(_ source: Endpoint, _ mac: MACAddress, _ address: IPv6Address, size: Int) -> [UInt8] {
    built(12 + size) {
        EthernetHeader(destination: mac, source: source.mac, type: EtherType.ipv6).write(to: &$0, at: 12)
        IPv6Header(
            nextHeader: IPProtocol.udp, source: source.ipv6 ?? .any, destination: address, payloadLength: size - 54
        ).write(to: &$0, at: 26)
        UDPHeader(sourcePort: 1, destinationPort: 2, payloadLength: size - 62).write(to: &$0, at: 66)
    }
}

func arp(_ source: Endpoint, _ address: IPv4Address) -> [UInt8] {
    built(54) {
        EthernetHeader(destination: .broadcast, source: source.mac, type: EtherType.arp).write(to: &$0, at: 12)
        ARPPacket(
            operation: ARPPacket.request, senderMAC: source.mac, senderAddress: source.ipv4 ?? .any, targetMAC: .zero,
            targetAddress: address
        ).write(to: &$0, at: 26)
    }
}

/// The same packet as an echo request.
func echo(_ record: [UInt8]) -> [UInt8] {
    var record = record
    let length = record.count - 46
    var span = record.mutableSpan
    var raw = span.mutableBytes
    raw.put(IPProtocol.icmp, at: 35)
    raw.put(0 as UInt16, at: 36)
    raw.put(Checksum.of(raw.bytes.slice(26, 20)), at: 36)
    ICMPMessage(type: ICMPType.echoRequest, identifier: 1, sequence: 1).write(to: &raw, at: 46)
    ICMPMessage.fillChecksum(&raw, at: 46, length: length)
    return record
}
