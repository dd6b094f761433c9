// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform

/// Which pages of a memory may be other than zero, a bit each.
package struct DataMap: Equatable, Sendable {
    private static let pageSize = PageStream.pageSize
    private var words: [UInt64]

    /// - Parameter ranges: where there is data, in bytes; elsewhere it is zero.
    package init(ranges: [Range<UInt64>]) {
        let end = ranges.reduce(0) { max($0, $1.upperBound) }
        words = Array(repeating: 0, count: Int((end / Self.pageSize + 64) / 64))
        for range in ranges where !range.isEmpty {
            let last = (range.upperBound - 1) / Self.pageSize
            for page in range.lowerBound / Self.pageSize...last { words[Int(page / 64)] |= 1 << (page % 64) }
        }
    }

    /// Of a sparse file, as the file system says. One that knows nothing of holes says that all is data.
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
        self.init(ranges: found)
    }

    /// Of chunks, a bit each, whose pages are not known yet: each of them may have data.
    init(chunks: [UInt64], memorySize: UInt64) {
        words = Array(repeating: 0, count: 16 * chunks.count)
        for chunk in 0..<PageStream.chunkCount(ofMemory: memorySize)
        where chunks[chunk / 64] >> UInt64(chunk % 64) & 1 != 0 { set(chunk, .max) }
    }

    /// Whether a range of whole pages is zero throughout.
    func isZero(_ range: Range<UInt64>) -> Bool {
        for page in range.lowerBound / Self.pageSize..<range.upperBound / Self.pageSize {
            let word = Int(page / 64)
            if word < words.count, words[word] >> (page % 64) & 1 != 0 { return false }
        }
        return true
    }

    /// The pages of a chunk, the first the lowest.
    func pages(ofChunk chunk: Int) -> UInt16 {
        chunk / 4 < words.count ? UInt16(truncatingIfNeeded: words[chunk / 4] >> UInt64(chunk % 4 * 16)) : 0
    }

    /// The pages of a chunk have become known.
    mutating func set(_ chunk: Int, _ pages: UInt16) {
        let shift = UInt64(chunk % 4 * 16)
        words[chunk / 4] = words[chunk / 4] & ~(0xffff << shift) | UInt64(pages) << shift
    }

    /// A bit for each chunk with data.
    func chunks(memorySize: UInt64) -> [UInt64] {
        var map = [UInt64](repeating: 0, count: PageStream.wordCount(ofMemory: memorySize))
        for chunk in 0..<PageStream.chunkCount(ofMemory: memorySize) where pages(ofChunk: chunk) != 0 {
            map[chunk / 64] |= 1 << UInt64(chunk % 64)
        }
        return map
    }
}
