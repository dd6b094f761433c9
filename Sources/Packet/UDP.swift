// SPDX-License-Identifier: Apache-2.0

/// A UDP datagram (RFC 768): header and length are there. The checksum is not looked at.
@usableFromInline package struct UDPView: ~Escapable {
    package let bytes: RawSpan

    @_lifetime(copy bytes)
    package init?(_ bytes: RawSpan) {
        guard bytes.byteCount >= UDPHeader.length else { return nil }
        let length = Int(bytes.u16(4))
        guard length >= UDPHeader.length, length <= bytes.byteCount else { return nil }
        self.bytes = bytes.slice(0, length)
    }

    package var sourcePort: UInt16 { bytes.u16(0) }
    package var destinationPort: UInt16 { bytes.u16(2) }
    /// Zero: none was computed, which only IPv4 allows.
    package var checksum: UInt16 { bytes.u16(6) }
    package var payload: RawSpan { @_lifetime(copy self) get { bytes.dropping(UDPHeader.length) } }
}

/// A UDP header to be written.
@usableFromInline package struct UDPHeader: Equatable, Sendable {
    @inlinable package static var length: Int { 8 }
    @inlinable package static var checksumOffset: Int { 6 }
    package var sourcePort: UInt16
    package var destinationPort: UInt16
    /// At most 65,527.
    package var payloadLength: Int

    package init(sourcePort: UInt16, destinationPort: UInt16, payloadLength: Int) {
        self.sourcePort = sourcePort
        self.destinationPort = destinationPort
        self.payloadLength = payloadLength
    }

    /// Writes the 8 bytes; the checksum is left zero, for `Transport` to fill in.
    package func write(to bytes: inout MutableRawSpan, at offset: Int) {
        bytes.put(sourcePort, at: offset)
        bytes.put(destinationPort, at: offset + 2)
        bytes.put(UInt16(truncatingIfNeeded: UDPHeader.length + payloadLength), at: offset + 4)
        bytes.put(0 as UInt16, at: offset + 6)
    }
}

/// Checksums of TCP, UDP and ICMPv6 in packets that are built.
@usableFromInline package enum Transport {
    /// Where the checksum lies in a header of this protocol.
    package static func checksumOffset(of protocolNumber: UInt8) -> Int? {
        switch protocolNumber {
        case IPProtocol.tcp: TCPHeader.checksumOffset
        case IPProtocol.udp: UDPHeader.checksumOffset
        case IPProtocol.icmpv6: 2
        default: nil
        }
    }

    /// Computes and stores the checksum of `length` bytes at `offset`, whose field is zero or holds anything.
    package static func fillChecksum(
        _ bytes: inout MutableRawSpan, at offset: Int, length: Int, protocolNumber: UInt8,
        source: IPv4Address, destination: IPv4Address
    ) {
        let pseudo = Checksum(source, destination, protocolNumber: protocolNumber, length: length)
        fill(&bytes, offset, length, protocolNumber, pseudo)
    }

    /// Computes and stores the checksum of `length` bytes at `offset`, whose field is zero or holds anything.
    package static func fillChecksum(
        _ bytes: inout MutableRawSpan, at offset: Int, length: Int, protocolNumber: UInt8,
        source: IPv6Address, destination: IPv6Address
    ) {
        let pseudo = Checksum(source, destination, protocolNumber: protocolNumber, length: length)
        fill(&bytes, offset, length, protocolNumber, pseudo)
    }

    private static func fill(
        _ bytes: inout MutableRawSpan, _ offset: Int, _ length: Int, _ protocolNumber: UInt8, _ pseudo: Checksum
    ) {
        guard let place = checksumOffset(of: protocolNumber) else { return }
        bytes.put(0 as UInt16, at: offset + place)
        var checksum = pseudo
        checksum.add(bytes.bytes.slice(offset, length))
        let value = checksum.value
        // Zero would say that there is none (RFC 768).
        bytes.put(value == 0 && protocolNumber == IPProtocol.udp ? 0xFFFF : value, at: offset + place)
    }

    /// Stores the sum of the pseudo header alone, as the other side of a virtio device expects it with `NEEDS_CSUM`.
    package static func fillPartialChecksum(
        _ bytes: inout MutableRawSpan, at offset: Int, length: Int, protocolNumber: UInt8,
        source: IPv4Address, destination: IPv4Address
    ) {
        guard let place = checksumOffset(of: protocolNumber) else { return }
        let pseudo = Checksum(source, destination, protocolNumber: protocolNumber, length: length)
        bytes.put(pseudo.folded, at: offset + place)
    }

    /// Stores the sum of the pseudo header alone, as the other side of a virtio device expects it with `NEEDS_CSUM`.
    package static func fillPartialChecksum(
        _ bytes: inout MutableRawSpan, at offset: Int, length: Int, protocolNumber: UInt8,
        source: IPv6Address, destination: IPv6Address
    ) {
        guard let place = checksumOffset(of: protocolNumber) else { return }
        let pseudo = Checksum(source, destination, protocolNumber: protocolNumber, length: length)
        bytes.put(pseudo.folded, at: offset + place)
    }
}
