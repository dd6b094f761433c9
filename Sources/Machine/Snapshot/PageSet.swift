// SPDX-License-Identifier: Apache-2.0

/// Some of a memory's pages, one bit each, by offset in its file.
struct PageSet: Equatable, Sendable {
    static let pageSize: UInt64 = 4096

    private(set) var words: [UInt64]

    init(byteCount: UInt64) {
        words = Array(repeating: 0, count: Int((byteCount / Self.pageSize + 63) / 64))
    }

    var count: Int { words.reduce(0) { $0 + $1.nonzeroBitCount } }

    /// Adds 64 pages' bits. What lies beyond the memory has none.
    mutating func insert(_ bits: UInt64, word: Int) {
        words[word] |= bits
    }

    mutating func formUnion(_ other: PageSet) {
        for index in words.indices where other.words[index] != 0 { words[index] |= other.words[index] }
    }

    /// The pages as stretches of bytes, ascending.
    var ranges: [Range<UInt64>] {
        var result: [Range<UInt64>] = []
        var start: UInt64?
        for (index, word) in words.enumerated() {
            if word == 0 || word == .max {
                // Nothing begins or ends within these.
                let place = UInt64(index) * 64 * Self.pageSize
                if word == 0, let first = start {
                    result.append(first..<place)
                    start = nil
                } else if word == .max, start == nil {
                    start = place
                }
                continue
            }
            for bit in 0..<64 as Range<UInt64> {
                let place = (UInt64(index) * 64 + bit) * Self.pageSize
                let isIn = word >> bit & 1 != 0
                if isIn, start == nil { start = place }
                if !isIn, let first = start {
                    result.append(first..<place)
                    start = nil
                }
            }
        }
        if let first = start { result.append(first..<UInt64(words.count) * 64 * Self.pageSize) }
        return result
    }
}
