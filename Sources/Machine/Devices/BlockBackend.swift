// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform
internal import Virtio

/// A part of a file that is part of a read-only disk.
package struct BlockExtent: Sendable {
    package let file: SharedDescriptor
    /// Where in the file it starts, in bytes.
    package let offset: UInt64
    /// In bytes. The next extent starts at the next multiple of 4 KiB of the disk; between them it reads as zero.
    package let count: UInt64

    package init(file: SharedDescriptor, offset: UInt64, count: UInt64) {
        self.file = file
        self.offset = offset
        self.count = count
    }
}

/// What a disk's bytes are: one file or block device, or, read-only, many parts of files one after another.
///
/// For any thread: it has no state but the files'.
package final class BlockBackend: Sendable {
    /// How a transfer went; it has consumed of its buffer what it moved.
    enum Outcome: Equatable {
        case done
        /// Not without waiting for a disk.
        case wouldBlock
        case failed(Int32)
    }

    private struct Extent {
        let file: SharedDescriptor
        let offset: UInt64
        let count: UInt64
        /// Where it starts on the disk.
        let start: UInt64
    }

    package static let sectorSize: UInt64 = 512
    /// What an extent's length is rounded up to.
    package static let extentAlignment: UInt64 = 4096
    private static let noWait: Int32 = 8

    /// In bytes; a multiple of the sector size.
    package let byteCount: UInt64
    package let isReadOnly: Bool
    private let extents: [Extent]
    private let isDevice: Bool

    /// A file or block device as a disk that can be written: as many whole sectors as it has.
    package init(writable file: SharedDescriptor) throws(DeviceError) {
        let size = try devicePart { () throws(SystemError) in try file.descriptor.size() }
        byteCount = size / Self.sectorSize * Self.sectorSize
        guard byteCount > 0 else { throw .emptyDisk }
        guard byteCount <= UInt64(Int64.max) else { throw .diskTooLarge }
        isReadOnly = false
        isDevice = Self.isBlockDevice(file)
        extents = [Extent(file: file, offset: 0, count: byteCount, start: 0)]
    }

    /// A file or block device as a read-only disk; where its size is no multiple of 4 KiB, zeros follow.
    package convenience init(readOnly file: SharedDescriptor) throws(DeviceError) {
        let size = try devicePart { () throws(SystemError) in try file.descriptor.size() }
        try self.init([BlockExtent(file: file, offset: 0, count: size)])
    }

    /// Parts of files as one read-only disk.
    package init(_ parts: [BlockExtent]) throws(DeviceError) {
        var extents: [Extent] = []
        var start: UInt64 = 0
        for (index, part) in parts.enumerated() where part.count > 0 {
            let size = try devicePart { () throws(SystemError) in try part.file.descriptor.size() }
            let (end, overflow) = part.offset.addingReportingOverflow(part.count)
            guard !overflow, end <= size else {
                throw .extentBeyondFile(index: index, end: overflow ? .max : end, size: size)
            }
            extents.append(Extent(file: part.file, offset: part.offset, count: part.count, start: start))
            let mask = Self.extentAlignment - 1
            // A file's size is below 2⁶³, and so is the sum of two.
            start += (part.count + mask) & ~mask
            guard start <= UInt64(Int64.max) else { throw .diskTooLarge }
        }
        guard start > 0 else { throw .emptyDisk }
        self.extents = extents
        byteCount = start
        isReadOnly = true
        isDevice = false
    }

    private static func isBlockDevice(_ file: SharedDescriptor) -> Bool {
        var status = stat()
        return unsafe fstat(file.raw, &status) == 0 && status.st_mode & S_IFMT == S_IFBLK
    }

    /// Copies a writable disk, on which nothing is under way, into an empty file.
    func clone(to file: borrowing Descriptor) throws(SystemError) {
        try FileCopy.clone(extents[0].file.descriptor, count: byteCount, to: file)
    }

    // MARK: - Transfers

    /// The extent that a byte of the disk is in.
    private func index(at offset: UInt64) -> Int {
        var low = 0
        var high = extents.count
        while high - low > 1 {
            let middle = (low + high) / 2
            if extents[middle].start <= offset { low = middle } else { high = middle }
        }
        return low
    }

    /// Fills a buffer from the disk; all of the range is on it.
    /// - Parameter waiting: false: only what is in the page cache.
    func read(_ buffer: inout BufferCursor, at offset: inout UInt64, waiting: Bool) -> Outcome {
        while buffer.byteCount > 0 {
            let index = index(at: offset)
            let inside = offset - extents[index].start
            guard inside < extents[index].count else {
                // Between this extent's last byte and the next extent.
                let end = index + 1 < extents.count ? extents[index + 1].start : byteCount
                let gap = min(UInt64(buffer.byteCount), end - offset)
                guard gap > 0 else { return .failed(EIO) }
                buffer.zero(Int(gap))
                offset += gap
                continue
            }
            let fd = extents[index].file.raw
            let position = Int64(extents[index].offset + inside)
            let limit = Int(min(extents[index].count - inside, UInt64(Int.max)))
            let count = unsafe buffer.withPrefix(limit) { vectors in
                retryingInterrupts {
                    unsafe clinux_preadv2(
                        fd, vectors.baseAddress, Int32(vectors.count), position, waiting ? 0 : Self.noWait)
                }
            }
            // A file that ends early was cut after the disk was made: better an error than zeros.
            guard count > 0 else { return count == 0 ? .failed(EIO) : Self.failure() }
            buffer.dropFirst(count)
            offset += UInt64(count)
        }
        return .done
    }

    /// Writes a buffer to the disk; all of the range is on it.
    func write(_ buffer: inout BufferCursor, at offset: inout UInt64) -> Outcome {
        let fd = extents[0].file.raw
        while buffer.byteCount > 0 {
            let vectors = unsafe buffer.vectors
            let position = Int64(offset)
            let count = retryingInterrupts {
                unsafe clinux_pwritev2(fd, vectors.baseAddress, Int32(vectors.count), position, 0)
            }
            guard count > 0 else { return count == 0 ? .failed(EIO) : .failed(clinux_errno()) }
            buffer.dropFirst(count)
            offset += UInt64(count)
        }
        return .done
    }

    private static func failure() -> Outcome {
        let code = clinux_errno()
        // A file system without RWF_NOWAIT is one that always waits.
        return code == EAGAIN || code == EOPNOTSUPP ? .wouldBlock : .failed(code)
    }

    /// What was written before reaches the disk.
    func flush() -> Outcome {
        let fd = extents[0].file.raw
        return retryingInterrupts { fdatasync(fd) } == 0 ? .done : .failed(clinux_errno())
    }

    /// Gives a range's space back; it reads as zero, or, on a block device, as that likes.
    func discard(_ offset: UInt64, count: UInt64) -> Outcome {
        if isDevice { return deviceRange(CLINUX_BLKDISCARD, offset, count) }
        let outcome = allocate(mode: Self.keepSize | Self.punchHole, offset, count)
        // A discard is a hint: where the file system cannot, nothing is lost.
        return outcome == .failed(EOPNOTSUPP) ? .done : outcome
    }

    /// Sets a range to zero.
    /// - Parameter mayDiscard: its space may be given back.
    func writeZeroes(_ offset: UInt64, count: UInt64, mayDiscard: Bool) -> Outcome {
        if isDevice { return deviceRange(CLINUX_BLKZEROOUT, offset, count) }
        let mode = mayDiscard ? Self.keepSize | Self.punchHole : Self.keepSize | Self.zeroRange
        let outcome = allocate(mode: mode, offset, count)
        return outcome == .failed(EOPNOTSUPP) ? writeZeroBytes(offset, count: count) : outcome
    }

    private static let keepSize: Int32 = 1
    private static let punchHole: Int32 = 2
    private static let zeroRange: Int32 = 0x10

    private func allocate(mode: Int32, _ offset: UInt64, _ count: UInt64) -> Outcome {
        let fd = extents[0].file.raw
        let result = retryingInterrupts { clinux_fallocate(fd, mode, Int64(offset), Int64(count)) }
        return result == 0 ? .done : .failed(clinux_errno())
    }

    private func deviceRange(_ request: UInt, _ offset: UInt64, _ count: UInt64) -> Outcome {
        var range = (offset, count)
        let fd = extents[0].file.raw
        let result = retryingInterrupts { unsafe clinux_ioctl_pointer(fd, request, &range) }
        return result == 0 ? .done : .failed(clinux_errno())
    }

    private func writeZeroBytes(_ offset: UInt64, count: UInt64) -> Outcome {
        let fd = extents[0].file.raw
        let zeros = InlineArray<4096, UInt8>(repeating: 0)
        var done: UInt64 = 0
        while done < count {
            let here = Int(min(4096, count - done))
            let position = Int(offset + done)
            let written = unsafe zeros.span.withUnsafeBytes { bytes in
                retryingInterrupts { unsafe pwrite(fd, bytes.baseAddress, here, position) }
            }
            guard written > 0 else { return .failed(written == 0 ? EIO : clinux_errno()) }
            done += UInt64(written)
        }
        return .done
    }
}
