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
    package private(set) var data: DataMap
    /// What of it has come from another host; nil where all of it is here.
    private(set) var arriving: ChunkLedger?
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

    /// The memory of another host, of which nothing is here, nor known, yet.
    /// - Parameter cache: a file of that size.
    init(arrivingIn cache: borrowing Descriptor, size: UInt64, snapshot: String) throws(SystemError) {
        mapping = try MemoryMapping(count: Int(size), file: cache.raw, writable: false)
        data = DataMap(ranges: [])
        self.size = size
        self.snapshot = snapshot
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
            snapshot = PageStream.hexadecimal(bytes[24..<40])
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

// MARK: - What comes from another host

extension MemoryImage {
    /// Whether a range is here.
    borrowing func has(_ range: Range<UInt64>) -> Bool { arriving?.isPresent(range) ?? true }

    /// Has a range asked for that somebody waits for.
    mutating func want(_ range: Range<UInt64>) { arriving?.want(range) }

    /// It is known what there is.
    mutating func expect(_ announcement: PageAnnouncement) {
        data = DataMap(chunks: announcement.data, memorySize: size)
        arriving = ChunkLedger(memorySize: size, data: announcement.data, first: announcement.first)
    }

    /// What to ask for now, by its offset.
    mutating func nextRequest() -> UInt64? { arriving?.next() }

    borrowing func expect(answer offset: UInt64, pages: UInt16) throws(StreamFailure) -> Range<UInt64> {
        guard let arriving else { throw .answer("an answer without a request") }
        return try arriving.expect(answer: offset, pages: pages)
    }

    /// A chunk has come, of which these pages are not zero.
    mutating func answered(_ range: Range<UInt64>, _ pages: UInt16) {
        data.set(Int(range.lowerBound / PageStream.chunkSize), pages)
        arriving?.answered()
    }

    /// What another host is told that wants it.
    /// - Parameter first: a file of what machines touch first (Docs/SNAPSHOT-FORMAT.md), or anything else.
    borrowing func announcement(first: [UInt8]?) -> PageAnnouncement {
        let name = snapshot ?? String(repeating: "0", count: 32)
        var map = [UInt64](repeating: 0, count: PageStream.wordCount(ofMemory: size))
        for range in first.map({ Self.stretches(ofWorkingSet: $0, of: name, memorySize: size) }) ?? [] {
            for chunk in range.lowerBound / PageStream.chunkSize...(range.upperBound - 1) / PageStream.chunkSize {
                map[Int(chunk / 64)] |= 1 << (chunk % 64)
            }
        }
        return PageAnnouncement(memorySize: size, snapshot: name, data: data.chunks(memorySize: size), first: map)
    }

    /// The stretches of a working set's file, in bytes; none where it is damaged or another snapshot's.
    static func stretches(
        ofWorkingSet bytes: [UInt8], of snapshot: String, memorySize: UInt64
    ) -> [Range<UInt64>] {
        guard bytes.count >= 64, bytes.starts(with: Array("MARTWSET".utf8)),
            CRC32C.of(bytes[..<60]) == bytes.integer(at: 60, as: UInt32.self),
            CRC32C.of(bytes[64...]) == bytes.integer(at: 44, as: UInt32.self),
            bytes.integer(at: 16, as: UInt64.self) == memorySize,
            PageStream.hexadecimal(bytes[24..<40]) == snapshot
        else { return [] }
        return stride(from: 64, to: bytes.count - bytes.count % 8, by: 8).compactMap { place in
            let first = UInt64(bytes.integer(at: place, as: UInt32.self) ?? 0) * pageSize
            let count = UInt64((bytes.integer(at: place + 4, as: UInt32.self) ?? 0) & 0x7fff_ffff) * pageSize
            return count > 0 && first + count <= memorySize ? first..<first + count : nil
        }
    }
}
