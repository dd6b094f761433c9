// SPDX-License-Identifier: Apache-2.0

/// An IPv6 address.
@usableFromInline package struct IPv6Address: Hashable, Sendable, Comparable {
    /// The first eight bytes, the first one highest.
    @usableFromInline package let high: UInt64
    /// The last eight bytes.
    @usableFromInline package let low: UInt64

    @inlinable @inline(__always)
    package init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    @inlinable package static var any: IPv6Address { IPv6Address(high: 0, low: 0) }
    @inlinable package static var loopback: IPv6Address { IPv6Address(high: 0, low: 1) }
    /// ff02::1
    @inlinable package static var allNodes: IPv6Address { IPv6Address(high: 0xFF02_0000_0000_0000, low: 1) }
    /// ff02::2
    @inlinable package static var allRouters: IPv6Address { IPv6Address(high: 0xFF02_0000_0000_0000, low: 2) }
    /// ff02::1:2, DHCPv6 servers and relays (RFC 8415 §7.1).
    @inlinable package static var allDHCPServers: IPv6Address {
        IPv6Address(high: 0xFF02_0000_0000_0000, low: 0x1_0002)
    }

    /// Where clouds have their metadata service beside 169.254.169.254: fd00:ec2::254 (EC2) and fd20:ce::254 (Google).
    package static let metadataServices = [
        IPv6Address(high: 0xFD00_0EC2_0000_0000, low: 0x254), IPv6Address(high: 0xFD20_00CE_0000_0000, low: 0x254),
    ]

    @inlinable package var isMulticast: Bool { high >> 56 == 0xFF }
    /// fe80::/10
    @inlinable package var isLinkLocal: Bool { high >> 54 == 0x3FA }
    @inlinable package var isUnspecified: Bool { high | low == 0 }
    @inlinable package var isLoopback: Bool { high == 0 && low == 1 }
    /// fc00::/7 (RFC 4193).
    @inlinable package var isUniqueLocal: Bool { high >> 57 == 0x7E }
    /// Its name is nobody's in the public DNS: an address of the link's, a unique local one, or one of the documentation's
    /// (RFC 6303 §4.3 to §4.6).
    package var isNamedLocally: Bool {
        isUnspecified || isLoopback || isLinkLocal || isUniqueLocal || high >> 32 == 0x2001_0DB8
    }
    /// The IPv4 address in ::ffff:0:0/96.
    package var mappedIPv4: IPv4Address? {
        high == 0 && low >> 32 == 0xFFFF ? IPv4Address(UInt32(truncatingIfNeeded: low)) : nil
    }
    /// A multicast of interface or link scope: no router forwards it (RFC 4291 §2.7).
    @inlinable package var isLinkScopedMulticast: Bool { isMulticast && high >> 48 & 0xF <= 2 }

    /// The address that a neighbour solicitation for this one goes to (RFC 4291 §2.7.1).
    package var solicitedNode: IPv6Address {
        IPv6Address(high: 0xFF02_0000_0000_0000, low: 0x1_FF00_0000 | low & 0xFF_FFFF)
    }

    /// The link-local address that a station makes of its Ethernet address.
    package init(linkLocal mac: MACAddress) {
        self.init(high: 0xFE80_0000_0000_0000, low: mac.modifiedEUI64)
    }

    @inlinable
    package static func == (one: IPv6Address, other: IPv6Address) -> Bool {
        one.high == other.high && one.low == other.low
    }

    @inlinable
    package static func < (one: IPv6Address, other: IPv6Address) -> Bool {
        one.high < other.high || one.high == other.high && one.low < other.low
    }

    /// Reads the forms of RFC 4291 §2.2, with an IPv4 address at the end too; no zone, no brackets.
    package init?(_ text: String) {
        guard let address = IPv6Address.parse(Array(text.utf8)) else { return nil }
        self = address
    }

    static func parse(_ text: [UInt8]) -> IPv6Address? {
        guard text.count >= 2, text.count <= 45 else { return nil }
        var groups: [UInt16] = []
        var gap: Int?
        var position = 0
        if text[0] == UInt8(ascii: ":") {
            guard text[1] == UInt8(ascii: ":") else { return nil }
            gap = 0
            position = 2
        }
        while position < text.count {
            guard groups.count < 8 else { return nil }
            var end = position
            var value: UInt32 = 0
            while end < text.count, let digit = hexadecimalDigit(text[end]) {
                guard end - position < 4 else { return nil }
                value = value << 4 | UInt32(digit)
                end += 1
            }
            if end < text.count, text[end] == UInt8(ascii: ".") {
                guard groups.count <= 6, let last = IPv4Address.parse(text[position...]) else { return nil }
                groups.append(UInt16(truncatingIfNeeded: last >> 16))
                groups.append(UInt16(truncatingIfNeeded: last))
                position = text.count
                break
            }
            guard end > position else { return nil }
            groups.append(UInt16(truncatingIfNeeded: value))
            position = end
            guard position < text.count else { break }
            guard text[position] == UInt8(ascii: ":"), position + 1 < text.count else { return nil }
            position += 1
            if text[position] == UInt8(ascii: ":") {
                guard gap == nil else { return nil }
                gap = groups.count
                position += 1
            }
        }
        if let gap {
            guard groups.count < 8 else { return nil }
            groups.insert(contentsOf: [UInt16](repeating: 0, count: 8 - groups.count), at: gap)
        }
        guard groups.count == 8 else { return nil }
        var high: UInt64 = 0
        var low: UInt64 = 0
        for index in 0..<4 {
            high = high << 16 | UInt64(groups[index])
            low = low << 16 | UInt64(groups[index + 4])
        }
        return IPv6Address(high: high, low: low)
    }
}

extension IPv6Address: CustomStringConvertible {
    /// The canonical form (RFC 5952).
    @usableFromInline package var description: String {
        if let mapped = mappedIPv4 { return "::ffff:\(mapped)" }
        let groups = (0..<8).map { index in
            UInt16(truncatingIfNeeded: (index < 4 ? high : low) >> UInt64(48 - index % 4 * 16))
        }
        // The longest run of zeros, of at least two, the first of equals.
        var best = 0..<0
        var start: Int?
        for index in 0...8 {
            if index < 8, groups[index] == 0 {
                if start == nil { start = index }
            } else if let begin = start {
                if index - begin > max(1, best.count) { best = begin..<index }
                start = nil
            }
        }
        var text = ""
        var index = 0
        while index < 8 {
            if !best.isEmpty, index == best.lowerBound {
                text += "::"
                index = best.upperBound
                continue
            }
            if !text.isEmpty, !text.utf8.elementsEqual("::".utf8), index != best.upperBound || best.isEmpty {
                text += ":"
            }
            text += String(groups[index], radix: 16)
            index += 1
        }
        return text
    }
}

/// A range of IPv6 addresses that share their first bits.
@usableFromInline package struct IPv6Prefix: Hashable, Sendable {
    /// The lowest address.
    @usableFromInline package let network: IPv6Address
    /// The number of bits shared, 0 to 128.
    @usableFromInline package let length: Int

    /// The range that an address lies in. A length beyond 128 counts as 128.
    package init(_ address: IPv6Address, length: Int) {
        self.length = max(0, min(length, 128))
        let mask = IPv6Prefix.mask(self.length)
        network = IPv6Address(high: address.high & mask.high, low: address.low & mask.low)
    }

    static func mask(_ length: Int) -> IPv6Address {
        IPv6Address(
            high: length == 0 ? 0 : ~0 << UInt64(max(0, 64 - length)),
            low: length <= 64 ? 0 : ~0 << UInt64(128 - length))
    }

    /// Whether machines may have its addresses beside those on their link: they are no group's, and not in ::/64.
    package var isForMachines: Bool { !network.isMulticast && !network.isLinkLocal && network.high != 0 }

    package func contains(_ address: IPv6Address) -> Bool {
        let mask = IPv6Prefix.mask(length)
        return (address.high ^ network.high) & mask.high | (address.low ^ network.low) & mask.low == 0
    }

    /// Reads `fd00::/64`; an address alone is a range of one.
    package init?(_ text: String) {
        let parts = text.utf8.split(separator: UInt8(ascii: "/"), maxSplits: 1, omittingEmptySubsequences: false)
        guard let first = parts.first, let address = IPv6Address.parse(Array(first)) else { return nil }
        guard parts.count == 2 else {
            self.init(address, length: 128)
            return
        }
        guard let length = prefixLength(parts[1], atMost: 128) else { return nil }
        self.init(address, length: length)
    }
}

extension IPv6Prefix: CustomStringConvertible {
    @usableFromInline package var description: String { "\(network)/\(length)" }
}

/// An address of either version.
@usableFromInline package enum IPAddress: Hashable, Sendable, CustomStringConvertible {
    case v4(IPv4Address)
    case v6(IPv6Address)

    package init?(_ text: String) {
        if let address = IPv4Address(text) {
            self = .v4(address)
        } else if let address = IPv6Address(text) {
            self = .v6(address)
        } else {
            return nil
        }
    }

    /// Its name is nobody's in the public DNS.
    package var isNamedLocally: Bool {
        switch self {
        case .v4(let address): address.isNamedLocally
        case .v6(let address): address.isNamedLocally
        }
    }

    @usableFromInline package var description: String {
        switch self {
        case .v4(let address): address.description
        case .v6(let address): address.description
        }
    }
}

extension RawSpan {
    @inlinable @inline(__always)
    package func ipv6(_ offset: Int) -> IPv6Address { IPv6Address(high: u64(offset), low: u64(offset + 8)) }
}

extension MutableRawSpan {
    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    package mutating func put(_ address: IPv6Address, at offset: Int) {
        put(address.high, at: offset)
        put(address.low, at: offset + 8)
    }
}
