// SPDX-License-Identifier: Apache-2.0

internal import Platform
internal import Wire

/// Which pages of a snapshot's memory a machine that went on from it touched first: they are had there beforehand in the
/// next ones. Only a hint: whatever it says, a machine that is restored is the same. Docs/SNAPSHOT-FORMAT.md.
struct WorkingSet: Equatable, Sendable {
    /// Pages side by side.
    struct Stretch: Equatable, Sendable {
        /// In bytes, by offset in the memory file; whole pages.
        var range: Range<UInt64>
        /// They were written, so that a machine has copies of its own of them.
        var isWritten: Bool
    }

    static let magic = Array("MARTWSET".utf8)
    static let version: UInt32 = 1
    static let headerSize = 64
    private static let pageSize: UInt64 = 4096
    private static let writtenBit: UInt32 = 1 << 31
    /// Of the file, in bytes.
    static let sizeLimit = 1 << 20
    /// What is had beforehand at the most: more would delay a restore by more than it saves.
    static let byteLimit: UInt64 = 128 << 20

    /// What one page table is for, in bytes.
    private static let unit = MemoryMapping.hugePageSize
    /// Of a range that is only read, in bytes: what less is read of is not worth a mapping; or a huge page, of a unit.
    private static let leastRead: UInt64 = 256 << 10
    private static let rangeLimit = 8
    /// 64 MiB: all of them are read from the disk, and stay in the page cache together.
    private static let unitLimit = 32

    let identifier: SnapshotIdentifier
    let memorySize: UInt64
    /// Ascending, apart.
    private(set) var stretches: [Stretch]

    /// Of all of its pages.
    var byteCount: UInt64 { stretches.reduce(0) { $0 + $1.range.upperBound - $1.range.lowerBound } }

    /// - Parameter stretches: in any order; what is beyond the limits is left out.
    init(identifier: SnapshotIdentifier, memorySize: UInt64, stretches: [Stretch]) {
        self.identifier = identifier
        self.memorySize = memorySize
        self.stretches = []
        var rest = Self.byteLimit
        var position: UInt64 = 0
        for var stretch in stretches.sorted(by: { $0.range.lowerBound < $1.range.lowerBound }) {
            let start = max(position, stretch.range.lowerBound)
            let end = min(stretch.range.upperBound, memorySize)
            guard start < end, self.stretches.count < (Self.sizeLimit - Self.headerSize) / 8 else { continue }
            stretch.range = start..<min(end, start + rest)
            guard !stretch.range.isEmpty else { break }
            self.stretches.append(stretch)
            rest -= stretch.range.upperBound - start
            position = stretch.range.upperBound
        }
    }

    /// Where much is read and nothing written, such as in a kernel's code: ranges of whole units of 2 MiB, each of one
    /// page table; those of which the most is read.
    var rangesOnlyRead: [Range<UInt64>] {
        var ranges: [(range: Range<UInt64>, read: UInt64)] = []
        /// Between two stretches that are written there are only such that are read.
        func add(_ gap: Range<UInt64>, _ between: ArraySlice<Stretch>) {
            let first = (gap.lowerBound + Self.unit - 1) / Self.unit * Self.unit
            let last = gap.upperBound / Self.unit * Self.unit
            guard first < last else { return }
            let read = between.reduce(0 as UInt64) { sum, stretch in
                let part = stretch.range.clamped(to: first..<last)
                return sum + part.upperBound - part.lowerBound
            }
            if read >= Self.leastRead { ranges.append((first..<last, read)) }
        }
        var start: UInt64 = 0
        var next = 0
        for (index, stretch) in stretches.enumerated() where stretch.isWritten {
            add(start..<stretch.range.lowerBound, stretches[next..<index])
            start = stretch.range.upperBound
            next = index + 1
        }
        add(start..<memorySize, stretches[next...])
        return ranges.sorted { $0.read > $1.read }.prefix(Self.rangeLimit).map(\.range)
    }

    /// Where in those ranges the units begin of which the most is read.
    var unitsOnlyRead: [UInt64] {
        var read: [UInt64: UInt64] = [:]
        for stretch in stretches where !stretch.isWritten {
            var position = stretch.range.lowerBound
            while position < stretch.range.upperBound {
                let start = position / Self.unit * Self.unit
                let end = min(start + Self.unit, stretch.range.upperBound)
                read[start, default: 0] += end - position
                position = end
            }
        }
        let units = rangesOnlyRead.flatMap { range in
            stride(from: range.lowerBound, to: range.upperBound, by: Int(Self.unit)).filter {
                read[$0, default: 0] >= Self.leastRead
            }
        }
        return Array(units.sorted { read[$0, default: 0] > read[$1, default: 0] }.prefix(Self.unitLimit))
    }

    /// What is outside of some ranges, which are apart.
    func outside(_ ranges: [Range<UInt64>]) -> WorkingSet {
        let sorted = ranges.filter { !$0.isEmpty }.sorted { $0.lowerBound < $1.lowerBound }
        var rest: [Stretch] = []
        rest.reserveCapacity(stretches.count + sorted.count)
        var next = 0
        // Both ascend: one pass, as a machine waits for it.
        for stretch in stretches {
            var start = stretch.range.lowerBound
            let end = stretch.range.upperBound
            while next < sorted.count, sorted[next].upperBound <= start { next += 1 }
            var place = next
            while start < end, place < sorted.count, sorted[place].lowerBound < end {
                let range = sorted[place]
                if start < range.lowerBound {
                    rest.append(Stretch(range: start..<range.lowerBound, isWritten: stretch.isWritten))
                }
                start = max(start, range.upperBound)
                place += 1
            }
            if start < end { rest.append(Stretch(range: start..<end, isWritten: stretch.isWritten)) }
        }
        var result = self
        result.stretches = rest
        return result
    }

    /// All that is in any of some sets of one memory; nil of none. It has the first one's identifier.
    init?(joining sets: [WorkingSet]) {
        guard let first = sets.first else { return nil }
        self.init(
            identifier: first.identifier, memorySize: first.memorySize, stretches: sets.flatMap(\.stretches))
    }

    func encoded() -> [UInt8] {
        var body: [UInt8] = []
        for stretch in stretches {
            let count = UInt32((stretch.range.upperBound - stretch.range.lowerBound) / Self.pageSize)
            body.appendInteger(UInt32(stretch.range.lowerBound / Self.pageSize))
            body.appendInteger(count | (stretch.isWritten ? Self.writtenBit : 0))
        }
        var bytes = Self.magic
        bytes.appendInteger(Self.version)
        bytes.appendInteger(SnapshotFile.architecture)
        bytes.appendInteger(memorySize)
        bytes += identifier.bytes
        bytes.appendInteger(UInt32(stretches.count))
        bytes.appendInteger(CRC32C.of(body))
        while bytes.count < Self.headerSize - 4 { bytes.append(0) }
        bytes.appendInteger(CRC32C.of(bytes))
        return bytes + body
    }

    /// Reads a file's bytes, which may be anything; nil unless they are a whole one of that snapshot.
    init?(reading bytes: [UInt8], of identifier: SnapshotIdentifier, memorySize: UInt64) {
        guard bytes.count >= Self.headerSize, bytes.count <= Self.sizeLimit, bytes.starts(with: Self.magic),
            CRC32C.of(bytes[..<(Self.headerSize - 4)]) == bytes.integer(at: Self.headerSize - 4, as: UInt32.self),
            bytes.integer(at: 8, as: UInt32.self) == Self.version,
            bytes.integer(at: 12, as: UInt32.self) == SnapshotFile.architecture,
            bytes.integer(at: 16, as: UInt64.self) == memorySize,
            bytes[24..<40].elementsEqual(identifier.bytes),
            let count = bytes.integer(at: 40, as: UInt32.self), Int(count) == (bytes.count - Self.headerSize) / 8,
            bytes.count % 8 == 0,
            CRC32C.of(bytes[Self.headerSize...]) == bytes.integer(at: 44, as: UInt32.self)
        else { return nil }
        var stretches: [Stretch] = []
        var total: UInt64 = 0
        var position: UInt64 = 0
        for index in 0..<Int(count) {
            let place = Self.headerSize + 8 * index
            guard let first = bytes.integer(at: place, as: UInt32.self),
                let word = bytes.integer(at: place + 4, as: UInt32.self)
            else { return nil }
            let start = UInt64(first) * Self.pageSize
            let length = UInt64(word & ~Self.writtenBit) * Self.pageSize
            guard length > 0, start >= position, start + length <= memorySize else { return nil }
            total += length
            guard total <= Self.byteLimit else { return nil }
            position = start + length
            stretches.append(Stretch(range: start..<position, isWritten: word & Self.writtenBit != 0))
        }
        self.identifier = identifier
        self.memorySize = memorySize
        self.stretches = stretches
    }
}
