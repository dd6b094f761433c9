// SPDX-License-Identifier: Apache-2.0

internal import Crypto
package import Platform
internal import Wire

/// What takes a snapshot out of an archive. Whatever it is given is only whole, and only that of the one who made the
/// archive, when `ArchiveReader.read` has returned.
package protocol ArchiveReceiver {
    /// Takes the manifest and the state; says how long each file that the snapshot has is to be, in bytes.
    mutating func take(manifest: [UInt8], state: [UInt8]) throws -> [ArchivedFile: UInt64]
    /// A new and empty file, in which the bytes of that one are to be.
    func create(_ file: ArchivedFile) throws -> Descriptor
}

/// A file that is being written.
private final class OpenFile {
    let descriptor: Descriptor

    init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }

    /// Writes a part of some bytes.
    func write(_ bytes: [UInt8], _ part: Range<Int>, at offset: UInt64) throws {
        try descriptor.writeAll(bytes, part, at: offset)
    }

    /// Reads bytes that were written before.
    func read(_ count: Int, at offset: UInt64, into bytes: inout [UInt8]) throws {
        let got = try bytes.withUnsafeMutableBytes {
            try descriptor.readFully(into: UnsafeMutableRawBufferPointer(rebasing: $0[..<count]), at: offset)
        }
        guard got == count else { throw SnapshotsError.archive("what was written of it cannot be read again") }
    }
}

/// Reads an archive, of which nothing is believed: every length has a bound, every chunk a digest, and what does not
/// come in its order ends the reading.
///
///     header ──manifest──▶ ──state──▶ ──file──▶ chunks … ──file──▶ chunks … ──end──▶ done
package struct ArchiveReader<Receiver: ArchiveReceiver> {
    /// Reads into the buffer; 0 where the stream has ended.
    private let source: (UnsafeMutableRawBufferPointer) throws -> Int
    private var hash = SHA256()
    private var receiver: Receiver
    private var space = [UInt8](repeating: 0, count: ArchiveFormat.chunkHeaderSize + ArchiveFormat.chunkSize)
    private var chunk = [UInt8](repeating: 0, count: ArchiveFormat.chunkSize)

    package init(from source: @escaping (UnsafeMutableRawBufferPointer) throws -> Int, to receiver: Receiver) {
        self.source = source
        self.receiver = receiver
    }

    /// Reads all of it.
    package mutating func read() throws {
        let header = try take(ArchiveFormat.headerSize)
        guard header.starts(with: ArchiveFormat.magic) else {
            throw SnapshotsError.archive("it does not begin with MARTARCH")
        }
        let version = header.integer(at: 8, as: UInt32.self) ?? 0
        guard version == ArchiveFormat.version else {
            throw SnapshotsError.archive("it has version \(version) of the format: use a newer martlet")
        }
        let manifest = try take(try expect(.manifest))
        let state = try take(try expect(.state))
        var missing = try receiver.take(manifest: manifest, state: state)
        var record = try next()
        while record.kind == .file {
            let head = try take(try record.checked(16))
            guard let file = ArchivedFile(number: head.integer(at: 0) ?? .max),
                let length = missing.removeValue(forKey: file), length == head.integer(at: 8, as: UInt64.self),
                length <= ArchiveFormat.fileSizeLimit, length % UInt64(ArchiveFormat.pageSize) == 0
            else { throw SnapshotsError.archive("it has a file that is not the snapshot's, or of another length") }
            record = try readFile(file, length)
        }
        guard record.kind == .end else { throw SnapshotsError.archive("a record is not in its place") }
        guard missing.isEmpty else { throw SnapshotsError.archive("a file is missing") }
        try finish(record)
    }

    // MARK: - Files

    /// Reads chunks until another kind of record comes, which is the result.
    private mutating func readFile(_ name: ArchivedFile, _ length: UInt64) throws -> Record {
        let file = OpenFile(try receiver.create(name))
        try file.descriptor.truncate(to: length)
        var position: UInt64 = 0
        while true {
            let record = try next()
            switch record.kind {
            case .chunk: position = try readChunk(record, file, position..<length)
            case .again: position = try copyChunk(record, file, position..<length)
            default:
                try file.descriptor.synchronizeData()
                return record
            }
        }
    }

    /// - Parameter rest: what of the file has not come yet.
    /// - Returns: where the chunk ends.
    private mutating func readChunk(
        _ record: Record, _ file: OpenFile, _ rest: Range<UInt64>
    ) throws -> UInt64 {
        let count = try record.checked(nil)
        try fill(count)
        let offset = space.integer(at: 0, as: UInt64.self) ?? .max
        let pages = space.integer(at: 8, as: UInt64.self) ?? 0
        let size = try chunkSize(at: offset, rest)
        let pageSize = ArchiveFormat.pageSize
        guard count == ArchiveFormat.chunkHeaderSize + pages.nonzeroBitCount * pageSize,
            pages != 0, size / pageSize == 64 || pages >> UInt64(size / pageSize) == 0
        else { throw SnapshotsError.archive("a chunk is not as long as its pages") }
        var source = ArchiveFormat.chunkHeaderSize
        for page in 0..<size / pageSize {
            let target = page * pageSize..<(page + 1) * pageSize
            if pages >> UInt64(page) & 1 != 0 {
                chunk.replaceSubrange(target, with: space[source..<source + pageSize])
                source += pageSize
            } else {
                for index in target { chunk[index] = 0 }
            }
        }
        let digest = space[16..<ArchiveFormat.chunkHeaderSize]
        let found = chunk.withUnsafeBytes { SHA256.digest(of: UnsafeRawBufferPointer(rebasing: $0[..<size])) }
        guard found.elementsEqual(digest) else {
            throw SnapshotsError.archive("a chunk's digest does not fit")
        }
        // Runs of pages, so that what is left out stays a hole.
        var page = 0
        while page < size / pageSize {
            var end = page
            while end < size / pageSize, pages >> UInt64(end) & 1 != 0 { end += 1 }
            if end > page {
                try file.write(chunk, page * pageSize..<end * pageSize, at: offset + UInt64(page * pageSize))
            }
            page = end + 1
        }
        return offset + UInt64(size)
    }

    private mutating func copyChunk(
        _ record: Record, _ file: OpenFile, _ rest: Range<UInt64>
    ) throws -> UInt64 {
        let head = try take(try record.checked(16))
        let offset = head.integer(at: 0, as: UInt64.self) ?? .max
        let source = head.integer(at: 8, as: UInt64.self) ?? .max
        let size = try chunkSize(at: offset, rest)
        guard source < offset, source % UInt64(ArchiveFormat.chunkSize) == 0 else {
            throw SnapshotsError.archive("a chunk is said to be as one that has not come")
        }
        try file.read(size, at: source, into: &chunk)
        try file.write(chunk, 0..<size, at: offset)
        return offset + UInt64(size)
    }

    private func chunkSize(at offset: UInt64, _ rest: Range<UInt64>) throws -> Int {
        guard offset % UInt64(ArchiveFormat.chunkSize) == 0, rest.contains(offset) else {
            throw SnapshotsError.archive("a chunk is not in its place")
        }
        return Int(min(UInt64(ArchiveFormat.chunkSize), rest.upperBound - offset))
    }

    // MARK: - Records

    private struct Record {
        let kind: ArchiveFormat.Kind
        let length: Int

        /// The length, if it is that, or any that the kind may have.
        func checked(_ wanted: Int?) throws -> Int {
            guard wanted == nil || wanted == length else { throw SnapshotsError.archive("a record has a wrong length") }
            return length
        }
    }

    /// The next record that is known; others that need not be are passed over.
    private mutating func next() throws -> Record {
        while true {
            let before = hash
            let head = try take(ArchiveFormat.recordHeaderSize)
            let number = head.integer(at: 0, as: UInt32.self) ?? 0
            let length = head.integer(at: 8, as: UInt64.self) ?? .max
            if let kind = ArchiveFormat.Kind(rawValue: number) {
                guard head.integer(at: 4, as: UInt32.self) == 1 else {
                    throw SnapshotsError.archive("a record is not marked as it must be")
                }
                guard length <= UInt64(kind.limit), kind != .chunk || length >= UInt64(ArchiveFormat.chunkHeaderSize)
                else { throw SnapshotsError.archive("a record has a wrong length") }
                // The digest is of all before its own record.
                if kind == .end { hash = before }
                return Record(kind: kind, length: Int(length))
            }
            guard (head.integer(at: 4, as: UInt32.self) ?? 1) & 1 == 0 else {
                throw SnapshotsError.archive("it has a record of kind \(number): use a newer martlet")
            }
            var rest = length
            while rest > 0 {
                let count = Int(min(rest, UInt64(chunk.count)))
                try fill(count)
                rest -= UInt64(count)
            }
        }
    }

    private mutating func expect(_ kind: ArchiveFormat.Kind) throws -> Int {
        let record = try next()
        guard record.kind == kind else { throw SnapshotsError.archive("a record is not in its place") }
        return record.length
    }

    private mutating func finish(_ record: Record) throws {
        let digest = Array(hash.finalize())
        guard try record.checked(digest.count) == digest.count, try take(digest.count) == digest else {
            throw SnapshotsError.archive("its digest does not fit")
        }
        let source = source
        guard try chunk.withUnsafeMutableBytes({ try source($0) }) == 0 else {
            throw SnapshotsError.archive("it goes on after its end")
        }
    }

    // MARK: - Bytes

    private mutating func take(_ count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        // What is only announced takes no memory.
        while bytes.count < count {
            let part = min(count - bytes.count, ArchiveFormat.chunkSize)
            try fill(part)
            bytes += space[..<part]
        }
        return bytes
    }

    /// Reads bytes to the beginning of `space`.
    private mutating func fill(_ count: Int) throws {
        let source = source
        var done = 0
        while done < count {
            let got = try space.withUnsafeMutableBytes {
                try source(UnsafeMutableRawBufferPointer(rebasing: $0[done..<count]))
            }
            guard got > 0 else { throw SnapshotsError.archive("it was cut short") }
            done += got
        }
        space.withUnsafeBytes { hash.update(bufferPointer: UnsafeRawBufferPointer(rebasing: $0[..<count])) }
    }
}
