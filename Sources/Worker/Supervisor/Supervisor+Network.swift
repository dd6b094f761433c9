// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Networks
internal import Platform

/// The machine's places in its networks, which outlive the fabrics that gave them.
extension Supervisor {
    /// The places that it has, in the order in which it got them.
    var machineNetworks: MachineNetworks { MachineNetworks(networks.compactMap(\.place), preferences) }

    /// Waits until the machine has all its places.
    func settleNetworks() throws(NetworkError) -> MachineNetworks {
        var settled = MachineNetworks([], preferences)
        let isNew = networks.contains { !$0.isSettled }
        for lease in networks {
            let place = try lease.settle()
            if let conflict = settled.conflict(with: place) { throw .invalid(conflict) }
            settled.places.append(place)
        }
        guard isNew else { return settled }
        mark("network")
        networksChanged()
        for lease in networks { watch(lease) }
        return settled
    }

    /// Tells each network of the others, and notes all of them.
    func networksChanged() {
        let all = machineNetworks
        for (index, lease) in networks.enumerated() { lease.set(all.others(of: index)) }
        state.networks = all.places.map(\.json)
    }

    func watch(_ lease: NetworkLease) {
        for raw in lease.descriptors { try? epoll.add(raw, [.readable, .peerClosed], token: Token.network) }
    }

    func watchNoLonger(_ lease: NetworkLease) {
        for raw in lease.descriptors { try? epoll.remove(raw) }
    }

    /// A fabric has ended, by whatever way: the next one is started, by this supervisor or another, and gives the
    /// machine the place that it had. The machine itself goes on; its monitor connects again by itself.
    func restoreNetworks() {
        _ = networkTimer.drain()
        var hasFailed = false
        for lease in networks where lease.isSettled {
            watchNoLonger(lease)
            do throws(NetworkError) {
                if try lease.restore() { say("the network's fabric had ended; the machine has its place again") }
            } catch {
                hasFailed = true
                say("the network's fabric has ended, and the machine's place is not to be had again: \(error)")
            }
            watch(lease)
        }
        networkDelay = hasFailed ? min(30_000, max(250, networkDelay * 2)) : 0
        if hasFailed { try? networkTimer.arm(afterMilliseconds: networkDelay) }
    }

    /// A line among the machine's diagnostics, which are this process's standard error.
    func say(_ text: String) {
        let line = Array("martlet-supervisor: \(text)\n".utf8)
        _ = unsafe line.withUnsafeBytes { bytes in
            retryingInterrupts { unsafe Glibc.write(2, bytes.baseAddress, bytes.count) }
        }
    }
}
