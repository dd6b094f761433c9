// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing
import VirtioTestSupport

@testable import Machine

@Suite struct PageSetTests {
    /// Ranges are what one finds page by page.
    @Test(arguments: 0..<20 as Range<UInt64>) func rangesAreThePages(seed: UInt64) {
        var generator = SeededGenerator(seed)
        let words = 12
        var set = PageSet(byteCount: UInt64(words) * 64 * PageSet.pageSize)
        for word in 0..<words {
            let bits: UInt64 =
                switch Int.random(in: 0..<4, using: &generator) {
                case 0: 0
                case 1: .max
                case 2: generator.next()
                default: generator.next() & generator.next() & generator.next()
                }
            set.insert(bits, word: word)
        }
        var pages: [UInt64] = []
        for (index, word) in set.words.enumerated() {
            for bit in 0..<64 where word >> UInt64(bit) & 1 != 0 { pages.append(UInt64(index * 64 + bit)) }
        }
        #expect(set.count == pages.count)
        let ranges = set.ranges
        #expect(
            ranges.flatMap { Array($0.lowerBound / PageSet.pageSize..<$0.upperBound / PageSet.pageSize) } == pages)
        // As few as can be: none touches the next.
        for (one, other) in zip(ranges, ranges.dropFirst()) { #expect(one.upperBound < other.lowerBound) }
    }
}
