// SPDX-License-Identifier: Apache-2.0

/// An Ethernet address (IEEE 802).
@usableFromInline package struct MACAddress: Hashable, Sendable {
    /// The six bytes, the first one highest; the upper 16 bits are zero.
    @usableFromInline package let value: UInt64

    @inlinable @inline(__always)
    package init(_ value: UInt64) { self.value = value & 0xFFFF_FFFF_FFFF }

    /// All stations.
    @inlinable package static var broadcast: MACAddress { MACAddress(0xFFFF_FFFF_FFFF) }
    @inlinable package static var zero: MACAddress { MACAddress(0) }

    /// Broadcast included.
    @inlinable package var isMulticast: Bool { value & 0x0100_0000_0000 != 0 }
    @inlinable
    package static func == (one: MACAddress, other: MACAddress) -> Bool { one.value == other.value }

    /// Not given out by a manufacturer.
    @inlinable package var isLocal: Bool { value & 0x0200_0000_0000 != 0 }

    /// A unicast, locally administered address made of 46 bits.
    package init(local bits: UInt64) {
        value = (bits & 0xFCFF_FFFF_FFFF) | 0x0200_0000_0000
    }

    /// Where an IPv4 multicast goes (RFC 1112 §6.4).
    package init(multicast address: IPv4Address) {
        value = 0x0100_5E00_0000 | UInt64(address.value & 0x7F_FFFF)
    }

    /// Where an IPv6 multicast goes (RFC 2464 §7).
    package init(multicast address: IPv6Address) {
        value = 0x3333_0000_0000 | (address.low & 0xFFFF_FFFF)
    }

    /// The lower half of an IPv6 address that is made from this one (RFC 4291 appendix A).
    package var modifiedEUI64: UInt64 {
        ((value & 0xFFFF_FF00_0000) << 16 | 0xFF_FE00_0000 | value & 0xFF_FFFF) ^ 0x0200_0000_0000_0000
    }

    /// Reads `02:00:00:00:00:01`.
    package init?(_ text: String) {
        var value: UInt64 = 0
        var digits = 0
        var groups = 1
        for byte in text.utf8 {
            if byte == UInt8(ascii: ":") || byte == UInt8(ascii: "-") {
                guard digits == 2, groups < 6 else { return nil }
                groups += 1
                digits = 0
            } else {
                guard let digit = hexadecimalDigit(byte), digits < 2 else { return nil }
                value = value << 4 | UInt64(digit)
                digits += 1
            }
        }
        guard groups == 6, digits == 2 else { return nil }
        self.value = value
    }
}

extension MACAddress: CustomStringConvertible {
    @usableFromInline package var description: String {
        var text: [UInt8] = []
        for shift in stride(from: 40, through: 0, by: -8) {
            if shift < 40 { text.append(UInt8(ascii: ":")) }
            let byte = UInt8(truncatingIfNeeded: value >> UInt64(shift))
            text.append(hexadecimalCharacter(byte >> 4))
            text.append(hexadecimalCharacter(byte & 15))
        }
        return String(decoding: text, as: UTF8.self)
    }
}

extension RawSpan {
    @inlinable @inline(__always)
    package func mac(_ offset: Int) -> MACAddress {
        MACAddress(UInt64(u32(offset)) << 16 | UInt64(u16(offset + 4)))
    }
}

extension MutableRawSpan {
    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    package mutating func put(_ address: MACAddress, at offset: Int) {
        put(UInt32(truncatingIfNeeded: address.value >> 16), at: offset)
        put(UInt16(truncatingIfNeeded: address.value), at: offset + 4)
    }
}

/// The value of an ASCII hexadecimal digit.
func hexadecimalDigit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
    default: nil
    }
}

/// The lowercase hexadecimal digit of a value below 16.
func hexadecimalCharacter(_ value: UInt8) -> UInt8 {
    value < 10 ? UInt8(ascii: "0") + value : UInt8(ascii: "a") + value - 10
}
