// SPDX-License-Identifier: Apache-2.0

/// Numbers of protocols above IP, and of IPv6's extension headers (IANA).
@usableFromInline package enum IPProtocol {
    @inlinable package static var hopByHop: UInt8 { 0 }
    @inlinable package static var icmp: UInt8 { 1 }
    @inlinable package static var tcp: UInt8 { 6 }
    @inlinable package static var udp: UInt8 { 17 }
    @inlinable package static var routing: UInt8 { 43 }
    @inlinable package static var fragment: UInt8 { 44 }
    @inlinable package static var encapsulation: UInt8 { 50 }
    @inlinable package static var authentication: UInt8 { 51 }
    @inlinable package static var icmpv6: UInt8 { 58 }
    @inlinable package static var none: UInt8 { 59 }
    @inlinable package static var destinationOptions: UInt8 { 60 }
}

/// An IPv4 packet (RFC 791): its header is whole, its lengths agree. The checksum is not looked at.
@usableFromInline package struct IPv4View: ~Escapable {
    /// The packet without what Ethernet filled it up with.
    @usableFromInline package let bytes: RawSpan
    /// 20 to 60.
    @usableFromInline package let headerLength: Int

    @inlinable
    @_lifetime(copy bytes)
    package init?(_ bytes: RawSpan) {
        guard bytes.byteCount >= IPv4Header.length else { return nil }
        let first = bytes.byte(0)
        let headerLength = Int(first & 15) * 4
        let totalLength = Int(bytes.u16(2))
        guard first >> 4 == 4, headerLength >= IPv4Header.length, headerLength <= totalLength,
            totalLength <= bytes.byteCount
        else { return nil }
        self.bytes = bytes.slice(0, totalLength)
        self.headerLength = headerLength
    }

    /// The packet that an ICMP error quotes: the header is whole, the payload may be cut short.
    @_lifetime(copy quoted)
    package init?(quoted: RawSpan) {
        guard quoted.byteCount >= IPv4Header.length else { return nil }
        let headerLength = Int(quoted.byte(0) & 15) * 4
        guard quoted.byte(0) >> 4 == 4, headerLength >= IPv4Header.length, headerLength <= quoted.byteCount else {
            return nil
        }
        bytes = quoted
        self.headerLength = headerLength
    }

    /// The type of service: DSCP and ECN.
    @inlinable package var serviceType: UInt8 { bytes.byte(1) }
    @inlinable package var identification: UInt16 { bytes.u16(4) }
    @inlinable package var dontFragment: Bool { bytes.byte(6) & 0x40 != 0 }
    @inlinable package var moreFragments: Bool { bytes.byte(6) & 0x20 != 0 }
    /// In bytes.
    @inlinable package var fragmentOffset: Int { Int(bytes.u16(6) & 0x1FFF) * 8 }
    @inlinable package var isFragment: Bool { bytes.u16(6) & 0x3FFF != 0 }
    @inlinable package var timeToLive: UInt8 { bytes.byte(8) }
    @inlinable package var protocolNumber: UInt8 { bytes.byte(9) }
    @inlinable package var source: IPv4Address { bytes.ipv4(12) }
    @inlinable package var destination: IPv4Address { bytes.ipv4(16) }
    @inlinable package var header: RawSpan { @_lifetime(copy self) get { bytes.slice(0, headerLength) } }
    @inlinable package var payload: RawSpan { @_lifetime(copy self) get { bytes.dropping(headerLength) } }
    package var checksumIsValid: Bool { Checksum.of(header) == 0 }

    /// The options, one after the other; they end where one has an impossible length.
    package var options: IPv4Options {
        @_lifetime(copy self) get { IPv4Options(bytes.slice(IPv4Header.length, headerLength - IPv4Header.length)) }
    }

    /// Whether an option lets the sender choose the way (RFC 791 §3.1): such packets are refused everywhere today.
    package var hasSourceRoute: Bool {
        guard headerLength > IPv4Header.length else { return false }
        var options = options
        while let option = options.next() {
            if option.kind == 131 || option.kind == 137 { return true }
        }
        return false
    }

    /// The sum over the pseudo header and the payload is right (RFC 768, 9293).
    package var payloadChecksumIsValid: Bool {
        var checksum = Checksum(source, destination, protocolNumber: protocolNumber, length: payload.byteCount)
        checksum.add(payload)
        return checksum.value == 0
    }
}

/// One option of an IPv4 or TCP header.
@usableFromInline package struct HeaderOption: ~Escapable {
    @usableFromInline package let kind: UInt8
    /// What follows kind and length.
    @usableFromInline package let value: RawSpan

    @_lifetime(copy value)
    init(kind: UInt8, value: RawSpan) {
        self.kind = kind
        self.value = value
    }
}

/// Options of kind, length, value, as IPv4 and TCP have them; those of kind 0 and 1 are single bytes, end and filling.
@usableFromInline package struct IPv4Options: ~Escapable {
    var rest: RawSpan

    @_lifetime(copy bytes)
    package init(_ bytes: RawSpan) { rest = bytes }

    @_lifetime(copy self)
    @_lifetime(self: copy self)
    package mutating func next() -> HeaderOption? {
        while rest.byteCount > 0 {
            let kind = rest.byte(0)
            guard kind != 0 else { break }
            if kind == 1 {
                rest = rest.dropping(1)
                continue
            }
            guard rest.byteCount >= 2 else { break }
            let length = Int(rest.byte(1))
            guard length >= 2, length <= rest.byteCount else { break }
            let option = HeaderOption(kind: kind, value: rest.slice(2, length - 2))
            rest = rest.dropping(length)
            return option
        }
        rest = rest.slice(0, 0)
        return nil
    }
}

/// An IPv4 header without options to be written.
@usableFromInline package struct IPv4Header: Equatable, Sendable {
    @inlinable package static var length: Int { 20 }
    @usableFromInline package var serviceType: UInt8 = 0
    @usableFromInline package var identification: UInt16 = 0
    @usableFromInline package var dontFragment = true
    @usableFromInline package var moreFragments = false
    /// In bytes, a multiple of 8.
    @usableFromInline package var fragmentOffset = 0
    @usableFromInline package var timeToLive: UInt8 = 64
    @usableFromInline package var protocolNumber: UInt8
    @usableFromInline package var source: IPv4Address
    @usableFromInline package var destination: IPv4Address
    /// The bytes after the header, at most 65,515.
    @usableFromInline package var payloadLength: Int

    package init(protocolNumber: UInt8, source: IPv4Address, destination: IPv4Address, payloadLength: Int) {
        self.protocolNumber = protocolNumber
        self.source = source
        self.destination = destination
        self.payloadLength = payloadLength
    }

    /// Writes the 20 bytes, checksum included.
    package func write(to bytes: inout MutableRawSpan, at offset: Int) {
        bytes.put(0x45 as UInt8, at: offset)
        bytes.put(serviceType, at: offset + 1)
        bytes.put(UInt16(truncatingIfNeeded: IPv4Header.length + payloadLength), at: offset + 2)
        bytes.put(identification, at: offset + 4)
        bytes.put(
            UInt16(truncatingIfNeeded: fragmentOffset / 8) | (dontFragment ? 0x4000 : 0)
                | (moreFragments ? 0x2000 : 0), at: offset + 6)
        bytes.put(timeToLive, at: offset + 8)
        bytes.put(protocolNumber, at: offset + 9)
        bytes.put(0 as UInt16, at: offset + 10)
        bytes.put(source, at: offset + 12)
        bytes.put(destination, at: offset + 16)
        bytes.put(Checksum.of(bytes.bytes.slice(offset, IPv4Header.length)), at: offset + 10)
    }

    /// Takes one from the time to live of the header at an offset, and mends its checksum.
    package static func decrementTimeToLive(_ bytes: inout MutableRawSpan, at offset: Int) {
        let old = bytes.bytes.u16(offset + 8)
        let new = old &- 0x0100
        let checksum = bytes.bytes.u16(offset + 10)
        bytes.put(new, at: offset + 8)
        bytes.put(Checksum.adjust(checksum, from: old, to: new), at: offset + 10)
    }
}
