// SPDX-License-Identifier: Apache-2.0

/// An IPv6 packet (RFC 8200): its header is whole, its length is there.
@usableFromInline package struct IPv6View: ~Escapable {
    /// The packet without what Ethernet filled it up with.
    @usableFromInline package let bytes: RawSpan

    @inlinable
    @_lifetime(copy bytes)
    package init?(_ bytes: RawSpan) {
        guard bytes.byteCount >= IPv6Header.length, bytes.byte(0) >> 4 == 6 else { return nil }
        let length = IPv6Header.length + Int(bytes.u16(4))
        guard length <= bytes.byteCount else { return nil }
        self.bytes = bytes.slice(0, length)
    }

    /// The packet that an ICMP error quotes: the header is whole, the payload may be cut short.
    @_lifetime(copy quoted)
    package init?(quoted: RawSpan) {
        guard quoted.byteCount >= IPv6Header.length, quoted.byte(0) >> 4 == 6 else { return nil }
        bytes = quoted
    }

    @inlinable package var trafficClass: UInt8 { UInt8(truncatingIfNeeded: bytes.u16(0) >> 4) }
    @inlinable package var flowLabel: UInt32 { bytes.u32(0) & 0xF_FFFF }
    @inlinable package var nextHeader: UInt8 { bytes.byte(6) }
    @inlinable package var hopLimit: UInt8 { bytes.byte(7) }
    @inlinable package var source: IPv6Address { bytes.ipv6(8) }
    @inlinable package var destination: IPv6Address { bytes.ipv6(24) }
    @inlinable package var payload: RawSpan { @_lifetime(copy self) get { bytes.dropping(IPv6Header.length) } }

    /// What the extension headers lead to; nil where they are not whole, too many, or of a kind that hides the rest.
    @inlinable
    package var upper: IPv6Upper? {
        switch nextHeader {
        case IPProtocol.tcp, IPProtocol.udp, IPProtocol.icmpv6:
            IPv6Upper(protocolNumber: nextHeader, offset: IPv6Header.length)
        default: upperBehindExtensions
        }
    }

    @usableFromInline var upperBehindExtensions: IPv6Upper? {
        var upper = IPv6Upper(protocolNumber: nextHeader, offset: IPv6Header.length)
        for _ in 0..<IPv6Upper.headerLimit {
            let rest = bytes.byteCount - upper.offset
            switch upper.protocolNumber {
            case IPProtocol.hopByHop, IPProtocol.routing, IPProtocol.destinationOptions:
                guard rest >= 8 else { return nil }
                let length = (Int(bytes.byte(upper.offset + 1)) + 1) * 8
                guard length <= rest else { return nil }
                // Type 0 lets the sender choose the way; it must not be processed (RFC 5095).
                if upper.protocolNumber == IPProtocol.routing, bytes.byte(upper.offset + 2) == 0,
                    bytes.byte(upper.offset + 3) != 0
                {
                    return nil
                }
                upper.protocolNumber = bytes.byte(upper.offset)
                upper.offset += length
            case IPProtocol.fragment:
                guard rest >= 8, upper.fragmentHeader == nil else { return nil }
                upper.fragmentHeader = upper.offset
                let position = bytes.u16(upper.offset + 2)
                upper.fragmentOffset = Int(position & 0xFFF8)
                upper.moreFragments = position & 1 != 0
                upper.identification = bytes.u32(upper.offset + 4)
                upper.protocolNumber = bytes.byte(upper.offset)
                upper.offset += 8
                // Only the first fragment has what follows (RFC 8200 §4.5).
                if upper.fragmentOffset != 0 { return upper }
            case IPProtocol.authentication:
                guard rest >= 12 else { return nil }
                let length = (Int(bytes.byte(upper.offset + 1)) + 2) * 4
                guard length <= rest else { return nil }
                upper.protocolNumber = bytes.byte(upper.offset)
                upper.offset += length
            default: return upper
            }
        }
        return nil
    }

    /// The sum over the pseudo header and what the extension headers lead to is right.
    package func checksumIsValid(_ upper: IPv6Upper) -> Bool {
        let rest = bytes.dropping(upper.offset)
        var checksum = Checksum(source, destination, protocolNumber: upper.protocolNumber, length: rest.byteCount)
        checksum.add(rest)
        return checksum.value == 0
    }
}

/// Where an IPv6 packet's extension headers end.
@usableFromInline package struct IPv6Upper: Equatable, Sendable {
    /// More extension headers than anybody sends; a longer chain is refused.
    @inlinable package static var headerLimit: Int { 8 }

    @usableFromInline package var protocolNumber: UInt8
    /// From the packet's start; at most its length.
    @usableFromInline package var offset: Int
    /// Where the fragment header lies.
    @usableFromInline package var fragmentHeader: Int?
    /// In bytes.
    @usableFromInline package var fragmentOffset = 0
    @usableFromInline package var moreFragments = false
    @usableFromInline package var identification: UInt32 = 0

    /// An atomic fragment (RFC 6946) is none.
    @inlinable package var isFragment: Bool { fragmentOffset != 0 || moreFragments }

    @inlinable
    package init(protocolNumber: UInt8, offset: Int) {
        self.protocolNumber = protocolNumber
        self.offset = offset
    }
}

/// An IPv6 header to be written.
@usableFromInline package struct IPv6Header: Equatable, Sendable {
    @inlinable package static var length: Int { 40 }
    @usableFromInline package var trafficClass: UInt8 = 0
    /// 20 bits.
    @usableFromInline package var flowLabel: UInt32 = 0
    @usableFromInline package var nextHeader: UInt8
    @usableFromInline package var hopLimit: UInt8 = 64
    @usableFromInline package var source: IPv6Address
    @usableFromInline package var destination: IPv6Address
    /// The bytes after the header, at most 65,535.
    @usableFromInline package var payloadLength: Int

    package init(nextHeader: UInt8, source: IPv6Address, destination: IPv6Address, payloadLength: Int) {
        self.nextHeader = nextHeader
        self.source = source
        self.destination = destination
        self.payloadLength = payloadLength
    }

    /// Writes the 40 bytes.
    package func write(to bytes: inout MutableRawSpan, at offset: Int) {
        bytes.put(6 << 28 | UInt32(trafficClass) << 20 | flowLabel & 0xF_FFFF, at: offset)
        bytes.put(UInt16(truncatingIfNeeded: payloadLength), at: offset + 4)
        bytes.put(nextHeader, at: offset + 6)
        bytes.put(hopLimit, at: offset + 7)
        bytes.put(source, at: offset + 8)
        bytes.put(destination, at: offset + 24)
    }
}
