// SPDX-License-Identifier: Apache-2.0

package import FabricAPI
package import Networks
internal import Packet
internal import Platform
package import Worker

/// What `run` was told about the container's network, as it was written.
package struct NetworkChoice {
    /// The first one has the options below.
    package var networks: [String] = []
    package var published: [String] = []
    package var address: String?
    package var address6: String?
    package var hardwareAddress: String?
    package var nameServers: [String] = []
    package var searchDomains: [String] = []
    package var hosts: [String] = []
    package var aliases: [String] = []
    package var egress: [String] = []
    package var isEgressAudited = false
    package var hasHostAccess = false

    package static let noNetwork = "none"

    package init() {}

    /// Whether the name is that of a network of the host, not of one of ours.
    package static func isOfHost(_ name: String) throws(Failure) -> Bool { try HostNetworkChoice(name) != nil }

    /// Takes a flag by its name; whether it is one of these.
    package mutating func take(flag name: String) -> Bool {
        switch name {
        case "egress-audit": isEgressAudited = true
        case "host-access": hasHostAccess = true
        default: return false
        }
        return true
    }

    /// Takes an option by its name; whether it is one of these.
    package mutating func take(_ name: String, _ value: String) -> Bool {
        switch name {
        case "network", "net": take(network: value)
        case "publish": published.append(value)
        case "ip": address = value
        case "ip6": address6 = value
        case "mac", "mac-address": hardwareAddress = value
        case "dns": nameServers.append(value)
        case "dns-search": searchDomains.append(value)
        case "add-host": hosts.append(value)
        case "network-alias": aliases.append(value)
        case "egress": egress.append(value)
        default: return false
        }
        return true
    }

    /// Takes a network's name, or what `host-access` is to be.
    package mutating func take(network value: String) {
        switch value {
        case "host-access=on": hasHostAccess = true
        case "host-access=off": hasHostAccess = false
        default: networks.append(value)
        }
    }

    /// The options again, for the same command in the emulated host.
    package var arguments: [String] {
        let lists: [(String, [String])] = [
            ("network", networks), ("publish", published), ("ip", address.map { [$0] } ?? []),
            ("ip6", address6.map { [$0] } ?? []), ("mac", hardwareAddress.map { [$0] } ?? []), ("dns", nameServers),
            ("dns-search", searchDomains), ("add-host", hosts), ("network-alias", aliases), ("egress", egress),
        ]
        return lists.flatMap { name, values in values.map { "--\(name)=\($0)" } }
            + (isEgressAudited ? ["--egress-audit"] : []) + (hasHostAccess ? ["--host-access"] : [])
    }

    /// Everything that can be wrong in it is found here; empty where no network is wanted.
    package func check() throws(Failure) -> [NetworkWish] {
        guard let first = try checkFirst() else {
            guard networks.count <= 1 else {
                throw Failure("--network: '\(Self.noNetwork)' goes with no other network")
            }
            return []
        }
        var wishes = [first]
        for name in networks.dropFirst() {
            var other = NetworkChoice()
            other.networks = [name]
            guard let wish = try other.checkFirst() else {
                throw Failure("--network: '\(name)' goes with no other network")
            }
            wishes.append(wish.furtherPlace(in: wishes, of: first))
        }
        try NetworkChoice.check(wishes)
        return wishes
    }

    /// A machine is in a network once, and has places for some.
    private static func check(_ wishes: [NetworkWish]) throws(Failure) {
        for (index, wish) in wishes.enumerated() where wishes[..<index].contains(where: { $0.network == wish.network })
        {
            throw Failure("--network: the container would be in \(wish.network) twice")
        }
        if wishes.count > 1, let host = wishes.first(where: { $0.host != nil }) {
            throw Failure("--network: '\(host.network)' goes with no other network")
        }
        guard wishes.count <= ContainerConfiguration.networkLimit else {
            throw Failure(
                "--network: \(wishes.count) are too many; \(ContainerConfiguration.networkLimit) are the most")
        }
    }

    private func checkFirst() throws(Failure) -> NetworkWish? {
        let network = networks.first
        let needing: [(String, Bool)] = [
            ("--publish", !published.isEmpty), ("--ip", address != nil), ("--ip6", address6 != nil),
            ("--mac", hardwareAddress != nil), ("--network-alias", !aliases.isEmpty), ("--dns", !nameServers.isEmpty),
            ("--dns-search", !searchDomains.isEmpty), ("--add-host", !hosts.isEmpty), ("--egress", !egress.isEmpty),
            ("--host-access", hasHostAccess),
        ]
        let first = needing.first { $0.1 }?.0
        if network == Self.noNetwork, let first { throw Failure("\(first) means nothing with --network none") }
        guard network != Self.noNetwork else { return nil }
        var wish: NetworkWish
        if let network, let host = try HostNetworkChoice(network) {
            try host.check(self)
            wish = NetworkWish(network: host.mode.text, hardwareAddress: try stationAddress())
            try host.describe(&wish, address: address, address6: address6)
        } else {
            let name = network ?? NetworkDefinition.defaultName
            guard NetworkDefinition.isName(name) else { throw Failure("--network: '\(name)' is not a network's name") }
            wish = NetworkWish(network: name, hardwareAddress: try stationAddress())
            try describe(&wish)
        }
        for text in published {
            do { wish.published.append(try PublishedPorts(parsing: text)) } catch {
                throw Failure("--publish: \(error)")
            }
        }
        for text in nameServers {
            guard isAddress(text) else { throw Failure("--dns: '\(text)' is not an address") }
        }
        wish.nameServers = nameServers
        for text in searchDomains where text.isEmpty || text.utf8.contains(where: { $0 <= 0x20 }) {
            throw Failure("--dns-search: '\(text)' is not a domain")
        }
        wish.searchDomains = searchDomains
        for text in hosts { wish.hosts.append(try hostLine(text)) }
        wish.aliases = aliases
        wish.egress = try Self.egressRules(egress)
        wish.isEgressAudited = isEgressAudited
        wish.hasHostAccess = hasHostAccess
        return wish
    }

    /// The addresses in a network of ours.
    private func describe(_ wish: inout NetworkWish) throws(Failure) {
        if let text = address {
            guard let address = IPv4Address(text) else { throw Failure("--ip: '\(text)' is not an IPv4 address") }
            wish.address = address
        }
        if let text = address6 {
            guard let address = IPv6Address(text) else { throw Failure("--ip6: '\(text)' is not an IPv6 address") }
            wish.address6 = address
        }
    }

    /// What the networks of a clone are to be: those that the saved container was in, with other addresses and names and
    /// without its published ports; what is asked for here comes in place of what that one had. Empty where no network
    /// is wanted.
    package func check(inPlaceOf saved: [NetworkWish]) throws(Failure) -> [NetworkWish] {
        guard let first = saved.first else { return arguments.isEmpty ? [] : try check() }
        guard networks.count <= saved.count else {
            throw Failure(
                "--network: the container was saved with \(saved.count) of them, and cannot have \(networks.count)")
        }
        var wishes = [try check(inPlaceOf: first)]
        for (index, saved) in saved.enumerated().dropFirst() {
            var other = NetworkChoice()
            other.networks = index < networks.count ? [networks[index]] : []
            wishes.append(try other.check(inPlaceOf: saved).furtherPlace(in: wishes, of: wishes[0]))
        }
        try NetworkChoice.check(wishes)
        return wishes
    }

    private func check(inPlaceOf saved: NetworkWish) throws(Failure) -> NetworkWish {
        let network = networks.first
        if network == nil, case .tap(let name) = saved.host {
            throw Failure("--network is missing: the container was saved with the device \(name), which is its own")
        }
        var choice = self
        choice.networks = [network ?? saved.network]
        guard var wish = try choice.checkFirst() else {
            throw Failure("--network none: the container was saved with a network, and cannot be without one")
        }
        wish.formerHardwareAddress = saved.hardwareAddress
        wish.interfaceName = saved.interfaceName
        wish.mtu = saved.mtu
        if nameServers.isEmpty { wish.nameServers = saved.nameServers }
        if searchDomains.isEmpty { wish.searchDomains = saved.searchDomains }
        if hosts.isEmpty { wish.hosts = saved.hosts }
        if egress.isEmpty {
            wish.egress = saved.egress
            wish.isEgressAudited = isEgressAudited || saved.isEgressAudited
        }
        wish.hasHostAccess = hasHostAccess || saved.hasHostAccess
        // The guest's addresses stay, unless others are asked for.
        if wish.host == .bridged, address == nil, address6 == nil { wish.kept = saved.kept }
        return wish
    }

    private func stationAddress() throws(Failure) -> MACAddress {
        guard let text = hardwareAddress else {
            var generator = SystemRandomNumberGenerator()
            // Assigned by no maker, a station's.
            return MACAddress(0x0200_0000_0000 | generator.next() & 0x00FF_FFFF_FFFF)
        }
        guard let address = MACAddress(text), !address.isMulticast else {
            throw Failure("--mac: '\(text)' is not a station's Ethernet address such as 02:00:5e:00:53:01")
        }
        return address
    }

    private func hostLine(_ text: String) throws(Failure) -> String {
        guard let colon = text.firstIndex(of: ":"), colon > text.startIndex,
            text[..<colon].utf8.allSatisfy({ $0 > 0x20 })
        else { throw Failure("--add-host: '\(text)' is not HOST:ADDRESS") }
        let address = String(text[text.index(after: colon)...])
        guard isAddress(address) else { throw Failure("--add-host: '\(address)' is not an address") }
        return "\(address)\t\(text[..<colon])"
    }

    package static func egressRules(_ texts: [String]) throws(Failure) -> [EgressRule] {
        var rules: [EgressRule] = []
        for text in texts {
            do { rules.append(try EgressRule(parsing: text)) } catch { throw Failure("--egress: \(error)") }
        }
        guard rules.count <= FabricRequest.Attachment.listLimit else {
            throw Failure(
                "--egress: \(rules.count) rules are too many; \(FabricRequest.Attachment.listLimit) are the most")
        }
        return rules
    }

    private func isAddress(_ text: String) -> Bool { IPv4Address(text) != nil || IPv6Address(text) != nil }
}

extension NetworkWish {
    /// The wish for a network beside others: what a container may reach does not depend on the way that it takes.
    package func furtherPlace(in others: [NetworkWish], of first: NetworkWish) -> NetworkWish {
        var result = self
        if formerHardwareAddress == nil {
            let names = others.map(\.interfaceName)
            result.interfaceName = Self.interfaceNames.first { !names.contains($0) } ?? interfaceName
        }
        result.egress = first.egress
        result.isEgressAudited = first.isEgressAudited
        result.hasHostAccess = first.hasHostAccess
        return result
    }

    /// Sees to it that the network exists, and says how it is reached.
    package func prepare(_ installation: Installation) throws -> NetworkWish {
        if let host {
            var result = self
            result.mtu = HostDevices.mtu(for: host)
            return result
        }
        let store = try NetworkStore.ofUser { environmentVariable($0) }
        let definition: NetworkDefinition
        if network == NetworkDefinition.defaultName {
            definition = try store.defaultNetwork()
        } else {
            definition = try store.load(network)
        }
        var result = self
        // The driver of a machine that was saved keeps the most that it was told of when it started.
        result.mtu = formerHardwareAddress == nil ? definition.mtu : min(mtu, definition.mtu)
        result.isInternal = definition.isInternal
        result.definitions = store.definitions
        result.running = store.running
        result.program = installation.fabric
        return result
    }
}

extension NetworkStore {
    /// The network of containers for which none is named.
    package func defaultNetwork() throws(NetworkError) -> NetworkDefinition {
        var generator = SystemRandomNumberGenerator()
        return try loadOrCreateDefault(now: wallClockNanoseconds(), random: generator.next())
    }
}
