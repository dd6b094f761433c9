// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform
internal import Virtio

/// Writes a guest's memory to a file, which is empty: pages that are zero become holes, in as few and as big writes as
/// there are runs of others. What the guest never touched is not looked at.
struct MemoryWriter: ~Copyable {
    private static let pageSize: UInt64 = 4096
    /// The longest write.
    private static let writeLimit: UInt64 = 8 << 20
    /// What is copied at a time where the file systems do not copy by themselves.
    private static let bufferSize: UInt64 = 1 << 20

    let memory: GuestMemory
    /// What the memory is a private mapping of: untouched pages are copied from there, file to file.
    let base: SharedDescriptor?
    /// What was not touched is with a server, not zero.
    let isServed: Bool
    let file: Descriptor
    /// In bytes; holes are not counted.
    private(set) var written: UInt64 = 0

    init(_ memory: GuestMemory, source: MemorySource?, to file: consuming Descriptor) {
        self.memory = memory
        base = if case .file(let base) = source { base.file } else { nil }
        isServed = if case .server = source { true } else { false }
        self.file = file
    }

    /// All of the memory.
    mutating func writeAll() throws(SystemError) {
        let size = memory.byteCount
        try file.truncate(to: size)
        var next: UInt64 = 0
        for range in try touched() {
            try copyBase(next..<max(next, range.lowerBound))
            try writeSparsely(max(next, range.lowerBound)..<max(next, range.upperBound))
            next = max(next, range.upperBound)
        }
        try copyBase(next..<size)
    }

    /// Some parts of it, whatever they contain.
    mutating func write(_ parts: [Range<UInt64>]) throws(SystemError) {
        try file.truncate(to: memory.byteCount)
        for part in parts { try write(part) }
    }

    // MARK: - What there is

    /// Where the memory may be other than its base, or than zero where it has none; ascending.
    func touched() throws(SystemError) -> [Range<UInt64>] {
        let size = memory.byteCount
        guard !isServed, let own = try? memory.pages(.own) else { return [0..<size] }
        var result = memory.mappedFiles + own
        result.sort { $0.lowerBound < $1.lowerBound }
        var joined: [Range<UInt64>] = []
        for range in result where !range.isEmpty {
            if let last = joined.last, range.lowerBound <= last.upperBound {
                joined[joined.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
            } else {
                joined.append(range)
            }
        }
        return joined
    }

    // MARK: - Writing

    private mutating func writeSparsely(_ range: Range<UInt64>) throws(SystemError) {
        var start = range.lowerBound
        while start < range.upperBound {
            let bytes = unsafe memory.bytes(offset: start, count: Int(min(Self.writeLimit, range.upperBound - start)))
            try unsafe writeSparsely(bytes, at: start)
            start += UInt64(bytes.count)
        }
    }

    private mutating func writeSparsely(
        _ bytes: UnsafeRawBufferPointer, at offset: UInt64
    ) throws(SystemError) {
        var done = 0
        while done < bytes.count {
            let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[done...])
            var isZero = false
            let count = unsafe clinux_page_run(rest.baseAddress, rest.count, &isZero)
            if !isZero { try unsafe write(UnsafeRawBufferPointer(rebasing: rest[..<count]), at: offset + UInt64(done)) }
            done += count
        }
    }

    private mutating func write(_ range: Range<UInt64>) throws(SystemError) {
        var position = range.lowerBound
        while position < range.upperBound {
            let count = Int(min(Self.writeLimit, range.upperBound - position))
            try unsafe write(memory.bytes(offset: position, count: count), at: position)
            position += UInt64(count)
        }
    }

    private mutating func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try unsafe file.writeAll(bytes, at: offset)
        written += UInt64(bytes.count)
    }

    /// Copies a range that is as in the base, from data to data.
    private mutating func copyBase(_ range: Range<UInt64>) throws(SystemError) {
        guard let base, !range.isEmpty else { return }
        var position = range.lowerBound
        while position < range.upperBound {
            let data = lseek(base.raw, Int(position), CLINUX_SEEK_DATA)
            guard data >= 0 else {
                // Nothing but a hole up to the end; or a file system that does not know holes.
                if clinux_errno() == ENXIO { return }
                return try copyBaseThroughBuffer(position..<range.upperBound)
            }
            guard UInt64(data) < range.upperBound else { return }
            let hole = lseek(base.raw, data, CLINUX_SEEK_HOLE)
            // Holes of a file system may end within a page; ours are whole pages.
            let start = max(position, UInt64(data) & ~(Self.pageSize - 1))
            let end = hole > data ? UInt64(hole) : range.upperBound
            let pageEnd = min(range.upperBound, (end + Self.pageSize - 1) & ~(Self.pageSize - 1))
            try copyBaseData(start..<pageEnd)
            position = pageEnd
        }
    }

    private mutating func copyBaseData(_ range: Range<UInt64>) throws(SystemError) {
        guard let base else { return }
        var position = range.lowerBound
        while position < range.upperBound {
            let rest = Int(range.upperBound - position)
            let (from, to, offset) = (base.raw, file.raw, Int64(position))
            let count = retryingInterrupts { clinux_copy_file_part(from, offset, to, offset, rest) }
            if count > 0 {
                position += UInt64(count)
                written += UInt64(count)
            } else {
                switch clinux_errno() {
                case _ where count == 0: throw SystemError("copy_file_range", code: EIO)
                case EXDEV, EINVAL, EOPNOTSUPP, ENOSYS, ETXTBSY:
                    // Not between these file systems.
                    return try copyBaseThroughBuffer(position..<range.upperBound)
                case let code: throw SystemError("copy_file_range", code: code)
                }
            }
        }
    }

    /// Not through the mapping: what is read there counts as touched by the guest from then on, in its working set and
    /// in the memory that it takes.
    private mutating func copyBaseThroughBuffer(_ range: Range<UInt64>) throws(SystemError) {
        guard let base else { return }
        let buffer = try MemoryMapping(count: Int(Self.bufferSize))
        var position = range.lowerBound
        while position < range.upperBound {
            let wanted = Int(min(Self.bufferSize, range.upperBound - position))
            let space = unsafe UnsafeMutableRawBufferPointer(start: buffer.start, count: wanted)
            guard try unsafe base.descriptor.readFully(into: space, at: position) == wanted else {
                throw SystemError("pread", "the memory that the machine was made of", code: EIO)
            }
            try unsafe writeSparsely(UnsafeRawBufferPointer(space), at: position)
            position += UInt64(wanted)
        }
    }

    // MARK: - The end

    /// Puts bytes behind the memory, and, if asked, brings everything to the disk.
    consuming func finish(_ trailer: [UInt8], isDurable: Bool) throws(SystemError) -> UInt64 {
        let raw = file.raw
        let offset = Int(memory.byteCount)
        let count = unsafe trailer.withUnsafeBytes { bytes in
            retryingInterrupts { unsafe pwrite(raw, bytes.baseAddress, bytes.count, offset) }
        }
        guard count == trailer.count else { throw SystemError("pwrite", code: count < 0 ? clinux_errno() : EIO) }
        if isDurable { try file.synchronizeData() }
        return written
    }
}
