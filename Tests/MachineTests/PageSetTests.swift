// SPDX-License-Identifier: Apache-2.0

import Glibc
import KVM
import Platform
import TestSupport
import Testing
import Virtio
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

/// What is known of the pages that a machine has written.
@Suite struct MemoryHistoryTests {
    private static let part: UInt64 = 4 << 20
    private let memory: GuestMemory

    init() throws { memory = try GuestMemory(anonymous: [0..<Self.part, 2 * Self.part..<3 * Self.part]) }

    /// A fork has the memory of a machine that may have recorded nothing.
    @Test func devicesNoteWhatTheyWriteFromTheBeginning() throws {
        #expect(memory.dirtyPages == nil)
        var history = MemoryHistory(of: memory, isTracked: true)
        try memory.write([1], at: 2 * Self.part + 4096)
        let fresh = try history.collect(from: memory, devices: true) { _, count in
            [UInt64](repeating: 0, count: count / 64)
        }
        #expect(fresh.ranges == [Self.part + 4096..<Self.part + 8192])
        #expect(history.written == fresh)
        history = MemoryHistory(of: memory, isTracked: false)
        #expect(memory.dirtyPages == nil && history.written.count == 0)
    }

    /// KVM has forgotten what it has told.
    @Test func aFailureHalfWayForgetsNothing() throws {
        var history = MemoryHistory(of: memory, isTracked: true)
        try memory.write([1], at: 9 * 4096)
        func collect(failing: Bool) throws -> PageSet {
            try history.collect(from: memory, devices: true) { slot, count throws(KVMError) in
                guard slot == 0 || !failing else { throw .call(SystemError("ioctl", code: ENOMEM)) }
                var words = [UInt64](repeating: 0, count: count / 64)
                if slot == 1 || failing { words[0] = 2 }
                return words
            }
        }
        #expect(throws: KVMError.self) { try collect(failing: true) }
        #expect(history.written.ranges == [4096..<8192])
        // What is collected later comes to it, the devices' writes before included.
        let fresh = try collect(failing: false)
        #expect(fresh.ranges == [9 * 4096..<10 * 4096, Self.part + 4096..<Self.part + 8192])
        #expect(history.written.count == 3)
    }
}
