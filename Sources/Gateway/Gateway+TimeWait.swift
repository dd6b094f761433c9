// SPDX-License-Identifier: Apache-2.0

internal import TCP

/// TIME-WAIT (RFC 9293 §3.6.1) within bounds: a machine that makes thousands of connections a second would have tens of
/// thousands of them rest, and none left to open. What a shorter wait gives up, timestamps and ever larger first numbers
/// make good (RFC 6191).
extension Gateway {
    /// A flow has come to TIME-WAIT; the oldest makes way where there are too many.
    func rest(_ flow: TCPFlow) {
        guard !flow.isResting else { return }
        flow.isResting = true
        let machine = flow.machine
        machine.resting.append(token(flow.slot))
        while machine.resting.count > machine.settings.quotas.resting {
            guard let oldest = restingFlow(machine.resting.removeFirst()) else { continue }
            // What the host's socket has not taken yet goes there still.
            oldest.endpoint.abort()
            mark(oldest)
        }
    }

    /// Whether a machine may have one more connection; one that only rests makes room for it.
    func makeRoomForConnection(_ machine: Machine) -> Bool {
        while machine.connections >= machine.settings.quotas.connections, machine.resting.hasMore {
            guard let oldest = restingFlow(machine.resting.removeFirst()) else { continue }
            oldest.endpoint.abort()
            if oldest.raw < 0 { remove(oldest) } else { mark(oldest) }
        }
        return machine.connections < machine.settings.quotas.connections
    }

    /// The flow of a token, if it rests still.
    private func restingFlow(_ token: UInt64) -> TCPFlow? {
        let slot = Int(UInt32(truncatingIfNeeded: token))
        guard generations[slot] == UInt32(token >> 32), case .tcp(let flow) = slots[slot],
            flow.endpoint.state == .timeWait
        else { return nil }
        return flow
    }
}
