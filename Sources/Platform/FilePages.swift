// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Pages of files in the page cache.
package enum FilePages {
    /// Has 2 MiB of a file in the page cache as one huge page; what is not there is read. Whoever has them mapped without
    /// pages of its own, from then on, has one entry for them in its page tables instead of 512, and so has a guest whose
    /// memory they are. (madvise(2), MADV_COLLAPSE: Linux 6.1; most file systems need CONFIG_READ_ONLY_THP_FOR_FS.)
    ///
    /// It is not done to a file that is open for writing, and undone when it is opened so.
    /// - Parameter offset: a multiple of 2 MiB.
    /// - Returns: whether it is done.
    package static func gather(_ file: Int32, at offset: UInt64) -> Bool {
        precondition(offset % MemoryMapping.hugePageSize == 0)
        do throws(SystemError) {
            let mapping = try MemoryMapping(
                count: Int(MemoryMapping.hugePageSize), file: file, offset: offset, writable: false, shared: false)
            // MADV_COLLAPSE
            try mapping.advise(25)
            return true
        } catch {
            return false
        }
    }
}
