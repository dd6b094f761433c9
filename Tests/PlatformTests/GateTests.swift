// SPDX-License-Identifier: Apache-2.0

import Platform
import Synchronization
import Testing

@Suite struct GateTests {
    /// Threads that count; while the gate is closed and all are in, nobody counts.
    @Test func nobodyMovesBehindAClosedGate() throws {
        let gate = Gate()
        let shared = Counters()
        var threads: [ThreadBox] = []
        for _ in 0..<3 {
            gate.join()
            threads.append(
                ThreadBox(
                    try Platform.Thread(name: "counting") {
                        while !shared.isOver.load(ordering: .acquiring) {
                            gate.pass()
                            shared.count.add(1, ordering: .relaxed)
                        }
                        gate.leave()
                    }))
        }
        for _ in 0..<50 {
            gate.close()
            gate.waitForAll()
            let before = shared.count.load(ordering: .relaxed)
            for _ in 0..<1000 { #expect(shared.count.load(ordering: .relaxed) == before) }
            gate.open()
            while shared.count.load(ordering: .relaxed) == before {}
        }
        gate.close()
        shared.isOver.store(true, ordering: .releasing)
        gate.open()
        for thread in threads { thread.join() }
        // Nobody belongs to it any more: there is nobody to wait for.
        gate.close()
        gate.waitForAll()
    }

    private final class Counters: Sendable {
        let count = Atomic(0)
        let isOver = Atomic(false)
    }

    private final class ThreadBox {
        private var thread: Platform.Thread?
        init(_ thread: consuming Platform.Thread) { self.thread = consume thread }
        func join() { thread.take()?.join() }
    }
}
