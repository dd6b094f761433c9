// SPDX-License-Identifier: Apache-2.0

internal import FabricAPI
internal import Glibc
internal import Packet
internal import Platform
internal import Wire

/// A machine's place in the host's network, held by its supervisor. What was made for it goes with it.
final class HostMembership {
    let tap: TapDevice?
    let endpoint: FabricReply.Endpoint
    /// The addresses that stand for the machine's own outside of its namespace, where it has one.
    private(set) var outside: (IPv4Address?, IPv6Address?) = (nil, nil)
    /// The host's device.
    let device: String?
    private let store: HostNetworkStore?
    private let id: String
    private var held: Held?

    /// What says that the machine lives.
    private struct Held {
        let lock: HostNetworkStore.HeldLock
        let ports: [Reserved]
    }

    private final class Reserved {
        let reservation: PortReservation
        init(_ wanted: PublishedPorts) throws(HostNetworkError) { reservation = try PortReservation(wanted) }
    }

    init(_ mode: HostNetworkMode, id: String, _ wish: NetworkWish) throws(HostNetworkError) {
        self.id = id
        var endpoint = FabricReply.Endpoint(
            socketPath: "", hardwareAddress: wish.hardwareAddress, mtu: wish.mtu)
        endpoint.nameServers = HostResolver.nameServers()
        if case .tap(let name) = mode {
            store = nil
            tap = try Self.open(name, mtu: wish.mtu)
            device = name
            endpoint.address = wish.address
            endpoint.prefixLength = wish.prefixLength ?? 24
            endpoint.gateway = wish.gateway
            endpoint.address6 = wish.address6
            endpoint.prefixLength6 = wish.prefixLength6 ?? 64
            endpoint.gateway6 = wish.gateway6
            self.endpoint = endpoint
            return
        }
        guard geteuid() == 0 else {
            throw HostNetworkError("--network \(mode.text) needs root; the default network does not")
        }
        let store = try HostNetworkStore.ofThisHost()
        var ports: [Reserved] = []
        for wanted in wish.published { ports.append(try Reserved(wanted)) }
        let kept = mode == .bridged ? wish.kept : nil
        var random = SystemRandomNumberGenerator()
        // In a namespace of its own it is that one's link that the host sees.
        var machine = HostMachine(
            id: id, isBridged: mode == .bridged, device: "mlt\(id.prefix(10))",
            hardwareAddress: kept == nil ? wish.hardwareAddress : MACAddress(local: random.next()))
        machine.published = ports.map { $0.reservation.ports }
        let joined = try store.join(machine, wish)
        held = Held(lock: joined.lock, ports: ports)
        self.store = store
        tap = joined.tap
        device = joined.machine.device
        endpoint.published = joined.machine.published
        endpoint.address = joined.machine.address
        endpoint.address6 = joined.machine.address6
        if let kept {
            outside = (joined.machine.address, joined.machine.address6)
            endpoint.address = kept.address
            endpoint.prefixLength = kept.prefixLength
            endpoint.gateway = kept.gateway
            endpoint.address6 = joined.machine.address6 == nil ? nil : kept.address6
            endpoint.prefixLength6 = 128
            if endpoint.address6 != nil { endpoint.gateway6 = CloneNamespace.gateway6 }
        } else if let bridge = joined.bridge {
            endpoint.prefixLength = UInt8(bridge.subnet.length)
            endpoint.gateway = bridge.gateway
            endpoint.prefixLength6 = UInt8(bridge.subnet6?.length ?? 128)
            endpoint.gateway6 = bridge.gateway6
        } else {
            endpoint.prefixLength = 32
            endpoint.prefixLength6 = 128
            if endpoint.address != nil { endpoint.gateway = HostNetworkStore.routedGateway }
            if endpoint.address6 != nil { endpoint.gateway6 = HostNetworkStore.routedGateway6 }
        }
        self.endpoint = endpoint
    }

    deinit { release() }

    /// Takes everything away; the monitor has ended.
    func release() {
        guard let store, held != nil else { return }
        // What cannot be taken away now is found by whoever comes next: its lock is free then.
        try? store.leave(id)
        held = nil
    }

    /// Opens a TAP device that is somebody else's, or makes one that goes with the machine.
    private static func open(_ name: String, mtu: UInt32) throws(HostNetworkError) -> TapDevice {
        let isThere = HostDevices.mtu(of: name) != nil
        let tap: TapDevice
        do throws(TapError) { tap = try TapDevice(name) } catch {
            throw HostNetworkError("--network tap=\(name): \(explain(error, isThere))")
        }
        if !isThere { try HostTools.ip(["link set dev \(name) mtu \(mtu) up"]) }
        return tap
    }

    private static func explain(_ error: TapError, _ isThere: Bool) -> String {
        switch error {
        case .cannotAttach(_, let cause) where cause.code == EBUSY: "it is in use by another program"
        case .cannotAttach(_, let cause) where cause.code == EPERM:
            isThere
                ? "it is another user's; ip tuntap add NAME mode tap user USER makes one for a user"
                : "there is no such device, and to make it needs root or CAP_NET_ADMIN"
        case .cannotAttach(_, let cause) where cause.code == EINVAL: "it is no TAP device"
        case .cannotAttach(_, let cause): cause.reason
        case .cannotOpen(let cause): "\(cause)"
        default: "\(error)"
        }
    }
}

/// Devices of the host, in the calling thread's network namespace.
package enum HostDevices {
    /// The longest packet of a device, in bytes; nil where there is none of this name.
    package static func mtu(of name: String) -> UInt32? { NetworkDevice.mtu(of: name) }

    /// The longest packet that a machine in such a network sends.
    package static func mtu(for mode: HostNetworkMode) -> UInt32 {
        let device: String?
        switch mode {
        case .tap(let name): device = name
        case .bridged, .routed: device = (try? HostRoutes())?.defaultDevice
        }
        let mtu = device.flatMap(NetworkDevice.mtu) ?? 1500
        return min(max(mtu, 1280), mode.changesHost ? 1500 : 65_520)
    }
}

/// Whom the host asks for names.
enum HostResolver {
    /// Those that a machine can ask as well: not the ones on the host's loopback.
    static func nameServers() -> [String] {
        for path in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
            guard let bytes = try? Files.read(path, limit: 65_536) else { continue }
            let found = nameServers(in: bytes)
            if !found.isEmpty { return found }
        }
        return []
    }

    static func nameServers(in bytes: [UInt8]) -> [String] {
        bytes.split(separator: 10).compactMap { line in
            let words = line.split { $0 == 32 || $0 == 9 }.map { String(decoding: $0, as: UTF8.self) }
            guard words.count >= 2, words[0] == "nameserver" else { return nil }
            switch IPAddress(words[1]) {
            case .v4(let address) where address.value >> 24 != 127: return words[1]
            case .v6(let address) where !address.isLoopback && !address.isLinkLocal: return words[1]
            default: return nil
            }
        }
    }
}
