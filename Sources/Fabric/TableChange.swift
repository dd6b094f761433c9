// SPDX-License-Identifier: Apache-2.0

package import Packet

/// What a machine's place in a network is to be; what is nil is chosen.
package struct EndpointRequest: Equatable, Sendable {
    package var name: String
    package var aliases: [String] = []
    package var network: String
    package var mac: MACAddress?
    package var ipv4: IPv4Address?
    package var ipv6: IPv6Address?

    package init(name: String, network: String) {
        self.name = name
        self.network = network
    }
}

/// The table and what is needed to make the next one: the state behind all changes, a value. Each change gives another
/// state or an error, never half of it.
package struct NamespaceState: Sendable {
    package private(set) var table = EndpointTable.empty
    /// 40 random bits of which the IPv6 prefixes are made.
    package let identity: UInt64
    private var nextID: UInt32 = 1
    private var lastGiven: [String: IPv4Address] = [:]
    private var nextNetworkNumber: UInt16 = 0

    package init(identity: UInt64) { self.identity = identity }

    /// Adds a network. A subnet that another network has is allowed when it is asked for.
    package mutating func addNetwork(
        name: String, subnet: IPv4Prefix? = nil, gateway: IPv4Address? = nil, prefix: IPv6Prefix? = nil,
        hasIPv6: Bool = true, isInternal: Bool = false, mtu: Int = 1500
    ) throws(FabricError) -> Network {
        guard let subnet = subnet ?? AddressPlan.subnet(besides: table.networks) else { throw .tooMany("subnets") }
        let gateway = gateway ?? IPv4Address(subnet.network.value &+ 1)
        var network = Network(name: name, subnet: subnet, gateway: gateway)
        if hasIPv6 {
            network.prefix = prefix ?? AddressPlan.uniqueLocal(identity: identity, number: nextNetworkNumber)
        }
        network.isInternal = isInternal
        network.mtu = mtu
        table = try EndpointTable(networks: table.networks + [network], endpoints: table.endpoints)
        nextNetworkNumber &+= 1
        return network
    }

    package mutating func removeNetwork(_ name: String) throws(FabricError) {
        guard let index = table.network(named: name) else { throw .unknownNetwork(name) }
        guard !table.endpoints.contains(where: { $0.network == index }) else { throw .networkIsUsed(name) }
        var networks = table.networks
        networks.remove(at: index)
        let endpoints = table.endpoints.map { endpoint in
            var endpoint = endpoint
            if endpoint.network > index { endpoint.network -= 1 }
            return endpoint
        }
        table = try EndpointTable(networks: networks, endpoints: endpoints)
        lastGiven[name] = nil
    }

    /// Adds a network that was thought out elsewhere.
    package mutating func add(_ network: Network) throws(FabricError) {
        table = try EndpointTable(networks: table.networks + [network], endpoints: table.endpoints)
        nextNetworkNumber &+= 1
    }

    /// Adds an endpoint; addresses that were not asked for are chosen.
    package mutating func add(_ request: EndpointRequest) throws(FabricError) -> Endpoint {
        guard let index = table.network(named: request.network) else { throw .unknownNetwork(request.network) }
        let network = table.networks[index]
        let current = table
        let chosen =
            network.subnet == nil
            ? nil
            : request.ipv4
                ?? AddressPlan.next(in: network, after: lastGiven[network.name]) { address in
                    current.endpoint(address, in: index) != nil
                        || request.mac == nil && current.endpoint(AddressPlan.mac(for: address), in: index) != nil
                }
        guard chosen != nil || network.subnet == nil else { throw .subnetIsFull(network.name) }
        if let address = request.ipv4, network.subnet == nil {
            throw .addressOutside(address.description, network: network.name)
        }
        var endpoint = Endpoint(
            id: EndpointID(nextID), name: request.name, network: index,
            mac: request.mac ?? chosen.map(AddressPlan.mac) ?? MACAddress(local: identity &+ UInt64(nextID)))
        endpoint.aliases = request.aliases
        endpoint.ipv4 = chosen
        endpoint.ipv6 = request.ipv6 ?? AddressPlan.ipv6(for: endpoint.mac, in: network)
        table = try EndpointTable(networks: table.networks, endpoints: table.endpoints + [endpoint])
        nextID &+= 1
        if request.ipv4 == nil, let chosen { lastGiven[network.name] = chosen }
        return endpoint
    }

    /// The next address to be chosen is above this one.
    package mutating func beginAddresses(after address: IPv4Address, in network: String) {
        lastGiven[network] = address
    }

    package mutating func remove(_ id: EndpointID) throws(FabricError) {
        let rest = table.endpoints.filter { $0.id != id }
        guard rest.count < table.endpoints.count else { throw .unknownMachine("\(id.value)") }
        table = try EndpointTable(networks: table.networks, endpoints: rest)
    }

    /// Gives an endpoint a port, or takes it away.
    package mutating func attach(_ id: EndpointID, to port: PortID?) throws(FabricError) {
        guard let index = table.endpoint(id) else { throw .unknownMachine("\(id.value)") }
        var endpoints = table.endpoints
        endpoints[index].port = port
        table = try EndpointTable(networks: table.networks, endpoints: endpoints)
    }

    /// A clone with the addresses that its original has. It needs a network of its own for that, which has the same
    /// subnet, gateway and prefix: what the clone remembers of its network stays true.
    package mutating func cloneKeepingAddress(
        of id: EndpointID, name: String, network: String
    ) throws(FabricError) -> Endpoint {
        guard let index = table.endpoint(id) else { throw .unknownMachine("\(id.value)") }
        let original = table.endpoints[index]
        var changed = self
        if changed.table.network(named: network) == nil {
            let model = table.networks[original.network]
            _ = try changed.addNetwork(
                name: network, subnet: model.subnet, gateway: model.gateway, prefix: model.prefix,
                hasIPv6: model.prefix != nil, isInternal: model.isInternal, mtu: model.mtu)
        }
        var request = EndpointRequest(name: name, network: network)
        (request.mac, request.ipv4, request.ipv6) = (original.mac, original.ipv4, original.ipv6)
        let clone = try changed.add(request)
        self = changed
        return clone
    }

    /// A clone beside its original, with addresses of its own.
    package mutating func cloneRenumbered(of id: EndpointID, name: String) throws(FabricError) -> Endpoint {
        guard let index = table.endpoint(id) else { throw .unknownMachine("\(id.value)") }
        let network = table.networks[table.endpoints[index].network].name
        return try add(EndpointRequest(name: name, network: network))
    }
}
