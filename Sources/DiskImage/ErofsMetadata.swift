// SPDX-License-Identifier: Apache-2.0

/// Where everything of an image's metadata goes. Made from a finished tree; the same tree gives the same layout.
///
/// The order is: full blocks of directories, and link targets too long to stand beside their inode; then, from
/// `metadataStart` on, the inodes: the root first, so that its number fits into 16 bits, then level by level, the
/// children of a directory side by side in the order of their names.
final class ErofsMetadata {
    typealias InodeIndex = ImageTree.InodeIndex

    /// What the layout adds to an inode.
    struct Placement: BitwiseCopyable {
        /// Where the inode is, in slots from `metadataStart`; 0 for one that has no place, as nothing has that one.
        var slot: UInt32 = 0
        var links: UInt32 = 0
        /// Of a directory: its entries in `children`.
        var firstChild: UInt32 = 0
        var childCount: UInt32 = 0
        /// Of a directory or a link: the first of the full blocks, counted from the first block of all these.
        var firstDataBlock: UInt32 = 0
    }

    let tree: ImageTree
    /// Time of all inodes that have no time of their own: the one that most have (by majority vote).
    let buildTime: Timestamp
    /// Inodes in the order in which they are written.
    let order: PagedArray<InodeIndex>
    private let placements: PagedArray<Placement>
    /// Entries of the tree, by directory and name.
    private let children: PagedArray<UInt32>

    /// Blocks before the inodes.
    private(set) var dataBlockCount: UInt64 = 0
    /// Bytes of the part with the inodes.
    private(set) var inodesInBytes: UInt64 = 0
    private(set) var hasChunkedFiles = false

    var inodeCount: Int { order.count }
    /// All blocks of metadata.
    var blockCount: UInt64 {
        dataBlockCount + Erofs.roundUp(inodesInBytes, to: Erofs.blockInBytes) / UInt64(Erofs.blockInBytes)
    }

    /// - Parameter tree: what nobody changes any more; directories get their size.
    init(_ tree: ImageTree) throws(DiskImageError) {
        tree.seal()
        self.tree = tree
        order = PagedArray(tree.pool)
        placements = try PagedArray(tree.pool, zeros: tree.inodes.count)
        children = PagedArray(tree.pool)
        buildTime = try Self.majority(tree)
        try gatherChildren()
        try place()
    }

    func placement(_ inode: InodeIndex) throws(DiskImageError) -> Placement { try placements[Int(inode)] }

    /// The entry of the tree at a position of `children`.
    func child(_ position: UInt32) throws(DiskImageError) -> ImageTree.Entry {
        try tree.entries[Int(children[Int(position)])]
    }

    func isCompact(_ inode: ImageTree.Inode, links: UInt32) -> Bool {
        inode.modified == buildTime && inode.uid <= UInt16.max && inode.gid <= UInt16.max
            && inode.sizeInBytes <= UInt32.max && links <= UInt16.max
    }

    private func headInBytes(_ inode: ImageTree.Inode, links: UInt32) -> Int {
        (isCompact(inode, links: links) ? Erofs.compactInodeInBytes : Erofs.extendedInodeInBytes) + inode.xattrsInBytes
    }

    /// Bytes of data that stand right after the inode.
    func inlineInBytes(_ inode: ImageTree.Inode, links: UInt32) -> Int {
        guard inode.isDirectory || inode.type == .symbolicLink else { return 0 }
        let tail = Int(inode.sizeInBytes % UInt64(Erofs.blockInBytes))
        return headInBytes(inode, links: links) + tail <= Erofs.blockInBytes ? tail : 0
    }

    // MARK: Making it

    /// The time that more than half of all inodes have, if there is one (Boyer and Moore's vote).
    private static func majority(_ tree: ImageTree) throws(DiskImageError) -> Timestamp {
        var candidate = Timestamp()
        var votes = 0
        for index in 0..<tree.inodes.count {
            let modified = try tree.inodes[index].modified
            if votes == 0 { candidate = modified }
            votes += modified == candidate ? 1 : -1
        }
        return candidate
    }

    /// Finds what the root reaches, counts links, and sorts each directory's entries.
    private func gatherChildren() throws(DiskImageError) {
        try placements.update(0) { $0.links = 2 }
        // A directory's inode is older than any entry in it, and so is the entry that leads to it: one pass suffices.
        // What is reached has a link.
        for index in 0..<tree.entries.count {
            let entry = try tree.entries[index]
            guard !entry.isDead, try placement(entry.parent).links > 0 else { continue }
            let isDirectory = try tree[entry.inode].isDirectory
            try placements.update(Int(entry.parent)) {
                $0.childCount += 1
                if isDirectory { $0.links += 1 }
            }
            try placements.update(Int(entry.inode)) { $0.links += isDirectory ? 2 : 1 }
        }
        var total: UInt32 = 0
        for index in 0..<placements.count {
            try placements.update(index) {
                $0.firstChild = total
                total += $0.childCount
                $0.childCount = 0  // counted again below
            }
        }
        for _ in 0..<total { try children.append(0) }
        for index in 0..<tree.entries.count {
            let entry = try tree.entries[index]
            guard !entry.isDead, case let parent = try placement(entry.parent), parent.links > 0 else { continue }
            try children.set(Int(parent.firstChild + parent.childCount), to: UInt32(index))
            try placements.update(Int(entry.parent)) { $0.childCount += 1 }
        }
        for index in 0..<placements.count {
            let placement = try placements[index]
            if placement.childCount > 1 { try sortChildren(placement) }
        }
    }

    private func sortChildren(_ directory: Placement) throws(DiskImageError) {
        var sorted: [UInt32] = []
        sorted.reserveCapacity(Int(directory.childCount))
        for position in 0..<directory.childCount {
            sorted.append(try children[Int(directory.firstChild + position)])
        }
        // The library's sort has no typed errors.
        var failure: DiskImageError?
        sorted.sort { one, other in
            guard failure == nil else { return false }
            do throws(DiskImageError) {
                return try tree.bytes.precedes(tree.entries[Int(one)].name, tree.entries[Int(other)].name)
            } catch {
                failure = error
                return false
            }
        }
        if let failure { throw failure }
        for (position, entry) in sorted.enumerated() {
            try children.set(Int(directory.firstChild) + position, to: entry)
        }
    }

    /// Gives each inode its place.
    private func place() throws(DiskImageError) {
        var position = UInt64(Erofs.slotInBytes)  // Number 0 is no inode's: readdir(3) passes it over.
        try place(ImageTree.root, &position)
        var next = 0
        while next < order.count {
            let directory = try order[next]
            next += 1
            guard try tree[directory].isDirectory else { continue }
            let placement = try placement(directory)
            for child in placement.firstChild..<placement.firstChild + placement.childCount {
                let inode = try self.child(child).inode
                if try self.placement(inode).slot == 0 { try place(inode, &position) }
            }
        }
        inodesInBytes = position
    }

    private func place(_ index: InodeIndex, _ position: inout UInt64) throws(DiskImageError) {
        var inode = try tree[index]
        var placement = try placement(index)
        if inode.isDirectory {
            inode.sizeInBytes = try directorySize(index)
            try tree.inodes.set(Int(index), to: inode)
        }
        if inode.isChunked { hasChunkedFiles = true }
        let head = headInBytes(inode, links: placement.links)
        let inline = inlineInBytes(inode, links: placement.links)
        if inode.isDirectory || inode.type == .symbolicLink {
            let blocks =
                (inode.sizeInBytes - UInt64(inline) + UInt64(Erofs.blockInBytes) - 1) / UInt64(Erofs.blockInBytes)
            if blocks > 0 {
                placement.firstDataBlock = UInt32(truncatingIfNeeded: dataBlockCount)
                dataBlockCount += blocks
            }
        }
        // The inode itself never crosses into another block; nor, as the format demands, does data beside it.
        let core = inline > 0 ? head + inline : head - inode.xattrsInBytes
        let within = Int(position % UInt64(Erofs.blockInBytes))
        if within + core > Erofs.blockInBytes { position += UInt64(Erofs.blockInBytes - within) }
        guard let slot = UInt32(exactly: position / UInt64(Erofs.slotInBytes)) else {
            throw .limit(entry: "image", limit: .metadata, maximum: UInt64(UInt32.max))
        }
        placement.slot = slot
        try placements.set(Int(index), to: placement)
        try order.append(index)
        let map = inode.isChunked ? 4 * Self.chunkCount(inode) : 0
        position = Erofs.roundUp(position + UInt64(head + inline + map), to: Erofs.slotInBytes)
    }

    private func directorySize(_ index: InodeIndex) throws(DiskImageError) -> UInt64 {
        var walk = try DirectoryBlocks(self, index)
        var size: UInt64 = 0
        while let block = try walk.next() {
            size = walk.isLast ? size + UInt64(block.sizeInBytes) : size + UInt64(Erofs.blockInBytes)
        }
        return size
    }

    static func chunkCount(_ inode: ImageTree.Inode) -> Int {
        let chunk = UInt64(Erofs.blockInBytes) << UInt64(inode.chunkBits)
        return Int((inode.sizeInBytes + chunk - 1) / chunk)
    }
}
