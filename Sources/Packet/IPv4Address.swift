// SPDX-License-Identifier: Apache-2.0

/// An IPv4 address.
@usableFromInline package struct IPv4Address: Hashable, Sendable, Comparable {
    /// The four bytes, the first one highest.
    @usableFromInline package let value: UInt32

    @inlinable @inline(__always)
    package init(_ value: UInt32) { self.value = value }

    @inlinable
    package init(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8) {
        value = UInt32(a) << 24 | UInt32(b) << 16 | UInt32(c) << 8 | UInt32(d)
    }

    @inlinable package static var any: IPv4Address { IPv4Address(0) }
    @inlinable package static var broadcast: IPv4Address { IPv4Address(0xFFFF_FFFF) }
    @inlinable package static var loopback: IPv4Address { IPv4Address(127, 0, 0, 1) }

    @inlinable package var isMulticast: Bool { value >> 28 == 0xE }
    @inlinable package var isLoopback: Bool { value >> 24 == 127 }
    /// 169.254.0.0/16 (RFC 3927).
    @inlinable package var isLinkLocal: Bool { value >> 16 == 0xA9FE }
    /// Its name is nobody's in the public DNS: a private address, one that providers share, or one of the documentation's
    /// (RFC 6303 §4.1 and §4.2, RFC 7793).
    package var isNamedLocally: Bool {
        switch (value >> 24, value >> 16 & 255, value >> 8 & 255) {
        case (10, _, _), (172, 16...31, _), (192, 168, _), (100, 64...127, _), (0, _, _), (127, _, _), (169, 254, _),
            (192, 0, 2), (198, 51, 100), (203, 0, 113):
            true
        default: false
        }
    }
    /// Could be a station's: none of 0.0.0.0/8, loopback, multicast and above.
    @inlinable package var isUsableSource: Bool { value >> 24 != 0 && value >> 24 != 127 && value >> 28 < 0xE }

    @inlinable
    package static func == (one: IPv4Address, other: IPv4Address) -> Bool { one.value == other.value }

    @inlinable
    package static func < (one: IPv4Address, other: IPv4Address) -> Bool { one.value < other.value }

    /// Reads `10.0.0.1`: four decimal numbers without leading zeros.
    package init?(_ text: String) {
        guard let value = IPv4Address.parse(text.utf8) else { return nil }
        self.value = value
    }

    static func parse(_ text: some Sequence<UInt8>) -> UInt32? {
        var value: UInt32 = 0
        var part: UInt32 = 0
        var digits = 0
        var dots = 0
        for byte in text {
            if byte == UInt8(ascii: ".") {
                guard digits > 0, dots < 3 else { return nil }
                value = value << 8 | part
                (part, digits, dots) = (0, 0, dots + 1)
            } else {
                guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9"), !(digits > 0 && part == 0) else {
                    return nil
                }
                part = part * 10 + UInt32(byte - UInt8(ascii: "0"))
                digits += 1
                guard part <= 255 else { return nil }
            }
        }
        guard dots == 3, digits > 0 else { return nil }
        return value << 8 | part
    }
}

extension IPv4Address: CustomStringConvertible {
    @usableFromInline package var description: String {
        "\(value >> 24).\(value >> 16 & 255).\(value >> 8 & 255).\(value & 255)"
    }
}

/// A range of IPv4 addresses that share their first bits.
@usableFromInline package struct IPv4Prefix: Hashable, Sendable {
    /// The lowest address.
    @usableFromInline package let network: IPv4Address
    /// The number of bits shared, 0 to 32.
    @usableFromInline package let length: Int

    /// The range that an address lies in. A length beyond 32 counts as 32.
    package init(_ address: IPv4Address, length: Int) {
        self.length = max(0, min(length, 32))
        network = IPv4Address(address.value & IPv4Prefix.mask(self.length))
    }

    @usableFromInline static func mask(_ length: Int) -> UInt32 { length == 0 ? 0 : ~0 << UInt32(32 - length) }

    @inlinable package var mask: IPv4Address { IPv4Address(IPv4Prefix.mask(length)) }
    /// The highest address.
    @inlinable package var broadcast: IPv4Address { IPv4Address(network.value | ~IPv4Prefix.mask(length)) }

    @inlinable
    package func contains(_ address: IPv4Address) -> Bool {
        length == 0 || (address.value ^ network.value) >> UInt32(32 - length) == 0
    }

    /// Whether machines may have its addresses, by where it begins: they are no loopback, no group's, and not reserved.
    package var isForMachines: Bool {
        let first = network.value >> 24
        return first != 0 && first != 127 && first < 0xE0
    }

    /// Whether the two have an address in common.
    package func overlaps(_ other: IPv4Prefix) -> Bool {
        length <= other.length ? contains(other.network) : other.contains(network)
    }

    /// Reads `10.0.0.0/24`; an address alone is a range of one.
    package init?(_ text: String) {
        let parts = text.utf8.split(separator: UInt8(ascii: "/"), maxSplits: 1, omittingEmptySubsequences: false)
        guard let first = parts.first, let value = IPv4Address.parse(first) else { return nil }
        guard parts.count == 2 else {
            self.init(IPv4Address(value), length: 32)
            return
        }
        guard let length = prefixLength(parts[1], atMost: 32) else { return nil }
        self.init(IPv4Address(value), length: length)
    }
}

extension IPv4Prefix: CustomStringConvertible {
    @usableFromInline package var description: String { "\(network)/\(length)" }
}

func prefixLength(_ text: some Collection<UInt8>, atMost limit: Int) -> Int? {
    guard !text.isEmpty, text.count <= 3 else { return nil }
    var length = 0
    for byte in text {
        guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") else { return nil }
        length = length * 10 + Int(byte - UInt8(ascii: "0"))
    }
    return length <= limit ? length : nil
}

extension RawSpan {
    @inlinable @inline(__always)
    package func ipv4(_ offset: Int) -> IPv4Address { IPv4Address(u32(offset)) }
}

extension MutableRawSpan {
    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    package mutating func put(_ address: IPv4Address, at offset: Int) { put(address.value, at: offset) }
}
