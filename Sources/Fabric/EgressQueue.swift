// SPDX-License-Identifier: Apache-2.0

/// What waits for one machine's socket to have room: bounded in bytes, and fair between those who send. Each sender has
/// a queue of its own, served in turns by bytes (deficit round robin, RFC 8290 §4.2.1 has the same at its heart). A
/// sender may queue as much as is still free: one alone gets half of the room, and who comes later always finds some
/// (dynamic thresholds, as in switches with a shared buffer).
///
/// Inlinable, so that its user has it without generics: it is asked for each packet.
@usableFromInline package struct EgressQueue<Item> {
    @usableFromInline struct Flow {
        @usableFromInline let source: Int
        @usableFromInline var items: [(item: Item, bytes: Int)?] = []
        @usableFromInline var first = 0
        @usableFromInline var bytes = 0
        @usableFromInline var deficit: Int

        @inlinable init(source: Int, deficit: Int) {
            self.source = source
            self.deficit = deficit
        }
    }

    @usableFromInline package let limitInBytes: Int
    @usableFromInline package internal(set) var bytes = 0
    /// Flows with something in them; the one at the front has its turn.
    @usableFromInline var flows: [Flow] = []
    @usableFromInline let quantum: Int

    /// - Parameter quantum: what a sender may send in one turn, in bytes; at least one frame.
    @inlinable package init(limitInBytes: Int, quantum: Int = 16_384) {
        self.limitInBytes = limitInBytes
        self.quantum = quantum
    }

    @inlinable package var isEmpty: Bool { flows.isEmpty }

    /// What a sender has in it.
    @inlinable package func bytes(from source: Int) -> Int { flows.first { $0.source == source }?.bytes ?? 0 }

    /// Whether a sender may queue this much now.
    @inlinable package func hasRoom(for count: Int, from source: Int) -> Bool {
        bytes(from: source) + count <= limitInBytes - bytes
    }

    /// Adds an item, or gives false where its sender has its share.
    @inlinable package mutating func push(_ item: Item, bytes count: Int, from source: Int) -> Bool {
        guard hasRoom(for: count, from: source) else { return false }
        bytes += count
        for index in flows.indices where flows[index].source == source {
            flows[index].items.append((item, count))
            flows[index].bytes += count
            return true
        }
        var flow = Flow(source: source, deficit: quantum)
        flow.items.append((item, count))
        flow.bytes = count
        flows.append(flow)
        return true
    }

    /// The item whose turn it is, without taking it; nil where there is none.
    @inlinable package mutating func front() -> Item? {
        while !flows.isEmpty {
            if let entry = flows[0].items[flows[0].first] {
                if entry.bytes <= flows[0].deficit || flows.count == 1 { return entry.item }
            }
            var flow = flows.removeFirst()
            flow.deficit += quantum
            flows.append(flow)
        }
        return nil
    }

    /// Takes the item that `front` gave.
    @inlinable package mutating func removeFront() {
        guard !flows.isEmpty, let entry = flows[0].items[flows[0].first] else { return }
        flows[0].items[flows[0].first] = nil
        flows[0].first += 1
        flows[0].bytes -= entry.bytes
        flows[0].deficit = max(0, flows[0].deficit - entry.bytes)
        bytes -= entry.bytes
        if flows[0].first == flows[0].items.count {
            flows.removeFirst()
        } else if flows[0].first >= 64, flows[0].first * 2 >= flows[0].items.count {
            flows[0].items.removeFirst(flows[0].first)
            flows[0].first = 0
        }
    }

    /// Throws everything away; gives how many items that were.
    @inlinable package mutating func removeAll() -> Int {
        let count = flows.reduce(0) { $0 + $1.items.count - $1.first }
        flows.removeAll()
        bytes = 0
        return count
    }
}
