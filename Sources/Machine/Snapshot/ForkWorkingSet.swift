// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform
internal import Synchronization
internal import Virtio

/// Which pages forks of a machine write in their first moments, to become machines of their own: the first that has lived
/// for a while notes it, and those after it have copies of these pages before they go on, instead of one fault each. The
/// machine itself, which loses its page tables to a fork, writes much the same when it is thawed, and has them too.
///
/// It lies in memory that a machine and all that come of it by forks share. Only a hint: whatever it says, a machine is
/// the same. So it is neither locked nor ordered.
final class ForkWorkingSet: Sendable {
    /// From a fork's first instruction until what it writes first is written.
    static let settlingTimeInMilliseconds: UInt64 = 1_000
    /// What is copied beforehand at the most, in bytes. A family whose machines write more than that from their first
    /// moments on has nothing copied.
    private static let byteLimit: UInt64 = 8 << 20
    private static let pageSize: UInt64 = 4096

    /// A word that says that the rest is known, and a bit for each page.
    private let mapping: MemoryMapping
    private let pageCount: Int

    init(memorySize: UInt64) throws(SystemError) {
        pageCount = Int(memorySize / Self.pageSize)
        mapping = try MemoryMapping(count: 8 + (pageCount + 63) / 64 * 8)
    }

    private func word(_ index: Int) -> UInt64 { unsafe mapping.start.load(fromByteOffset: 8 * index, as: UInt64.self) }
    /// Of others than this type, only tests set one: as a machine does that has been taken over.
    func set(_ index: Int, _ value: UInt64) {
        unsafe mapping.start.storeBytes(of: value, toByteOffset: 8 * index, as: UInt64.self)
    }

    var isKnown: Bool { word(0) != 0 }

    /// By offset in the memory; ascending, apart. None as long as it is not known, or where a machine of the family has
    /// written there what it is not to.
    var stretches: [Range<UInt64>] {
        guard isKnown else { return [] }
        var result: [Range<UInt64>] = []
        var rest = Self.byteLimit / Self.pageSize
        for index in 0..<(pageCount + 63) / 64 {
            var bits = word(1 + index)
            while bits != 0 {
                let page = index * 64 + bits.trailingZeroBitCount
                bits &= bits - 1
                guard page < pageCount, rest > 0 else { return [] }
                rest -= 1
                let start = UInt64(page) * Self.pageSize
                if let last = result.last, last.upperBound == start {
                    result[result.count - 1] = last.lowerBound..<start + Self.pageSize
                } else {
                    result.append(start..<start + Self.pageSize)
                }
            }
        }
        return result
    }

    /// Notes what a machine that was forked has for itself by now, once for all of its family.
    func note(_ ranges: [Range<UInt64>]) {
        guard !isKnown else { return }
        if ranges.reduce(0, { $0 + $1.upperBound - $1.lowerBound }) <= Self.byteLimit {
            for range in ranges {
                for page in Int(range.lowerBound / Self.pageSize)..<Int(range.upperBound / Self.pageSize) {
                    set(1 + page / 64, word(1 + page / 64) | 1 << UInt64(page % 64))
                }
            }
        }
        set(0, 1)
    }
}

/// A machine's place among those that come of each other by forks.
struct ForkFamily: Sendable {
    let workingSet: ForkWorkingSet
    /// It was forked, and can tell what it has written since.
    let isChild: Bool
}

extension Machine {
    /// What its forks write first, as far as that is known; nil where they are to have nothing beforehand.
    func workingSetOfForks() -> ForkWorkingSet? {
        guard memory.pageSize == 4096 else { return nil }
        return family.withLock { family in
            if family == nil, let set = try? ForkWorkingSet(memorySize: memory.byteCount) {
                family = ForkFamily(workingSet: set, isChild: false)
            }
            return family?.workingSet
        }
    }

    /// Has copies of its own of pages that it writes next. What cannot be had comes when it is written.
    func populate(_ set: ForkWorkingSet?) {
        for range in set?.stretches ?? [] {
            do throws(SystemError) { try memory.populate(range, writing: true) } catch { return }
        }
    }

    /// What a machine that was forked is to note for the next of its family; nil for any other, and once it is known.
    private var setToNote: ForkWorkingSet? {
        family.withLock { $0.flatMap { $0.isChild && !$0.workingSet.isKnown ? $0.workingSet : nil } }
    }

    /// After how many milliseconds `noteForkWorkingSet` is to be called; nil where there is nothing to note.
    package var forkSettlingTime: UInt64? {
        setToNote == nil ? nil : ForkWorkingSet.settlingTimeInMilliseconds
    }

    /// Notes what a machine that was forked has written until now. It may run meanwhile.
    package func noteForkWorkingSet() {
        // Where it cannot be told, nothing is copied beforehand.
        guard let set = setToNote, let pagemap = try? Descriptor.open("/proc/self/pagemap", .readOnly) else { return }
        set.note(memory.exclusivePages(pagemap))
    }
}

extension GuestMemory {
    /// Pages that this process has for itself alone, by offset; ascending. Linux, Documentation/admin-guide/mm/pagemap.rst.
    fileprivate func exclusivePages(_ pagemap: borrowing Descriptor) -> [Range<UInt64>] {
        let (present, ofFile, exclusive): (UInt64, UInt64, UInt64) = (1 << 63, 1 << 61, 1 << 56)
        let first = unsafe UInt64(UInt(bitPattern: bytes(offset: 0, count: 0).baseAddress)) / 4096
        let count = byteCount / 4096
        var entries = [UInt64](repeating: 0, count: 4096)
        var result: [Range<UInt64>] = []
        var page: UInt64 = 0
        let raw = pagemap.raw
        while page < count {
            let wanted = Int(min(count - page, UInt64(entries.count))) * 8
            let place = Int(first + page) * 8
            let length = unsafe entries.withUnsafeMutableBytes { space in
                retryingInterrupts { unsafe pread(raw, space.baseAddress, wanted, place) }
            }
            guard length >= 8 else { break }
            for entry in entries.prefix(length / 8) {
                if entry & present != 0, entry & ofFile == 0, entry & exclusive != 0 {
                    let start = page * 4096
                    if let last = result.last, last.upperBound == start {
                        result[result.count - 1] = last.lowerBound..<start + 4096
                    } else {
                        result.append(start..<start + 4096)
                    }
                }
                page += 1
            }
        }
        return result
    }
}
