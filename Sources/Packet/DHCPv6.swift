// SPDX-License-Identifier: Apache-2.0

/// Kinds of DHCPv6 messages (RFC 8415 §7.3).
package enum DHCPv6Kind {
    package static let solicit: UInt8 = 1
    package static let advertise: UInt8 = 2
    package static let request: UInt8 = 3
    package static let confirm: UInt8 = 4
    package static let renew: UInt8 = 5
    package static let rebind: UInt8 = 6
    package static let reply: UInt8 = 7
    package static let release: UInt8 = 8
    package static let decline: UInt8 = 9
    package static let informationRequest: UInt8 = 11
}

/// Numbers of DHCPv6 options (RFC 8415 §21, RFC 3646).
package enum DHCPv6OptionCode {
    package static let client: UInt16 = 1
    package static let server: UInt16 = 2
    package static let association: UInt16 = 3
    package static let address: UInt16 = 5
    package static let status: UInt16 = 13
    package static let rapidCommit: UInt16 = 14
    package static let nameServers: UInt16 = 23
    package static let searchDomains: UInt16 = 24
}

/// A client's DHCPv6 message: kind and transaction are there.
package struct DHCPv6View: ~Escapable {
    package let bytes: RawSpan

    @_lifetime(copy bytes)
    package init?(_ bytes: RawSpan) {
        guard bytes.byteCount >= 4 else { return nil }
        self.bytes = bytes
    }

    package var kind: UInt8 { bytes.byte(0) }
    /// 24 bits.
    package var transaction: UInt32 { bytes.u32(0) & 0xFF_FFFF }

    /// The value of an option; of several with the same number the first.
    @_lifetime(copy self)
    package func option(_ code: UInt16) -> RawSpan? {
        var position = 4
        while bytes.byteCount - position >= 4 {
            let length = Int(bytes.u16(position + 2))
            guard length <= bytes.byteCount - position - 4 else { return nil }
            if bytes.u16(position) == code { return bytes.slice(position + 4, length) }
            position += 4 + length
        }
        return nil
    }

    /// The client's name for what it wants an address for (IAID).
    package var association: UInt32? {
        guard let value = option(DHCPv6OptionCode.association), value.byteCount >= 12 else { return nil }
        return value.u32(0)
    }

    /// The first address that the client names in what it wants an address for.
    package var associationAddress: IPv6Address? {
        guard let value = option(DHCPv6OptionCode.association), value.byteCount >= 12 + 28,
            value.u16(12) == DHCPv6OptionCode.address, value.u16(14) >= 24
        else { return nil }
        return value.ipv6(16)
    }
}

/// A DHCPv6 server's answer, to be written.
package struct DHCPv6Reply: Equatable, Sendable {
    package var kind: UInt8
    /// 24 bits.
    package var transaction: UInt32
    /// The client's identifier, as it said it; at most 130 bytes (RFC 8415 §11.1).
    package var client: [UInt8]
    /// The server's Ethernet address, of which its identifier is made (DUID-LL).
    package var serverMAC: MACAddress
    package var association: UInt32?
    package var address: IPv6Address?
    /// Says that there is no address (status 2) where the client wanted one, or another status.
    package var status: UInt16?
    package var isRapid = false
    /// In seconds.
    package var lifetime: UInt32 = 86_400
    package var nameServers: [IPv6Address] = []
    package var searchDomains: [DNSName] = []

    package init(kind: UInt8, transaction: UInt32, client: [UInt8], serverMAC: MACAddress) {
        self.kind = kind
        self.transaction = transaction
        self.client = client
        self.serverMAC = serverMAC
    }

    /// The identifier that the server goes by.
    package static func serverIdentifier(_ mac: MACAddress) -> [UInt8] {
        [0, 3, 0, 1] + (0..<6).map { UInt8(truncatingIfNeeded: mac.value >> UInt64(40 - $0 * 8)) }
    }

    /// Writes the message.
    package func write(to bytes: inout MutableRawSpan, at cursor: inout OutputCursor) {
        cursor.put(UInt32(kind) << 24 | transaction & 0xFF_FFFF, to: &bytes)
        option(DHCPv6OptionCode.client, client, &bytes, &cursor)
        option(DHCPv6OptionCode.server, DHCPv6Reply.serverIdentifier(serverMAC), &bytes, &cursor)
        if isRapid { option(DHCPv6OptionCode.rapidCommit, [], &bytes, &cursor) }
        if let association {
            cursor.put(DHCPv6OptionCode.association, to: &bytes)
            cursor.put(UInt16(address == nil ? 12 + 6 : 12 + 28), to: &bytes)
            cursor.put(association, to: &bytes)
            cursor.put(lifetime / 2, to: &bytes)
            cursor.put(lifetime / 5 * 4, to: &bytes)
            if let address {
                cursor.put(DHCPv6OptionCode.address, to: &bytes)
                cursor.put(24 as UInt16, to: &bytes)
                cursor.put(address, to: &bytes)
                cursor.put(lifetime, to: &bytes)
                cursor.put(lifetime, to: &bytes)
            } else {
                option(DHCPv6OptionCode.status, [0, 2], &bytes, &cursor)
            }
        }
        if let status { option(DHCPv6OptionCode.status, [UInt8(status >> 8), UInt8(status & 255)], &bytes, &cursor) }
        if !nameServers.isEmpty {
            let servers = nameServers.prefix(8)
            cursor.put(DHCPv6OptionCode.nameServers, to: &bytes)
            cursor.put(UInt16(servers.count * 16), to: &bytes)
            for server in servers { cursor.put(server, to: &bytes) }
        }
        if !searchDomains.isEmpty {
            option(DHCPv6OptionCode.searchDomains, searchDomains.prefix(6).flatMap(\.array), &bytes, &cursor)
        }
    }

    private func option(
        _ code: UInt16, _ value: [UInt8], _ bytes: inout MutableRawSpan, _ cursor: inout OutputCursor
    ) {
        cursor.put(code, to: &bytes)
        cursor.put(UInt16(truncatingIfNeeded: value.count), to: &bytes)
        cursor.put(value, to: &bytes)
    }
}
