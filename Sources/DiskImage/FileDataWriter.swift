// SPDX-License-Identifier: Apache-2.0

/// Puts the data of files into an image, one file after another, as it comes.
struct FileDataWriter {
    /// The file that is being written.
    private var sparse: SparseFile?

    /// A sparse file in the making: its chunks with data follow each other in the image, each whole.
    private struct SparseFile {
        let segments: [SparseMap.Segment]
        let sizeInBytes: UInt64
        let chunkInBytes: UInt64
        /// The index of its first chunk in the tree's map.
        let map: Int
        var segment = 0
        /// Bytes of the current segment already written.
        var done: UInt64 = 0
        /// The chunk that is being written, and how much of it is.
        var chunk: (index: UInt64, done: UInt64)?
    }

    /// Begins a file; fills in what its inode says of its data.
    mutating func begin(
        _ inode: inout ImageTree.Inode, sparse map: SparseMap?, tree: ImageTree, output: BlockOutput,
        entry: @autoclosure () -> String
    ) throws(DiskImageError) {
        sparse = nil
        guard let map, map.segments != [SparseMap.Segment(offset: 0, count: map.sizeInBytes)], map.sizeInBytes > 0
        else {
            if let map { inode.sizeInBytes = map.sizeInBytes }
            guard output.fits(inode.sizeInBytes) else {
                throw .limit(entry: entry(), limit: .image, maximum: tree.limits.imageInBytes)
            }
            inode.payload = inode.sizeInBytes == 0 ? 0 : output.block
            return
        }
        guard let bits = Self.chunkBits(map) else {
            throw .limit(entry: entry(), limit: .image, maximum: tree.limits.imageInBytes)
        }
        inode.isChunked = true
        inode.chunkBits = bits
        inode.sizeInBytes = map.sizeInBytes
        inode.payload = try tree.storeChunkMap(count: ErofsMetadata.chunkCount(inode))
        sparse = SparseFile(
            segments: map.segments, sizeInBytes: map.sizeInBytes,
            chunkInBytes: UInt64(Erofs.blockInBytes) << UInt64(bits), map: Int(inode.payload))
    }

    /// Takes bytes of the file: of a sparse one, of its segments. They are lent until the output is flushed.
    mutating func write(_ bytes: Span<UInt8>, tree: ImageTree, output: BlockOutput) throws(DiskImageError) {
        guard sparse != nil else {
            try output.append(bytes)
            return
        }
        var position = 0
        while position < bytes.count {
            position += try writePiece(bytes.extracting(position...), tree: tree, output: output)
        }
    }

    mutating func end(output: BlockOutput) throws(DiskImageError) {
        if sparse?.chunk != nil { try endChunk(output) }
        sparse = nil
        try output.padToBlock()
    }

    // MARK: Sparse files

    /// The largest chunk that wastes nothing, but at least one that keeps the map to 65,536 chunks.
    /// Nil for a file that is larger than EROFS can have.
    private static func chunkBits(_ map: SparseMap) -> UInt8? {
        let blocks = (map.sizeInBytes + UInt64(Erofs.blockInBytes) - 1) / UInt64(Erofs.blockInBytes)
        var edges: UInt64 = 0
        for segment in map.segments {
            edges |= segment.offset / UInt64(Erofs.blockInBytes)
            if segment.end < map.sizeInBytes {
                edges |= (segment.end + UInt64(Erofs.blockInBytes) - 1) / UInt64(Erofs.blockInBytes)
            }
        }
        var bits = edges == 0 ? 16 : UInt8(edges.trailingZeroBitCount)
        while bits < 31 && blocks >> UInt64(bits) >= 65_536 { bits += 1 }
        bits = min(bits, 31)
        return blocks >> UInt64(bits) < 65_536 ? bits : nil
    }

    /// Writes what belongs to one segment and one chunk; gives the number of bytes.
    private mutating func writePiece(
        _ bytes: Span<UInt8>, tree: ImageTree, output: BlockOutput
    ) throws(DiskImageError) -> Int {
        guard var file = sparse, file.segment < file.segments.count else { return bytes.count }
        let segment = file.segments[file.segment]
        let offset = segment.offset + file.done
        let index = offset / file.chunkInBytes
        let within = offset % file.chunkInBytes
        if let chunk = file.chunk, chunk.index != index {
            try endChunk(output)
            file.chunk = nil
        }
        if file.chunk == nil {
            guard output.fits(file.chunkInBytes) else {
                throw .limit(entry: "sparse file", limit: .image, maximum: tree.limits.imageInBytes)
            }
            try tree.chunkMap.set(file.map + Int(index), to: output.block)
            file.chunk = (index, 0)
        }
        let count = Int(min(UInt64(bytes.count), segment.count - file.done, file.chunkInBytes - within))
        try output.skip(within - (file.chunk?.done ?? 0))
        try output.append(bytes.extracting(..<count))
        file.chunk?.done = within + UInt64(count)
        file.done += UInt64(count)
        if file.done == segment.count {
            file.segment += 1
            file.done = 0
        }
        sparse = file
        return count
    }

    /// Fills the chunk with zeros to its end, or to the block in which the file ends.
    private mutating func endChunk(_ output: BlockOutput) throws(DiskImageError) {
        guard let file = sparse, let chunk = file.chunk else { return }
        let start = chunk.index * file.chunkInBytes
        let end = min(file.chunkInBytes, Erofs.roundUp(file.sizeInBytes - start, to: Erofs.blockInBytes))
        try output.skip(end - chunk.done)
        sparse?.chunk = nil
    }
}
