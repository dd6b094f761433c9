// SPDX-License-Identifier: Apache-2.0

internal import Fabric
package import Packet
package import Platform

/// An address of either family: IPv4 as ::ffff:a.b.c.d. No packet has such an address in an IPv6 header: the gateway
/// refuses those.
extension IPv6Address {
    package init(mapping address: IPv4Address) {
        self.init(high: 0, low: 0xFFFF_0000_0000 | UInt64(address.value))
    }
}

extension SocketAddress {
    package init(_ address: IPv6Address, port: UInt16) {
        if let ipv4 = address.mappedIPv4 {
            self.init(ipv4: ipv4.value, port: port)
        } else {
            self.init(ipv6High: address.high, low: address.low, port: port)
        }
    }

    package var address: IPv6Address { IPv6Address(high: high, low: low) }
}

/// What tells flows apart: who, over what, from where to where, as the machine sees it.
struct FlowKey: Hashable, Sendable {
    var endpoint: EndpointID
    var protocolNumber: UInt8
    var inside: IPv6Address
    var outside: IPv6Address
    var insidePort: UInt16
    /// 0 for echoes, whose identifier is the inside port.
    var outsidePort: UInt16

    var isIPv4: Bool { inside.mappedIPv4 != nil }

    func hash(into hasher: inout Hasher) {
        hasher.combine(inside.high)
        hasher.combine(inside.low)
        hasher.combine(outside.high)
        hasher.combine(outside.low)
        hasher.combine(
            UInt64(endpoint.value) << 32 | UInt64(insidePort) << 16 | UInt64(outsidePort))
        hasher.combine(protocolNumber)
    }
}
