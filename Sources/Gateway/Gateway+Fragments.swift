// SPDX-License-Identifier: Apache-2.0

internal import Fabric
internal import Packet

extension Gateway {
    /// Sends a datagram that is longer than the machine's link takes, in fragments with its checksum complete.
    func sendInPieces(
        _ key: FlowKey, protocolNumber: UInt8, from source: IPv6Address, headerLength: Int,
        payload: UnsafeRawBufferPointer, mtu: Int, header: (inout MutableRawSpan, Int) -> Void
    ) {
        let length = headerLength + payload.count
        if scratch.isEmpty { scratch = [UInt8](repeating: 0, count: 65_536) }
        guard length <= scratch.count else { return }
        identification &+= 1
        let ipLength = key.isIPv4 ? IPv4Header.length : IPv6Header.length + 8
        // Offsets count in steps of eight.
        let step = (mtu - ipLength) & ~7
        unsafe scratch.withUnsafeMutableBytes { space in
            var bytes = unsafe space.mutableBytes
            header(&bytes, 0)
            bytes.put(unsafe payload.bytes, at: headerLength)
            fill(&bytes, length, key, protocolNumber, from: source)
            for offset in stride(from: 0, to: length, by: step) {
                let count = min(step, length - offset)
                writeFragment(key, protocolNumber, from: source, offset, count, more: offset + count < length)
                let packet = InsidePacket(endpoint: key.endpoint, length: ipLength + count, isIPv6: !key.isIPv4)
                unsafe sendHead(
                    packet, FrameLayout.packet + ipLength,
                    UnsafeRawBufferPointer(rebasing: space[offset..<offset + count]),
                    UnsafeRawBufferPointer(start: nil, count: 0))
            }
            link.flush()
        }
    }

    private func fill(
        _ bytes: inout MutableRawSpan, _ length: Int, _ key: FlowKey, _ protocolNumber: UInt8, from source: IPv6Address
    ) {
        if protocolNumber == IPProtocol.icmp {
            ICMPMessage.fillChecksum(&bytes, at: 0, length: length)
        } else if let from = source.mappedIPv4, let to = key.inside.mappedIPv4 {
            Transport.fillChecksum(
                &bytes, at: 0, length: length, protocolNumber: protocolNumber, source: from, destination: to)
        } else {
            Transport.fillChecksum(
                &bytes, at: 0, length: length, protocolNumber: protocolNumber, source: source, destination: key.inside)
        }
    }

    private func writeFragment(
        _ key: FlowKey, _ protocolNumber: UInt8, from source: IPv6Address, _ offset: Int, _ count: Int, more: Bool
    ) {
        unsafe head.withUnsafeMutableBytes { space in
            var bytes = unsafe space.mutableBytes
            if let from = source.mappedIPv4, let to = key.inside.mappedIPv4 {
                var header = IPv4Header(
                    protocolNumber: protocolNumber, source: from, destination: to, payloadLength: count)
                header.identification = UInt16(truncatingIfNeeded: identification)
                header.dontFragment = false
                header.moreFragments = more
                header.fragmentOffset = offset
                header.write(to: &bytes, at: FrameLayout.packet)
                return
            }
            IPv6Header(
                nextHeader: IPProtocol.fragment, source: source, destination: key.inside, payloadLength: 8 + count
            ).write(to: &bytes, at: FrameLayout.packet)
            // RFC 8200 §4.5.
            let place = FrameLayout.packet + IPv6Header.length
            bytes.put(protocolNumber, at: place)
            bytes.put(0 as UInt8, at: place + 1)
            bytes.put(UInt16(truncatingIfNeeded: offset) | (more ? 1 : 0), at: place + 2)
            bytes.put(identification, at: place + 4)
        }
    }
}
