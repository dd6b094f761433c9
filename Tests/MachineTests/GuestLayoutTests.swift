// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Machine

@Suite struct GuestLayoutTests {
    static let mebibyte: UInt64 = 1 << 20
    static let sizes: [UInt64] = [64, 65, 128, 1024, 3071, 3072, 3073, 4096, 4097, 6144, 65536, 1 << 24]

    @Test(arguments: sizes) func memoryLeavesTheHoleAndLosesNothing(mebibytes: UInt64) {
        let size = mebibytes << 20
        let ranges = GuestLayout.memoryRanges(sizeInBytes: size)
        #expect(ranges.reduce(0) { $0 + UInt64($1.count) } == size)
        let hole = GuestLayout.holeStart..<GuestLayout.holeEnd
        #expect(ranges.allSatisfy { !$0.overlaps(hole) && $0.lowerBound % 4096 == 0 && !$0.isEmpty })
        #expect(ranges.first?.lowerBound == 0)
    }

    @Test(arguments: sizes) func mapIsAscendingAndTellsOfAllMemory(mebibytes: UInt64) {
        let map = GuestLayout.memoryMap(sizeInBytes: mebibytes << 20)
        let ranges = GuestLayout.memoryRanges(sizeInBytes: mebibytes << 20)
        for (one, next) in zip(map, map.dropFirst()) { #expect(one.range.upperBound <= next.range.lowerBound) }
        for entry in map { #expect(ranges.contains { $0.contains(entry.range.lowerBound) }) }
        let covered = map.reduce(0) { $0 + UInt64($1.range.count) }
        #expect(covered == mebibytes << 20)
    }

    @Test func sixGibibytes() {
        let map = GuestLayout.memoryMap(sizeInBytes: 6 << 30)
        #expect(
            map == [
                MemoryMapEntry(range: 0..<0x9fc00, kind: .usable),
                MemoryMapEntry(range: 0x9fc00..<0x10_0000, kind: .reserved),
                MemoryMapEntry(range: 0x10_0000..<0xc000_0000, kind: .usable),
                MemoryMapEntry(range: 0x1_0000_0000..<0x1_c000_0000, kind: .usable),
            ])
    }

    @Test(arguments: [1, 4095, 4096, 4097, 1 << 20, 50 << 20] as [UInt64])
    func initrdLiesAtTheEndOfLowMemory(count: UInt64) {
        for size in [64 << 20, 3 << 30, 6 << 30] as [UInt64] {
            guard let address = GuestLayout.initrdAddress(countInBytes: count, sizeInBytes: size, lowest: 4 << 20)
            else {
                Issue.record("\(count) bytes do not fit into \(size)")
                continue
            }
            let end = min(size, GuestLayout.holeStart)
            #expect(address % 4096 == 0 && address + count <= end && end - address - count < 4096)
        }
    }

    @Test func initrdThatDoesNotFitIsRefused() {
        let size: UInt64 = 64 << 20
        #expect(GuestLayout.initrdAddress(countInBytes: 60 << 20, sizeInBytes: size, lowest: 5 << 20) == nil)
        #expect(GuestLayout.initrdAddress(countInBytes: .max, sizeInBytes: size, lowest: 0) == nil)
    }

    @Test func deviceSlotsAreDistinctAndInTheHole() {
        let slots = (0..<GuestLayout.maximumDeviceCount).map(DeviceSlot.init(index:))
        #expect(Set(slots.map(\.address)).count == slots.count)
        #expect(Set(slots.map(\.interrupt)).count == slots.count)
        for slot in slots {
            #expect(slot.address >= GuestLayout.holeStart && slot.address + 4096 < UInt64(GuestLayout.ioAPIC))
            #expect(slot.interrupt < GuestLayout.interruptLineCount && ![0, 1, 2, 4, 9].contains(slot.interrupt))
        }
    }
}
