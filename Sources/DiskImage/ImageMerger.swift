// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// What came of a merge: an image that describes the union of its layers and whose data lies in them.
package struct MergedImage: Equatable, Sendable {
    /// Bytes of the metadata image, which is the device's first segment; a multiple of 4096.
    package var metadataInBytes: UInt64
    /// Bytes of each layer's image, in their order: the segments that follow.
    package var layersInBytes: [UInt64]
    package var inodeCount: Int

    /// Bytes of the whole device.
    package var totalInBytes: UInt64 { layersInBytes.reduce(metadataInBytes, +) }
}

/// Merges the images of layers into one, as overlayfs would show them, without touching their data.
///
/// The guest gets one block device: the metadata image that this writes, and after it the layers' images as they are.
/// Layers are thus shared between images, on disk and in the page cache, and an image of 127 layers is mounted as fast
/// as one of three. Upper layers come after lower ones. Whiteouts and opaque marks are applied and then gone; attributes
/// of a directory are those of the highest layer that has an entry for it; hard links hold within a layer.
package enum ImageMerger {
    /// - Parameters:
    ///   - layers: images that `LayerConverter` or `DirectoryConverter` made, lowest first; lent.
    ///   - output: a file that can be written at any place; what it held before is lost.
    package static func merge(
        layers: [Int32], output: Int32, limits: ConversionLimits = .ofMerge
    ) throws(DiskImageError) -> MergedImage {
        var segments: [ImageSegment] = []
        for layer in layers {
            segments.append(ImageSegment(file: layer, lengthInBytes: try fileSize(layer)))
        }
        return try merge(segments, output: output, limits: limits)
    }

    static func merge(
        _ layers: [ImageSegment], output: Int32, limits: ConversionLimits
    ) throws(DiskImageError) -> MergedImage {
        guard layers.count <= Int(UInt16.max) else {
            throw .limit(entry: "image", limit: .entries, maximum: UInt64(UInt16.max))
        }
        var union = LayerUnion(limits: limits)
        var identity = Digester()
        var sizes: [UInt64] = []
        for (index, layer) in layers.enumerated() {
            let reader = try ErofsReader(segments: [layer])
            try union.apply(reader, layer: UInt16(index))
            sizes.append(UInt64(reader.blockCount) * UInt64(Erofs.blockInBytes))
            let uuid = reader.uuid
            identity.update(uuid.span)
        }
        let metadata = try ErofsMetadata(union.tree)
        var bases: [UInt32] = []
        var next = 1 + metadata.blockCount
        for size in sizes {
            guard next < UInt64(UInt32.max) else { break }  // the writer finds the whole too large
            bases.append(UInt32(next))
            next += size / UInt64(Erofs.blockInBytes)
        }
        let blocks = BlockOutput(
            file: output, position: UInt64(Erofs.blockInBytes), maximumInBytes: limits.imageInBytes)
        var writer = ErofsWriter(metadata, to: blocks, layerBases: bases)
        let trailing = sizes.reduce(0) { $0 + $1 / UInt64(Erofs.blockInBytes) }
        try writer.write(trailingBlocks: trailing, uuid: identity.finish())
        return MergedImage(
            metadataInBytes: blocks.position, layersInBytes: sizes, inodeCount: metadata.inodeCount)
    }
}

/// The tree of a merged image, made by applying one layer after another.
struct LayerUnion {
    private(set) var tree: ImageTree
    /// Directories of the union, with the one above each.
    private var parents: [ImageTree.InodeIndex: ImageTree.InodeIndex] = [:]
    private var entries = 0

    init(limits: ConversionLimits) {
        tree = ImageTree(limits: limits)
    }

    /// Lays a layer over what is there.
    mutating func apply(_ reader: ErofsReader, layer: UInt16) throws(DiskImageError) {
        let root = try reader.root
        let rootMarks = try marks(root, reader)
        if rootMarks.isOpaque { tree.clear(ImageTree.root) }
        try describe(ImageTree.root, as: root, rootMarks)
        var pending: [(number: UInt64, union: ImageTree.InodeIndex)] = [(root.nid, ImageTree.root)]
        // A directory that comes twice would make the walk endless in a damaged image.
        var visited: Set<UInt64> = [root.nid]
        var hardLinks: [UInt64: ImageTree.InodeIndex] = [:]
        while let (number, union) = pending.popLast() {
            let directory = try reader.inode(number)
            var below: [(UInt64, ImageTree.InodeIndex)] = []
            try reader.forEachEntry(of: directory) { (name, number) throws(DiskImageError) in
                entries += 1
                guard entries <= tree.limits.entries else {
                    throw .limit(entry: displayed(name), limit: .entries, maximum: UInt64(tree.limits.entries))
                }
                let inode = try reader.inode(number)
                if inode.isDirectory {
                    guard visited.insert(number).inserted else {
                        throw .image(problem: "a directory is in two places", offset: inode.xattrsStart)
                    }
                    below.append((number, try enter(name, in: union, inode, reader)))
                } else if inode.type == .characterDevice && inode.location == 0 {
                    tree.unlink(name.span, in: union)
                } else if inode.linkCount > 1, let known = hardLinks[number] {
                    try tree.link(name.span, in: union, to: known)
                } else {
                    let index = try tree.add(try take(inode, reader, layer))
                    if inode.linkCount > 1 { hardLinks[number] = index }
                    try tree.link(name.span, in: union, to: index)
                }
            }
            pending.append(contentsOf: below.reversed())
        }
    }

    // MARK: Directories

    /// The directory of the union that a directory of the layer goes into, with its attributes set.
    private mutating func enter(
        _ name: ArraySlice<UInt8>, in union: ImageTree.InodeIndex, _ inode: ErofsReader.Inode, _ reader: ErofsReader
    ) throws(DiskImageError) -> ImageTree.InodeIndex {
        let marks = try marks(inode, reader)
        if !marks.isOpaque, let found = tree.entry(name.span, in: union) {
            let existing = tree.entries[found].inode
            if tree[existing].isDirectory {
                try describe(existing, as: inode, marks)
                return existing
            }
            // A directory that only paths imply is where these paths lead: through a lower layer's symbolic link.
            if marks.isImplicit, tree[existing].type == .symbolicLink, let target = follow(existing, in: union) {
                return target
            }
        }
        let index = try tree.add(ImageTree.Inode(mode: FileType.directory.rawValue | 0o755, isImplicit: true))
        try tree.link(name.span, in: union, to: index)
        parents[index] = union
        try describe(index, as: inode, marks)
        return index
    }

    private struct Marks {
        var isOpaque = false
        var isImplicit = false
        var attributes: [ExtendedAttribute] = []
    }

    private func marks(_ inode: ErofsReader.Inode, _ reader: ErofsReader) throws(DiskImageError) -> Marks {
        var marks = Marks()
        for attribute in try reader.xattrs(inode) {
            if attribute == ErofsXattrs.opaque {
                marks.isOpaque = true
            } else if attribute == ErofsXattrs.implicit {
                marks.isImplicit = true
            } else {
                marks.attributes.append(attribute)
            }
        }
        return marks
    }

    /// Gives a directory of the union a layer's attributes, unless no entry of the layer set them.
    private mutating func describe(
        _ index: ImageTree.InodeIndex, as inode: ErofsReader.Inode, _ marks: Marks
    ) throws(DiskImageError) {
        guard !marks.isImplicit || tree[index].isImplicit else { return }
        let body = try ErofsXattrs.encode(marks.attributes, entry: "directory", limits: tree.limits)
        tree[index] = ImageTree.Inode(
            mode: inode.mode, isImplicit: marks.isImplicit, uid: inode.uid, gid: inode.gid, modified: inode.modified,
            xattrs: try tree.store(xattrs: body))
    }

    /// The directory of the union that a symbolic link leads to, or nil.
    private func follow(
        _ link: ImageTree.InodeIndex, in directory: ImageTree.InodeIndex
    ) -> ImageTree.InodeIndex? {
        var current = directory
        var rest = Array(tree.linkTarget(of: tree[link]))[...]
        if rest.first == UInt8(ascii: "/") { current = ImageTree.root }
        var hops = 1
        while let first = rest.first {
            if first == UInt8(ascii: "/") {
                rest.removeFirst()
                continue
            }
            let name = rest.prefix { $0 != UInt8(ascii: "/") }
            rest = rest[name.endIndex...]
            if name.count == 1 && name.first == 0x2E { continue }
            if name.count == 2 && name.allSatisfy({ $0 == 0x2E }) {
                current = parents[current] ?? ImageTree.root
                continue
            }
            guard let found = tree.entry(name.span, in: current) else { return nil }
            let next = tree.entries[found].inode
            if tree[next].type == .symbolicLink {
                let target = tree.linkTarget(of: tree[next])
                hops += 1
                guard hops <= 40, target.count + rest.count < 4 * LayerPath.maximumInBytes else { return nil }
                if target.first == UInt8(ascii: "/") { current = ImageTree.root }
                rest = (target + [UInt8(ascii: "/")] + rest)[...]
                continue
            }
            guard tree[next].isDirectory else { return nil }
            current = next
        }
        return current
    }

    // MARK: Other files

    /// An inode as the layer has it, its data where it is.
    private mutating func take(
        _ inode: ErofsReader.Inode, _ reader: ErofsReader, _ layer: UInt16
    ) throws(DiskImageError) -> ImageTree.Inode {
        var result = ImageTree.Inode(
            mode: inode.mode, layer: layer, uid: inode.uid, gid: inode.gid, modified: inode.modified)
        if inode.xattrsInBytes > 0 {
            let body = try ErofsXattrs.encode(
                try reader.xattrs(inode), entry: "file", limits: tree.limits)
            result.xattrs = try tree.store(xattrs: body)
        }
        switch inode.type {
        case .symbolicLink:
            let target = try reader.linkTarget(inode)
            result.sizeInBytes = UInt64(target.count)
            result.payload = try tree.store(target.span)
        case .file where inode.layout == .chunked:
            try takeChunks(inode, reader, &result)
        case .file:
            guard inode.layout == .plain else {
                throw .image(problem: "a file's data is not in whole blocks", offset: inode.xattrsStart)
            }
            let blocks = (inode.sizeInBytes + UInt64(Erofs.blockInBytes) - 1) / UInt64(Erofs.blockInBytes)
            guard UInt64(inode.location) + blocks <= UInt64(reader.blockCount) else {
                throw .image(problem: "a file's data lies beyond the end", offset: inode.xattrsStart)
            }
            result.sizeInBytes = inode.sizeInBytes
            result.payload = inode.location
        default: result.payload = inode.location
        }
        return result
    }

    private mutating func takeChunks(
        _ inode: ErofsReader.Inode, _ reader: ErofsReader, _ result: inout ImageTree.Inode
    ) throws(DiskImageError) {
        let shift = try reader.chunkShift(inode)
        let map = try reader.chunkMap(inode, maximum: 1 << 20)
        let start = try tree.storeChunkMap(count: map.count)
        for (index, block) in map.enumerated() where block != Erofs.hole {
            let left = inode.sizeInBytes - UInt64(index) << shift
            let blocks = Erofs.roundUp(min(left, 1 << shift), to: Erofs.blockInBytes) / UInt64(Erofs.blockInBytes)
            guard UInt64(block) + blocks <= UInt64(reader.blockCount) else {
                throw .image(problem: "a file's data lies beyond the end", offset: inode.xattrsStart)
            }
            tree.chunkMap[Int(start) + index] = block
        }
        result.isChunked = true
        result.chunkBits = UInt8(shift - UInt64(Erofs.blockBits))
        result.sizeInBytes = inode.sizeInBytes
        result.payload = start
    }
}
