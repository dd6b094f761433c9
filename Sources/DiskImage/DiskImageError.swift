// SPDX-License-Identifier: Apache-2.0

package import Platform

/// Why a layer, a directory or an image could not be converted, merged or read.
package enum DiskImageError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The compressed stream is damaged. `offset` counts bytes of the compressed input.
    case compressedData(format: Compression, offset: UInt64, problem: String)
    /// A zstd frame wants its decompressor to remember more than is granted.
    case zstdWindow(wantedInBytes: UInt64, maximumInBytes: UInt64)
    /// The input ends too early. `offset` counts the bytes that came.
    case truncated(what: String, offset: UInt64)
    /// An archive says what no layer may say. `offset` counts bytes of the uncompressed archive; it is that of the
    /// entry's header.
    case archive(entry: String, offset: UInt64, problem: ArchiveProblem)
    /// More than the converter's limits allow.
    case limit(entry: String, limit: LimitKind, maximum: UInt64)
    /// A file of a directory tree on the host cannot be taken over.
    case source(path: String, problem: String)
    /// An EROFS image is damaged, or says what this reader does not support.
    case image(problem: String, offset: UInt64)
    /// A path looked for in an image is not there, or is not of the kind asked for.
    case lookup(path: String, problem: LookupProblem)
    /// A system call failed.
    case system(SystemError)
    /// The converter was used again after it failed or finished.
    case alreadyEnded

    package var description: String {
        switch self {
        case .compressedData(let format, let offset, let problem):
            "the layer's \(format) data is damaged at compressed byte \(offset): \(problem); get the layer again"
        case .zstdWindow(let wanted, let maximum):
            """
            the layer's zstd data needs a window of \(wanted >> 20) MiB, and at most \(maximum >> 20) MiB are granted; \
            build it again without zstd's --long and --ultra, or with gzip
            """
        case .truncated(let what, let offset):
            "the layer ends too early, after \(offset) bytes, within \(what); get the layer again"
        case .archive(let entry, let offset, let problem):
            "the layer's entry '\(entry)' at byte \(offset): \(problem)"
        case .limit(let entry, let limit, let maximum):
            "'\(entry)' goes beyond the limit of \(maximum) \(limit)"
        case .source(let path, let problem):
            "'\(path)': \(problem)"
        case .image(let problem, let offset):
            "the EROFS image is damaged at byte \(offset): \(problem); remove it and convert its layer again"
        case .lookup(let path, let problem):
            "'\(path)' in the image: \(problem)"
        case .system(let error):
            error.code == 28
                ? "\(error); make room on the file system that holds the images" : error.description
        case .alreadyEnded:
            "the conversion has already ended"
        }
    }
}

/// What is wrong with an archive's entry.
package enum ArchiveProblem: Error, Equatable, Sendable, CustomStringConvertible {
    /// The header's checksum does not match. At byte 0 the input is no tar archive at all.
    case badChecksum
    case badNumber(field: String)
    case badExtendedHeader(String)
    case badSparseMap(String)
    /// A `..` leaves the layer's root.
    case escapes
    case emptyName
    case nameHasNUL
    /// A component of more than 255 bytes.
    case componentTooLong(length: Int)
    /// A path of more than 4095 bytes.
    case pathTooLong(length: Int)
    /// A component before the last is neither a directory nor a symbolic link.
    case parentIsNoDirectory
    /// More than 40 symbolic links on the way, or a way that grows without end.
    case tooManyLinks
    case linkTargetMissing(String)
    case linkTargetIsDirectory(String)
    case emptyLinkTarget
    case linkTargetTooLong(length: Int)
    /// The root of the layer is something else than a directory.
    case rootIsNoDirectory
    case unsupportedType(UInt8)
    case badDeviceNumber
    /// A zero block that is followed by something else than a second one.
    case loneZeroBlock

    package var description: String {
        switch self {
        case .badChecksum: "the header's checksum is wrong; this is no tar archive, or a damaged one"
        case .badNumber(let field): "the header's field '\(field)' is no number, or out of range"
        case .badExtendedHeader(let what): "the extended header is damaged: \(what)"
        case .badSparseMap(let what): "the map of the sparse file is wrong: \(what)"
        case .escapes: "the path leaves the layer with '..'; such a layer is refused"
        case .emptyName: "it has no name"
        case .nameHasNUL: "its name or link target contains a NUL byte"
        case .componentTooLong(let length): "a component of its name has \(length) bytes; at most 255 are possible"
        case .pathTooLong(let length): "its path has \(length) bytes; at most 4095 are possible"
        case .parentIsNoDirectory: "a component of its path before the last is not a directory"
        case .tooManyLinks: "its path goes through too many symbolic links"
        case .linkTargetMissing(let target):
            "it is a hard link to '\(target)', which is not in the same layer; rebuild the image so that it is"
        case .linkTargetIsDirectory(let target): "it is a hard link to the directory '\(target)'"
        case .emptyLinkTarget: "it is a link without a target"
        case .linkTargetTooLong(let length): "its link target has \(length) bytes; at most 4095 are possible"
        case .rootIsNoDirectory: "it makes the root of the layer something else than a directory"
        case .unsupportedType(let type): "entries of type \(typeName(type)) are not supported"
        case .badDeviceNumber: "its device number is out of range (major up to 4095, minor up to 1048575)"
        case .loneZeroBlock: "a single zero block stands within the archive"
        }
    }

    private func typeName(_ type: UInt8) -> String {
        type > 0x20 && type < 0x7F ? "'\(Character(Unicode.Scalar(type)))'" : "\(type)"
    }
}

/// Why a look-up in an image failed.
package enum LookupProblem: Equatable, Sendable, CustomStringConvertible {
    case missing
    case notADirectory
    case notAFile
    case tooManyLinks
    case tooLarge(limit: Int)

    package var description: String {
        switch self {
        case .missing: "there is no such file or directory"
        case .notADirectory: "it is not a directory"
        case .notAFile: "it is not a regular file"
        case .tooManyLinks: "too many symbolic links"
        case .tooLarge(let limit): "it is larger than \(limit) bytes"
        }
    }
}

/// The limits that a conversion keeps to, so that no input makes it use memory or disk without bound.
package struct ConversionLimits: Equatable, Sendable {
    /// Entries of one layer (archive entries, or files of a directory tree); of a merged image, entries of all layers.
    package var entries = 1_000_000
    /// Bytes of one extended header of an archive.
    package var extendedHeaderInBytes = 1 << 20
    /// Bytes of all extended attributes of one file, names included.
    package var xattrsInBytes = 64 << 10
    /// Bytes of all metadata together (names, link targets, attributes, block maps, and the tables that find them).
    package var metadataInBytes = 1 << 30
    /// Bytes of metadata that are held in memory at a time; what is beyond lies in a temporary file.
    package var memoryInBytes = 24 << 20
    /// Segments of one sparse file.
    package var sparseSegments = 262_144
    /// Bytes of the image that is written. EROFS itself ends at 16 TiB.
    package var imageInBytes: UInt64 = 4 << 40

    package init() {}

    /// Bytes of metadata that are held in memory beside a decompressor's window.
    func memory(besideWindow windowInBytes: Int) -> Int {
        max(memoryInBytes / 4, memoryInBytes - max(0, windowInBytes - ZstdInflater.usualWindowInBytes))
    }

    /// Those of a merge: several layers may each be at their own limit of entries.
    package static var ofMerge: ConversionLimits {
        var limits = ConversionLimits()
        limits.entries = 4_000_000
        return limits
    }
}

/// One of `ConversionLimits`.
package enum LimitKind: String, Equatable, Sendable, CustomStringConvertible {
    case entries
    case extendedHeader = "bytes of an extended header"
    case xattrs = "bytes of extended attributes of one file"
    case metadata = "bytes of names, links and attributes"
    case sparseSegments = "segments of a sparse file"
    case image = "bytes of an image"

    package var description: String { rawValue }
}

/// Bytes from an archive or a file system, for a message: escaped, and cut where long.
func displayed(_ bytes: some Collection<UInt8>) -> String {
    let shown = bytes.prefix(200)
    var text = String(decoding: shown, as: UTF8.self)
    if text.unicodeScalars.contains(where: { $0.value < 0x20 || $0.value == 0x7F }) {
        var cleaned = ""
        for scalar in text.unicodeScalars {
            cleaned += scalar.value < 0x20 || scalar.value == 0x7F ? "\\\(scalar.value)" : String(scalar)
        }
        text = cleaned
    }
    return shown.count < bytes.count ? text + "…" : text
}

/// Makes a system call's failure this module's.
@inline(__always)
func system<Result: ~Copyable>(
    _ body: () throws(SystemError) -> Result
) throws(DiskImageError) -> Result {
    do throws(SystemError) { return try body() } catch { throw .system(error) }
}
