// SPDX-License-Identifier: Apache-2.0

/// Types of ICMP messages (RFC 792).
@usableFromInline package enum ICMPType {
    @inlinable package static var echoReply: UInt8 { 0 }
    @inlinable package static var unreachable: UInt8 { 3 }
    @inlinable package static var redirect: UInt8 { 5 }
    @inlinable package static var echoRequest: UInt8 { 8 }
    @inlinable package static var timeExceeded: UInt8 { 11 }
    @inlinable package static var parameterProblem: UInt8 { 12 }
}

/// Codes of ICMP's unreachable (RFC 792, RFC 1812 §5.2.7.1).
@usableFromInline package enum ICMPUnreachable {
    @inlinable package static var network: UInt8 { 0 }
    @inlinable package static var host: UInt8 { 1 }
    @inlinable package static var protocolNumber: UInt8 { 2 }
    @inlinable package static var port: UInt8 { 3 }
    @inlinable package static var fragmentationNeeded: UInt8 { 4 }
    @inlinable package static var prohibited: UInt8 { 13 }
}

/// Types of ICMPv6 messages (RFC 4443, 4861).
@usableFromInline package enum ICMPv6Type {
    @inlinable package static var unreachable: UInt8 { 1 }
    @inlinable package static var packetTooBig: UInt8 { 2 }
    @inlinable package static var timeExceeded: UInt8 { 3 }
    @inlinable package static var parameterProblem: UInt8 { 4 }
    @inlinable package static var echoRequest: UInt8 { 128 }
    @inlinable package static var echoReply: UInt8 { 129 }
    @inlinable package static var routerSolicitation: UInt8 { 133 }
    @inlinable package static var routerAdvertisement: UInt8 { 134 }
    @inlinable package static var neighborSolicitation: UInt8 { 135 }
    @inlinable package static var neighborAdvertisement: UInt8 { 136 }
    @inlinable package static var redirect: UInt8 { 137 }
}

/// Codes of ICMPv6's unreachable (RFC 4443 §3.1).
@usableFromInline package enum ICMPv6Unreachable {
    @inlinable package static var noRoute: UInt8 { 0 }
    @inlinable package static var prohibited: UInt8 { 1 }
    @inlinable package static var address: UInt8 { 3 }
    @inlinable package static var port: UInt8 { 4 }
}

/// An ICMP or ICMPv6 message: the first eight bytes are there. The checksum is not looked at.
@usableFromInline package struct ICMPView: ~Escapable {
    package let bytes: RawSpan

    @_lifetime(copy bytes)
    package init?(_ bytes: RawSpan) {
        guard bytes.byteCount >= ICMPMessage.headerLength else { return nil }
        self.bytes = bytes
    }

    package var type: UInt8 { bytes.byte(0) }
    package var code: UInt8 { bytes.byte(1) }
    package var checksum: UInt16 { bytes.u16(2) }
    /// Of an echo.
    package var identifier: UInt16 { bytes.u16(4) }
    /// Of an echo.
    package var sequence: UInt16 { bytes.u16(6) }
    /// The second four bytes, whatever they mean.
    package var parameter: UInt32 { bytes.u32(4) }
    /// What follows the eight bytes: an echo's data, the packet that an error is about.
    package var payload: RawSpan { @_lifetime(copy self) get { bytes.dropping(ICMPMessage.headerLength) } }
    /// Over an ICMP message; ICMPv6's needs the pseudo header.
    package var checksumIsValid: Bool { Checksum.of(bytes) == 0 }
}

/// The first eight bytes of an ICMP or ICMPv6 message to be written.
@usableFromInline package struct ICMPMessage: Equatable, Sendable {
    @inlinable package static var headerLength: Int { 8 }
    package var type: UInt8
    package var code: UInt8
    /// The second four bytes: identifier and sequence number, the MTU, zero.
    package var parameter: UInt32

    package init(type: UInt8, code: UInt8, parameter: UInt32 = 0) {
        self.type = type
        self.code = code
        self.parameter = parameter
    }

    /// An echo (RFC 792, RFC 4443 §4).
    package init(type: UInt8, identifier: UInt16, sequence: UInt16) {
        self.init(type: type, code: 0, parameter: UInt32(identifier) << 16 | UInt32(sequence))
    }

    /// Writes the 8 bytes; the checksum is left zero.
    package func write(to bytes: inout MutableRawSpan, at offset: Int) {
        bytes.put(type, at: offset)
        bytes.put(code, at: offset + 1)
        bytes.put(0 as UInt16, at: offset + 2)
        bytes.put(parameter, at: offset + 4)
    }

    /// Computes and stores the checksum of an ICMP message; for ICMPv6 there is `Transport.fillChecksum`.
    package static func fillChecksum(_ bytes: inout MutableRawSpan, at offset: Int, length: Int) {
        bytes.put(0 as UInt16, at: offset + 2)
        bytes.put(Checksum.of(bytes.bytes.slice(offset, length)), at: offset + 2)
    }

    /// Whether an ICMP message reports an error: none is ever sent about such a one (RFC 1122 §3.2.2).
    package static func isError(_ type: UInt8) -> Bool {
        type == ICMPType.unreachable || type == ICMPType.redirect || type == ICMPType.timeExceeded
            || type == ICMPType.parameterProblem || type == 4
    }

    /// Whether an ICMPv6 message reports an error (RFC 4443 §2.1), or redirects.
    package static func isErrorV6(_ type: UInt8) -> Bool { type < 128 || type == ICMPv6Type.redirect }
}
