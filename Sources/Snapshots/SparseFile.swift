// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform

/// A file that is read in chunks, in their order, the holes left out.
struct SparseFile: ~Copyable {
    let file: Descriptor
    /// In bytes.
    let length: UInt64
    let chunkSize: Int
    private var space: [UInt8]
    /// Where the data ends that is known of.
    private var dataEnd: UInt64 = 0
    private var next: UInt64 = 0

    init(_ path: String, chunkSize: Int) throws(SystemError) {
        let file = try Descriptor.open(path, .readOnly)
        length = try file.size()
        self.file = file
        self.chunkSize = chunkSize
        space = [UInt8](repeating: 0, count: chunkSize)
    }

    /// Goes on to the next chunk that is no hole; its offset, or nil where there is none.
    mutating func nextChunk() throws(SystemError) -> UInt64? {
        let size = UInt64(chunkSize)
        while next < length {
            if next >= dataEnd {
                let data = lseek(file.raw, off_t(next), CLINUX_SEEK_DATA)
                if data < 0, errno == ENXIO { return nil }
                if data >= 0 {
                    next = max(next, UInt64(data) / size * size)
                    let hole = lseek(file.raw, data, CLINUX_SEEK_HOLE)
                    dataEnd = hole > data ? UInt64(hole) : length
                } else {
                    // A file system that does not know holes.
                    dataEnd = length
                }
            }
            let offset = next
            next += size
            return offset
        }
        return nil
    }

    /// Hands over the bytes of the chunk at an offset.
    mutating func withChunk<Result>(
        at offset: UInt64, _ body: (UnsafeRawBufferPointer) throws -> Result
    ) throws -> Result {
        let count = Int(min(UInt64(chunkSize), length - offset))
        let got = try space.withUnsafeMutableBytes { space throws(SystemError) in
            try file.readFully(into: UnsafeMutableRawBufferPointer(rebasing: space[..<count]), at: offset)
        }
        guard got == count else { throw SystemError("pread", code: EIO) }
        return try space.withUnsafeBytes { try body(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
    }
}
