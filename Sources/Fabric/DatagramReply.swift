// SPDX-License-Identifier: Apache-2.0

internal import Packet

/// Answers of the gateway's name server, as records for a machine.
package enum DatagramReply {
    /// Where the message goes in the record.
    package static func payloadOffset(isIPv6: Bool) -> Int {
        FrameLayout.packet + (isIPv6 ? IPv6Header.length : IPv4Header.length) + UDPHeader.length
    }

    /// Writes the headers before a message that is in place: from the gateway's port 53 to a port of the machine's.
    /// - Returns: the record's length; nil where the machine has no such address or the packet would be too long.
    package static func finish(
        _ record: inout MutableRawSpan, length: Int, isIPv6: Bool, to endpoint: EndpointID, clientPort: UInt16,
        table: EndpointTable
    ) -> Int? {
        guard let index = table.endpoint(endpoint) else { return nil }
        let facts = table.facts[index]
        let link = table.links[facts.network]
        let headers = isIPv6 ? IPv6Header.length : IPv4Header.length
        let start = FrameLayout.packet + headers
        let datagram = UDPHeader.length + length
        guard headers + datagram <= link.mtu else { return nil }
        VirtioNetHeader().write(to: &record, at: 0)
        EthernetHeader(
            destination: facts.mac, source: Network.gatewayMAC, type: isIPv6 ? EtherType.ipv6 : EtherType.ipv4
        ).write(to: &record, at: FrameLayout.frame)
        UDPHeader(sourcePort: 53, destinationPort: clientPort, payloadLength: length).write(to: &record, at: start)
        if isIPv6 {
            guard facts.ipv6 != .any else { return nil }
            IPv6Header(
                nextHeader: IPProtocol.udp, source: link.gateway6, destination: facts.ipv6, payloadLength: datagram
            ).write(to: &record, at: FrameLayout.packet)
            Transport.fillChecksum(
                &record, at: start, length: datagram, protocolNumber: IPProtocol.udp, source: link.gateway6,
                destination: facts.ipv6)
        } else {
            guard facts.ipv4 != .any else { return nil }
            IPv4Header(
                protocolNumber: IPProtocol.udp, source: link.gateway, destination: facts.ipv4, payloadLength: datagram
            ).write(to: &record, at: FrameLayout.packet)
            Transport.fillChecksum(
                &record, at: start, length: datagram, protocolNumber: IPProtocol.udp, source: link.gateway,
                destination: facts.ipv4)
        }
        return start + datagram
    }
}
