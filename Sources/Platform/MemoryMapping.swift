// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// A mapped range of memory with one owner; unmapped when its owner lets it go.
@safe package struct MemoryMapping: ~Copyable, @unchecked Sendable {  // The range is the owner's to guard.
    // Valid from init to deinit.
    package let start: UnsafeMutableRawPointer
    /// In bytes.
    package let count: Int
    /// The least bytes that are there, or missing, together.
    package let pageSize: UInt64

    /// In bytes; what one entry of a page directory maps.
    package static let hugePageSize: UInt64 = 2 << 20

    /// Maps `count` bytes. Huge pages of the page cache fit, where a file is mapped from the beginning of one.
    /// - Parameters:
    ///   - file: what to map; nil for anonymous memory.
    ///   - shared: writes reach the file, instead of a private copy of its pages.
    ///   - noReserve: no swap is set aside for it (MAP_NORESERVE).
    package init(
        count: Int, file: Int32? = nil, offset: UInt64 = 0, writable: Bool = true, shared: Bool = true,
        noReserve: Bool = false
    ) throws(SystemError) {
        var flags = shared ? MAP_SHARED : MAP_PRIVATE
        if file == nil { flags |= MAP_ANONYMOUS }
        if noReserve { flags |= MAP_NORESERVE }
        let protection = writable ? PROT_READ | PROT_WRITE : PROT_READ
        // Not every file system sees to it.
        let isAligned = file != nil && count >= Self.hugePageSize && offset % Self.hugePageSize == 0
        let place = isAligned ? unsafe Self.setAside(count) : nil
        if unsafe place != nil { flags |= MAP_FIXED }
        let result = unsafe mmap(place, count, protection, flags, file ?? -1, Int(offset))
        guard let start = unsafe result, unsafe start != MAP_FAILED else {
            let error = SystemError("mmap")
            if let place = unsafe place { unsafe munmap(place, count) }
            throw error
        }
        unsafe self.start = unsafe start
        self.count = count
        pageSize = 4096
    }

    /// Sets addresses aside from the beginning of a huge page on, for a mapping in their place; nil where there are too few.
    private static func setAside(_ count: Int) -> UnsafeMutableRawPointer? {
        let huge = Int(hugePageSize)
        let result = unsafe mmap(nil, count + huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let all = unsafe result, unsafe all != MAP_FAILED else { return nil }
        let before = (huge - Int(bitPattern: all) % huge) % huge
        let place = unsafe all + before
        if before > 0 { unsafe munmap(all, before) }
        // Mappings end with a page.
        unsafe munmap(place + (count + 4095) / 4096 * 4096, huge - before)
        return unsafe place
    }

    /// Maps anonymous memory of 2 MiB pages, private, from the host's hugetlbfs pool. They are set aside for it now:
    /// ENOMEM where the pool has too few.
    package init(hugePages count: Int) throws(SystemError) {
        // MAP_HUGE_2MB: the binary logarithm of the size, in its place.
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << 26
        let result = unsafe mmap(nil, count, PROT_READ | PROT_WRITE, flags, -1, 0)
        guard let start = unsafe result, unsafe start != MAP_FAILED else { throw SystemError("mmap") }
        unsafe self.start = unsafe start
        self.count = count
        pageSize = Self.hugePageSize
    }

    deinit {
        unsafe munmap(start, count)
    }

    /// Tells the kernel how the range is used (madvise(2)).
    package borrowing func advise(_ advice: Int32) throws(SystemError) {
        guard unsafe madvise(start, count, advice) == 0 else { throw SystemError("madvise") }
    }

    /// Makes a part, of whole pages, a mapping of its own in the kernel's eyes. Mappings side by side are one unless they are
    /// used in different ways; the difference here is that the part is left out of a core dump.
    /// - Returns: whether it is.
    package borrowing func setApart(_ range: Range<UInt64>) -> Bool {
        precondition(range.upperBound <= UInt64(count))
        let length = Int(range.upperBound - range.lowerBound)
        return unsafe madvise(start + Int(range.lowerBound), length, MADV_DONTDUMP) == 0
    }

    /// Has pages there before they are touched (MADV_POPULATE_READ, MADV_POPULATE_WRITE).
    /// - Parameters:
    ///   - range: of whole pages, within the mapping.
    ///   - writing: as if they were written: a private mapping has copies of its own then.
    package borrowing func populate(_ range: Range<UInt64>, writing: Bool) throws(SystemError) {
        precondition(range.upperBound <= UInt64(count))
        let place = unsafe start + Int(range.lowerBound)
        let length = Int(range.upperBound - range.lowerBound)
        guard retryingInterrupts({ unsafe clinux_populate(place, length, writing) }) == 0 else {
            throw SystemError("madvise", "MADV_POPULATE")
        }
    }
}

/// Lets go of the program's own pages that are never written. Those that are still needed come back from the page cache
/// by themselves; those that only what lies behind needed do not.
package func dropProgramPages() { clinux_drop_program_pages() }
