// SPDX-License-Identifier: Apache-2.0

/// The tree of a merged image, made by applying one layer after another.
struct LayerUnion {
    private struct Pending: BitwiseCopyable {
        /// The number of a directory in its layer.
        var number: UInt64
        var union: ImageTree.InodeIndex
    }

    private let tree: ImageTree
    private var entries = 0

    init(_ tree: ImageTree) { self.tree = tree }

    /// Lays a layer over what is there.
    mutating func apply(_ reader: ErofsReader, layer: UInt16) throws(DiskImageError) {
        let root = try reader.root
        let rootMarks = try marks(root, reader)
        if rootMarks.isOpaque { try tree.clear(ImageTree.root) }
        try describe(ImageTree.root, as: root, rootMarks)
        let pending = PagedArray<Pending>(tree.pool)
        try pending.append(Pending(number: root.nid, union: ImageTree.root))
        // By number in the layer. A directory that comes twice would make the walk endless in a damaged image.
        let visited = try PagedMap(tree.pool)
        try visited.set(PagedMap.Key(root.nid), to: ImageTree.root)
        let hardLinks = try PagedMap(tree.pool)
        while let next = try pending.popLast() {
            let directory = try reader.inode(next.number)
            try reader.forEachEntry(of: directory) { (name, number) throws(DiskImageError) in
                entries += 1
                guard entries <= tree.limits.entries else {
                    throw .limit(entry: displayed(name), limit: .entries, maximum: UInt64(tree.limits.entries))
                }
                let inode = try reader.inode(number)
                let key = PagedMap.Key(number)
                if inode.isDirectory {
                    guard try visited[key] == nil else {
                        throw .image(problem: "a directory is in two places", offset: inode.xattrsStart)
                    }
                    let union = try enter(name, in: next.union, inode, reader)
                    try visited.set(key, to: union)
                    try pending.append(Pending(number: number, union: union))
                } else if inode.type == .characterDevice && inode.location == 0 {
                    try tree.unlink(name.span, in: next.union)
                } else if inode.linkCount > 1, let known = try hardLinks[key] {
                    try tree.link(name.span, in: next.union, to: known)
                } else {
                    let index = try tree.add(try take(inode, reader, layer))
                    if inode.linkCount > 1 { try hardLinks.set(key, to: index) }
                    try tree.link(name.span, in: next.union, to: index)
                }
            }
        }
    }

    // MARK: Directories

    /// The directory of the union that a directory of the layer goes into, with its attributes set.
    private func enter(
        _ name: ArraySlice<UInt8>, in union: ImageTree.InodeIndex, _ inode: ErofsReader.Inode, _ reader: ErofsReader
    ) throws(DiskImageError) -> ImageTree.InodeIndex {
        let marks = try marks(inode, reader)
        if !marks.isOpaque, let existing = try tree.child(name.span, of: union) {
            if try tree[existing].isDirectory {
                try describe(existing, as: inode, marks)
                return existing
            }
            // A directory that only paths imply is where these paths lead: through a lower layer's symbolic link.
            if marks.isImplicit, try tree[existing].type == .symbolicLink,
                let target = try follow(existing, in: union)
            {
                return target
            }
        }
        let index = try tree.add(.impliedDirectory)
        try tree.link(name.span, in: union, to: index)
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
    private func describe(
        _ index: ImageTree.InodeIndex, as inode: ErofsReader.Inode, _ marks: Marks
    ) throws(DiskImageError) {
        let old = try tree[index]
        guard !marks.isImplicit || old.isImplicit else { return }
        var new = try takeAttributes(of: inode, marks.attributes, entry: "directory")
        new.isImplicit = marks.isImplicit
        new.payload = old.payload
        try tree.inodes.set(Int(index), to: new)
    }

    /// The directory of the union that a symbolic link leads to, or nil.
    private func follow(
        _ link: ImageTree.InodeIndex, in directory: ImageTree.InodeIndex
    ) throws(DiskImageError) -> ImageTree.InodeIndex? {
        var current = directory
        var rest = try tree.linkTarget(of: tree[link])[...]
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
                current = current == ImageTree.root ? current : try tree[current].payload
                continue
            }
            guard let next = try tree.child(name.span, of: current) else { return nil }
            let inode = try tree[next]
            if inode.type == .symbolicLink {
                let target = try tree.linkTarget(of: inode)
                hops += 1
                guard hops <= 40, target.count + rest.count < 4 * LayerPath.maximumInBytes else { return nil }
                if target.first == UInt8(ascii: "/") { current = ImageTree.root }
                rest = (target + [UInt8(ascii: "/")] + rest)[...]
                continue
            }
            guard inode.isDirectory else { return nil }
            current = next
        }
        return current
    }

    // MARK: Other files

    /// An inode as the layer has it, its data where it is.
    private func take(
        _ inode: ErofsReader.Inode, _ reader: ErofsReader, _ layer: UInt16
    ) throws(DiskImageError) -> ImageTree.Inode {
        var result = try takeAttributes(of: inode, try reader.xattrs(inode), entry: "file")
        result.layer = layer
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

    /// What all kinds of files have.
    private func takeAttributes(
        of inode: ErofsReader.Inode, _ attributes: [ExtendedAttribute], entry: StaticString
    ) throws(DiskImageError) -> ImageTree.Inode {
        var result = ImageTree.Inode(mode: inode.mode)
        result.uid = inode.uid
        result.gid = inode.gid
        result.modified = inode.modified
        let body = try ErofsXattrs.encode(attributes, entry: "\(entry)", limits: tree.limits)
        try tree.store(xattrs: body, of: &result)
        return result
    }

    private func takeChunks(
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
            try tree.chunkMap.set(Int(start) + index, to: block)
        }
        result.isChunked = true
        result.chunkBits = UInt8(shift - UInt64(Erofs.blockBits))
        result.sizeInBytes = inode.sizeInBytes
        result.payload = start
    }
}
