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
        for index in metadata.order { try writeDataBlocks(index) }
        try flush()
        flushed = 0
        for index in metadata.order { try writeInode(index) }
        try flush()
        try output.padToBlock()
        try output.finish()
        try output.write(superblock(blocks: UInt32(blocks), uuid: uuid()), at: 0)
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
        let inode = metadata.tree[index]
        if inode.isDirectory {
            let inline = metadata.inlineInBytes(index)
            guard metadata.size(index) > UInt64(inline) else { return }
            var walk = DirectoryBlocks(metadata, index)
            while let block = walk.next() {
                if walk.isLast && inline > 0 { break }
                appendDirents(block, walk, index)
                padToBlock()
                try flushIfLarge()
            }
        } else if inode.type == .symbolicLink && metadata.inlineInBytes(index) == 0 {
            batch.append(contentsOf: metadata.tree.linkTarget(of: inode))
            padToBlock()
            try flushIfLarge()
        }
    }

    private mutating func appendDirents(_ block: DirectoryBlocks.Block, _ walk: DirectoryBlocks, _ index: InodeIndex) {
        var nameOffset = block.range.count * Erofs.direntInBytes
        for position in block.range {
            let target: InodeIndex
            switch walk.name(at: position) {
            case .itself: target = index
            case .parent: target = metadata.parent(index)
            case .child(let entry): target = metadata.tree.entries[entry].inode
            }
            batch.appendLittleEndian(metadata.nid(target))
            batch.appendLittleEndian(UInt16(truncatingIfNeeded: nameOffset))
            batch.append(metadata.tree[target].type.map(Erofs.entryType) ?? 0)
            batch.append(0)
            nameOffset += walk.nameInBytes(at: position)
        }
        for position in block.range {
            switch walk.name(at: position) {
            case .itself: batch.append(0x2E)
            case .parent: batch.append(contentsOf: [0x2E, 0x2E])
            case .child(let entry):
                batch.append(contentsOf: metadata.tree.name(of: metadata.tree.entries[entry]))
            }
        }
    }

    // MARK: Inodes

    private mutating func writeInode(_ index: InodeIndex) throws(DiskImageError) {
        let position = metadata.position(index)
        let gap = Int(position - (flushed + UInt64(batch.count)))
        if gap > 0 { batch.append(contentsOf: repeatElement(0, count: gap)) }
        let inode = metadata.tree[index]
        let inline = metadata.inlineInBytes(index)
        appendInode(index, layout: inode.isChunked ? .chunked : inline > 0 ? .inline : .plain)
        batch.append(contentsOf: metadata.tree.xattrSets[Int(inode.xattrs)])
        if inode.isChunked {
            let start = Int(inode.payload)
            for chunk in metadata.tree.chunkMap[start..<start + ErofsMetadata.chunkCount(inode)] {
                batch.appendLittleEndian(chunk == Erofs.hole ? chunk : chunk &+ layerBases[Int(inode.layer)])
                try flushIfLarge()
            }
        } else if inline > 0 && inode.isDirectory {
            var walk = DirectoryBlocks(metadata, index)
            while let block = walk.next() {
                if walk.isLast { appendDirents(block, walk, index) }
            }
        } else if inline > 0 {
            batch.append(contentsOf: metadata.tree.linkTarget(of: inode))
        }
        try flushIfLarge()
    }

    private mutating func appendInode(_ index: InodeIndex, layout: Erofs.Layout) {
        let inode = metadata.tree[index]
        let isCompact = metadata.isCompact(index)
        let xattrs = metadata.tree.xattrSets[Int(inode.xattrs)].count
        let number = UInt32(truncatingIfNeeded: metadata.nid(index))
        batch.appendLittleEndian(layout.rawValue << 1 | (isCompact ? 0 : 1))
        batch.appendLittleEndian(UInt16(xattrs == 0 ? 0 : (xattrs - Erofs.xattrHeaderInBytes) / 4 + 1))
        batch.appendLittleEndian(inode.mode)
        if isCompact {
            batch.appendLittleEndian(UInt16(truncatingIfNeeded: metadata.linkCount(index)))
            batch.appendLittleEndian(UInt32(truncatingIfNeeded: metadata.size(index)))
            batch.appendLittleEndian(0 as UInt32)
            batch.appendLittleEndian(location(index, inode))
            batch.appendLittleEndian(number)
            batch.appendLittleEndian(UInt16(truncatingIfNeeded: inode.uid))
            batch.appendLittleEndian(UInt16(truncatingIfNeeded: inode.gid))
            batch.appendLittleEndian(0 as UInt32)
        } else {
            batch.appendLittleEndian(0 as UInt16)
            batch.appendLittleEndian(metadata.size(index))
            batch.appendLittleEndian(location(index, inode))
            batch.appendLittleEndian(number)
            batch.appendLittleEndian(inode.uid)
            batch.appendLittleEndian(inode.gid)
            batch.appendLittleEndian(UInt64(bitPattern: inode.modified.seconds))
            batch.appendLittleEndian(inode.modified.nanoseconds)
            batch.appendLittleEndian(metadata.linkCount(index))
            batch.appendLittleEndian(0 as UInt64)
            batch.appendLittleEndian(0 as UInt64)
        }
    }

    /// The inode's `i_u`.
    private func location(_ index: InodeIndex, _ inode: ImageTree.Inode) -> UInt32 {
        switch inode.type {
        case .file:
            if inode.isChunked { return UInt32(inode.chunkBits) }
            return inode.sizeInBytes == 0 ? 0 : inode.payload &+ layerBases[Int(inode.layer)]
        case .directory, .symbolicLink:
            return metadata.size(index) > UInt64(metadata.inlineInBytes(index))
                ? dataStart &+ metadata.firstDataBlock(index) : 0
        case .characterDevice, .blockDevice: return inode.payload
        case .fifo, .socket, nil: return 0
        }
    }

    // MARK: Superblock

    private func superblock(blocks: UInt32, uuid: [UInt8]) -> [UInt8] {
        var block = [UInt8](repeating: 0, count: Erofs.superblockOffset)
        block.reserveCapacity(Erofs.blockInBytes)
        block.appendLittleEndian(Erofs.magic)
        block.appendLittleEndian(0 as UInt32)  // the checksum
        block.appendLittleEndian(Erofs.CompatibleFeature.superblockChecksum | Erofs.CompatibleFeature.modificationTime)
        block.append(Erofs.blockBits)
        block.append(0)  // extension slots
        block.appendLittleEndian(UInt16(truncatingIfNeeded: metadata.nid(ImageTree.root)))
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
