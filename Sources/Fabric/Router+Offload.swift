// SPDX-License-Identifier: Apache-2.0

internal import Packet

extension VirtioNetHeader {
    /// A device is to compute a checksum, or to cut the frame into segments.
    @inline(__always)
    var asksForWork: Bool { isPartial || segmentation != 0 }
}

extension Router {
    /// What is behind a packet's network headers, as far as its sender's wishes for it are concerned.
    struct Upper {
        let protocolNumber: UInt8
        /// From the frame's first byte, in bytes.
        let offset: Int
        let isFragment: Bool
    }

    /// Whether what a guest says of checksum and segments (VIRTIO 1.3 §5.1.6.2) can be true of its frame. The checksum is
    /// written on the way to whom the frame is for, when all that was looked at is behind it: it must lie where it belongs,
    /// not in an address, a port or a message's type.
    /// - Parameter frame: from the Ethernet header.
    static func isSound(
        _ header: VirtioNetHeader, _ frame: borrowing RawSpan, _ upper: Upper, isIPv6: Bool, mtu: Int
    ) -> Bool {
        guard header.isPartial, !upper.isFragment, header.checksumLies(inFrameOf: frame.byteCount) else { return false }
        let (start, offset) = (Int(header.checksumStart), Int(header.checksumOffset))
        switch upper.protocolNumber {
        case IPProtocol.tcp: guard start == upper.offset, offset == 16 else { return false }
        case IPProtocol.udp:
            // Its own, or of what is in a tunnel.
            guard start == upper.offset && offset == 6 || start >= upper.offset + UDPHeader.length else { return false }
        case IPProtocol.icmp, IPProtocol.icmpv6: guard start == upper.offset, offset == 2 else { return false }
        default: guard start >= upper.offset else { return false }
        }
        let kind = header.segmentation & ~VirtioNetHeader.segmentationECN
        guard kind != VirtioNetHeader.segmentationNone else { return true }
        guard kind == (isIPv6 ? VirtioNetHeader.segmentationTCPv6 : VirtioNetHeader.segmentationTCPv4),
            upper.protocolNumber == IPProtocol.tcp, frame.byteCount >= upper.offset + 20
        else { return false }
        // Each segment has headers of its own.
        let headers = upper.offset - EthernetHeader.length + Int(frame.byte(upper.offset + 12) >> 4) * 4
        return header.segmentSize >= Segmentation.leastSize && Int(header.segmentSize) + headers <= mtu
    }
}
