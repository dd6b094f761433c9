// SPDX-License-Identifier: Apache-2.0

internal import Crypto
internal import Platform
internal import Wire

/// Writes a snapshot as an archive: `manifest`, `state`, then each file, then `finish`.
package struct ArchiveWriter {
    private let sink: ([UInt8]) throws -> Void
    private var hash = SHA256()
    private var pending: [UInt8] = []
    private static let bufferLimit = 1 << 20

    /// - Parameter sink: takes the bytes, piece by piece.
    package init(to sink: @escaping ([UInt8]) throws -> Void) throws {
        self.sink = sink
        try put(ArchiveFormat.header)
    }

    /// - Parameter json: what the snapshot is of.
    package mutating func writeManifest(_ json: [UInt8]) throws {
        guard json.count <= ArchiveFormat.manifestLimit else {
            throw SnapshotsError.archive("the manifest is too long")
        }
        try put(.manifest, json)
    }

    package mutating func writeState(_ bytes: [UInt8]) throws { try put(.state, bytes) }

    /// Writes a file of the snapshot, whose length is a multiple of 4096: zero pages are left out, and chunks that were
    /// there before are named only.
    package mutating func write(_ name: ArchivedFile, from path: String) throws {
        var file = try SparseFile(path, chunkSize: ArchiveFormat.chunkSize)
        guard file.length % UInt64(ArchiveFormat.pageSize) == 0 else {
            throw SnapshotsError.archive("\(path) is not made of whole pages")
        }
        var head: [UInt8] = []
        head.appendInteger(UInt64(name.number))
        head.appendInteger(file.length)
        try put(.file, head)
        var known: [SHA256Digest: UInt64] = [:]
        while let offset = try file.nextChunk() {
            try file.withChunk(at: offset) { bytes in try write(bytes, at: offset, &known) }
        }
    }

    private mutating func write(
        _ bytes: UnsafeRawBufferPointer, at offset: UInt64, _ known: inout [SHA256Digest: UInt64]
    ) throws {
        var pages: UInt64 = 0
        let size = ArchiveFormat.pageSize
        for page in 0..<bytes.count / size {
            let contents = UnsafeRawBufferPointer(rebasing: bytes[page * size..<(page + 1) * size])
            if !contents.isZero { pages |= 1 << UInt64(page) }
        }
        // A hole that the file system keeps as zeros.
        guard pages != 0 else { return }
        let digest = SHA256.digest(of: bytes)
        var head: [UInt8] = []
        head.appendInteger(offset)
        if let source = known[digest] {
            head.appendInteger(source)
            return try put(.again, head)
        }
        known[digest] = offset
        head.appendInteger(pages)
        head += digest
        let length = head.count + pages.nonzeroBitCount * size
        try put(ArchiveFormat.recordHeader(ArchiveFormat.Kind.chunk.rawValue, length: length) + head)
        for page in 0..<bytes.count / size where pages >> UInt64(page) & 1 != 0 {
            try put(UnsafeRawBufferPointer(rebasing: bytes[page * size..<(page + 1) * size]))
        }
    }

    package mutating func finish() throws {
        // The digest is of all before its own record.
        try put([])
        let digest = Array(hash.finalize())
        pending += ArchiveFormat.recordHeader(ArchiveFormat.Kind.end.rawValue, length: digest.count) + digest
        try sink(pending)
        pending = []
    }

    // MARK: - Bytes

    private mutating func put(_ kind: ArchiveFormat.Kind, _ payload: [UInt8]) throws {
        try put(ArchiveFormat.recordHeader(kind.rawValue, length: payload.count) + payload)
    }

    private mutating func put(_ bytes: [UInt8]) throws { try bytes.withUnsafeBytes { try put($0) } }

    private mutating func put(_ bytes: UnsafeRawBufferPointer) throws {
        hash.update(bufferPointer: bytes)
        pending += bytes
        guard pending.count >= Self.bufferLimit else { return }
        try sink(pending)
        pending.removeAll(keepingCapacity: true)
    }
}

extension UnsafeRawBufferPointer {
    var isZero: Bool {
        var index = 0
        while index + 8 <= count {
            if loadUnaligned(fromByteOffset: index, as: UInt64.self) != 0 { return false }
            index += 8
        }
        while index < count {
            if self[index] != 0 { return false }
            index += 1
        }
        return true
    }
}
