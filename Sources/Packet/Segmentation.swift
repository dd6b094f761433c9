// SPDX-License-Identifier: Apache-2.0

/// Cuts a long TCP segment into those that a receiver without segmentation offload takes.
package struct Segmentation: Equatable, Sendable {
    /// The length of Ethernet, IP and TCP headers together.
    package let headerLength: Int
    /// How many segments there are, at least one.
    package let count: Int
    private let isIPv6: Bool
    private let ipOffset: Int
    private let tcpOffset: Int
    private let segmentSize: Int
    private let frameLength: Int

    /// Looks at a frame whose header says that it is segmented; nil where header and frame do not agree.
    package init?(_ frame: RawSpan, _ header: VirtioNetHeader) {
        guard let ethernet = EthernetView(frame) else { return nil }
        ipOffset = ethernet.headerLength
        switch (header.segmentation & ~VirtioNetHeader.segmentationECN, ethernet.type) {
        case (VirtioNetHeader.segmentationTCPv4, EtherType.ipv4):
            guard let packet = IPv4View(ethernet.payload), packet.protocolNumber == IPProtocol.tcp, !packet.isFragment
            else { return nil }
            isIPv6 = false
            tcpOffset = ipOffset + packet.headerLength
            frameLength = ipOffset + packet.bytes.byteCount
        case (VirtioNetHeader.segmentationTCPv6, EtherType.ipv6):
            guard let packet = IPv6View(ethernet.payload), let upper = packet.upper,
                upper.protocolNumber == IPProtocol.tcp, upper.fragmentHeader == nil
            else { return nil }
            isIPv6 = true
            tcpOffset = ipOffset + upper.offset
            frameLength = ipOffset + packet.bytes.byteCount
        default: return nil
        }
        guard let segment = TCPView(frame.slice(tcpOffset, frameLength - tcpOffset)),
            header.segmentSize >= Segmentation.leastSize
        else { return nil }
        headerLength = tcpOffset + segment.headerLength
        segmentSize = Int(header.segmentSize)
        count = max(1, (frameLength - headerLength + segmentSize - 1) / segmentSize)
    }

    /// Smaller segments than any path has would make thousands of frames out of one.
    package static let leastSize: UInt16 = 64

    /// The length of a segment's frame.
    package func length(of index: Int) -> Int {
        headerLength + min(segmentSize, frameLength - headerLength - index * segmentSize)
    }

    /// Writes one of the segments, checksums included, as a frame at an offset of `output`.
    /// - Parameter index: below `count`.
    /// - Returns: the frame's length.
    package func write(_ index: Int, of frame: RawSpan, to output: inout MutableRawSpan, at offset: Int) -> Int {
        let begin = index * segmentSize
        let length = length(of: index)
        output.put(frame.slice(0, headerLength), at: offset)
        output.put(frame.slice(headerLength + begin, length - headerLength), at: offset + headerLength)
        let ip = offset + ipOffset
        let tcp = offset + tcpOffset
        output.put(frame.u32(tcpOffset + 4) &+ UInt32(begin), at: tcp + 4)
        var flags = TCPFlags(rawValue: frame.byte(tcpOffset + 13))
        if index < count - 1 { flags.subtract([.finish, .push]) }
        if index > 0 { flags.remove(.congestionReduced) }
        output.put(flags.rawValue, at: tcp + 13)
        let segmentLength = length - tcpOffset
        if isIPv6 {
            output.put(UInt16(length - ipOffset - IPv6Header.length), at: ip + 4)
            Transport.fillChecksum(
                &output, at: tcp, length: segmentLength, protocolNumber: IPProtocol.tcp,
                source: frame.ipv6(ipOffset + 8), destination: frame.ipv6(ipOffset + 24))
        } else {
            output.put(UInt16(length - ipOffset), at: ip + 2)
            output.put(frame.u16(ipOffset + 4) &+ UInt16(truncatingIfNeeded: index), at: ip + 4)
            output.put(0 as UInt16, at: ip + 10)
            output.put(Checksum.of(output.bytes.slice(ip, tcpOffset - ipOffset)), at: ip + 10)
            Transport.fillChecksum(
                &output, at: tcp, length: segmentLength, protocolNumber: IPProtocol.tcp,
                source: frame.ipv4(ipOffset + 12), destination: frame.ipv4(ipOffset + 16))
        }
        return length
    }
}
