// SPDX-License-Identifier: Apache-2.0

package import Packet

/// The names of the user's other networks, of which a machine that is in none of them is told nothing, and of which nobody
/// outside is asked: whoever has the last word for the machine says that they do not exist.
package struct ForeignNames: Equatable, Sendable {
    package struct Network: Equatable, Sendable {
        package var domain: DNSName
        package var subnet: IPv4Prefix?
        package var prefix: IPv6Prefix?

        package init(domain: DNSName, subnet: IPv4Prefix? = nil, prefix: IPv6Prefix? = nil) {
            self.domain = domain
            self.subnet = subnet
            self.prefix = prefix
        }
    }

    private var domains: Set<DNSName> = []
    /// The numbers of labels that the domains have.
    private var lengths: Set<Int> = []
    private var subnets: [IPv4Prefix] = []
    private var prefixes: [IPv6Prefix] = []

    package init() {}

    package init(_ networks: some Sequence<Network>) {
        for network in networks {
            domains.insert(network.domain)
            lengths.insert(network.domain.labelCount)
            if let subnet = network.subnet { subnets.append(subnet) }
            if let prefix = network.prefix { prefixes.append(prefix) }
        }
    }

    package var count: Int { domains.count }

    /// Whether a name is one of the networks', or below it.
    func own(_ name: DNSName) -> Bool {
        let labels = name.labelCount
        return lengths.contains { $0 <= labels && domains.contains(name.dropping(labels - $0)) }
    }

    /// Whether an address is of one of the networks, and its name nobody's outside either: networks may have addresses that
    /// others have on the Internet.
    func own(_ address: IPAddress) -> Bool {
        guard address.isNamedLocally else { return false }
        switch address {
        case .v4(let address): return subnets.contains { $0.contains(address) }
        case .v6(let address): return prefixes.contains { $0.contains(address) }
        }
    }
}
