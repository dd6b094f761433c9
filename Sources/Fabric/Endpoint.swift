// SPDX-License-Identifier: Apache-2.0

package import Packet

/// A place where frames come in and go out: one machine's network socket. The number is an index and is used again.
package struct PortID: Hashable, Sendable {
    package let index: Int
    package init(_ index: Int) { self.index = index }
}

/// A network of a namespace: a link of its own, from which no other network can be reached.
package struct Network: Equatable, Sendable {
    package var name: String
    /// Nil where there is no IPv4.
    package var subnet: IPv4Prefix?
    /// The fabric's own address, which is the subnet's if there is one.
    package var gateway: IPv4Address
    /// A /64, or nil where there is no IPv6.
    package var prefix: IPv6Prefix?
    /// The fabric's own address of the prefix; nil for the first.
    package var gateway6Choice: IPv6Address?
    /// Nothing leaves it.
    package var isInternal = false
    /// 1280 to 65,535.
    package var mtu = 1500

    package init(name: String, subnet: IPv4Prefix?, gateway: IPv4Address = .any, prefix: IPv6Prefix? = nil) {
        self.name = name
        self.subnet = subnet
        self.gateway = gateway
        self.prefix = prefix
    }

    /// The gateway's Ethernet address, the same in all networks: a machine that wakes up in another network still has it
    /// right.
    package static var gatewayMAC: MACAddress { MACAddress(0x024D_4C00_0001) }
    /// The gateway's address on the link, likewise.
    package static var gatewayLinkLocal: IPv6Address { IPv6Address(high: 0xFE80_0000_0000_0000, low: 1) }

    /// The gateway's address beyond the link.
    package var gateway6: IPv6Address? {
        prefix.map { gateway6Choice ?? IPv6Address(high: $0.network.high, low: 1) }
    }

    /// The name below which the network's machines have theirs.
    package var domain: DNSName { DNSName(name) ?? DNSName() }
}

/// Something that has an address in a network. One without a port is known and answered for, but what is sent to it goes
/// nowhere until it has one.
package struct Endpoint: Equatable, Sendable {
    package let id: EndpointID
    package var name: String
    package var aliases: [String] = []
    /// The index of its network in the table.
    package var network: Int
    package var mac: MACAddress
    package var ipv4: IPv4Address?
    package var ipv6: IPv6Address?
    package var port: PortID?

    package init(id: EndpointID, name: String, network: Int, mac: MACAddress) {
        self.id = id
        self.name = name
        self.network = network
        self.mac = mac
    }

    /// The address that it makes of its Ethernet address.
    package var linkLocal: IPv6Address { IPv6Address(linkLocal: mac) }
    /// Its address is the one that it would make of its network's prefix by itself (RFC 4862 §5.5.3).
    package var isAutonomous: Bool { ipv6.map { $0.low == mac.modifiedEUI64 } ?? false }
}
