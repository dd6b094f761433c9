// SPDX-License-Identifier: Apache-2.0

/// Kinds of options in messages of neighbour discovery (RFC 4861 §4.6, RFC 8106).
package enum NDPOptionKind {
    package static let sourceMAC: UInt8 = 1
    package static let targetMAC: UInt8 = 2
    package static let prefix: UInt8 = 3
    package static let mtu: UInt8 = 5
    package static let nameServers: UInt8 = 25
    package static let searchDomains: UInt8 = 31
}

/// A message of neighbour discovery (RFC 4861): its fixed part is whole and every option's length is possible.
package struct NDPView: ~Escapable {
    package let bytes: RawSpan
    private let optionsOffset: Int

    /// - Parameter bytes: the ICMPv6 message. Nil for other types, and where §6.1 or §7.1 say to discard it.
    @_lifetime(copy bytes)
    package init?(_ bytes: RawSpan) {
        guard bytes.byteCount >= 8, bytes.byte(1) == 0 else { return nil }
        switch bytes.byte(0) {
        case ICMPv6Type.routerSolicitation: optionsOffset = 8
        case ICMPv6Type.routerAdvertisement: optionsOffset = 16
        case ICMPv6Type.neighborSolicitation, ICMPv6Type.neighborAdvertisement: optionsOffset = 24
        case ICMPv6Type.redirect: optionsOffset = 40
        default: return nil
        }
        guard bytes.byteCount >= optionsOffset else { return nil }
        var position = optionsOffset
        while position < bytes.byteCount {
            guard bytes.byteCount - position >= 8 else { return nil }
            let length = Int(bytes.byte(position + 1)) * 8
            guard length > 0, length <= bytes.byteCount - position else { return nil }
            position += length
        }
        self.bytes = bytes
    }

    package var type: UInt8 { bytes.byte(0) }
    /// Of a solicitation or an advertisement of a neighbour.
    package var target: IPv6Address? {
        optionsOffset == 24 ? bytes.ipv6(8) : nil
    }

    /// The value of the first option of this kind: what follows kind and length.
    @_lifetime(copy self)
    package func option(_ kind: UInt8) -> RawSpan? {
        var position = optionsOffset
        while position < bytes.byteCount {
            let length = Int(bytes.byte(position + 1)) * 8
            if bytes.byte(position) == kind { return bytes.slice(position + 2, length - 2) }
            position += length
        }
        return nil
    }

    /// The Ethernet address in an option.
    package func mac(_ kind: UInt8) -> MACAddress? { option(kind)?.mac(0) }
}

/// An answer to who has an address, to be written.
package struct NeighborAdvertisement: Equatable, Sendable {
    package static let length = 32
    package var target: IPv6Address
    package var mac: MACAddress
    package var isRouter = false
    package var isSolicited = true
    package var overrides = true

    package init(target: IPv6Address, mac: MACAddress) {
        self.target = target
        self.mac = mac
    }

    /// Writes the 32 bytes, with the option for the target's Ethernet address; the checksum is left zero.
    package func write(to bytes: inout MutableRawSpan, at offset: Int) {
        let flags: UInt32 = (isRouter ? 1 << 31 : 0) | (isSolicited ? 1 << 30 : 0) | (overrides ? 1 << 29 : 0)
        ICMPMessage(type: ICMPv6Type.neighborAdvertisement, code: 0, parameter: flags).write(to: &bytes, at: offset)
        bytes.put(target, at: offset + 8)
        bytes.put(NDPOptionKind.targetMAC, at: offset + 24)
        bytes.put(1 as UInt8, at: offset + 25)
        bytes.put(mac, at: offset + 26)
    }
}

/// A question who has an address, to be written.
package struct NeighborSolicitation: Equatable, Sendable {
    package static let length = 32
    package var target: IPv6Address
    package var mac: MACAddress

    package init(target: IPv6Address, mac: MACAddress) {
        self.target = target
        self.mac = mac
    }

    /// Writes the 32 bytes; the checksum is left zero.
    package func write(to bytes: inout MutableRawSpan, at offset: Int) {
        ICMPMessage(type: ICMPv6Type.neighborSolicitation, code: 0).write(to: &bytes, at: offset)
        bytes.put(target, at: offset + 8)
        bytes.put(NDPOptionKind.sourceMAC, at: offset + 24)
        bytes.put(1 as UInt8, at: offset + 25)
        bytes.put(mac, at: offset + 26)
    }
}

/// What a router says of a link (RFC 4861 §4.2), to be written.
package struct RouterAdvertisement: Equatable, Sendable {
    package var hopLimit: UInt8 = 64
    /// Addresses are to be had by DHCPv6.
    package var isManaged = false
    /// Other settings are to be had by DHCPv6.
    package var hasOther = false
    /// In seconds; 0 says that this is no default router.
    package var lifetime: UInt16 = 1800
    package var mac: MACAddress
    package var mtu: UInt32?
    package var prefix: IPv6Prefix?
    /// Stations make their addresses of the prefix themselves.
    package var isAutonomous = true
    /// In seconds.
    package var prefixLifetime: UInt32 = 86_400
    package var nameServers: [IPv6Address] = []
    package var searchDomains: [DNSName] = []

    package init(mac: MACAddress) { self.mac = mac }

    /// Writes the message; the checksum is left zero.
    package func write(to bytes: inout MutableRawSpan, at cursor: inout OutputCursor) {
        cursor.put(ICMPv6Type.routerAdvertisement, to: &bytes)
        cursor.putZeros(3, to: &bytes)
        cursor.put(hopLimit, to: &bytes)
        cursor.put((isManaged ? 0x80 : 0) | (hasOther ? 0x40 : 0) as UInt8, to: &bytes)
        cursor.put(lifetime, to: &bytes)
        cursor.putZeros(8, to: &bytes)
        cursor.put(UInt16(NDPOptionKind.sourceMAC) << 8 | 1, to: &bytes)
        cursor.put(mac, to: &bytes)
        if let mtu {
            cursor.put(UInt32(NDPOptionKind.mtu) << 24 | 1 << 16, to: &bytes)
            cursor.put(mtu, to: &bytes)
        }
        if let prefix {
            cursor.put(UInt16(NDPOptionKind.prefix) << 8 | 4, to: &bytes)
            cursor.put(UInt8(prefix.length), to: &bytes)
            cursor.put(0x80 | (isAutonomous ? 0x40 : 0) as UInt8, to: &bytes)
            cursor.put(prefixLifetime, to: &bytes)
            cursor.put(prefixLifetime, to: &bytes)
            cursor.putZeros(4, to: &bytes)
            cursor.put(prefix.network, to: &bytes)
        }
        if !nameServers.isEmpty {
            let servers = nameServers.prefix(8)
            cursor.put(UInt16(NDPOptionKind.nameServers) << 8 | UInt16(1 + servers.count * 2), to: &bytes)
            cursor.putZeros(2, to: &bytes)
            cursor.put(prefixLifetime, to: &bytes)
            for server in servers { cursor.put(server, to: &bytes) }
        }
        if !searchDomains.isEmpty {
            let start = cursor.position
            cursor.put(UInt16(NDPOptionKind.searchDomains) << 8, to: &bytes)
            cursor.putZeros(2, to: &bytes)
            cursor.put(prefixLifetime, to: &bytes)
            for domain in searchDomains.prefix(6) { domain.write(to: &bytes, at: &cursor) }
            cursor.putZeros((8 - (cursor.position - start) % 8) % 8, to: &bytes)
            if !cursor.overflowed { bytes.put(UInt8(truncatingIfNeeded: (cursor.position - start) / 8), at: start + 1) }
        }
    }
}
