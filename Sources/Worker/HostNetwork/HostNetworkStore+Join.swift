// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Networks
internal import Packet
internal import Platform

extension HostNetworkStore {
    /// The lock of a machine's record, for as long as this is held.
    final class HeldLock {
        private let lock: FileLock
        init(_ lock: consuming FileLock) { self.lock = lock }
    }

    /// What a machine was given.
    struct Joined {
        let machine: HostMachine
        let tap: TapDevice
        /// Nil for one that is routed.
        let bridge: HostBridge?
        let lock: HeldLock
    }

    /// The host as routed machines see it: next to them, in no network.
    static let routedGateway = IPv4Address(169, 254, 1, 1)
    static let routedGateway6 = IPv6Address(high: 0xFE80_0000_0000_0000, low: 1)

    /// Where bridges get their subnets from: private addresses (RFC 1918) that no network of ours has.
    private static let pool = IPv4Prefix(IPv4Address(10, 216, 0, 0), length: 14)

    /// Makes what a machine needs; what is left of others that were killed goes first.
    func join(_ wanted: HostMachine, _ wish: NetworkWish) throws(HostNetworkError) -> Joined {
        try locked { () throws(HostNetworkError) in
            try sweepLocked()
            var machine = wanted
            let others = try machines()
            var state = try loadState()
            // Before anything is made: from now on a sweep looks here.
            try save(state)
            guard let lock = try claim(machine.id) else {
                throw HostNetworkError("the machine \(machine.id.prefix(12)) is in the host's network already")
            }
            let tap: TapDevice
            do throws(HostNetworkError) { tap = try make(&machine, wish, &state, others) } catch {
                lock.end()
                try? sweepLocked()
                forget(machine.id)
                throw error
            }
            return Joined(
                machine: machine, tap: tap, bridge: machine.isBridged ? state.bridge : nil,
                lock: HeldLock(lock))
        }
    }

    private func make(
        _ machine: inout HostMachine, _ wish: NetworkWish, _ state: inout HostNetworkState, _ others: [HostMachine]
    ) throws(HostNetworkError) -> TapDevice {
        if machine.isBridged {
            try makeBridge(&state, mtu: wish.mtu)
            try chooseAddresses(&machine, wish, state, others)
        } else {
            try takeRoutedAddresses(&machine, wish, others)
        }
        try save(machine)
        let tap = try connect(machine, wish, &state)
        let all = others + [machine]
        let bridge = all.contains(where: \.isBridged) ? state.bridge : nil
        try HostTools.nft(NetfilterRules(machines: all, bridge: bridge).text)
        return tap
    }

    // MARK: - Bridged

    private func makeBridge(_ state: inout HostNetworkState, mtu: UInt32) throws(HostNetworkError) {
        let name = HostBridge.name
        let note: (HostNetworkState) throws(HostNetworkError) -> Void = { state throws(HostNetworkError) in
            try save(state)
        }
        if state.bridge != nil, NetworkDevice.mtu(of: name) != nil { return }
        guard state.bridge != nil || NetworkDevice.mtu(of: name) == nil else {
            throw HostNetworkError(
                "the device \(name) exists and is not ours: rename it, or remove it if it is left over")
        }
        var random = SystemRandomNumberGenerator()
        var bridge: HostBridge
        if let known = state.bridge {
            bridge = known
        } else {
            let taken = try HostRoutes().taken
            guard let subnet = SubnetChoice.next(in: Self.pool, length: 20, taken: taken) else {
                throw HostNetworkError("all of \(Self.pool) is taken by the host's routes")
            }
            bridge = HostBridge(hardwareAddress: MACAddress(local: random.next()), subnet: subnet)
            if KernelSettings.hasIPv6 { bridge.subnet6 = SubnetChoice.uniqueLocal(random: random.next()) }
        }
        state.bridge = bridge
        try save(state)
        var lines = [
            "link add name \(name) address \(bridge.hardwareAddress) type bridge forward_delay 0 stp_state 0",
            "addr add \(bridge.gateway)/\(bridge.subnet.length) dev \(name)",
        ]
        if let subnet = bridge.subnet6, let gateway = bridge.gateway6 {
            lines.append("addr add \(gateway)/\(subnet.length) dev \(name) nodad")
        }
        lines.append("link set dev \(name) mtu \(mtu) up")
        try HostTools.ip(lines)
        try KernelSettings.distrust(name)
        // Connections from the host's loopback to published ports come back over the bridge; goes with it.
        try KernelSettings.write("net/ipv4/conf/\(name)/route_localnet", "1")
        try KernelSettings.requireForwarding(&state, note: note)
        if bridge.subnet6 != nil { try KernelSettings.requireForwarding6(&state, note: note) }
    }

    private func chooseAddresses(
        _ machine: inout HostMachine, _ wish: NetworkWish, _ state: HostNetworkState, _ others: [HostMachine]
    ) throws(HostNetworkError) {
        guard let bridge = state.bridge else { return }
        let subnet = bridge.subnet
        // What stands for an address in a namespace is another one than it.
        let taken = Set(
            others.filter(\.isBridged).compactMap { $0.address?.value }
                + [bridge.gateway.value] + (wish.kept.map { [$0.address.value] } ?? []))
        if let address = wish.address {
            guard subnet.contains(address), address != subnet.network, address != subnet.broadcast else {
                throw HostNetworkError("--ip: \(address) is no machine's address in \(subnet)")
            }
            guard !taken.contains(address.value) else { throw HostNetworkError("--ip: \(address) is taken") }
            machine.address = address
        } else {
            let candidates = subnet.network.value + 2..<subnet.broadcast.value
            guard let free = candidates.first(where: { !taken.contains($0) }) else {
                throw HostNetworkError("no address of \(subnet) is free")
            }
            machine.address = IPv4Address(free)
        }
        guard let subnet6 = bridge.subnet6 else {
            if wish.address6 != nil { throw HostNetworkError("--ip6: the host has no IPv6") }
            return
        }
        let host = UInt64((machine.address?.value ?? 0) - subnet.network.value)
        var chosen = IPv6Address(high: subnet6.network.high, low: subnet6.network.low | host)
        if chosen == wish.kept?.address6 { chosen = IPv6Address(high: chosen.high, low: chosen.low | 1 << 32) }
        let address = wish.address6 ?? chosen
        guard subnet6.contains(address), address != bridge.gateway6, address != subnet6.network else {
            throw HostNetworkError("--ip6: \(address) is no machine's address in \(subnet6)")
        }
        guard !others.contains(where: { $0.address6 == address }) else {
            throw HostNetworkError("--ip6: \(address) is taken")
        }
        machine.address6 = address
    }

    // MARK: - Routed

    private func takeRoutedAddresses(
        _ machine: inout HostMachine, _ wish: NetworkWish, _ others: [HostMachine]
    ) throws(HostNetworkError) {
        machine.address = wish.address
        machine.address6 = wish.address6
        let routes = try HostRoutes()
        if let address = wish.address {
            guard !others.contains(where: { $0.address == address }) else {
                throw HostNetworkError("--ip: \(address) is taken")
            }
            machine.uplink = routes.device(to: address)
        }
        if let address = wish.address6 {
            guard !others.contains(where: { $0.address6 == address }) else {
                throw HostNetworkError("--ip6: \(address) is taken")
            }
            machine.uplink6 = routes.device(to: address)
        }
    }

    // MARK: - The machine's device

    private func connect(
        _ machine: HostMachine, _ wish: NetworkWish, _ state: inout HostNetworkState
    ) throws(HostNetworkError) -> TapDevice {
        let (device, mtu) = (machine.device, wish.mtu)
        let tap: TapDevice
        if let kept = wish.kept, machine.isBridged, let bridge = state.bridge {
            tap = try CloneNamespace.make(for: machine, wish, keeping: kept, behind: bridge)
        } else {
            do throws(TapError) { tap = try TapDevice(device) } catch { throw HostNetworkError("\(error)") }
        }
        try KernelSettings.distrust(device)
        var lines = ["link set dev \(device) addrgenmode none"]
        guard !machine.isBridged else {
            lines.append("link set dev \(device) mtu \(mtu) master \(HostBridge.name) up")
            try HostTools.ip(lines)
            return tap
        }
        lines.append("link set dev \(device) mtu \(mtu) up")
        let note: (HostNetworkState) throws(HostNetworkError) -> Void = { state throws(HostNetworkError) in
            try save(state)
        }
        if let address = machine.address {
            lines += [
                "addr add \(Self.routedGateway)/32 dev \(device)", "route add \(address)/32 dev \(device)",
                "neigh replace \(address) lladdr \(machine.hardwareAddress) dev \(device) nud permanent",
            ]
            if let uplink = machine.uplink { lines.append("neigh replace proxy \(address) dev \(uplink)") }
            try KernelSettings.requireForwarding(&state, note: note)
        }
        if let address = machine.address6 {
            lines += [
                "addr add \(Self.routedGateway6)/64 dev \(device) nodad", "route add \(address)/128 dev \(device)",
                "neigh replace \(address) lladdr \(machine.hardwareAddress) dev \(device) nud permanent",
            ]
            if let uplink = machine.uplink6 { lines.append("neigh replace proxy \(address) dev \(uplink)") }
            try KernelSettings.requireForwarding6(&state, note: note)
            if let uplink = machine.uplink6 {
                try KernelSettings.require("net/ipv6/conf/\(uplink)/proxy_ndp", "1", &state, note: note)
            }
        }
        try HostTools.ip(lines)
        return tap
    }
}
