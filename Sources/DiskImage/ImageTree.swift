// SPDX-License-Identifier: Apache-2.0

/// The kinds of inode, with the bits of a mode that say so.
enum FileType: UInt16 {
    case fifo = 0o010000
    case characterDevice = 0o020000
    case directory = 0o040000
    case blockDevice = 0o060000
    case file = 0o100000
    case symbolicLink = 0o120000
    case socket = 0o140000

    static let mask: UInt16 = 0o170000
}

/// The files of one image while it is made: names and attributes, without data. About 130 bytes an entry.
///
/// Inodes and entries are only ever added; an entry that is replaced points to another inode, one that is removed is
/// marked dead, and what was below it is no longer reachable. A directory's inode exists before any entry in it, and has
/// exactly one entry itself.
struct ImageTree {
    typealias InodeIndex = UInt32

    struct Inode {
        /// Type and permissions.
        var mode: UInt16
        /// Whether the data is found by a block map instead of one start block.
        var isChunked = false
        /// log2 of blocks a chunk.
        var chunkBits: UInt8 = 0
        /// Of a directory that no entry described, but one below it implied.
        var isImplicit = false
        /// Of a directory that hides what lower layers have in it.
        var isOpaque = false
        /// The layer that holds the data, where an image is made of several.
        var layer: UInt16 = 0
        var uid: UInt32 = 0
        var gid: UInt32 = 0
        var modified = Timestamp()
        /// Bytes of a file or of a link's target; of a directory nothing.
        var sizeInBytes: UInt64 = 0
        /// The first block of a file's data, the first index in `chunkMap`, where in `bytes` a link's target is,
        /// or a device number as EROFS encodes it.
        var payload: UInt32 = 0
        /// An index in `xattrSets`.
        var xattrs: UInt32 = 0

        var type: FileType? { FileType(rawValue: mode & FileType.mask) }
        var isDirectory: Bool { mode & FileType.mask == FileType.directory.rawValue }
        /// As overlayfs marks a file of a lower layer as removed.
        var isWhiteout: Bool { mode & FileType.mask == FileType.characterDevice.rawValue && payload == 0 }
    }

    struct Entry {
        var parent: InodeIndex
        var inode: InodeIndex
        var nameStart: UInt32
        var nameCount: UInt8
        var isDead = false
    }

    static let root: InodeIndex = 0

    let limits: ConversionLimits
    private(set) var inodes: [Inode] = []
    private(set) var entries: [Entry] = []
    /// Names and link targets.
    private(set) var bytes: [UInt8] = []
    /// Start blocks of the chunks of chunked files, one file after another.
    var chunkMap: [UInt32] = []
    /// Encoded extended attributes; the first set is empty.
    private(set) var xattrSets: [[UInt8]] = [[]]
    private var xattrIndices: [[UInt8]: UInt32] = [:]
    private var xattrsInBytes = 0

    /// Open addressing, linear probing: an entry's index plus one, or zero. Names are hashed with a seed of the process,
    /// so that no layer can be made to collide; the order of nothing depends on it.
    private var table: [UInt32]

    init(limits: ConversionLimits) {
        self.limits = limits
        table = [UInt32](repeating: 0, count: 1 << 10)
        inodes.append(Inode(mode: FileType.directory.rawValue | 0o755, isImplicit: true))
    }

    subscript(inode: InodeIndex) -> Inode {
        get { inodes[Int(inode)] }
        _modify { yield &inodes[Int(inode)] }
    }

    // MARK: Names

    /// The entry of this name in a directory, if there is one.
    func entry(_ name: Span<UInt8>, in directory: InodeIndex) -> Int? {
        guard let found = table.span[slot(name, directory)].existing else { return nil }
        return entries[found].isDead ? nil : found
    }

    /// Makes a name in a directory mean an inode, whatever it meant before.
    mutating func link(_ name: Span<UInt8>, in directory: InodeIndex, to inode: InodeIndex) throws(DiskImageError) {
        let slot = slot(name, directory)
        if let found = table[slot].existing {
            entries[found].inode = inode
            entries[found].isDead = false
            return
        }
        try reserve(name.count + MemoryLayout<Entry>.stride + 8)
        let start = bytes.count
        for index in name.indices { bytes.append(name[index]) }
        entries.append(
            Entry(
                parent: directory, inode: inode, nameStart: UInt32(start),
                nameCount: UInt8(truncatingIfNeeded: name.count)))
        table[slot] = UInt32(entries.count)
        if entries.count * 2 > table.count { grow() }
    }

    /// Removes a name with all that is below it.
    mutating func unlink(_ name: Span<UInt8>, in directory: InodeIndex) {
        if let found = table[slot(name, directory)].existing { entries[found].isDead = true }
    }

    /// Removes all that is in a directory.
    mutating func clear(_ directory: InodeIndex) {
        for index in entries.indices where entries[index].parent == directory { entries[index].isDead = true }
    }

    mutating func add(_ inode: Inode) throws(DiskImageError) -> InodeIndex {
        try reserve(MemoryLayout<Inode>.stride)
        inodes.append(inode)
        return InodeIndex(inodes.count - 1)
    }

    /// Stores a link's target; the result is the inode's payload.
    mutating func store(_ target: Span<UInt8>) throws(DiskImageError) -> UInt32 {
        try reserve(target.count)
        let start = bytes.count
        for index in target.indices { bytes.append(target[index]) }
        return UInt32(start)
    }

    /// Makes room for a file's block map, all holes; the result is the inode's payload.
    mutating func storeChunkMap(count: Int) throws(DiskImageError) -> UInt32 {
        try reserve(count * 4)
        let start = chunkMap.count
        chunkMap.append(contentsOf: repeatElement(Erofs.hole, count: count))
        return UInt32(start)
    }

    /// Stores encoded attributes; equal sets are kept once. The result is the inode's `xattrs`.
    mutating func store(xattrs body: [UInt8]) throws(DiskImageError) -> UInt32 {
        if body.isEmpty { return 0 }
        if let index = xattrIndices[body] { return index }
        try reserve(body.count + 128)
        xattrsInBytes += body.count + 128
        let index = UInt32(xattrSets.count)
        xattrSets.append(body)
        xattrIndices[body] = index
        return index
    }

    func name(of entry: Entry) -> ArraySlice<UInt8> {
        bytes[Int(entry.nameStart)..<Int(entry.nameStart) + Int(entry.nameCount)]
    }

    func linkTarget(of inode: Inode) -> ArraySlice<UInt8> {
        bytes[Int(inode.payload)..<Int(inode.payload) + Int(inode.sizeInBytes)]
    }

    /// Gives up what only growing needs.
    mutating func seal() {
        table = [0]
        xattrIndices = [:]
    }

    /// Memory stays within its limit, and every index within 32 bits.
    private func reserve(_ count: Int) throws(DiskImageError) {
        let used =
            bytes.count + chunkMap.count * 4 + xattrsInBytes + inodes.count * MemoryLayout<Inode>.stride
            + entries.count * (MemoryLayout<Entry>.stride + 8)
        guard count <= limits.metadataInBytes - used else {
            throw .limit(entry: "image", limit: .metadata, maximum: UInt64(limits.metadataInBytes))
        }
    }

    // MARK: The table

    /// Where the name is, or where it would go.
    private func slot(_ name: Span<UInt8>, _ directory: InodeIndex) -> Int {
        let mask = table.count - 1
        let table = table.span
        let entries = entries.span
        var slot = Self.hash(name, directory) & mask
        while let found = table[slot].existing {
            let entry = entries[found]
            if entry.parent == directory && equals(entry, name) { return slot }
            slot = (slot + 1) & mask
        }
        return slot
    }

    private func equals(_ entry: Entry, _ name: Span<UInt8>) -> Bool {
        guard Int(entry.nameCount) == name.count else { return false }
        let bytes = bytes.span
        for index in name.indices where bytes[Int(entry.nameStart) + index] != name[index] { return false }
        return true
    }

    private static func hash(_ name: Span<UInt8>, _ directory: InodeIndex) -> Int {
        var hasher = Hasher()
        hasher.combine(directory)
        unsafe name.withUnsafeBytes { unsafe hasher.combine(bytes: $0) }
        return hasher.finalize() & Int.max
    }

    private mutating func grow() {
        table = [UInt32](repeating: 0, count: table.count * 2)
        let mask = table.count - 1
        for (index, entry) in entries.enumerated() {
            let start = Int(entry.nameStart)
            var slot =
                Self.hash(bytes.span.extracting(start..<start + Int(entry.nameCount)), entry.parent) & mask
            while table[slot] != 0 { slot = (slot + 1) & mask }
            table[slot] = UInt32(index + 1)
        }
    }
}

extension UInt32 {
    /// Of a slot of the table: the entry it holds.
    fileprivate var existing: Int? { self == 0 ? nil : Int(self - 1) }
}
