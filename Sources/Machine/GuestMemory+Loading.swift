// SPDX-License-Identifier: Apache-2.0

internal import CLinux
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
        // A part of a huge page cannot be another mapping.
        if pageSize == 4096, count >= Self.mappingThreshold, guestAddress % 4096 == 0, fileOffset % 4096 == 0 {
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

    /// Reads a memory file, from its beginning, into memory that is all zero; holes are passed over.
    func fill(from file: borrowing Descriptor) throws(SystemError) {
        var position: UInt64 = 0
        while position < byteCount {
            let data = lseek(file.raw, Int(position), CLINUX_SEEK_DATA)
            if data < 0, clinux_errno() == ENXIO { return }
            if data >= 0 { position = UInt64(data) }
            var end = byteCount
            let hole = data >= 0 ? lseek(file.raw, data, CLINUX_SEEK_HOLE) : -1
            if hole > data { end = min(end, UInt64(hole)) }
            guard position < end else { return }
            let bytes = unsafe UnsafeMutableRawBufferPointer(
                mutating: bytes(offset: position, count: Int(end - position)))
            guard try unsafe file.readFully(into: bytes, at: position) == bytes.count else {
                throw SystemError("read", code: EIO)
            }
            position = end
        }
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
