// SPDX-License-Identifier: Apache-2.0

import GuestProtocol
import Testing

@testable import Worker

/// Answers of a guest that come after nobody waits for them any more.
@Suite struct GuestDebtTests {
    /// Which of the answers are owed, one after another.
    private func taken(_ kinds: [FrameKind?], by debt: inout GuestDebt) -> [Bool] {
        kinds.map { debt.takes($0) }
    }

    @Test func aLateFreezeIsNobodyElses() {
        var debt = GuestDebt()
        var saving = Saving(client: 1, purpose: .snapshot(directory: "/one", .full))
        // The guest is told to freeze, says nothing in time, and is told to thaw.
        debt.giveUpFreezing()
        // The next one's turn: it is not frozen yet, and the late answers are none of its.
        saving.phase = .waiting
        #expect(!saving.takes(.frozen) && !saving.takes(.thawed))
        #expect(taken([.frozen], by: &debt) == [true])
        #expect(!debt.isSettled)
        #expect(taken([.thawed], by: &debt) == [true])
        #expect(debt.isSettled)
        // Now it is, and the answer is its own.
        saving.phase = .freezing
        #expect(taken([.frozen], by: &debt) == [false])
        #expect(saving.takes(.frozen))
    }

    @Test func aLateThawIsNobodyElses() {
        var debt = GuestDebt()
        debt.giveUpThawing()
        #expect(taken([.frozen], by: &debt) == [false])
        #expect(!debt.isSettled)
        #expect(taken([.thawed, .thawed], by: &debt) == [true, false])
        #expect(debt.isSettled)
    }

    @Test func severalThatWereGivenUp() {
        var debt = GuestDebt()
        debt.giveUpFreezing()
        debt.giveUpThawing()
        #expect(taken([.identified, nil, .frozen, .thawed], by: &debt) == [false, false, true, true])
        #expect(!debt.isSettled)
        #expect(taken([.thawed], by: &debt) == [true])
        #expect(debt.isSettled)
    }
}
