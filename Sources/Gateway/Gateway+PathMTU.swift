// SPDX-License-Identifier: Apache-2.0

internal import Packet
internal import TCP

/// What machines say of packets that came from here: that they are too long for where the machine passes them on, or
/// that nobody is there.
extension Gateway {
    /// The least that a path's MTU is believed to be: of IPv4, what every host takes (RFC 791), although routers may
    /// have less; of IPv6, the least there is.
    private static let leastMTU = (ipv4: 576, ipv6: 1280)

    /// Acts on an ICMP error about one of the sender's own flows.
    /// - Parameter base: the sender's address, with its family.
    /// - Returns: whether it was such an error.
    func heeds(_ message: borrowing ICMPView, _ base: FlowKey, _ now: Microseconds) -> Bool {
        let isIPv4 = base.isIPv4
        let isTooBig =
            isIPv4
            ? message.type == ICMPType.unreachable && message.code == ICMPUnreachable.fragmentationNeeded
            : message.type == ICMPv6Type.packetTooBig
        guard isTooBig || message.type == (isIPv4 ? ICMPType.unreachable : ICMPv6Type.unreachable) else {
            return false
        }
        guard let quoted = Quotation(message.payload, of: base), let slot = flows[quoted.key] else { return false }
        // An old router says nothing of the size (RFC 1191 §5).
        let told = Int(isIPv4 ? message.parameter & 0xFFFF : message.parameter)
        let size = max(told, isIPv4 ? Gateway.leastMTU.ipv4 : Gateway.leastMTU.ipv6)
        switch slots[Int(slot)] {
        case .tcp(let flow):
            guard flow.endpoint.isUnderWay(SequenceNumber(quoted.parameter)) else { return false }
            if isTooBig {
                flow.endpoint.limitSegmentSize(size - (isIPv4 ? 40 : 60))
                mark(flow)
            } else if flow.phase == .dialing {
                counters.publishedRefused += 1
                abandon(flow, now)
            }
        case .datagram(let flow): if isTooBig { flow.pathMTU = min(flow.pathMTU, size) }
        default: return false
        }
        return true
    }
}

/// The beginning of a packet that went to a machine, as an ICMP error quotes it.
private struct Quotation {
    let key: FlowKey
    /// What follows the ports: of TCP, the sequence number.
    let parameter: UInt32

    /// - Parameter base: of whoever quotes: the packet was for that address.
    init?(_ bytes: RawSpan, of base: FlowKey) {
        var key = base
        let transport: Int
        if base.isIPv4 {
            guard let packet = IPv4View(quoted: bytes), packet.fragmentOffset == 0,
                IPv6Address(mapping: packet.destination) == base.inside
            else { return nil }
            key.protocolNumber = packet.protocolNumber
            key.outside = IPv6Address(mapping: packet.source)
            transport = packet.headerLength
        } else {
            // Packets from here have no extension headers, but for fragments, which fit everywhere.
            guard let packet = IPv6View(quoted: bytes), packet.destination == base.inside else { return nil }
            key.protocolNumber = packet.nextHeader
            key.outside = packet.source
            transport = IPv6Header.length
        }
        guard key.protocolNumber == IPProtocol.tcp || key.protocolNumber == IPProtocol.udp,
            bytes.byteCount >= transport + 8
        else { return nil }
        key.outsidePort = bytes.u16(transport)
        key.insidePort = bytes.u16(transport + 2)
        self.key = key
        parameter = bytes.u32(transport + 4)
    }
}
