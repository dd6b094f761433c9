// SPDX-License-Identifier: Apache-2.0

internal import TCP

/// Flows that have bytes to read for their machine, and no memory to read them into: others of the machine's have it.
/// They wait in line, and go on as it is given back. A flow that has memory does not wait: what it holds is acknowledged
/// first, and it goes on with that.
extension Gateway {
    /// How many flows are let go on in a turn.
    static let feedLimit = 64

    /// How much a flow may read now of what it wants, as far as the others go; nil where it has to wait for them. Where
    /// some wait, nobody has more than the least buffer anew.
    func memoryShare(of flow: TCPFlow, _ wanted: Int) -> Int? {
        guard flow.machine.hungry.hasMore else { return wanted }
        let left = flow.toMachine.capacity - flow.toMachine.count
        if flow.toMachine.capacity > 0 { return left >= 4096 ? min(wanted, left) : nil }
        guard flow.isFed else {
            wait(flow)
            return nil
        }
        return min(wanted, BufferPool.sizes[0])
    }

    /// Puts a flow in line, unless it is there, or has bytes whose acknowledgement brings it back.
    func wait(_ flow: TCPFlow) {
        guard !flow.isHungry, flow.toMachine.isEmpty else { return }
        flow.isHungry = true
        let machine = flow.machine
        if !machine.hungry.hasMore { hungry.append(machine) }
        machine.hungry.append(token(flow.slot))
        // Tokens of flows that have ended meanwhile.
        if machine.hungry.count > 2 * machine.connections + 64 {
            machine.hungry.keep { hungryFlow($0) != nil }
        }
    }

    /// There is memory for a flow that waits.
    var canFeed: Bool { hungry.contains { $0.hungry.hasMore && $0.pool.leftInBytes >= BufferPool.sizes[0] } }

    /// Lets those go on that have waited the longest, as many as there is memory for, and no more than `turns`; each
    /// machine has its turn.
    func feed(_ turns: inout Int) {
        guard !hungry.isEmpty else { return }
        var budgets = hungry.map(\.pool.leftInBytes)
        var isDone = false
        while turns > 0, !isDone {
            isDone = true
            for (index, machine) in hungry.enumerated() where budgets[index] >= BufferPool.sizes[0] && turns > 0 {
                guard let flow = nextHungry(of: machine) else { continue }
                flow.isHungry = false
                flow.isFed = true
                budgets[index] -= BufferPool.sizes[0]
                turns -= 1
                isDone = false
                mark(flow)
            }
        }
        hungry.removeAll { !$0.hungry.hasMore }
    }

    private func nextHungry(of machine: Machine) -> TCPFlow? {
        while machine.hungry.hasMore {
            if let flow = hungryFlow(machine.hungry.removeFirst()) { return flow }
        }
        return nil
    }

    private func hungryFlow(_ token: UInt64) -> TCPFlow? {
        let slot = Int(UInt32(truncatingIfNeeded: token))
        guard generations[slot] == UInt32(token >> 32), case .tcp(let flow) = slots[slot], flow.isHungry else {
            return nil
        }
        return flow
    }
}
