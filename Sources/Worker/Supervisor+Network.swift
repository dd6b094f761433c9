// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Networks
internal import Platform

/// The machine's place in its network, which outlives the fabric that gave it.
extension Supervisor {
    /// Waits until the machine has its place; nil where it is to have none.
    func settleNetwork() throws(NetworkError) -> NetworkPlace? {
        guard let network else { return nil }
        let isNew = !network.isSettled
        let place = try network.settle()
        guard isNew else { return place }
        mark("network")
        state.network = place.json
        watchNetwork()
        return place
    }

    private func watchNetwork() {
        for raw in network?.descriptors ?? [] { try? epoll.add(raw, [.readable, .peerClosed], token: Token.network) }
    }

    /// A fabric has ended, by whatever way: the next one is started, by this supervisor or another, and gives the
    /// machine the place that it had. The machine itself goes on; its monitor connects again by itself.
    func restoreNetwork() {
        drainNetworkTimer()
        guard let network else { return }
        for raw in network.descriptors { try? epoll.remove(raw) }
        do throws(NetworkError) {
            if try network.restore() { say("the network's fabric had ended; the machine has its place again") }
            networkDelay = 0
        } catch {
            networkDelay = min(30_000, max(250, networkDelay * 2))
            say("the network's fabric has ended, and the machine's place is not to be had again: \(error)")
            switch networkTimer {
            case .some(let timer): try? timer.arm(afterMilliseconds: networkDelay)
            case .none: break
            }
        }
        watchNetwork()
    }

    func drainNetworkTimer() {
        switch networkTimer {
        case .some(let timer): _ = timer.drain()
        case .none: break
        }
    }

    /// A line among the machine's diagnostics, which are this process's standard error.
    func say(_ text: String) {
        let line = Array("martlet-supervisor: \(text)\n".utf8)
        _ = unsafe line.withUnsafeBytes { bytes in
            retryingInterrupts { unsafe Glibc.write(2, bytes.baseAddress, bytes.count) }
        }
    }
}
