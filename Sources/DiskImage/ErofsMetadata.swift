// SPDX-License-Identifier: Apache-2.0

/// Where everything of an image's metadata goes. Made from a finished tree; the same tree gives the same layout.
///
/// The order is: full blocks of directories, and link targets too long to stand beside their inode; then, from
/// `metadataStart` on, the inodes: the root first, so that its number fits into 16 bits, then level by level, the
/// children of a directory side by side in the order of their names.
struct ErofsMetadata {
    typealias InodeIndex = ImageTree.InodeIndex

    let tree: ImageTree
    /// Time of all inodes that have no time of their own: the one that most have (by majority vote).
    let buildTime: Timestamp
    /// Inodes in the order in which they are written.
    private(set) var order: [InodeIndex] = []
    /// By inode: where it is, in slots from `metadataStart`; nil for one that nothing reaches.
    private var slots: [UInt32]
    /// By inode: links to it.
    private var links: [UInt32]
    /// By inode: of a directory the one above it.
    private var parents: [InodeIndex]
    /// Entries, by directory and name; those of a directory begin at `childStart` of its inode.
    private var children: [UInt32] = []
    private var childStart: [UInt32]
    /// By inode: of a directory its size in bytes.
    private var directorySizes: [UInt32: UInt64] = [:]
    /// By inode: the first of the full blocks, counted from the first block of all these.
    private var dataBlocks: [UInt32: UInt32] = [:]

    /// Blocks before the inodes.
    private(set) var dataBlockCount: UInt64 = 0
    /// Bytes of the part with the inodes.
    private(set) var inodesInBytes: UInt64 = 0

    var inodeCount: Int { order.count }
    /// All blocks of metadata.
    var blockCount: UInt64 {
        dataBlockCount + Erofs.roundUp(inodesInBytes, to: Erofs.blockInBytes) / UInt64(Erofs.blockInBytes)
    }
    var hasChunkedFiles: Bool { order.contains { tree[$0].isChunked } }

    init(_ tree: consuming ImageTree) throws(DiskImageError) {
        tree.seal()
        self.tree = tree
        let count = tree.inodes.count
        slots = [UInt32](repeating: .max, count: count)
        links = [UInt32](repeating: 0, count: count)
        parents = [InodeIndex](repeating: 0, count: count)
        childStart = [UInt32](repeating: 0, count: count + 1)
        buildTime = Self.majority(tree)
        sortChildren()
        try place()
    }

    func nid(_ inode: InodeIndex) -> UInt64 { UInt64(slots[Int(inode)]) }
    func position(_ inode: InodeIndex) -> UInt64 { nid(inode) * UInt64(Erofs.slotInBytes) }
    func linkCount(_ inode: InodeIndex) -> UInt32 { links[Int(inode)] }
    func parent(_ inode: InodeIndex) -> InodeIndex { parents[Int(inode)] }
    func firstDataBlock(_ inode: InodeIndex) -> UInt32 { dataBlocks[inode] ?? 0 }

    /// Bytes of a file, a link's target or a directory.
    func size(_ inode: InodeIndex) -> UInt64 {
        tree[inode].isDirectory ? directorySizes[inode] ?? 0 : tree[inode].sizeInBytes
    }

    /// Entries of a directory, in the order of their names.
    func children(of directory: InodeIndex) -> ArraySlice<UInt32> {
        children[Int(childStart[Int(directory)])..<Int(childStart[Int(directory) + 1])]
    }

    func isCompact(_ index: InodeIndex) -> Bool {
        let inode = tree[index]
        return inode.modified == buildTime && inode.uid <= UInt16.max && inode.gid <= UInt16.max
            && size(index) <= UInt32.max && links[Int(index)] <= UInt16.max
    }

    func headInBytes(_ index: InodeIndex) -> Int {
        (isCompact(index) ? Erofs.compactInodeInBytes : Erofs.extendedInodeInBytes)
            + tree.xattrSets[Int(tree[index].xattrs)].count
    }

    /// Bytes of data that stand right after the inode.
    func inlineInBytes(_ index: InodeIndex) -> Int {
        let inode = tree[index]
        guard inode.isDirectory || inode.type == .symbolicLink else { return 0 }
        let tail = Int(size(index) % UInt64(Erofs.blockInBytes))
        return headInBytes(index) + tail <= Erofs.blockInBytes ? tail : 0
    }

    // MARK: Making it

    /// The time that more than half of all inodes have, if there is one (Boyer and Moore's vote).
    private static func majority(_ tree: borrowing ImageTree) -> Timestamp {
        var candidate = Timestamp()
        var votes = 0
        for inode in tree.inodes {
            if votes == 0 { candidate = inode.modified }
            votes += inode.modified == candidate ? 1 : -1
        }
        return candidate
    }

    /// Finds what the root reaches, counts links, and sorts each directory's entries.
    private mutating func sortChildren() {
        var reached = [Bool](repeating: false, count: tree.inodes.count)
        var alive = [Bool](repeating: false, count: tree.entries.count)
        reached[0] = true
        links[0] = 2
        // A directory's inode is older than any entry in it, and so is the entry that leads to it: one pass suffices.
        for (index, entry) in tree.entries.enumerated() where !entry.isDead && reached[Int(entry.parent)] {
            alive[index] = true
            childStart[Int(entry.parent) + 1] += 1
            let inode = Int(entry.inode)
            if tree.inodes[inode].isDirectory {
                reached[inode] = true
                links[inode] = 2
                links[Int(entry.parent)] += 1
                parents[inode] = entry.parent
            } else {
                links[inode] += 1
            }
        }
        for index in 1..<childStart.count { childStart[index] += childStart[index - 1] }
        children = [UInt32](repeating: 0, count: Int(childStart[childStart.count - 1]))
        var next = childStart
        for (index, entry) in tree.entries.enumerated() where alive[index] {
            children[Int(next[Int(entry.parent)])] = UInt32(index)
            next[Int(entry.parent)] += 1
        }
        let entries = tree.entries
        unsafe tree.bytes.withUnsafeBufferPointer { bytes in
            for directory in 0..<(childStart.count - 1) {
                let range = Int(childStart[directory])..<Int(childStart[directory + 1])
                guard range.count > 1 else { continue }
                children[range].sort { one, other in
                    unsafe Self.precedes(entries[Int(one)], entries[Int(other)], bytes)
                }
            }
        }
    }

    private static func precedes(
        _ one: ImageTree.Entry, _ other: ImageTree.Entry, _ bytes: UnsafeBufferPointer<UInt8>
    ) -> Bool {
        let count = min(one.nameCount, other.nameCount)
        for index in 0..<Int(count) {
            let left = unsafe bytes[Int(one.nameStart) + index]
            let right = unsafe bytes[Int(other.nameStart) + index]
            if left != right { return left < right }
        }
        return one.nameCount < other.nameCount
    }

    /// Gives each inode its place.
    private mutating func place() throws(DiskImageError) {
        order.reserveCapacity(tree.inodes.count)
        var position = UInt64(Erofs.slotInBytes)  // Number 0 is no inode's: readdir(3) passes it over.
        try place(ImageTree.root, &position)
        var next = 0
        while next < order.count {
            let directory = order[next]
            next += 1
            guard tree[directory].isDirectory else { continue }
            for child in childStart[Int(directory)]..<childStart[Int(directory) + 1] {
                let inode = tree.entries[Int(children[Int(child)])].inode
                if slots[Int(inode)] == .max { try place(inode, &position) }
            }
        }
        inodesInBytes = position
    }

    private mutating func place(_ index: InodeIndex, _ position: inout UInt64) throws(DiskImageError) {
        let inode = tree[index]
        if inode.isDirectory { directorySizes[index] = directorySize(index) }
        let head = headInBytes(index)
        let inline = inlineInBytes(index)
        if inode.isDirectory || inode.type == .symbolicLink {
            let blocks = (size(index) - UInt64(inline) + UInt64(Erofs.blockInBytes) - 1) / UInt64(Erofs.blockInBytes)
            if blocks > 0 {
                dataBlocks[index] = UInt32(truncatingIfNeeded: dataBlockCount)
                dataBlockCount += blocks
            }
        }
        // The inode itself never crosses into another block; nor, as the format demands, does data beside it.
        let core = inline > 0 ? head + inline : head - tree.xattrSets[Int(inode.xattrs)].count
        let within = Int(position % UInt64(Erofs.blockInBytes))
        if within + core > Erofs.blockInBytes { position += UInt64(Erofs.blockInBytes - within) }
        let slot = position / UInt64(Erofs.slotInBytes)
        guard slot < UInt64(UInt32.max) else {
            throw .limit(entry: "image", limit: .metadata, maximum: UInt64(UInt32.max))
        }
        slots[Int(index)] = UInt32(slot)
        order.append(index)
        let map = inode.isChunked ? 4 * Self.chunkCount(inode) : 0
        position = Erofs.roundUp(position + UInt64(head + inline + map), to: Erofs.slotInBytes)
    }

    private func directorySize(_ index: InodeIndex) -> UInt64 {
        var walk = DirectoryBlocks(self, index)
        var size: UInt64 = 0
        while let block = walk.next() {
            size = walk.isLast ? size + UInt64(block.sizeInBytes) : size + UInt64(Erofs.blockInBytes)
        }
        return size
    }

    static func chunkCount(_ inode: ImageTree.Inode) -> Int {
        let chunk = UInt64(Erofs.blockInBytes) << UInt64(inode.chunkBits)
        return Int((inode.sizeInBytes + chunk - 1) / chunk)
    }
}

/// Divides a directory's entries, `.` and `..` among them in their order, into blocks of 4096 bytes.
struct DirectoryBlocks {
    /// One name of a directory.
    enum Name {
        case itself
        case parent
        /// An entry of the tree, by its index.
        case child(Int)
    }

    struct Block {
        /// Positions in the sequence of all names.
        var range: Range<Int>
        /// Used bytes.
        var sizeInBytes: Int
    }

    private let metadata: ErofsMetadata
    private let children: ArraySlice<UInt32>
    /// How many children's names come before `.`, and before `..`.
    private let before: (Int, Int)
    private var position = 0

    init(_ metadata: ErofsMetadata, _ directory: ErofsMetadata.InodeIndex) {
        self.metadata = metadata
        children = metadata.children(of: directory)
        before = (
            Self.count(metadata, children, before: [0x2E]), Self.count(metadata, children, before: [0x2E, 0x2E])
        )
    }

    var count: Int { children.count + 2 }
    var isLast: Bool { position == count }

    /// The name at a position of the sequence.
    func name(at position: Int) -> Name {
        // `..` comes one place later than its count of children says, since `.` is before it.
        if position == before.0 { return .itself }
        if position == before.1 + 1 { return .parent }
        let passed = (position > before.0 ? 1 : 0) + (position > before.1 + 1 ? 1 : 0)
        return .child(Int(children[children.startIndex + position - passed]))
    }

    func nameInBytes(at position: Int) -> Int {
        switch name(at: position) {
        case .itself: 1
        case .parent: 2
        case .child(let index): Int(metadata.tree.entries[index].nameCount)
        }
    }

    /// The next block: as many names as fit.
    mutating func next() -> Block? {
        guard position < count else { return nil }
        let start = position
        var size = 0
        while position < count {
            let more = Erofs.direntInBytes + nameInBytes(at: position)
            if size + more > Erofs.blockInBytes { break }
            size += more
            position += 1
        }
        return Block(range: start..<position, sizeInBytes: size)
    }

    private static func count(_ metadata: ErofsMetadata, _ children: ArraySlice<UInt32>, before name: [UInt8]) -> Int {
        var low = children.startIndex
        var high = children.endIndex
        while low < high {
            let middle = low + (high - low) / 2
            let other = metadata.tree.name(of: metadata.tree.entries[Int(children[middle])])
            if other.lexicographicallyPrecedes(name) { low = middle + 1 } else { high = middle }
        }
        return low - children.startIndex
    }
}
