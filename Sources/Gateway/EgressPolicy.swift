// SPDX-License-Identifier: Apache-2.0

package import FabricAPI
package import Packet

/// What a machine may reach through the gateway. A value: it is replaced whole.
///
/// Some addresses are never reached, whatever the rules say: the host's loopback, its own addresses (unless
/// `reachesHost`), link-local addresses and with them the metadata service of clouds, multicast, broadcast, and
/// addresses that hide an IPv4 address in an IPv6 one.
package struct EgressPolicy: Equatable, Sendable {
    /// Rules, of which the first that fits decides. Where one of them allows, what fits none is denied, else it is
    /// allowed.
    package struct Rules: Equatable, Sendable {
        package var list: [EgressRule] = []
        /// What would be refused is let through and counted.
        package var auditsOnly = false

        package init(_ list: [EgressRule] = [], auditsOnly: Bool = false) {
            self.list = list
            self.auditsOnly = auditsOnly
        }
    }

    /// The machine's own, and those of its network: both have to allow.
    package var own = Rules()
    package var network = Rules()
    /// Where the host's loopback is, if the machine may reach it at the addresses that stand for it.
    package var hostLoopback: HostLoopback?
    /// The host's own addresses may be reached as others.
    package var reachesHost = false
    /// The names that addresses were given for, until a time in microseconds.
    private var pins: [IPv6Address: [Pin]] = [:]

    private var fullUntil: UInt64 = 0

    private struct Pin: Equatable, Sendable {
        var name: String
        var until: UInt64
    }

    /// How many addresses names may stand for at a time, and how many names one of them may have.
    package static let pinLimit = 4096
    private static let namesOfOne = 8

    /// Where machines find the host's loopback, if they may: in the range for benchmarks (RFC 2544), which nobody routes,
    /// and in a unique local prefix of Martlet's own.
    package static let loopbackAddresses = (
        ipv4: IPv4Address(198, 19, 255, 254),
        ipv6: IPv6Address(high: 0xFD6D_6172_746C_6574, low: 1)
    )

    /// Where connections to the host's loopback go.
    package enum HostLoopback: Equatable, Sendable {
        /// This host's own.
        case here
        /// This host runs in another, whose loopback is reached at this address.
        case at(IPv6Address)
    }

    package init() {}

    /// A machine was told that a name has this address, for as long as the answer said. Whoever answers the machine's
    /// questions calls it, before the machine has the answer; names that no rule fits need not be told of.
    /// - Parameter name: in small letters, without a dot at the end.
    /// - Returns: false when there are too many.
    package mutating func pin(_ address: IPv6Address, name: String, until: UInt64, now: UInt64) -> Bool {
        if pins.count >= Self.pinLimit, pins[address] == nil {
            // Looking through all of them is worth it only once one of them has run out.
            guard now >= fullUntil else { return false }
            pins = pins.filter { $0.value.contains { $0.until > now } }
            guard pins.count < Self.pinLimit else {
                fullUntil = pins.values.reduce(.max) { min($0, $1.reduce(0) { max($0, $1.until) }) }
                return false
            }
        }
        var names = (pins[address] ?? []).filter { $0.until > now && $0.name != name }
        if names.count >= Self.namesOfOne { names.removeFirst() }
        names.append(Pin(name: name, until: until))
        pins[address] = names
        return true
    }

    /// Whether a rule is about this name: then its addresses are to be pinned.
    package func concerns(_ name: String) -> Bool {
        func isAbout(_ rule: EgressRule) -> Bool {
            if case .name(let pattern) = rule.target { EgressPolicy.fits(name, pattern) } else { false }
        }
        return own.list.contains(where: isAbout) || network.list.contains(where: isAbout)
    }

    private static func fits(_ name: String, _ pattern: String) -> Bool {
        pattern.hasPrefix("*.") ? name.hasSuffix(pattern.dropFirst(1)) : name == pattern
    }

    /// The names that an address was given for and that hold now: a flow that begins keeps them, so that its rules go on
    /// to fit it when the answer has run out.
    func names(of address: IPv6Address, now: UInt64) -> [String] {
        (pins[address] ?? []).compactMap { $0.until > now ? $0.name : nil }
    }

    private func fits(
        _ rule: EgressRule, _ address: IPv6Address, _ port: UInt16, _ number: UInt8, _ now: UInt64,
        _ names: [String] = []
    ) -> Bool {
        // A rule for a port is not about what has none.
        if let wanted = rule.port, number != IPProtocol.tcp && number != IPProtocol.udp || wanted != port {
            return false
        }
        switch rule.target {
        case .everything: return true
        case .v4(let prefix):
            return (address.mappedIPv4 ?? EgressPolicy.hiddenIPv4(address)).map { prefix.contains($0) } ?? false
        case .v6(let prefix): return address.mappedIPv4 == nil && prefix.contains(address)
        case .name(let pattern):
            return names.contains { EgressPolicy.fits($0, pattern) }
                || pins[address]?.contains { $0.until > now && EgressPolicy.fits($0.name, pattern) } ?? false
        }
    }

    /// What the rules say.
    enum Judgement: Equatable {
        case allowed
        /// Let through, because those that deny it are only to be counted.
        case audited
        case denied
    }

    /// - Parameter names: those that let a flow in, for one that there is.
    func judge(
        _ address: IPv6Address, _ port: UInt16, _ number: UInt8, now: UInt64, names: [String] = []
    ) -> Judgement {
        let hidden = EgressPolicy.hiddenIPv4(address).map { IPv6Address(mapping: $0) }
        func allows(_ rules: [EgressRule]) -> Bool {
            // Where a translator leads to an IPv4 address, a rule that denies that one is not got round by its other name.
            if let hidden, let rule = rules.first(where: { $0.isOfIPv4 && fits($0, hidden, port, number, now) }),
                !rule.allows
            {
                return false
            }
            for rule in rules where fits(rule, address, port, number, now, names) { return rule.allows }
            return !rules.contains { $0.allows }
        }
        var judgement = Judgement.allowed
        for rules in [own, network] where !rules.list.isEmpty && !allows(rules.list) {
            guard rules.auditsOnly else { return .denied }
            judgement = .audited
        }
        return judgement
    }

    /// Where the host is to connect to for an address that a machine asks for.
    enum Verdict: Equatable {
        case reach(IPv6Address)
        case refuse
    }

    func decide(
        _ address: IPv6Address, _ port: UInt16, _ number: UInt8, hostAddresses: Set<IPv6Address>, now: UInt64
    ) -> Verdict {
        let standIns = EgressPolicy.loopbackAddresses
        if address.mappedIPv4 == standIns.ipv4 || address == standIns.ipv6 {
            switch hostLoopback {
            case .here where address == standIns.ipv6: return .reach(.loopback)
            case .here: return .reach(IPv6Address(mapping: IPv4Address(0x7F00_0001)))
            case .at(let elsewhere): return .reach(elsewhere)
            // This host may run in another, whose loopback it would be.
            case nil: return .refuse
            }
        }
        if EgressPolicy.isForbidden(address) { return .refuse }
        if !reachesHost {
            if hostAddresses.contains(address) { return .refuse }
            if let hidden = EgressPolicy.hiddenIPv4(address), hostAddresses.contains(IPv6Address(mapping: hidden)) {
                return .refuse
            }
        }
        return .reach(address)
    }

    /// Addresses that mean this host, this link, many stations, or nobody.
    static func isForbidden(_ address: IPv6Address) -> Bool {
        if let ipv4 = address.mappedIPv4 {
            let value = ipv4.value
            return value >> 24 == 0 || value >> 24 == 127 || value >> 16 == 0xA9FE || value >> 28 >= 0xE
        }
        // ::/8 holds loopback, the unspecified address and the IPv4-in-IPv6 forms; of those NAT64 leads elsewhere.
        return address.high >> 56 == 0 && hiddenIPv4(address) == nil || address.isMulticast
            || address.isLinkLocal || IPv6Address.metadataServices.contains(address)
            || hiddenIPv4(address).map { isForbidden(IPv6Address(mapping: $0)) } ?? false
    }

    /// The IPv4 address that an IPv6 address leads to: by 6to4 (2002::/16, RFC 3056) or NAT64 (64:ff9b::/96, RFC 6052).
    private static func hiddenIPv4(_ address: IPv6Address) -> IPv4Address? {
        if address.high >> 48 == 0x2002 { return IPv4Address(UInt32(truncatingIfNeeded: address.high >> 16)) }
        if address.high == 0x0064_FF9B_0000_0000, address.low >> 32 == 0 {
            return IPv4Address(UInt32(truncatingIfNeeded: address.low))
        }
        return nil
    }
}

extension EgressRule {
    fileprivate var isOfIPv4: Bool { if case .v4 = target { true } else { false } }
}
