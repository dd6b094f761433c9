// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform
internal import Wire

/// A memory file, mapped shared: what all clones are given copies of. It is never read by this process, only by the
/// kernel on its behalf, so that a file that becomes shorter is an error of a call and no signal.
package struct MemoryImage: ~Copyable {
    /// Of the memory, in bytes: whole pages.
    package let size: UInt64
    /// What of it is not zero.
    package let data: DataMap
    /// The snapshot whose memory it is, as its machines name it; nil for another monitor's file, which does not say.
    package let snapshot: String?
    private let mapping: MemoryMapping

    /// Opens a snapshot's memory file: ours, which has a page more behind the memory (Docs/SNAPSHOT-FORMAT.md), or
    /// another monitor's, which is the memory alone.
    package init(path: String) throws(PageServerError) {
        var isDiff = false
        do throws(SystemError) {
            let file = try Descriptor.open(path, .readOnly)
            let length = try file.size()
            let trailer = try Trailer(of: file, length)
            let size = trailer == nil ? length : length - Self.pageSize
            isDiff = trailer?.isDiff ?? false
            guard !isDiff, size > 0, size % Self.pageSize == 0, size < 1 << 46 else {
                throw SystemError("mmap", path, code: EINVAL)
            }
            mapping = try MemoryMapping(count: Int(size), file: file.raw, writable: false)
            data = DataMap(of: file, size: size)
            self.size = size
            snapshot = trailer?.snapshot
        } catch {
            if isDiff {
                throw .memory(
                    path: path, "it is a diff's, which has only what was written: serve the snapshot by its tag")
            }
            if error.code == EINVAL {
                throw .memory(path: path, "it is no memory of a machine: that is whole pages of 4096 bytes")
            }
            throw .memory(path: path, error.reason)
        }
    }

    static let pageSize: UInt64 = 4096

    /// What is said on the page behind the memory of ours.
    private struct Trailer {
        let snapshot: String
        let isDiff: Bool

        /// Nil where there is none.
        init?(of file: borrowing Descriptor, _ length: UInt64) throws(SystemError) {
            guard length >= 2 * pageSize else { return nil }
            var bytes = [UInt8](repeating: 0, count: 64)
            let raw = file.raw
            let count = unsafe bytes.withUnsafeMutableBytes { space in
                retryingInterrupts { unsafe pread(raw, space.baseAddress, space.count, Int(length - pageSize)) }
            }
            guard count >= 0 else { throw SystemError("pread") }
            guard count == 64, bytes.starts(with: Array("MARTMEMY".utf8)),
                CRC32C.of(bytes[..<60]) == bytes.integer(at: 60, as: UInt32.self),
                bytes.integer(at: 16, as: UInt64.self) == length - pageSize
            else { return nil }
            snapshot = bytes[24..<40].map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
            isDiff = bytes.integer(at: 40, as: UInt32.self) != 0
        }
    }

    /// The bytes of a range, which lies within.
    borrowing func bytes(_ range: Range<UInt64>) -> UnsafeRawBufferPointer {
        precondition(range.upperBound <= size)
        return unsafe UnsafeRawBufferPointer(
            start: mapping.start + Int(range.lowerBound), count: Int(range.upperBound - range.lowerBound))
    }
}

/// Where in a sparse file there is data; elsewhere it is zero.
package struct DataMap: Equatable, Sendable {
    /// Ascending, apart.
    let ranges: [Range<UInt64>]

    package init(ranges: [Range<UInt64>]) { self.ranges = ranges }

    /// Asks the file system. One that knows nothing of holes says that all is data.
    init(of file: borrowing Descriptor, size: UInt64) {
        var found: [Range<UInt64>] = []
        var position: UInt64 = 0
        while position < size {
            let data = lseek(file.raw, Int(position), CLINUX_SEEK_DATA)
            guard data >= 0, UInt64(data) < size else {
                if data < 0, clinux_errno() != ENXIO { found.append(position..<size) }
                break
            }
            let hole = lseek(file.raw, data, CLINUX_SEEK_HOLE)
            let end = hole > data ? min(size, UInt64(hole)) : size
            found.append(UInt64(data)..<end)
            position = end
        }
        ranges = found
    }

    /// Whether a range is zero throughout.
    func isZero(_ range: Range<UInt64>) -> Bool {
        var low = 0
        var high = ranges.count
        while low < high {
            let middle = (low + high) / 2
            if ranges[middle].upperBound <= range.lowerBound { low = middle + 1 } else { high = middle }
        }
        return low == ranges.count || ranges[low].lowerBound >= range.upperBound
    }
}
