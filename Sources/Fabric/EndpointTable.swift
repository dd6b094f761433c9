// SPDX-License-Identifier: Apache-2.0

internal import Packet

/// All networks and endpoints of a namespace: an immutable value. A change makes another one, which takes the place of
/// this one whole, between two packets.
package final class EndpointTable: Sendable {
    package let networks: [Network]
    package let endpoints: [Endpoint]

    /// What the router asks for each frame, without anything that is counted in it.
    let facts: [EndpointFacts]
    let links: [LinkFacts]

    private let byMAC: FlatIndex
    private let byIPv4: FlatIndex
    private let byIPv6: FlatIndex
    private let byID: FlatIndex
    /// The index of the endpoint that owns a port; -1 for none.
    private let ofPort: [Int32]
    /// The indices of the endpoints with a port, a list a network.
    package let members: [[Int]]
    /// Several where they share an alias.
    private let byName: [NetworkedName: [Int]]

    private struct NetworkedName: Hashable {
        let network: Int
        let name: DNSName
    }

    package static let networkLimit = 1024
    package static let endpointLimit = 65_536
    package static let aliasLimit = 64

    package static let empty = EndpointTable(unchecked: [], [])

    /// - Throws: what makes the networks and endpoints impossible together.
    package convenience init(networks: [Network], endpoints: [Endpoint]) throws(FabricError) {
        try EndpointTable.validate(networks, endpoints)
        self.init(unchecked: networks, endpoints)
    }

    private init(unchecked networks: [Network], _ endpoints: [Endpoint]) {
        self.networks = networks
        self.endpoints = endpoints
        facts = endpoints.map(EndpointFacts.init)
        links = networks.map(LinkFacts.init)
        var byMAC = FlatIndex(capacity: endpoints.count)
        var byIPv4 = FlatIndex(capacity: endpoints.count)
        var byIPv6 = FlatIndex(capacity: endpoints.count * 2)
        var byID = FlatIndex(capacity: endpoints.count)
        var ports: [Int32] = []
        var members = [[Int]](repeating: [], count: networks.count)
        var names: [NetworkedName: [Int]] = [:]
        for (index, endpoint) in endpoints.enumerated() {
            byMAC.add(EndpointTable.key(endpoint.mac, endpoint.network), index)
            if let address = endpoint.ipv4 { byIPv4.add(EndpointTable.key(address, endpoint.network), index) }
            if let address = endpoint.ipv6 { byIPv6.add(EndpointTable.key(address, endpoint.network), index) }
            byIPv6.add(EndpointTable.key(endpoint.linkLocal, endpoint.network), index)
            byID.add(UInt64(endpoint.id.value), index)
            for name in [endpoint.name] + endpoint.aliases {
                guard let name = DNSName(name) else { continue }
                names[NetworkedName(network: endpoint.network, name: name), default: []].append(index)
            }
            guard let port = endpoint.port else { continue }
            if ports.count <= port.index {
                ports.append(contentsOf: repeatElement(-1, count: port.index + 1 - ports.count))
            }
            ports[port.index] = Int32(index)
            members[endpoint.network].append(index)
        }
        self.byMAC = byMAC
        self.byIPv4 = byIPv4
        self.byIPv6 = byIPv6
        self.byID = byID
        self.members = members
        ofPort = ports
        byName = names
    }

    // MARK: - Looking up

    @inline(__always)
    private static func key(_ mac: MACAddress, _ network: Int) -> UInt64 {
        mac.value | UInt64(truncatingIfNeeded: network) << 48
    }

    @inline(__always)
    private static func key(_ address: IPv4Address, _ network: Int) -> UInt64 {
        UInt64(address.value) | UInt64(truncatingIfNeeded: network) << 32
    }

    @inline(__always)
    private static func key(_ address: IPv6Address, _ network: Int) -> UInt64 {
        address.low ^ address.high &* 0x9E37_79B9 ^ UInt64(truncatingIfNeeded: network) << 48
    }

    /// The index of the endpoint that owns a port.
    @inline(__always)
    func endpoint(of port: PortID) -> Int? {
        guard port.index < ofPort.count, ofPort[port.index] >= 0 else { return nil }
        return Int(ofPort[port.index])
    }

    @inline(__always)
    func endpoint(_ mac: MACAddress, in network: Int) -> Int? { byMAC.find(EndpointTable.key(mac, network)) }

    @inline(__always)
    func endpoint(_ address: IPv4Address, in network: Int) -> Int? { byIPv4.find(EndpointTable.key(address, network)) }

    /// By its address, or by the one on the link that it makes of its Ethernet address.
    @inline(__always)
    func endpoint(_ address: IPv6Address, in network: Int) -> Int? {
        byIPv6.find(EndpointTable.key(address, network)) { index in
            facts[index].network == network && (facts[index].ipv6 == address || facts[index].linkLocal == address)
        }
    }

    func endpoint(_ id: EndpointID) -> Int? { byID.find(UInt64(id.value)) }

    /// By a name or an alias, which several may have.
    func endpoints(named name: DNSName, in network: Int) -> [Int] {
        byName[NetworkedName(network: network, name: name)] ?? []
    }

    package func network(named name: String) -> Int? { networks.firstIndex { $0.name == name } }

    package func endpoint(named name: String) -> Endpoint? { endpoints.first { $0.name == name } }

    // MARK: - What can be

    private static func validate(_ networks: [Network], _ endpoints: [Endpoint]) throws(FabricError) {
        guard networks.count <= networkLimit else { throw .tooMany("networks") }
        guard endpoints.count <= endpointLimit else { throw .tooMany("machines") }
        var networkNames: Set<String> = []
        for network in networks {
            try check(network)
            guard networkNames.insert(network.name).inserted else { throw .nameTaken(network.name) }
        }
        var macs: Set<UInt64> = []
        // A machine's name is its own; an alias may be shared with other machines' aliases.
        var names: Set<NetworkedName> = []
        var aliases: Set<NetworkedName> = []
        var addresses: Set<UInt64> = []
        var addresses6: Set<[UInt64]> = []
        var identities: Set<EndpointID> = []
        for endpoint in endpoints {
            guard networks.indices.contains(endpoint.network) else { throw .unknownNetwork("\(endpoint.network)") }
            let network = networks[endpoint.network]
            guard identities.insert(endpoint.id).inserted else { throw .nameTaken(endpoint.name) }
            guard endpoint.aliases.count <= aliasLimit else { throw .tooMany("aliases") }
            func named(_ text: String) throws(FabricError) -> NetworkedName {
                guard isName(text), let name = DNSName(text) else { throw .badName(text) }
                return NetworkedName(network: endpoint.network, name: name)
            }
            let own = try named(endpoint.name)
            guard names.insert(own).inserted, !aliases.contains(own) else { throw .nameTaken(endpoint.name) }
            var before: Set<NetworkedName> = []
            for text in endpoint.aliases {
                let alias = try named(text)
                guard before.insert(alias).inserted, !names.contains(alias) else { throw .nameTaken(text) }
                aliases.insert(alias)
            }
            guard !endpoint.mac.isMulticast, endpoint.mac != .zero, endpoint.mac != Network.gatewayMAC else {
                throw .badMAC(endpoint.mac.description)
            }
            guard macs.insert(key(endpoint.mac, endpoint.network)).inserted else {
                throw .macTaken(endpoint.mac.description)
            }
            if let address = endpoint.ipv4 {
                guard AddressPlan.isUsable(address, in: network) else {
                    throw .addressOutside(address.description, network: network.name)
                }
                guard addresses.insert(key(address, endpoint.network)).inserted else {
                    throw .addressTaken(address.description)
                }
            }
            if let address = endpoint.ipv6 {
                guard AddressPlan.isUsable(address, in: network) else {
                    throw .addressOutside(address.description, network: network.name)
                }
                guard addresses6.insert([address.high, address.low, UInt64(endpoint.network)]).inserted else {
                    throw .addressTaken(address.description)
                }
            }
        }
    }

    private static func check(_ network: Network) throws(FabricError) {
        guard isName(network.name) else { throw .badName(network.name) }
        guard network.subnet != nil || network.prefix != nil else { throw .badSubnet("none") }
        if let subnet = network.subnet { try check(subnet, network.gateway) }
        if let prefix = network.prefix, let gateway = network.gateway6 {
            guard prefix.length == 64, prefix.isForMachines else { throw .badSubnet(prefix.description) }
            guard prefix.contains(gateway), gateway.low != 0 else { throw .badGateway(gateway.description) }
        }
        guard (1280...65_535).contains(network.mtu) else { throw .badMTU(network.mtu) }
    }

    private static func check(_ subnet: IPv4Prefix, _ gateway: IPv4Address) throws(FabricError) {
        guard (8...30).contains(subnet.length), subnet.isForMachines else { throw .badSubnet(subnet.description) }
        guard subnet.contains(gateway), gateway != subnet.network, gateway != subnet.broadcast
        else { throw .badGateway(gateway.description) }
    }

    /// Whether a text can be a machine's or a network's name: labels of 1 to 63 letters, digits, underscores and hyphens
    /// with dots between them, no hyphen at a label's ends (RFC 1123 §2.1, and what people use besides).
    package static func isName(_ text: String) -> Bool {
        text.utf8.count <= 128 && DNSName.isOfHosts(text)
    }
}
