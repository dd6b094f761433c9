// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform
internal import Virtio

extension GuestMemory {
    /// Parts of files that are at least this long are mapped instead of read.
    private static let mappingThreshold: UInt64 = 64 << 10

    /// Puts a part of a file into the guest's memory, before the guest runs.
    ///
    /// Whole pages are mapped, privately, where the file's pages and the guest's coincide: nothing is copied, and all
    /// machines that boot the same kernel share its pages until they write to them. The rest is read. So the file must
    /// not be changed in place while the machine runs; one that is replaced by renaming is no matter.
    /// - Returns: whether all of it was there; false where the file ends before.
    func load(
        _ file: borrowing Descriptor, fileOffset: UInt64, count: UInt64, at guestAddress: UInt64
    ) throws(SystemError) -> Bool {
        guard count > 0 else { return true }
        guard let host = unsafe hostAddress(guestAddress, count: count) else {
            preconditionFailure("the place of a loaded file was checked before")
        }
        var done: UInt64 = 0
        if count >= Self.mappingThreshold, guestAddress % 4096 == 0, fileOffset % 4096 == 0 {
            let whole = count & ~4095
            guard try file.size() >= fileOffset + whole else { return false }
            let result = unsafe mmap(
                host, Int(whole), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, file.raw,
                Int(fileOffset))
            // A file system that cannot map leaves the memory as it was.
            if unsafe result != MAP_FAILED {
                done = whole
                noteMappedFile(at: guestAddress, count: whole)
            }
        }
        let rest = unsafe UnsafeMutableRawBufferPointer(start: host + Int(done), count: Int(count - done))
        return try unsafe file.readFully(into: rest, at: fileOffset + done) == rest.count
    }

    /// Where a range is mapped, if all of it lies in one region.
    private func hostAddress(_ address: UInt64, count: UInt64) -> UnsafeMutableRawPointer? {
        for region in regions {
            let offset = address &- region.guestStart
            if offset < region.count, count <= region.count - offset { return unsafe region.hostStart + Int(offset) }
        }
        return nil
    }
}
