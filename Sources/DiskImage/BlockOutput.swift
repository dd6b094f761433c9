// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform

/// Writes an image from front to back in few large calls.
///
/// Bytes are not copied: `append` remembers where they lie, and `flush` writes all of them with one call. So what was
/// appended must stay where it is until `flush`, which whoever lends the bytes calls before taking them back.
@safe final class BlockOutput {
    static let blockInBytes = 4096
    private static let maximumPieces = 1024

    private let file: Int32
    private let maximumInBytes: UInt64
    private let pieces: UnsafeMutablePointer<iovec>  // Owned; the first `count` are filled.
    private let zeros: UnsafeMutableRawPointer  // Owned; one block.
    private var count = 0
    private var pendingInBytes: UInt64 = 0
    private var written: UInt64
    /// Of all that is written, in its order, where the image's content is its identity.
    private(set) var digester: Digester?

    /// Where the next byte goes.
    var position: UInt64 { written + pendingInBytes }
    /// The block that begins at `position`, which must be aligned.
    var block: UInt32 { UInt32(truncatingIfNeeded: position / UInt64(Self.blockInBytes)) }

    /// - Parameters:
    ///   - file: lent for as long as this object lives.
    ///   - position: where the first byte goes.
    ///   - digesting: whether what is written is digested.
    init(file: Int32, position: UInt64, maximumInBytes: UInt64, digesting: Bool = false) {
        self.file = file
        self.maximumInBytes = min(maximumInBytes, (UInt64(UInt32.max) - 1) * UInt64(Self.blockInBytes))
        written = position
        digester = digesting ? Digester() : nil
        unsafe pieces = .allocate(capacity: Self.maximumPieces)
        unsafe pieces.initialize(repeating: iovec(), count: Self.maximumPieces)
        unsafe zeros = .allocate(byteCount: Self.blockInBytes, alignment: 16)
        unsafe zeros.initializeMemory(as: UInt8.self, repeating: 0, count: Self.blockInBytes)
    }

    deinit {
        unsafe pieces.deallocate()
        unsafe zeros.deallocate()
    }

    /// Whether so many bytes more fit into an image.
    func fits(_ count: UInt64) -> Bool {
        count <= maximumInBytes && position <= maximumInBytes - count
    }

    func append(_ bytes: Span<UInt8>) throws(DiskImageError) {
        guard bytes.count > 0 else { return }
        digester?.update(bytes)
        // The pointer outlives the closure by this type's contract: the lender flushes before the bytes go.
        let lent = unsafe bytes.withUnsafeBytes { unsafe UnsafeMutableRawPointer(mutating: $0.baseAddress) }
        try unsafe add(lent, bytes.count)
    }

    /// Fills up to a block's end with zeros.
    func padToBlock() throws(DiskImageError) {
        let rest = Int(position % UInt64(Self.blockInBytes))
        if rest > 0 { try unsafe add(zeros, Self.blockInBytes - rest) }
    }

    /// Leaves out bytes, which then read as zeros: the file has a hole there.
    func skip(_ count: UInt64) throws(DiskImageError) {
        guard count > 0 else { return }
        guard fits(count) else { throw tooLarge }
        try flush()
        written += count
    }

    /// Writes what is pending; nothing lent is used afterwards.
    func flush() throws(DiskImageError) {
        var first = 0
        while first < count {
            let offset = Int(written)
            let result = retryingInterrupts {
                unsafe pwritev(file, pieces + first, Int32(count - first), offset)
            }
            guard result > 0 else { throw .system(SystemError("pwritev", "image", code: result == 0 ? EIO : errno)) }
            written += UInt64(result)
            var left = result
            while unsafe first < count && left >= pieces[first].iov_len {
                left -= unsafe pieces[first].iov_len
                first += 1
            }
            if left > 0 {
                unsafe pieces[first].iov_base += left
                unsafe pieces[first].iov_len -= left
            }
        }
        count = 0
        pendingInBytes = 0
    }

    /// Flushes, and makes the file end at the position, even where that is within a hole.
    func finish() throws(DiskImageError) {
        try flush()
        guard ftruncate(file, Int(written)) == 0 else { throw .system(SystemError("ftruncate", "image")) }
    }

    /// Writes at a place of its own, apart from the sequence.
    func write(_ bytes: [UInt8], at offset: UInt64) throws(DiskImageError) {
        var done = 0
        while done < bytes.count {
            let result = unsafe bytes.withUnsafeBytes { all in
                retryingInterrupts {
                    unsafe pwrite(file, all.baseAddress.map { unsafe $0 + done }, all.count - done, Int(offset) + done)
                }
            }
            guard result > 0 else { throw .system(SystemError("pwrite", "image", code: result == 0 ? EIO : errno)) }
            done += result
        }
    }

    private func add(_ base: UnsafeMutableRawPointer?, _ length: Int) throws(DiskImageError) {
        guard fits(UInt64(length)) else { throw tooLarge }
        if count == Self.maximumPieces { try flush() }
        unsafe pieces[count] = iovec(iov_base: base, iov_len: length)
        count += 1
        pendingInBytes += UInt64(length)
    }

    private var tooLarge: DiskImageError { .limit(entry: "image", limit: .image, maximum: maximumInBytes) }
}
