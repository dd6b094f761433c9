// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Packet
internal import Platform
internal import Synchronization

/// A network namespace for one clone of a bridged machine, in which it has the addresses that its original has. Outside,
/// on the bridge, it has others, which stand for these: each packet's are changed on its way.
///
///     guest ── TAP "guest" ── packets are passed on, and translated ── "uplink" ── veth ── mltXXXXXXXXXX on the bridge
///
/// The guest finds everything that it knew next to it: the namespace answers its ARP requests for whatever lies beyond.
/// IPv6 has no such answer for all, so there the guest is told of a gateway, and of no neighbours.
///
/// Nothing but the TAP device's descriptor holds the namespace. When monitor and supervisor are gone, by whatever way,
/// so is it, and with it both ends of the veth pair.
enum CloneNamespace {
    private static let uplink = "uplink"
    private static let guest = "guest"
    /// The guest's gateway for IPv6.
    static let gateway6 = HostNetworkStore.routedGateway6

    /// What a namespace is made of.
    fileprivate struct Plan: Sendable {
        let machine: HostMachine
        let kept: KeptPlace
        /// The guest's.
        let station: MACAddress
        let bridge: HostBridge
        let mtu: UInt32
        /// The host's namespace, as `ip` finds it.
        let host: String
    }

    private final class Outcome: Sendable {
        let value = Mutex<Result<TapDevice, HostNetworkError>?>(nil)
    }

    /// Makes one, whose link to the host is `machine.device`, with `machine`'s addresses.
    static func make(
        for machine: HostMachine, _ wish: NetworkWish, keeping kept: KeptPlace, behind bridge: HostBridge
    ) throws(HostNetworkError) -> TapDevice {
        let host = try hostNetwork("this network namespace") { () throws(SystemError) in
            try Descriptor.open("/proc/thread-self/ns/net", .readOnly)
        }
        let plan = Plan(
            machine: machine, kept: kept, station: wish.hardwareAddress, bridge: bridge, mtu: wish.mtu,
            host: "/proc/\(getpid())/fd/\(host.raw)")
        let outcome = Outcome()
        // A thread of its own, which is in the namespace and ends with what it has made.
        let thread = try hostNetwork("a network namespace") { () throws(SystemError) in
            try Thread(name: "namespace", stackSizeInBytes: 1 << 20) {
                let result = Result { () throws(HostNetworkError) in try enter(plan) }
                outcome.value.withLock { $0 = result }
            }
        }
        thread.join()
        host.close()
        guard let result = outcome.value.withLock({ $0 }) else {
            throw HostNetworkError("a network namespace: its thread came to nothing")
        }
        return try result.get()
    }

    private static func enter(_ plan: Plan) throws(HostNetworkError) -> TapDevice {
        guard clinux_new_network() == 0 else {
            throw HostNetworkError("a network namespace: \(SystemError("unshare"))")
        }
        let tap: TapDevice
        do throws(TapError) { tap = try TapDevice(guest) } catch { throw HostNetworkError("\(error)") }
        try HostTools.ip(links(plan))
        let settings = [
            ("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/\(guest)/rp_filter", "0"),
            ("ipv4/conf/\(uplink)/rp_filter", "0"), ("ipv4/conf/\(guest)/proxy_arp", "1"),
            // At once: there is nobody else to answer (RFC 1027 wants a wait).
            ("ipv4/neigh/\(guest)/proxy_delay", "0"),
        ]
        for (path, value) in settings { try KernelSettings.write("net/\(path)", value) }
        try HostTools.ip(addresses(plan))
        if plan.inside6 != nil {
            try KernelSettings.write("net/ipv6/conf/all/forwarding", "1")
            try HostTools.ip(addresses6(plan))
        }
        try HostTools.nft(rules(plan))
        return tap
    }

    // MARK: - What it is made of

    private static func links(_ plan: Plan) -> [String] {
        [
            "link set dev lo up",
            "link add name \(uplink) address \(plan.machine.hardwareAddress) type veth "
                + "peer name \(plan.machine.device) netns \(plan.host)",
            "link set dev \(uplink) mtu \(plan.mtu)", "link set dev \(guest) addrgenmode none",
            "link set dev \(guest) mtu \(plan.mtu)",
            "link set dev \(uplink) up", "link set dev \(guest) up",
        ]
    }

    private static func addresses(_ plan: Plan) -> [String] {
        guard let outside = plan.machine.address else { return [] }
        return [
            "addr add \(outside)/\(plan.bridge.subnet.length) dev \(uplink)",
            "route add \(plan.kept.address)/32 dev \(guest)",
            "neigh replace \(plan.kept.address) lladdr \(plan.station) dev \(guest) nud permanent",
            "route add default via \(plan.bridge.gateway) dev \(uplink)",
        ]
    }

    private static func addresses6(_ plan: Plan) -> [String] {
        guard let (inside, outside, subnet, gateway) = plan.inside6 else { return [] }
        return [
            "addr add \(outside)/\(subnet.length) dev \(uplink) nodad",
            "addr add \(gateway6)/64 dev \(guest) nodad", "route add \(inside)/128 dev \(guest)",
            "neigh replace \(inside) lladdr \(plan.station) dev \(guest) nud permanent",
            "route add ::/0 via \(gateway) dev \(uplink)",
        ]
    }

    /// What of the guest's goes on has the outside's addresses, and is let through by the host as that; what comes for
    /// those goes to the guest. The namespace itself talks to nobody but neighbours.
    private static func rules(_ plan: Plan) -> String {
        var incoming: [String] = []
        var outgoing: [String] = []
        if let outside = plan.machine.address {
            incoming.append("iifname \"\(uplink)\" ip daddr \(outside) dnat ip to \(plan.kept.address)")
            outgoing.append("oifname \"\(uplink)\" ip saddr \(plan.kept.address) snat ip to \(outside)")
        }
        if let (inside, outside, _, _) = plan.inside6 {
            incoming.append("iifname \"\(uplink)\" ip6 daddr \(outside) dnat ip6 to [\(inside)]")
            outgoing.append("oifname \"\(uplink)\" ip6 saddr \(inside) snat ip6 to [\(outside)]")
        }
        return """
            table inet \(NetfilterRules.table) {
              chain incoming {
                type nat hook prerouting priority dstnat;
                \(incoming.joined(separator: "\n    "))
              }
              chain outgoing {
                type nat hook postrouting priority srcnat;
                \(outgoing.joined(separator: "\n    "))
              }
              chain own {
                type filter hook input priority filter;
                iifname "\(guest)" icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept
                iifname "\(guest)" drop
              }
            }

            """
    }
}

extension CloneNamespace.Plan {
    /// The guest's own address, the one that stands for it, that one's subnet and the host's address there; nil where
    /// there is no IPv6.
    fileprivate var inside6: (inside: IPv6Address, outside: IPv6Address, subnet: IPv6Prefix, gateway: IPv6Address)? {
        guard let inside = kept.address6, let outside = machine.address6, let subnet = bridge.subnet6,
            let gateway = bridge.gateway6
        else { return nil }
        return (inside, outside, subnet, gateway)
    }
}
