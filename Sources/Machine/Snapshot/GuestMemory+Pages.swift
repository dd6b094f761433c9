// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Platform
internal import Virtio

/// Pages of a machine's memory in the eyes of the process that has it. Linux, Documentation/admin-guide/mm/pagemap.rst.
enum PageKind {
    /// The process's own, there or swapped out: neither a mapped file's nor the page of zeros.
    case own
    /// There, and the mapped file's. Not known before Linux 6.7.
    case ofFile
    /// There, the mapped file's, and part of a huge page. Not known before Linux 6.7.
    case ofHugePage
    /// The process's own, and no other's: not shared with one that it was forked from, or that was forked from it.
    case exclusive
}

extension GuestMemory {
    /// By offset; ascending, apart.
    /// - Parameter part: where to look; nil for everywhere.
    func pages(_ kind: PageKind, in part: Range<UInt64>? = nil) throws(SystemError) -> [Range<UInt64>] {
        let pagemap = try Descriptor.open("/proc/self/pagemap", .readOnly)
        let find =
            switch kind {
            case .own: unsafe clinux_own_pages
            case .ofFile: unsafe clinux_mapped_pages
            case .ofHugePage: unsafe clinux_huge_pages
            case .exclusive: unsafe clinux_exclusive_pages
            }
        let start = unsafe UInt64(UInt(bitPattern: bytes(offset: 0, count: 0).baseAddress))
        let end = start + (part?.upperBound ?? byteCount)
        var result: [Range<UInt64>] = []
        var position = start + (part?.lowerBound ?? 0)
        var stretches = [clinux_stretch](repeating: clinux_stretch(), count: 64)
        while position < end {
            var next = end
            let count = unsafe stretches.withUnsafeMutableBufferPointer { space in
                unsafe find(pagemap.raw, position, end, space.baseAddress, space.count, &next)
            }
            guard count >= 0, next > position else { throw SystemError("ioctl", "PAGEMAP_SCAN") }
            for stretch in stretches.prefix(count) { result.append(stretch.start - start..<stretch.end - start) }
            position = next
        }
        return result
    }

    /// What of the ranges apart is in huge pages of the page cache. They are in this process's page tables then.
    /// - Parameter units: of 2 MiB, by their beginnings: where there may be some.
    func rangesInHugePages(trying units: [UInt64]) -> [Range<UInt64>] {
        for unit in units { try? populate(unit..<unit + 4096, writing: false) }
        return rangesApart.flatMap { (try? pages(.ofHugePage, in: $0)) ?? [] }
    }

    /// Those of the ranges apart in which nothing was written.
    var rangesUnwritten: [Range<UInt64>] {
        rangesApart.filter { range in
            let own = try? pages(.own, in: range)
            return own?.isEmpty ?? false
        }
    }
}
