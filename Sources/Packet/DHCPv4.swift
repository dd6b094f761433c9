// SPDX-License-Identifier: Apache-2.0

/// Kinds of DHCP messages (RFC 2131 §3.1).
package enum DHCPv4Kind {
    package static let discover: UInt8 = 1
    package static let offer: UInt8 = 2
    package static let request: UInt8 = 3
    package static let decline: UInt8 = 4
    package static let acknowledge: UInt8 = 5
    package static let refuse: UInt8 = 6
    package static let release: UInt8 = 7
    package static let inform: UInt8 = 8
}

/// Numbers of DHCP options (RFC 2132).
package enum DHCPv4OptionCode {
    package static let subnetMask: UInt8 = 1
    package static let router: UInt8 = 3
    package static let nameServers: UInt8 = 6
    package static let hostName: UInt8 = 12
    package static let domainName: UInt8 = 15
    package static let mtu: UInt8 = 26
    package static let broadcast: UInt8 = 28
    package static let requestedAddress: UInt8 = 50
    package static let leaseTime: UInt8 = 51
    package static let kind: UInt8 = 53
    package static let server: UInt8 = 54
    package static let renewalTime: UInt8 = 58
    package static let rebindingTime: UInt8 = 59
    package static let searchDomains: UInt8 = 119
}

/// A DHCP message (RFC 2131): the fixed part and the cookie are there. Options in `sname` and `file` (option 52) are not
/// read: no client puts what a server must know there.
package struct DHCPv4View: ~Escapable {
    package static let fixedLength = 240
    package let bytes: RawSpan

    @_lifetime(copy bytes)
    package init?(_ bytes: RawSpan) {
        guard bytes.byteCount >= DHCPv4View.fixedLength, bytes.byte(1) == 1, bytes.byte(2) == 6,
            bytes.u32(236) == 0x6382_5363
        else { return nil }
        self.bytes = bytes
    }

    package var isRequest: Bool { bytes.byte(0) == 1 }
    package var transaction: UInt32 { bytes.u32(4) }
    package var wantsBroadcast: Bool { bytes.byte(10) & 0x80 != 0 }
    package var clientAddress: IPv4Address { bytes.ipv4(12) }
    package var yourAddress: IPv4Address { bytes.ipv4(16) }
    package var relayAddress: IPv4Address { bytes.ipv4(24) }
    package var clientMAC: MACAddress { bytes.mac(28) }

    /// The value of an option; of several with the same number the first.
    @_lifetime(copy self)
    package func option(_ code: UInt8) -> RawSpan? {
        var position = DHCPv4View.fixedLength
        while position < bytes.byteCount {
            let found = bytes.byte(position)
            if found == 255 { return nil }
            if found == 0 {
                position += 1
                continue
            }
            guard position + 1 < bytes.byteCount else { return nil }
            let length = Int(bytes.byte(position + 1))
            guard length <= bytes.byteCount - position - 2 else { return nil }
            if found == code { return bytes.slice(position + 2, length) }
            position += 2 + length
        }
        return nil
    }

    package var kind: UInt8? {
        guard let value = option(DHCPv4OptionCode.kind), value.byteCount == 1 else { return nil }
        return value.byte(0)
    }

    package func address(_ code: UInt8) -> IPv4Address? {
        guard let value = option(code), value.byteCount == 4 else { return nil }
        return value.ipv4(0)
    }
}

/// A DHCP server's answer, to be written.
package struct DHCPv4Reply: Equatable, Sendable {
    package var kind: UInt8
    package var transaction: UInt32
    package var wantsBroadcast: Bool
    /// As the client said it, where it has one.
    package var clientAddress: IPv4Address = .any
    package var yourAddress: IPv4Address
    package var server: IPv4Address
    package var clientMAC: MACAddress
    /// In seconds; nil leaves the times out, as the answer to an inform does.
    package var leaseTime: UInt32?
    package var subnet: IPv4Prefix?
    package var router: IPv4Address?
    package var nameServers: [IPv4Address] = []
    package var searchDomains: [DNSName] = []
    package var hostName: [UInt8] = []
    package var mtu: UInt16?

    package init(
        kind: UInt8, transaction: UInt32, wantsBroadcast: Bool, yourAddress: IPv4Address, server: IPv4Address,
        clientMAC: MACAddress
    ) {
        self.kind = kind
        self.transaction = transaction
        self.wantsBroadcast = wantsBroadcast
        self.yourAddress = yourAddress
        self.server = server
        self.clientMAC = clientMAC
    }

    /// Writes the message, filled up to the 300 bytes that old clients want.
    package func write(to bytes: inout MutableRawSpan, at cursor: inout OutputCursor) {
        let start = cursor.position
        cursor.put(0x0201_0600 as UInt32, to: &bytes)
        cursor.put(transaction, to: &bytes)
        cursor.put(0 as UInt16, to: &bytes)
        cursor.put(wantsBroadcast ? 0x8000 as UInt16 : 0, to: &bytes)
        cursor.put(clientAddress, to: &bytes)
        cursor.put(yourAddress, to: &bytes)
        cursor.put(server, to: &bytes)
        cursor.put(IPv4Address.any, to: &bytes)
        cursor.put(clientMAC, to: &bytes)
        cursor.putZeros(10 + 64 + 128, to: &bytes)
        cursor.put(0x6382_5363 as UInt32, to: &bytes)
        option(DHCPv4OptionCode.kind, [kind], &bytes, &cursor)
        option(DHCPv4OptionCode.server, server.value, &bytes, &cursor)
        if let leaseTime {
            option(DHCPv4OptionCode.leaseTime, leaseTime, &bytes, &cursor)
            option(DHCPv4OptionCode.renewalTime, leaseTime / 2, &bytes, &cursor)
            option(DHCPv4OptionCode.rebindingTime, leaseTime / 8 * 7, &bytes, &cursor)
        }
        if let subnet {
            option(DHCPv4OptionCode.subnetMask, subnet.mask.value, &bytes, &cursor)
            option(DHCPv4OptionCode.broadcast, subnet.broadcast.value, &bytes, &cursor)
        }
        if let router { option(DHCPv4OptionCode.router, router.value, &bytes, &cursor) }
        if !nameServers.isEmpty {
            let servers = nameServers.prefix(8)
            cursor.put(DHCPv4OptionCode.nameServers, to: &bytes)
            cursor.put(UInt8(servers.count * 4), to: &bytes)
            for server in servers { cursor.put(server, to: &bytes) }
        }
        if let mtu { option(DHCPv4OptionCode.mtu, [UInt8(mtu >> 8), UInt8(mtu & 255)], &bytes, &cursor) }
        if !hostName.isEmpty, hostName.count <= 63 { option(DHCPv4OptionCode.hostName, hostName, &bytes, &cursor) }
        if let first = searchDomains.first {
            option(DHCPv4OptionCode.domainName, Array(first.text.utf8.prefix(255)), &bytes, &cursor)
            // RFC 3397, without its compression.
            var encoded: [UInt8] = []
            for domain in searchDomains.prefix(6) where encoded.count + domain.count <= 255 { encoded += domain.array }
            option(DHCPv4OptionCode.searchDomains, encoded, &bytes, &cursor)
        }
        cursor.put(255 as UInt8, to: &bytes)
        if cursor.position - start < 300 { cursor.putZeros(300 - (cursor.position - start), to: &bytes) }
    }

    private func option(_ code: UInt8, _ value: UInt32, _ bytes: inout MutableRawSpan, _ cursor: inout OutputCursor) {
        cursor.put(code, to: &bytes)
        cursor.put(4 as UInt8, to: &bytes)
        cursor.put(value, to: &bytes)
    }

    private func option(_ code: UInt8, _ value: [UInt8], _ bytes: inout MutableRawSpan, _ cursor: inout OutputCursor) {
        cursor.put(code, to: &bytes)
        cursor.put(UInt8(truncatingIfNeeded: value.count), to: &bytes)
        cursor.put(value, to: &bytes)
    }
}
