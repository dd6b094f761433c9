// SPDX-License-Identifier: Apache-2.0

/// One entry of an archive, its extended headers applied, its names as the archive has them.
struct TarEntry {
    enum Kind: Equatable {
        case file
        case hardLink
        case symbolicLink
        case characterDevice
        case blockDevice
        case directory
        case fifo
    }

    var kind: Kind
    var path: [UInt8]
    var linkTarget: [UInt8]
    /// Permission bits with setuid, setgid and sticky.
    var permissions: UInt16
    var uid: UInt32
    var gid: UInt32
    /// Bytes of data in the archive; a sparse file's own size is in `sparse`.
    var sizeInBytes: UInt64
    var modified: Timestamp
    var deviceMajor: UInt32
    var deviceMinor: UInt32
    var xattrs: [ExtendedAttribute]
    var sparse: SparseMap?
    /// Where its header begins in the archive.
    var offset: UInt64

    func problem(_ problem: ArchiveProblem) -> DiskImageError {
        .archive(entry: displayed(path), offset: offset, problem: problem)
    }
}

/// A time since the epoch; before it the seconds are negative and the nanoseconds still count forwards.
struct Timestamp: Hashable, BitwiseCopyable {
    var seconds: Int64 = 0
    var nanoseconds: UInt32 = 0
}

/// An extended attribute with its whole name, `user.comment` for example.
struct ExtendedAttribute: Equatable {
    var name: [UInt8]
    var value: [UInt8]
}

/// Where a sparse file has data; all else in it is zero.
struct SparseMap: Equatable {
    struct Segment: Equatable {
        var offset: UInt64
        var count: UInt64
        var end: UInt64 { offset + count }
    }

    var segments: [Segment] = []
    var sizeInBytes: UInt64

    /// Why the map cannot be right, or nil; empty segments are dropped.
    /// - Parameter data: bytes that the archive holds for the file.
    mutating func normalize(data: UInt64) -> String? {
        var end: UInt64 = 0
        var total: UInt64 = 0
        for segment in segments {
            let (next, overflow) = segment.offset.addingReportingOverflow(segment.count)
            if overflow || next > sizeInBytes { return "a segment lies beyond the file's end" }
            if segment.offset < end { return "segments overlap or are out of order" }
            end = next
            total += segment.count
        }
        if total != data { return "its segments have \(total) bytes, the archive \(data)" }
        segments.removeAll { $0.count == 0 }
        return nil
    }
}
