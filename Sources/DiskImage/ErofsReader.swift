// SPDX-License-Identifier: Apache-2.0

/// Reads EROFS images of the kind that this module writes: blocks of 4096 bytes, no compression, no shared attributes.
///
/// Every number of the image is checked before it is used; reading a damaged or hostile image gives an error, in time
/// and memory bounded by what is asked for.
package final class ErofsReader {
    /// A file of the image.
    package struct Inode: Equatable, Sendable {
        /// Its number, which is also what stat(2) shows as its inode number.
        package var nid: UInt64
        /// Type and permissions, as in stat(2).
        package var mode: UInt16
        package var linkCount: UInt32
        package var uid: UInt32
        package var gid: UInt32
        package var sizeInBytes: UInt64
        /// Since the epoch.
        package var modifiedSeconds: Int64
        package var modifiedNanoseconds: UInt32
        /// Of a device.
        package var deviceMajor: UInt32
        package var deviceMinor: UInt32

        var layout: Erofs.Layout
        /// `i_u`.
        var location: UInt32
        /// Where its attributes begin.
        var xattrsStart: UInt64
        var xattrsInBytes: Int

        var type: FileType? { FileType(rawValue: mode & FileType.mask) }
        package var isDirectory: Bool { type == .directory }
        package var isRegularFile: Bool { type == .file }
        package var isSymbolicLink: Bool { type == .symbolicLink }
        var modified: Timestamp { Timestamp(seconds: modifiedSeconds, nanoseconds: modifiedNanoseconds) }
        /// Where inline data or a block map begins.
        var bodyStart: UInt64 { xattrsStart + UInt64(xattrsInBytes) }
    }

    let source: BlockSource
    private let buildTime: Timestamp
    private let inodesStart: UInt64
    private let rootNumber: UInt64
    /// Blocks of the whole device, as the superblock says.
    let blockCount: UInt32
    let uuid: [UInt8]

    /// - Parameter segments: the files that make up the device, in their order.
    package init(segments: [ImageSegment]) throws(DiskImageError) {
        source = try BlockSource(segments)
        let start = UInt64(Erofs.superblockOffset)
        let superblock = try source.bytes(at: 0, count: Erofs.blockInBytes)[Erofs.superblockOffset...]
        guard superblock.number32(0) == Erofs.magic else {
            throw .image(problem: "there is no EROFS superblock", offset: start)
        }
        guard superblock[superblock.startIndex + 12] == Erofs.blockBits else {
            throw .image(problem: "its blocks are not 4096 bytes", offset: start + 12)
        }
        if superblock.number32(8) & Erofs.CompatibleFeature.superblockChecksum != 0 {
            var copy = Array(superblock)
            for index in 4..<8 { copy[index] = 0 }
            guard Erofs.crc32c(copy[...]) == superblock.number32(4) else {
                throw .image(problem: "the superblock's checksum is wrong", offset: start + 4)
            }
        }
        guard superblock.number32(80) & ~Erofs.IncompatibleFeature.chunkedFile == 0 else {
            throw .image(problem: "it uses features that are not supported", offset: start + 80)
        }
        rootNumber = UInt64(superblock.number16(14))
        buildTime = Timestamp(
            seconds: Int64(bitPattern: superblock.number64(24)), nanoseconds: superblock.number32(32))
        blockCount = superblock.number32(36)
        inodesStart = UInt64(superblock.number32(40)) * UInt64(Erofs.blockInBytes)
        uuid = Array(superblock.dropFirst(48).prefix(16))
        guard UInt64(blockCount) * UInt64(Erofs.blockInBytes) <= source.lengthInBytes else {
            throw .image(problem: "it is shorter than its superblock says", offset: source.lengthInBytes)
        }
    }

    /// - Parameter file: lent for as long as the reader lives.
    package convenience init(file: Int32, lengthInBytes: UInt64) throws(DiskImageError) {
        try self.init(segments: [ImageSegment(file: file, lengthInBytes: lengthInBytes)])
    }

    package var root: Inode {
        get throws(DiskImageError) {
            let root = try inode(rootNumber)
            guard root.isDirectory else { throw .image(problem: "its root is no directory", offset: inodesStart) }
            return root
        }
    }

    /// The inode of this number.
    package func inode(_ number: UInt64) throws(DiskImageError) -> Inode {
        let (distance, overflow) = number.multipliedReportingOverflow(by: UInt64(Erofs.slotInBytes))
        let (position, overflow2) = inodesStart.addingReportingOverflow(distance)
        guard !overflow, !overflow2 else {
            throw .image(problem: "an inode's number is too large", offset: inodesStart)
        }
        let core = try source.bytes(at: position, count: Erofs.compactInodeInBytes)
        let format = core.number16(0)
        guard format & ~0xF == 0, let layout = Erofs.Layout(rawValue: format >> 1) else {
            throw .image(problem: "an inode's format is unknown", offset: position)
        }
        let isExtended = format & 1 != 0
        let head = isExtended ? Erofs.extendedInodeInBytes : Erofs.compactInodeInBytes
        let xattrs = ErofsXattrs.inBytes(units: core.number16(2))
        var inode = Inode(
            nid: number, mode: core.number16(4), linkCount: 0, uid: 0, gid: 0, sizeInBytes: 0, modifiedSeconds: 0,
            modifiedNanoseconds: 0, deviceMajor: 0, deviceMinor: 0, layout: layout, location: core.number32(16),
            xattrsStart: position + UInt64(head), xattrsInBytes: xattrs)
        if isExtended {
            let all = try source.bytes(at: position, count: head)
            inode.sizeInBytes = all.number64(8)
            inode.uid = all.number32(24)
            inode.gid = all.number32(28)
            inode.modifiedSeconds = Int64(bitPattern: all.number64(32))
            inode.modifiedNanoseconds = all.number32(40)
            inode.linkCount = all.number32(44)
        } else {
            inode.linkCount = UInt32(core.number16(6))
            inode.sizeInBytes = UInt64(core.number32(8))
            inode.uid = UInt32(core.number16(24))
            inode.gid = UInt32(core.number16(26))
            inode.modifiedSeconds = buildTime.seconds
            inode.modifiedNanoseconds = buildTime.nanoseconds
        }
        guard let type = inode.type, inode.sizeInBytes <= UInt64(Int64.max) else {
            throw .image(problem: "an inode's type or size is wrong", offset: position)
        }
        if type == .characterDevice || type == .blockDevice {
            (inode.deviceMajor, inode.deviceMinor) = Erofs.deviceNumbers(inode.location)
        }
        try check(inode, at: position)
        return inode
    }

    /// Data that is in one piece lies within the device; what has no data says so.
    private func check(_ inode: Inode, at position: UInt64) throws(DiskImageError) {
        let isData = inode.isDirectory || inode.isRegularFile || inode.isSymbolicLink
        guard isData || inode.layout == .plain, inode.layout != .chunked || inode.isRegularFile else {
            throw .image(problem: "an inode's layout does not go with its type", offset: position)
        }
        guard isData, inode.layout != .chunked else { return }
        let tail = inode.layout == .inline ? inode.sizeInBytes % UInt64(Erofs.blockInBytes) : 0
        let start = UInt64(inode.location) * UInt64(Erofs.blockInBytes)
        let whole = inode.sizeInBytes - tail
        guard whole == 0 || (start <= source.lengthInBytes && whole <= source.lengthInBytes - start) else {
            throw .image(problem: "a file's data lies beyond the end", offset: position)
        }
        let within = Int(inode.bodyStart % UInt64(Erofs.blockInBytes))
        guard tail == 0 || within + Int(tail) <= Erofs.blockInBytes else {
            throw .image(problem: "inline data crosses into another block", offset: position)
        }
    }

    // MARK: Data

    /// Reads a file's bytes from an offset; gives their number, which is smaller at the end.
    package func read(
        _ inode: Inode, at offset: UInt64, into target: UnsafeMutableRawBufferPointer
    ) throws(DiskImageError) -> Int {
        guard offset < inode.sizeInBytes else { return 0 }
        let count = Int(min(UInt64(target.count), inode.sizeInBytes - offset))
        var done = 0
        while done < count {
            let position = offset + UInt64(done)
            let (address, run) = try map(inode, position)
            let piece = Int(min(UInt64(count - done), run))
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: target[done..<done + piece])
            if let address {
                try unsafe source.read(at: address, into: part)
            } else {
                unsafe _ = part.initializeMemory(as: UInt8.self, repeating: 0)
            }
            done += piece
        }
        return count
    }

    /// Where a position of a file is, or nil in a hole; and how many bytes from there on go together, at least one.
    private func map(_ inode: Inode, _ position: UInt64) throws(DiskImageError) -> (UInt64?, UInt64) {
        let start = UInt64(inode.location) * UInt64(Erofs.blockInBytes)
        switch inode.layout {
        case .plain: return (start + position, inode.sizeInBytes - position)
        case .inline:
            let whole = inode.sizeInBytes - inode.sizeInBytes % UInt64(Erofs.blockInBytes)
            return position < whole
                ? (start + position, whole - position)
                : (inode.bodyStart + position - whole, inode.sizeInBytes - position)
        case .chunked:
            let shift = try chunkShift(inode)
            let index = position >> shift
            let within = position & ((1 << shift) - 1)
            let (entry, overflow) = inode.bodyStart.addingReportingOverflow(index &* 4)
            guard !overflow else { throw .image(problem: "a block map is too long", offset: inode.bodyStart) }
            let block = try source.bytes(at: entry, count: 4).number32(0)
            let run = min((1 << shift) - within, inode.sizeInBytes - position)
            return block == Erofs.hole ? (nil, run) : (UInt64(block) * UInt64(Erofs.blockInBytes) + within, run)
        }
    }

    /// log2 of the bytes of a chunked file's chunks.
    func chunkShift(_ inode: Inode) throws(DiskImageError) -> UInt64 {
        let format = UInt16(truncatingIfNeeded: inode.location)
        guard format & ~Erofs.ChunkFormat.bitsMask == 0 else {
            throw .image(problem: "a block map's format is not supported", offset: inode.bodyStart)
        }
        return UInt64(Erofs.blockBits) + UInt64(format & Erofs.ChunkFormat.bitsMask)
    }

    /// Start blocks of a chunked file's chunks.
    /// - Parameter maximum: chunks that are put up with.
    func chunkMap(_ inode: Inode, maximum: Int) throws(DiskImageError) -> [UInt32] {
        let shift = try chunkShift(inode)
        let count = (inode.sizeInBytes + ((1 << shift) - 1)) >> shift
        guard count <= UInt64(maximum) else {
            throw .image(problem: "a block map is too long", offset: inode.bodyStart)
        }
        let bytes = try source.bytes(at: inode.bodyStart, count: Int(count) * 4)
        return (0..<Int(count)).map { bytes.number32(4 * $0) }
    }

    /// A symbolic link's target.
    package func linkTarget(_ inode: Inode) throws(DiskImageError) -> [UInt8] {
        guard inode.isSymbolicLink, inode.layout != .chunked, inode.sizeInBytes > 0,
            inode.sizeInBytes < UInt64(LayerPath.maximumInBytes)
        else { throw .image(problem: "a symbolic link's target is wrong", offset: inode.xattrsStart) }
        // Shorter than a block: in one piece, wherever it is.
        let address = try map(inode, 0).0 ?? 0
        return Array(try source.bytes(at: address, count: Int(inode.sizeInBytes)))
    }
}
