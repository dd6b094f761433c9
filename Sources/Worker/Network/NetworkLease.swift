// SPDX-License-Identifier: Apache-2.0

internal import FabricAPI
package import Networks
internal import Platform

/// A machine's lease of its place in its network: from the network's fabric, or, in the host's own network, as what was
/// made there. Letting go of it gives the place up.
package final class NetworkLease {
    private enum Holder {
        case fabric(FabricLease)
        case host(HostMembership, NetworkPlace)
    }

    private let holder: Holder
    /// Whether the place has been settled, for a supervisor to note it once.
    private(set) var isSettled = false

    /// Asks for all places that a machine was to have.
    package static func all(of configuration: ContainerConfiguration) throws -> [NetworkLease] {
        var leases: [NetworkLease] = []
        for wish in configuration.networks { leases.append(try NetworkLease(configuration, wish)) }
        return leases
    }

    /// Asks for a place for a machine.
    package init(_ configuration: ContainerConfiguration, _ wish: NetworkWish) throws {
        if let mode = wish.host {
            let membership = try HostMembership(mode, id: configuration.id, wish)
            var place = NetworkPlace(wish: wish, endpoint: membership.endpoint, device: membership.device)
            (place.outside, place.outside6) = membership.outside
            holder = .host(membership, place)
        } else {
            holder = .fabric(try FabricLease(configuration, wish))
        }
    }

    /// What the machine has, once it is settled.
    package var place: NetworkPlace? {
        switch holder {
        case .fabric(let lease): lease.place
        case .host(_, let place): isSettled ? place : nil
        }
    }

    /// Waits until the machine has its place, with all that was asked for.
    package func settle() throws(NetworkError) -> NetworkPlace {
        let place =
            switch holder {
            case .fabric(let lease): try lease.settle()
            case .host(_, let place): place
            }
        isSettled = true
        return place
    }

    /// Tells the network in which others the machine is; nil for none.
    func set(_ others: OtherNetworks?) {
        if case .fabric(let lease) = holder { lease.set(others) }
    }

    /// The descriptor that the monitor is handed for its network device; nil where it connects by itself.
    var monitorDescriptor: Int32? {
        if case .host(let membership, _) = holder { membership.tap?.descriptor.raw } else { nil }
    }

    /// Readable when what the place hangs on has ended.
    package var descriptors: [Int32] {
        if case .fabric(let lease) = holder { lease.descriptors } else { [] }
    }

    /// Takes again what was lost with a fabric that has ended. Where that fails it may be tried again.
    /// - Returns: whether anything was lost.
    package func restore() throws(NetworkError) -> Bool {
        if case .fabric(let lease) = holder { try lease.restore() } else { false }
    }

    /// The monitor has ended: what the machine had of the host's network is taken away. A fabric sees the end of its
    /// connection by itself.
    func release() {
        if case .host(let membership, _) = holder { membership.release() }
    }
}
