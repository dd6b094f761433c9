// SPDX-License-Identifier: Apache-2.0

internal import Crypto
internal import Wire

/// A snapshot as one stream, to be kept elsewhere or taken to another host: Docs/SNAPSHOT-ARCHIVE.md. A header, then
/// records: the manifest, the state, files in chunks by their contents, and a digest of all.
enum ArchiveFormat {
    static let magic = Array("MARTARCH".utf8)
    static let version: UInt32 = 1
    static let headerSize = 16
    static let recordHeaderSize = 16
    static let digestSize = 32
    static let pageSize = 4096
    /// 64 pages, one bit each.
    static let chunkSize = 64 * pageSize
    static let manifestLimit = 1 << 20
    static let stateLimit = 64 << 20
    /// The most files, and the most bytes of one.
    static let fileLimit = 1024
    static let fileSizeLimit: UInt64 = 1 << 44

    enum Kind: UInt32 {
        case manifest = 1
        case state = 2
        /// What follows is of this file: number, size.
        case file = 3
        /// Bytes of the file, those pages left out that are zero.
        case chunk = 4
        /// A chunk whose contents are those of an earlier one of the file.
        case again = 5
        case end = 6

        /// The most bytes of a payload.
        var limit: Int {
            switch self {
            case .manifest: manifestLimit
            case .state: stateLimit
            case .file, .again: 16
            case .chunk: chunkHeaderSize + chunkSize
            case .end: digestSize
            }
        }
    }

    /// Offset, pages, digest.
    static let chunkHeaderSize = 8 + 8 + digestSize

    static var header: [UInt8] {
        var bytes = magic
        bytes.appendInteger(version)
        bytes.appendInteger(0 as UInt32)
        return bytes
    }

    /// - Parameter isRequired: whoever does not know the kind cannot do without it.
    static func recordHeader(_ kind: UInt32, length: Int, isRequired: Bool = true) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.appendInteger(kind)
        bytes.appendInteger(isRequired ? 1 : 0 as UInt32)
        bytes.appendInteger(UInt64(length))
        return bytes
    }
}

extension SHA256 {
    static func digest(of bytes: UnsafeRawBufferPointer) -> SHA256Digest {
        var hash = SHA256()
        hash.update(bufferPointer: bytes)
        return hash.finalize()
    }
}

/// A file of a snapshot, by its number in an archive.
package enum ArchivedFile: Hashable, Sendable {
    case memory
    /// A part of the image's disk, from 0.
    case disk(Int)

    var number: UInt32 {
        switch self {
        case .memory: 0
        case .disk(let index): UInt32(index + 1)
        }
    }

    init?(number: UInt64) {
        guard number < UInt64(ArchiveFormat.fileLimit) else { return nil }
        self = number == 0 ? .memory : .disk(Int(number) - 1)
    }

    /// Its name in the snapshot's directory.
    package var name: String {
        switch self {
        case .memory: "memory"
        case .disk(let index): "disk-\(index)"
        }
    }
}
