// SPDX-License-Identifier: Apache-2.0

internal import Packet

extension VirtioNetHeader {
    /// A device is to compute a checksum, or to cut the frame into segments.
    @inline(__always)
    var asksForWork: Bool { isPartial || segmentation != 0 }
}

extension Router {
    /// Whether what a guest says of checksum and segments (VIRTIO 1.3 §5.1.6.2) can be true of its frame. The checksum is
    /// written on the way to whom the frame is for, when all that was looked at is behind it: it must lie where it belongs,
    /// not in an address, a port or a message's type.
    /// - Parameters:
    ///   - frame: from the Ethernet header.
    ///   - upper: where the network's headers end, in bytes from the packet's first.
    @inline(__always)
    static func isSound(
        _ arrival: Arrival, _ frame: borrowing RawSpan, _ protocolNumber: UInt8, at upper: Int, isFragment: Bool,
        isIPv6: Bool
    ) -> Bool {
        guard arrival.header.asksForWork else { return true }
        return !isFragment
            && workIsSound(arrival, frame, protocolNumber, at: EthernetHeader.length + upper, isIPv6: isIPv6)
    }

    /// - Parameter upper: from the frame's first byte.
    private static func workIsSound(
        _ arrival: Arrival, _ frame: borrowing RawSpan, _ protocolNumber: UInt8, at upper: Int, isIPv6: Bool
    ) -> Bool {
        let header = arrival.header
        guard header.isPartial, header.checksumLies(inFrameOf: frame.byteCount) else { return false }
        let (start, offset) = (Int(header.checksumStart), Int(header.checksumOffset))
        switch protocolNumber {
        case IPProtocol.tcp: guard start == upper, offset == 16 else { return false }
        case IPProtocol.udp:
            // Its own, or of what is in a tunnel.
            guard start == upper && offset == 6 || start >= upper + UDPHeader.length else { return false }
        case IPProtocol.icmp, IPProtocol.icmpv6: guard start == upper, offset == 2 else { return false }
        default: guard start >= upper else { return false }
        }
        let kind = header.segmentation & ~VirtioNetHeader.segmentationECN
        guard kind != VirtioNetHeader.segmentationNone else { return true }
        guard kind == (isIPv6 ? VirtioNetHeader.segmentationTCPv6 : VirtioNetHeader.segmentationTCPv4),
            protocolNumber == IPProtocol.tcp, frame.byteCount >= upper + 20
        else { return false }
        // Each segment has headers of its own.
        let headers = upper - EthernetHeader.length + Int(frame.byte(upper + 12) >> 4) * 4
        return header.segmentSize >= Segmentation.leastSize && Int(header.segmentSize) + headers <= arrival.link.mtu
    }
}
