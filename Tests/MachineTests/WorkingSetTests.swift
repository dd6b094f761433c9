// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing
import Wire

@testable import Machine

/// The file that says which pages machines of a snapshot touch first, as it is and as it is not.
@Suite struct WorkingSetTests {
    private static let identifier = SnapshotIdentifier.random()
    private static let size: UInt64 = 256 << 20

    private static func set(_ stretches: [WorkingSet.Stretch]) -> WorkingSet {
        WorkingSet(identifier: identifier, memorySize: size, stretches: stretches)
    }

    private static func random(_ generator: inout SeededGenerator) -> WorkingSet {
        set(
            (0..<Int.random(in: 0...50, using: &generator)).map { _ in
                let first = UInt64.random(in: 0..<size / 4096 - 300, using: &generator)
                let count = UInt64.random(in: 1...300, using: &generator)
                return WorkingSet.Stretch(
                    range: first * 4096..<(first + count) * 4096, isWritten: Bool.random(using: &generator))
            })
    }

    @Test(arguments: 0..<UInt64(fuzzRounds(50))) func whatWasWrittenIsRead(seed: UInt64) {
        var generator = SeededGenerator(seed)
        let set = Self.random(&generator)
        #expect(WorkingSet(reading: set.encoded(), of: Self.identifier, memorySize: Self.size) == set)
        // Of another snapshot, or another memory, it is none.
        #expect(WorkingSet(reading: set.encoded(), of: .random(), memorySize: Self.size) == nil)
        #expect(WorkingSet(reading: set.encoded(), of: Self.identifier, memorySize: Self.size * 2) == nil)
    }

    @Test func stretchesAreSortedApartAndBounded() {
        let set = Self.set([
            .init(range: 40960..<81920, isWritten: false), .init(range: 0..<8192, isWritten: true),
            .init(range: 4096..<49152, isWritten: false),
            .init(range: Self.size - 4096..<Self.size + 4096, isWritten: true),
        ])
        #expect(
            set.stretches == [
                .init(range: 0..<8192, isWritten: true), .init(range: 8192..<49152, isWritten: false),
                .init(range: 49152..<81920, isWritten: false),
                .init(range: Self.size - 4096..<Self.size, isWritten: true),
            ])
        let all = Self.set([.init(range: 0..<Self.size, isWritten: true)])
        #expect(all.stretches == [.init(range: 0..<WorkingSet.byteLimit, isWritten: true)])
    }

    @Test(arguments: 0..<UInt64(fuzzRounds(50))) func joinedSetsHaveThePagesOfEach(seed: UInt64) throws {
        var generator = SeededGenerator(seed)
        let sets = (0..<3).map { _ in Self.random(&generator) }
        let joined = try #require(WorkingSet(joining: sets))
        func pages(_ set: WorkingSet) -> Set<UInt64> {
            Set(set.stretches.flatMap { $0.range.lowerBound / 4096..<$0.range.upperBound / 4096 })
        }
        let all = sets.reduce(into: Set<UInt64>()) { $0.formUnion(pages($1)) }
        // Each once.
        #expect(pages(joined) == all && joined.byteCount == UInt64(all.count) * 4096)
        #expect(WorkingSet(joining: []) == nil)
    }

    /// What is only read is found in whole units of 2 MiB, wherever enough is read and nothing written; and what is left
    /// without some ranges has all the other pages, as they were.
    @Test(arguments: 0..<UInt64(fuzzRounds(50))) func whatIsOnlyReadIsFound(seed: UInt64) {
        var generator = SeededGenerator(seed)
        var set = Self.random(&generator)
        if Bool.random(using: &generator) {
            set = Self.set(set.stretches.filter { !$0.isWritten || Int.random(in: 0..<4, using: &generator) == 0 })
        }
        func pages(_ set: WorkingSet, isWritten: Bool) -> Set<UInt64> {
            Set(
                set.stretches.filter { $0.isWritten == isWritten }
                    .flatMap { $0.range.lowerBound / 4096..<$0.range.upperBound / 4096 })
        }
        let (read, written) = (pages(set, isWritten: false), pages(set, isWritten: true))
        let ranges = set.rangesOnlyRead
        #expect(ranges.count <= 8)
        var found: Set<UInt64> = []
        for range in ranges {
            #expect(range.lowerBound % (2 << 20) == 0 && range.upperBound % (2 << 20) == 0 && !range.isEmpty)
            let inside = Set(range.lowerBound / 4096..<range.upperBound / 4096)
            #expect(inside.isDisjoint(with: written) && inside.isDisjoint(with: found))
            #expect(inside.intersection(read).count >= 64)
            found.formUnion(inside)
        }
        // There is none besides, unless there are too many.
        if ranges.count < 8 {
            var run: [UInt64] = []
            func check() { #expect(run.filter(read.contains).count < 64 || run.allSatisfy(found.contains)) }
            for unit in 0..<Self.size / (2 << 20) {
                let inside = Array(unit * 512..<(unit + 1) * 512)
                if written.isDisjoint(with: inside) {
                    run += inside
                } else {
                    check()
                    run = []
                }
            }
            check()
        }
        // Where a whole unit has enough of it is told besides, those with the most first.
        let counts = set.unitsOnlyRead.map { unit in
            read.intersection(Set(unit / 4096..<unit / 4096 + 512)).count
        }
        #expect(counts.count <= 32 && counts.allSatisfy { $0 >= 64 } && counts == counts.sorted(by: >))
        let units = ranges.flatMap { Array(stride(from: $0.lowerBound, to: $0.upperBound, by: 2 << 20)) }
        let expected = units.filter { unit in
            read.intersection(Set(unit / 4096..<unit / 4096 + 512)).count >= 64
        }
        #expect(counts.count == min(32, expected.count) && Set(set.unitsOnlyRead).isSubset(of: expected))
        let rest = set.outside(ranges)
        #expect(pages(rest, isWritten: false) == read.subtracting(found) && pages(rest, isWritten: true) == written)
        #expect(set.outside([]) == set && set.outside([0..<Self.size]).stretches == [])
    }

    /// Any flipped bit, any missing end: nothing is read from it.
    @Test func damageIsNoticed() {
        var generator = SeededGenerator(5)
        for _ in 0..<20 {
            let bytes = Self.random(&generator).encoded()
            for _ in 0..<200 {
                var damaged = bytes
                let place = Int.random(in: 0..<damaged.count, using: &generator)
                damaged[place] ^= 1 << UInt8.random(in: 0...7, using: &generator)
                #expect(WorkingSet(reading: damaged, of: Self.identifier, memorySize: Self.size) == nil)
                let cut = Array(bytes[..<Int.random(in: 0..<bytes.count, using: &generator)])
                #expect(WorkingSet(reading: cut, of: Self.identifier, memorySize: Self.size) == nil)
            }
        }
    }

    /// A file whose sums are right and whose stretches are not: beyond the memory, empty, backwards, too many.
    @Test(arguments: 0..<UInt64(fuzzRounds(200))) func sumsThatAreRightDoNotMakeItRight(seed: UInt64) {
        var generator = SeededGenerator(seed)
        var body: [UInt8] = []
        let count = Int.random(in: 0...20, using: &generator)
        for _ in 0..<count {
            body.appendInteger(UInt32.random(in: 0...UInt32(Self.size / 4096) + 10, using: &generator))
            body.appendInteger(
                UInt32.random(in: 0...200, using: &generator) << UInt32.random(in: 0...31, using: &generator))
        }
        var bytes = WorkingSet.magic
        bytes.appendInteger(WorkingSet.version)
        bytes.appendInteger(SnapshotFile.architecture)
        bytes.appendInteger(Self.size)
        bytes += Self.identifier.bytes
        bytes.appendInteger(UInt32(count))
        bytes.appendInteger(CRC32C.of(body))
        while bytes.count < 60 { bytes.append(0) }
        bytes.appendInteger(CRC32C.of(bytes))
        guard let set = WorkingSet(reading: bytes + body, of: Self.identifier, memorySize: Self.size) else { return }
        var position: UInt64 = 0
        for stretch in set.stretches {
            #expect(stretch.range.lowerBound >= position && !stretch.range.isEmpty)
            position = stretch.range.upperBound
        }
        #expect(position <= Self.size)
    }

    /// One as the format's first version has it, made by other means than ours.
    @Test func oldFilesAreRead() throws {
        let bytes = try #require(snapshotCorpus("working-set").first).bytes
        let identifier = SnapshotIdentifier(bytes: Array(0..<16))
        let set = try #require(WorkingSet(reading: bytes, of: identifier, memorySize: Self.size))
        #expect(
            set.stretches.map(\.range) == [65_536..<81_920, 262_144..<327_680, 4_096_000..<4_100_096] as [Range<UInt64>]
        )
        #expect(set.stretches.map(\.isWritten) == [true, false, true])
        #expect(set.encoded() == bytes)
    }
}
