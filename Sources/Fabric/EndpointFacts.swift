// SPDX-License-Identifier: Apache-2.0

internal import Packet

/// Of an endpoint, what a packet's way depends on.
struct EndpointFacts: Sendable {
    let id: EndpointID
    let network: Int
    let mac: MACAddress
    /// 0.0.0.0 for none, which is no sender's address.
    let ipv4: IPv4Address
    /// :: for none.
    let ipv6: IPv6Address
    let linkLocal: IPv6Address
    /// -1 for none.
    let port: Int
    let isAutonomous: Bool

    init(_ endpoint: Endpoint) {
        id = endpoint.id
        network = endpoint.network
        mac = endpoint.mac
        ipv4 = endpoint.ipv4 ?? .any
        ipv6 = endpoint.ipv6 ?? .any
        linkLocal = endpoint.linkLocal
        port = endpoint.port?.index ?? -1
        isAutonomous = endpoint.isAutonomous
    }
}

/// Of a network, the same.
struct LinkFacts: Sendable {
    let subnet: IPv4Prefix
    let gateway: IPv4Address
    let prefix: IPv6Prefix?
    let gateway6: IPv6Address
    let isInternal: Bool
    let mtu: Int

    init(_ network: Network) {
        // Nobody's address is in the one of a network that has none: it holds the broadcast address alone.
        subnet = network.subnet ?? IPv4Prefix(.broadcast, length: 32)
        gateway = network.gateway
        prefix = network.prefix
        gateway6 = network.gateway6 ?? Network.gatewayLinkLocal
        isInternal = network.isInternal
        mtu = network.mtu
    }
}
