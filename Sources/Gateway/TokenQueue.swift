// SPDX-License-Identifier: Apache-2.0

/// First in, first out, without moving what is left.
struct TokenQueue {
    private var items: [UInt64] = []
    private var head = 0

    var count: Int { items.count - head }
    var hasMore: Bool { head < items.count }

    mutating func append(_ item: UInt64) { items.append(item) }

    /// Takes the oldest; there must be one.
    mutating func removeFirst() -> UInt64 {
        let item = items[head]
        head += 1
        if head >= 1024 && head * 2 >= items.count {
            items.removeFirst(head)
            head = 0
        }
        return item
    }

    func count(where isCounted: (UInt64) -> Bool) -> Int { items[head...].count(where: isCounted) }

    mutating func keep(_ isKept: (UInt64) -> Bool) {
        items = items[head...].filter(isKept)
        head = 0
    }
}
