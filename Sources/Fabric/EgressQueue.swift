// SPDX-License-Identifier: Apache-2.0

/// What waits for one machine's socket to have room: bounded in bytes, and fair between those who send. Each sender has
/// a queue of its own, served in turns by bytes (deficit round robin, RFC 8290 §4.2.1 has the same at its heart). A
/// sender may queue as much as is still free: one alone gets half of the room, and who comes later always finds some
/// (dynamic thresholds, as in switches with a shared buffer).
package struct EgressQueue<Item> {
    private struct Flow {
        let source: Int
        var items: [(item: Item, bytes: Int)?] = []
        var first = 0
        var bytes = 0
        var deficit = 0
    }

    package let limitInBytes: Int
    package private(set) var bytes = 0
    /// Flows with something in them; the one at the front has its turn.
    private var flows: [Flow] = []
    private let quantum: Int

    /// - Parameter quantum: what a sender may send in one turn, in bytes; at least one frame.
    package init(limitInBytes: Int, quantum: Int = 16_384) {
        self.limitInBytes = limitInBytes
        self.quantum = quantum
    }

    package var isEmpty: Bool { flows.isEmpty }

    /// What a sender has in it.
    package func bytes(from source: Int) -> Int { flows.first { $0.source == source }?.bytes ?? 0 }

    /// Whether a sender may queue this much now.
    package func hasRoom(for count: Int, from source: Int) -> Bool {
        bytes(from: source) + count <= limitInBytes - bytes
    }

    /// Adds an item, or gives false where its sender has its share.
    package mutating func push(_ item: Item, bytes count: Int, from source: Int) -> Bool {
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
    package mutating func front() -> Item? {
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
    package mutating func removeFront() {
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
    package mutating func removeAll() -> Int {
        let count = flows.reduce(0) { $0 + $1.items.count - $1.first }
        flows.removeAll()
        bytes = 0
        return count
    }
}
