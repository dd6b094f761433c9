// SPDX-License-Identifier: Apache-2.0

package import FabricAPI
internal import GuestProtocol
internal import Networks
internal import Packet
internal import Wire

/// What was asked for a container's network that belongs to none of its networks alone: it stays when one of them goes.
package struct NetworkPreferences: Equatable, Sendable {
    var nameServers: [String] = []
    var searchDomains: [String] = []
    var hosts: [String] = []
    var egress: [EgressRule] = []
    var isEgressAudited = false
    var hasHostAccess = false

    package init(_ wishes: [NetworkWish]) {
        nameServers = wishes.first { !$0.nameServers.isEmpty }?.nameServers ?? []
        searchDomains = wishes.flatMap(\.searchDomains)
        hosts = wishes.flatMap(\.hosts)
        egress = wishes.first?.egress ?? []
        isEgressAudited = wishes.first?.isEgressAudited ?? false
        hasHostAccess = wishes.first?.hasHostAccess ?? false
    }
}

/// A machine's places in its networks, in the order in which it got them, and what they come to together. Pure.
///
/// The first network that leads outside *leads*: its gateways are the way to all other networks, and its name server has
/// the last word. Where none leads outside, the first one does.
package struct MachineNetworks: Sendable {
    package var places: [NetworkPlace]
    package var preferences: NetworkPreferences

    package init(_ places: [NetworkPlace], _ preferences: NetworkPreferences) {
        self.places = places
        self.preferences = preferences
    }

    /// The place in the list of the network that leads.
    package var leader: Int? {
        places.firstIndex { !$0.wish.isInternal } ?? places.indices.first
    }

    /// The interfaces as the guest is to set them up.
    /// - Parameters:
    ///   - firstSlot: where the first was put after the guest's kernel had looked, the others behind it; nil where they
    ///     were there before.
    ///   - present: the address under which the kernel knows the first one, which was there before all the same.
    func settings(firstSlot: Int?, present: MACAddress? = nil) -> [InterfaceSettings] {
        let leader = leader
        let presentCount = present == nil ? 0 : 1
        return places.indices.map { index in
            guard index < presentCount else {
                return places[index].settings(
                    slot: firstSlot.map { $0 + index - presentCount }, leads: index == leader)
            }
            var settings = places[index].settings(slot: nil, leads: index == leader)
            settings.formerAddress = present?.bytes
            return settings
        }
    }

    // MARK: - Names

    /// What the container finds in /etc/resolv.conf. A resolver goes through the servers until one has an answer, and
    /// takes three of them: each network has one there where there are several, and the one with the last word is the
    /// last.
    package var resolvConf: [UInt8] {
        guard let leader else { return Array("# The container is in no network.\n".utf8) }
        var servers = preferences.nameServers
        if servers.isEmpty, places.count == 1 { servers = places[0].endpoint.nameServers }
        if servers.isEmpty {
            let order = places.indices.filter { $0 != leader } + [leader]
            servers = order.compactMap { places[$0].endpoint.nameServers.first }
        }
        // The networks' own first: what is there is not asked for in a domain outside.
        let search = places.flatMap(\.endpoint.searchDomains) + preferences.searchDomains
        var text = search.isEmpty ? "" : "search \(search.joined(separator: " "))\n"
        for server in servers { text += "nameserver \(server)\n" }
        return Array(text.utf8)
    }

    /// Lines for /etc/hosts beside those of loopback; nil for a container that is in no network.
    package func hosts(hostname: String) -> String? {
        guard !places.isEmpty else { return nil }
        var text = ""
        for place in places {
            if let address = place.endpoint.address {
                text += "\(address)\t\(hostname)\n"
            } else if let address = place.endpoint.address6 {
                text += "\(address)\t\(hostname)\n"
            }
        }
        if places.contains(where: \.wish.hasHostAccess) { text += "198.19.255.254\thost.martlet.internal\n" }
        for line in preferences.hosts { text += "\(line)\n" }
        return text
    }

    /// What the fabric of one of the networks is to know of the others; nil where there are none.
    package func others(of index: Int) -> OtherNetworks? {
        guard places.count > 1 else { return nil }
        let rest = places.indices.filter { $0 != index }.map { places[$0].asOther }
        return OtherNetworks(rest, hasLastWord: index == leader)
    }

    /// What was asked for, as it is written down: what belongs to none of them stands with the first.
    package var wishes: [NetworkWish] {
        var wishes = places.map(\.wish)
        for index in wishes.indices {
            wishes[index].nameServers = index == 0 ? preferences.nameServers : []
            wishes[index].searchDomains = index == 0 ? preferences.searchDomains : []
            wishes[index].hosts = index == 0 ? preferences.hosts : []
        }
        return wishes
    }

    // MARK: - Changes

    /// Why the machine cannot be in a network besides; nil where it can.
    package func conflict(with new: NetworkPlace) -> String? {
        for place in places {
            guard let prefix = place.conflict(with: new) else { continue }
            return "the networks \(place.wish.network) and \(new.wish.network) have the same addresses (\(prefix)): "
                + "the container could not tell them apart"
        }
        return nil
    }

    /// What the guest has to do for the machine to have come from this to that, files of names excepted.
    /// - Parameter slot: of the interface that comes or goes.
    func arrangement(to next: MachineNetworks, slot: Int) -> Arrangement {
        var result = Arrangement()
        let before = leader.map { places[$0] }
        let after = next.leader.map { next.places[$0] }
        let isSame = before?.hardwareAddress == after?.hardwareAddress
        for place in places where !next.has(place) { result.removed.append(place.settings(slot: slot, leads: false)) }
        for (index, place) in next.places.enumerated() where !has(place) {
            result.added.append(place.settings(slot: slot, leads: index == next.leader))
        }
        if !isSame, let before, next.has(before) { result.yielding.append(before.settings(slot: nil, leads: false)) }
        if !isSame, let after, has(after) { result.leading.append(after.settings(slot: nil, leads: true)) }
        return result
    }

    private func has(_ place: NetworkPlace) -> Bool {
        places.contains { $0.hardwareAddress == place.hardwareAddress }
    }
}

extension NetworkPlace {
    var hardwareAddress: MACAddress { endpoint.hardwareAddress }

    private var subnet: IPv4Prefix? {
        endpoint.address.map { IPv4Prefix($0, length: Int(endpoint.prefixLength)) }
    }

    private var subnet6: IPv6Prefix? {
        endpoint.address6.map { IPv6Prefix($0, length: Int(endpoint.prefixLength6)) }
    }

    fileprivate var asOther: OtherNetworks.Network {
        OtherNetworks.Network(name: wish.network, subnet: subnet, subnet6: subnet6)
    }

    /// The addresses that both networks have.
    fileprivate func conflict(with other: NetworkPlace) -> String? {
        if let mine = subnet, let its = other.subnet, mine.overlaps(its) { return "\(its)" }
        if let mine = subnet6, let its = other.subnet6, mine.contains(its.network) || its.contains(mine.network) {
            return "\(its)"
        }
        return nil
    }
}
