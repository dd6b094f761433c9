// SPDX-License-Identifier: Apache-2.0

internal import Platform
internal import Wire

/// The checksums of a memory file, chunk by chunk: what finds bytes in it that are not what they were when it was made
/// (Docs/SNAPSHOT-FORMAT.md).
package struct MemorySums: Equatable, Sendable {
    package static let chunkSize = 256 << 10
    static let magic = Array("MARTSUMS".utf8)
    static let version: UInt32 = 1
    static let headerSize = 32
    /// In bytes: of 16 TiB of memory.
    package static let fileSizeLimit = 256 << 20

    /// Of the memory file, in bytes.
    package let length: UInt64
    /// A CRC-32C each.
    package private(set) var sums: [UInt32]

    /// Reads a memory file, its holes left out.
    package init(of path: String) throws {
        var file = try SparseFile(path, chunkSize: Self.chunkSize)
        self = Self.ofHoles(file.length)
        while let offset = try file.nextChunk() {
            sums[Int(offset / UInt64(Self.chunkSize))] = try file.withChunk(at: offset, Self.sum)
        }
    }

    /// The sums of a file that some parts were written to since `base` was made, which are of the rest of it.
    package init(of path: String, base: MemorySums, written: [Range<UInt64>]) throws {
        var file = try SparseFile(path, chunkSize: Self.chunkSize)
        guard file.length == base.length else { throw SnapshotsError.sums("they are of a file of another length") }
        self = base
        var last: Int?
        // Behind the memory is a page that says whose it is.
        let size = UInt64(Self.chunkSize)
        for part in written + [file.length &- 1..<file.length] where !part.isEmpty && part.upperBound <= file.length {
            for index in Int(part.lowerBound / size)...Int((part.upperBound - 1) / size) where index != last {
                sums[index] = try file.withChunk(at: UInt64(index) * size, Self.sum)
                last = index
            }
        }
    }

    private init(length: UInt64, sums: [UInt32]) {
        self.length = length
        self.sums = sums
    }

    private static func ofHoles(_ length: UInt64) -> MemorySums {
        let count = Int((length + UInt64(chunkSize) - 1) / UInt64(chunkSize))
        let zeros = [UInt8](repeating: 0, count: chunkSize)
        var sums = [UInt32](repeating: zeros.withUnsafeBytes(sum), count: count)
        let rest = Int(length % UInt64(chunkSize))
        if rest > 0 {
            sums[count - 1] = zeros.withUnsafeBytes { sum(UnsafeRawBufferPointer(rebasing: $0[..<rest])) }
        }
        return MemorySums(length: length, sums: sums)
    }

    private static func sum(_ bytes: UnsafeRawBufferPointer) -> UInt32 { FastCRC32C.of(bytes) }

    /// Where, in bytes, a memory file is first another than these are of; nil where it is not.
    package func firstDifference(in other: MemorySums) -> UInt64? {
        for (index, (one, another)) in zip(sums, other.sums).enumerated() where one != another {
            return UInt64(index) * UInt64(Self.chunkSize)
        }
        return length == other.length ? nil : min(length, other.length)
    }

    // MARK: - The file

    package var encoded: [UInt8] {
        var bytes = Self.magic
        bytes.appendInteger(Self.version)
        bytes.appendInteger(UInt32(Self.chunkSize))
        bytes.appendInteger(length)
        bytes.appendInteger(UInt32(sums.count))
        bytes.appendInteger(0 as UInt32)
        for sum in sums { bytes.appendInteger(sum) }
        bytes.appendInteger(CRC32C.of(bytes))
        return bytes
    }

    package init(reading bytes: [UInt8]) throws(SnapshotsError) {
        guard bytes.starts(with: Self.magic), bytes.count >= Self.headerSize + 4 else {
            throw .sums("it does not begin with MARTSUMS")
        }
        let body = bytes.count - 4
        guard CRC32C.of(bytes[..<body]) == bytes.integer(at: body, as: UInt32.self) else {
            throw .sums("its own checksum does not fit")
        }
        guard bytes.integer(at: 8, as: UInt32.self) == Self.version,
            bytes.integer(at: 12, as: UInt32.self) == UInt32(Self.chunkSize),
            let length = bytes.integer(at: 16, as: UInt64.self), let count = bytes.integer(at: 24, as: UInt32.self)
        else { throw .sums("it is of a version that came after this martlet") }
        let chunk = UInt64(Self.chunkSize)
        guard body == Self.headerSize + 4 * Int(count), length / chunk + (length % chunk == 0 ? 0 : 1) == UInt64(count)
        else { throw .sums("it has another length than it says") }
        self.length = length
        sums = []
        sums.reserveCapacity(Int(count))
        for index in 0..<Int(count) {
            sums.append(bytes.integer(at: Self.headerSize + 4 * index, as: UInt32.self) ?? 0)
        }
    }
}
