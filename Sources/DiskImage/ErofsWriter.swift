// SPDX-License-Identifier: Apache-2.0

/// Writes an image's metadata after its data, and then the superblock.
struct ErofsWriter {
    typealias InodeIndex = ImageTree.InodeIndex

    private static let batchInBytes = 256 << 10

    private let metadata: ErofsMetadata
    private let output: BlockOutput
    /// By layer: what is added to the addresses of its data.
    private let layerBases: [UInt32]
    private let dataStart: UInt32
    private let inodeStart: UInt32
    private var batch: [UInt8] = []
    /// Bytes of the inodes' part that went before `batch`.
    private var flushed: UInt64 = 0

    /// - Parameters:
    ///   - output: at the start of a block; the metadata goes there.
    ///   - layerBases: by layer the block at which its own block 0 lies; nil where the data is in this image.
    init(_ metadata: ErofsMetadata, to output: BlockOutput, layerBases: [UInt32] = [0]) {
        self.metadata = metadata
        self.output = output
        self.layerBases = layerBases
        dataStart = output.block
        inodeStart = output.block &+ UInt32(truncatingIfNeeded: metadata.dataBlockCount)
        batch.reserveCapacity(Self.batchInBytes + 2 * Erofs.blockInBytes)
    }

    /// Writes all of it and ends the file there; the superblock comes last, so that a torn image is none.
    /// - Parameters:
    ///   - trailingBlocks: blocks that follow this file in the device.
    ///   - uuid: asked for when all but the superblock is written; 16 bytes of it are used.
    mutating func write(trailingBlocks: UInt64 = 0, uuid: @autoclosure () -> [UInt8]) throws(DiskImageError) {
        let blocks = UInt64(dataStart) + metadata.blockCount + trailingBlocks
        guard blocks < UInt64(UInt32.max) else {
            throw .limit(entry: "image", limit: .image, maximum: UInt64(UInt32.max) * UInt64(Erofs.blockInBytes))
        }
        for place in 0..<metadata.order.count { try writeDataBlocks(try metadata.order[place]) }
        try flush()
        flushed = 0
        for place in 0..<metadata.order.count { try writeInode(try metadata.order[place]) }
        try flush()
        try output.padToBlock()
        try output.finish()
        try output.write(try superblock(blocks: UInt32(blocks), uuid: uuid()), at: 0)
    }

    private mutating func flush() throws(DiskImageError) {
        try output.append(batch.span)
        try output.flush()
        flushed += UInt64(batch.count)
        batch.removeAll(keepingCapacity: true)
    }

    private mutating func flushIfLarge() throws(DiskImageError) {
        if batch.count >= Self.batchInBytes { try flush() }
    }

    private mutating func padToBlock() {
        let rest = batch.count % Erofs.blockInBytes
        if rest > 0 { batch.append(contentsOf: repeatElement(0, count: Erofs.blockInBytes - rest)) }
    }

    // MARK: Directories and link targets

    private mutating func writeDataBlocks(_ index: InodeIndex) throws(DiskImageError) {
        let inode = try metadata.tree[index]
        guard inode.isDirectory || inode.type == .symbolicLink else { return }
        let inline = metadata.inlineInBytes(inode, links: try metadata.placement(index).links)
        if inode.isDirectory {
            guard inode.sizeInBytes > UInt64(inline) else { return }
            var walk = try DirectoryBlocks(metadata, index)
            while let block = try walk.next() {
                if walk.isLast && inline > 0 { break }
                try appendDirents(block, walk, index)
                padToBlock()
                try flushIfLarge()
            }
        } else if inline == 0 {
            batch.append(contentsOf: try metadata.tree.linkTarget(of: inode))
            padToBlock()
            try flushIfLarge()
        }
    }

    private mutating func appendDirents(
        _ block: DirectoryBlocks.Block, _ walk: DirectoryBlocks, _ index: InodeIndex
    ) throws(DiskImageError) {
        var nameOffset = block.range.count * Erofs.direntInBytes
        for position in block.range {
            let name = try walk.name(at: position)
            let target: InodeIndex
            switch name {
            case .itself: target = index
            case .parent: target = try metadata.tree[index].payload
            case .child(let entry): target = entry.inode
            }
            batch.appendLittleEndian(UInt64(try metadata.placement(target).slot))
            batch.appendLittleEndian(UInt16(truncatingIfNeeded: nameOffset))
            batch.append(try metadata.tree[target].type.map(Erofs.entryType) ?? 0)
            batch.append(0)
            nameOffset += name.inBytes
        }
        for position in block.range {
            switch try walk.name(at: position) {
            case .itself: batch.append(0x2E)
            case .parent: batch.append(contentsOf: [0x2E, 0x2E])
            case .child(let entry): try append(at: entry.namePlace, count: Int(entry.nameCount))
            }
        }
    }

    /// Appends bytes that the tree holds.
    private mutating func append(at place: UInt32, count: Int) throws(DiskImageError) {
        try unsafe metadata.tree.bytes.forEachPiece(at: place, count: count) { unsafe batch.append(contentsOf: $0) }
    }

    // MARK: Inodes

    private mutating func writeInode(_ index: InodeIndex) throws(DiskImageError) {
        let placement = try metadata.placement(index)
        let position = UInt64(placement.slot) * UInt64(Erofs.slotInBytes)
        let gap = Int(position - (flushed + UInt64(batch.count)))
        if gap > 0 { batch.append(contentsOf: repeatElement(0, count: gap)) }
        let inode = try metadata.tree[index]
        let inline = metadata.inlineInBytes(inode, links: placement.links)
        appendInode(inode, placement, inline: inline)
        try append(at: inode.xattrsPlace, count: inode.xattrsInBytes)
        if inode.isChunked {
            for index in 0..<ErofsMetadata.chunkCount(inode) {
                let chunk = try metadata.tree.chunkMap[Int(inode.payload) + index]
                batch.appendLittleEndian(chunk == Erofs.hole ? chunk : chunk &+ layerBases[Int(inode.layer)])
                try flushIfLarge()
            }
        } else if inline > 0 && inode.isDirectory {
            var walk = try DirectoryBlocks(metadata, index)
            while let block = try walk.next() {
                if walk.isLast { try appendDirents(block, walk, index) }
            }
        } else if inline > 0 {
            try append(at: inode.payload, count: inline)
        }
        try flushIfLarge()
    }

    private mutating func appendInode(_ inode: ImageTree.Inode, _ placement: ErofsMetadata.Placement, inline: Int) {
        let isCompact = metadata.isCompact(inode, links: placement.links)
        let layout: Erofs.Layout = inode.isChunked ? .chunked : inline > 0 ? .inline : .plain
        batch.appendLittleEndian(layout.rawValue << 1 | (isCompact ? 0 : 1))
        batch.appendLittleEndian(inode.xattrUnits)
        batch.appendLittleEndian(inode.mode)
        if isCompact {
            batch.appendLittleEndian(UInt16(truncatingIfNeeded: placement.links))
            batch.appendLittleEndian(UInt32(truncatingIfNeeded: inode.sizeInBytes))
            batch.appendLittleEndian(0 as UInt32)
            batch.appendLittleEndian(location(inode, placement, inline: inline))
            batch.appendLittleEndian(placement.slot)
            batch.appendLittleEndian(UInt16(truncatingIfNeeded: inode.uid))
            batch.appendLittleEndian(UInt16(truncatingIfNeeded: inode.gid))
            batch.appendLittleEndian(0 as UInt32)
        } else {
            batch.appendLittleEndian(0 as UInt16)
            batch.appendLittleEndian(inode.sizeInBytes)
            batch.appendLittleEndian(location(inode, placement, inline: inline))
            batch.appendLittleEndian(placement.slot)
            batch.appendLittleEndian(inode.uid)
            batch.appendLittleEndian(inode.gid)
            batch.appendLittleEndian(UInt64(bitPattern: inode.modified.seconds))
            batch.appendLittleEndian(inode.modified.nanoseconds)
            batch.appendLittleEndian(placement.links)
            batch.appendLittleEndian(0 as UInt64)
            batch.appendLittleEndian(0 as UInt64)
        }
    }

    /// The inode's `i_u`.
    private func location(_ inode: ImageTree.Inode, _ placement: ErofsMetadata.Placement, inline: Int) -> UInt32 {
        switch inode.type {
        case .file:
            if inode.isChunked { return UInt32(inode.chunkBits) }
            return inode.sizeInBytes == 0 ? 0 : inode.payload &+ layerBases[Int(inode.layer)]
        case .directory, .symbolicLink:
            return inode.sizeInBytes > UInt64(inline) ? dataStart &+ placement.firstDataBlock : 0
        case .characterDevice, .blockDevice: return inode.payload
        case .fifo, .socket, nil: return 0
        }
    }

    // MARK: Superblock

    private func superblock(blocks: UInt32, uuid: [UInt8]) throws(DiskImageError) -> [UInt8] {
        var block = [UInt8](repeating: 0, count: Erofs.superblockOffset)
        block.reserveCapacity(Erofs.blockInBytes)
        block.appendLittleEndian(Erofs.magic)
        block.appendLittleEndian(0 as UInt32)  // the checksum
        block.appendLittleEndian(Erofs.CompatibleFeature.superblockChecksum | Erofs.CompatibleFeature.modificationTime)
        block.append(Erofs.blockBits)
        block.append(0)  // extension slots
        block.appendLittleEndian(UInt16(truncatingIfNeeded: try metadata.placement(ImageTree.root).slot))
        block.appendLittleEndian(UInt64(metadata.inodeCount))
        block.appendLittleEndian(UInt64(bitPattern: metadata.buildTime.seconds))
        block.appendLittleEndian(metadata.buildTime.nanoseconds)
        block.appendLittleEndian(blocks)
        block.appendLittleEndian(inodeStart)
        block.appendLittleEndian(0 as UInt32)  // shared attributes: none
        block.append(contentsOf: uuid.prefix(16))
        block.append(contentsOf: repeatElement(0, count: 16 - min(16, uuid.count)))
        block.append(contentsOf: repeatElement(0, count: 16))  // volume name
        block.appendLittleEndian(metadata.hasChunkedFiles ? Erofs.IncompatibleFeature.chunkedFile : 0)
        block.append(contentsOf: repeatElement(0, count: Erofs.blockInBytes - block.count))
        let checksum = Erofs.crc32c(block[Erofs.superblockOffset...])
        for index in 0..<4 {
            block[Erofs.superblockOffset + 4 + index] = UInt8(truncatingIfNeeded: checksum >> UInt32(8 * index))
        }
        return block
    }
}
