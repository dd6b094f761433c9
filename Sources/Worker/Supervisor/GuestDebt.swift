// SPDX-License-Identifier: Apache-2.0

internal import GuestProtocol

/// The answers that a guest owes to a freeze and a thaw that nobody waits for any more. Each order is answered once, in
/// its turn, and the frames have no numbers: until all of them have come nothing else is frozen, lest an old answer is
/// taken for a new one and the machine is saved while the container is let go on. Pure.
struct GuestDebt: Equatable, Sendable {
    private var frozen = 0
    private var thawed = 0

    var isSettled: Bool { frozen == 0 && thawed == 0 }

    /// The guest did not say in time that the container stands still; it is told to let it go on.
    mutating func giveUpFreezing() {
        frozen += 1
        thawed += 1
    }

    /// The guest did not say in time that the container goes on.
    mutating func giveUpThawing() { thawed += 1 }

    /// Whether a frame is one of these answers, which is noted then.
    mutating func takes(_ kind: FrameKind?) -> Bool {
        switch kind {
        case .frozen where frozen > 0: frozen -= 1
        case .thawed where thawed > 0: thawed -= 1
        default: return false
        }
        return true
    }
}
