// SPDX-License-Identifier: Apache-2.0

internal import FabricAPI
internal import Packet

/// The packet filter's rules for all machines in the host's network, as `nft -f` reads them: two tables of our own,
/// replaced whole, so that no packet sees half of them. Rules of others are not touched; what they drop stays dropped.
struct NetfilterRules {
    static let table = "martlet"

    let machines: [HostMachine]
    let bridge: HostBridge?

    /// Takes both tables away, whether they are there or not.
    static let removal = """
        table inet \(table)
        delete table inet \(table)
        table bridge \(table)
        delete table bridge \(table)

        """

    var text: String {
        guard !machines.isEmpty else { return Self.removal }
        return Self.removal + internet + frames
    }

    private var bridged: [HostMachine] { machines.filter(\.isBridged) }
    private var routed: [HostMachine] { machines.filter { !$0.isBridged } }

    // MARK: - Packets

    private var internet: String {
        var lines = ["table inet \(Self.table) {"]
        lines += senders(routed, inBridge: false)
        lines += chain("published", nil, machines.flatMap(publishing))
        let hooks = [("incoming", "prerouting priority dstnat"), ("local", "output priority -100")]
        for (name, hook) in hooks {
            lines += chain(name, "type nat hook \(hook);", ["fib daddr type local jump published"])
        }
        var outgoing: [String] = []
        var raw: [String] = []
        var forward = routed.flatMap { metadata(from: $0.device) }
        if let bridge {
            let name = HostBridge.name
            outgoing.append("oifname \"\(name)\" ip saddr 127.0.0.0/8 masquerade")
            outgoing.append("oifname \"\(name)\" ct status dnat ip saddr \(bridge.subnet) masquerade")
            outgoing.append("oifname != \"\(name)\" ip saddr \(bridge.subnet) masquerade")
            if let subnet = bridge.subnet6 {
                outgoing.append("oifname \"\(name)\" ct status dnat ip6 saddr \(subnet) masquerade")
                outgoing.append("oifname != \"\(name)\" ip6 saddr \(subnet) masquerade")
            }
            // The bridge may carry answers to the host's loopback; nothing of a machine's begins there.
            raw.append(drop("iifname \"\(name)\" ip daddr 127.0.0.0/8", "the host's loopback"))
            forward += metadata(from: name)
            forward += [
                "iifname \"\(name)\" accept",
                "oifname \"\(name)\" ct state established,related accept",
                "oifname \"\(name)\" ct status dnat accept",
                drop("oifname \"\(name)\"", "not published"),
            ]
        }
        lines += chain("loopback", "type filter hook prerouting priority -310;", raw)
        lines += chain("outgoing", "type nat hook postrouting priority srcnat;", outgoing)
        lines += chain("forward", "type filter hook forward priority filter;", forward)
        return lines.joined(separator: "\n") + "\n}\n"
    }

    /// What leads from the host's ports to a machine's.
    private func publishing(_ machine: HostMachine) -> [String] {
        machine.published.flatMap { ports -> [String] in
            let to4 = machine.address.map { "dnat ip to \($0)" }
            let to6 = machine.address6.map { "dnat ip6 to [\($0)]" }
            var ways: [(match: String, to: String)] = []
            switch ports.hostAddress {
            case .any:
                if let to4 { ways.append(("meta nfproto ipv4", to4)) }
                if let to6 { ways.append(("ip6 daddr != ::1", to6)) }
            case .v4(let address): if let to4 { ways.append(("ip daddr \(address)", to4)) }
            case .v6(let address): if let to6 { ways.append(("ip6 daddr \(address)", to6)) }
            }
            let kind = ports.transport.rawValue
            return ways.flatMap { way -> [String] in
                if ports.hostPort == ports.machinePort {
                    let last = ports.hostPort &+ (ports.count - 1)
                    let range = ports.count == 1 ? "\(ports.hostPort)" : "\(ports.hostPort)-\(last)"
                    return ["\(way.match) \(kind) dport \(range) \(way.to)"]
                }
                return (0..<ports.count).map { index in
                    "\(way.match) \(kind) dport \(ports.hostPort &+ index) \(way.to):\(ports.machinePort &+ index)"
                }
            }
        }
    }

    // MARK: - Senders

    private var frames: String {
        guard !bridged.isEmpty else { return "" }
        let lines = ["table bridge \(Self.table) {"] + senders(bridged, inBridge: true)
        return lines.joined(separator: "\n") + "\n}\n"
    }

    /// The device that a frame comes in on says who sends it.
    private func senders(_ machines: [HostMachine], inBridge: Bool) -> [String] {
        guard !machines.isEmpty else { return [] }
        var lines: [String] = []
        for machine in machines { lines += chain("from_\(machine.device)", nil, rules(machine, inBridge: inBridge)) }
        let jumps = machines.map { "\"\($0.device)\" : jump from_\($0.device)" }.joined(separator: ", ")
        return lines + chain("senders", "type filter hook prerouting priority -310;", ["iifname vmap { \(jumps) }"])
    }

    private func rules(_ machine: HostMachine, inBridge: Bool) -> [String] {
        let local = machine.linkLocal
        let own6 = ([local] + (machine.address6.map { [$0] } ?? [])).map { "\($0)" }
        var rules = [drop("ether saddr != \(machine.hardwareAddress)", "spoofed Ethernet address")]
        if let address = machine.address {
            rules.append(drop("ip saddr != \(address)", "spoofed IPv4 address"))
        } else {
            rules.append(drop(inBridge ? "ether type ip" : "meta nfproto ipv4", "IPv4 without an address"))
        }
        rules += [
            drop("ip6 saddr != { ::, \(own6.joined(separator: ", ")) }", "spoofed IPv6 address"),
            // A host that takes advertisements would take these for its own router's.
            drop("icmpv6 type { nd-router-advert, nd-redirect }", "router that is none"),
            // Whose address an advertisement is of: 8 bytes into ICMPv6 (RFC 4861 §4.4), behind IPv6's 40.
            drop(
                "icmpv6 type nd-neighbor-advert @nh,384,128 != \(number(local))"
                    + (machine.address6.map { " @nh,384,128 != \(number($0))" } ?? ""), "spoofed neighbour"),
        ]
        // What the host has of a routed machine's neighbours is set for good: ARP changes nothing.
        guard inBridge else { return rules }
        let address = machine.address ?? IPv4Address(0)
        return rules + [
            drop("ether type != { ip, ip6, arp }", "other protocol"),
            drop("arp saddr ether != \(machine.hardwareAddress)", "spoofed ARP"),
            drop("arp saddr ip != { 0.0.0.0, \(address) }", "spoofed ARP"),
        ]
    }

    /// Where clouds keep metadata, which is not for machines.
    private func metadata(from device: String) -> [String] {
        let services6 = IPv6Address.metadataServices.map { "\($0)" }.joined(separator: ", ")
        return ["ip daddr 169.254.0.0/16", "ip6 daddr { \(services6) }"].map {
            drop("iifname \"\(device)\" \($0)", "metadata")
        }
    }

    /// A rule that counts what it drops.
    private func drop(_ match: String, _ reason: String) -> String { "\(match) counter drop comment \"\(reason)\"" }

    private func number(_ address: IPv6Address) -> String {
        func padded(_ half: UInt64) -> String {
            let digits = String(half, radix: 16)
            return String(repeating: "0", count: 16 - digits.count) + digits
        }
        return "0x\(padded(address.high))\(padded(address.low))"
    }

    private func chain(_ name: String, _ hook: String?, _ rules: [String]) -> [String] {
        ["  chain \(name) {"] + (hook.map { ["    \($0)"] } ?? []) + rules.map { "    \($0)" } + ["  }"]
    }
}
