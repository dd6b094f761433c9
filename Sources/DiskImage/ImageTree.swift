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

/// The files of one image while it is made: names and attributes, without data; about 100 bytes an entry and its name,
/// in the pages of a pool.
///
/// Inodes and entries are only ever added; an entry that is replaced points to another inode, one that is removed is
/// marked dead, and what was below it is no longer reachable. A directory's inode exists before any entry in it, and has
/// exactly one entry itself.
final class ImageTree {
    typealias InodeIndex = UInt32

    struct Inode: BitwiseCopyable {
        /// Bytes of a file or of a link's target; of a directory nothing.
        var sizeInBytes: UInt64 = 0
        var modified = Timestamp()
        var uid: UInt32 = 0
        var gid: UInt32 = 0
        /// The first block of a file's data, the first index in `chunkMap`, where in `bytes` a link's target is,
        /// a device number as EROFS encodes it, or of a directory the inode of the one above it.
        var payload: UInt32 = 0
        /// Where in `bytes` the encoded attributes are.
        var xattrsPlace: UInt32 = 0
        /// How many there are in the unit of `i_xattr_icount`; 0 for none.
        var xattrUnits: UInt16 = 0
        /// Type and permissions.
        var mode: UInt16
        /// The layer that holds the data, where an image is made of several.
        var layer: UInt16 = 0
        /// log2 of blocks a chunk.
        var chunkBits: UInt8 = 0
        /// Whether the data is found by a block map instead of one start block.
        var isChunked = false
        /// Of a directory that no entry described, but one below it implied.
        var isImplicit = false
        /// Of a directory that hides what lower layers have in it.
        var isOpaque = false

        init(mode: UInt16) { self.mode = mode }

        var type: FileType? { FileType(rawValue: mode & FileType.mask) }
        var isDirectory: Bool { mode & FileType.mask == FileType.directory.rawValue }
        /// As overlayfs marks a file of a lower layer as removed.
        var isWhiteout: Bool { mode & FileType.mask == FileType.characterDevice.rawValue && payload == 0 }
        var xattrsInBytes: Int { ErofsXattrs.inBytes(units: xattrUnits) }

        /// A directory of which only paths tell.
        static var impliedDirectory: Inode {
            var inode = Inode(mode: FileType.directory.rawValue | 0o755)
            inode.isImplicit = true
            return inode
        }
    }

    struct Entry: BitwiseCopyable {
        var parent: InodeIndex
        var inode: InodeIndex
        var namePlace: UInt32
        var nameCount: UInt8
        var isDead = false

        var name: (place: UInt32, count: Int) { (namePlace, Int(nameCount)) }
    }

    static let root: InodeIndex = 0

    let limits: ConversionLimits
    let pool: PagePool
    let inodes: PagedArray<Inode>
    let entries: PagedArray<Entry>
    /// Start blocks of the chunks of chunked files, one file after another.
    let chunkMap: PagedArray<UInt32>
    /// Names, link targets and encoded attributes.
    let bytes: PagedBytes
    /// Attributes that were stored, with their place: what many files have is kept once. Only some, and short ones.
    private var knownXattrs: [[UInt8]: UInt32] = [:]
    private static let maximumKnownXattrs = 512
    private static let maximumKnownXattrsInBytes = 1024

    /// Open addressing, linear probing: a slot has an entry's index plus one in its lower half, or is zero; and in its
    /// upper half the name's hash. Names are hashed with a seed of the process, so that no layer can be made to collide;
    /// the order of nothing depends on it.
    private var table: PagedArray<UInt64>

    /// - Parameter output: the file that the image goes to.
    init(limits: ConversionLimits, output: Int32) throws(DiskImageError) {
        self.limits = limits
        pool = try PagePool(limits: limits, output: output)
        inodes = PagedArray(pool)
        entries = PagedArray(pool)
        chunkMap = PagedArray(pool)
        bytes = PagedBytes(pool)
        table = try PagedArray(pool, zeros: 1 << 11)
        try inodes.append(.impliedDirectory)
    }

    subscript(inode: InodeIndex) -> Inode {
        get throws(DiskImageError) { try inodes[Int(inode)] }
    }

    func update(_ inode: InodeIndex, _ change: (inout Inode) -> Void) throws(DiskImageError) {
        try inodes.update(Int(inode), change)
    }

    // MARK: Names

    /// What a name in a directory means, if anything.
    func child(_ name: Span<UInt8>, of directory: InodeIndex) throws(DiskImageError) -> InodeIndex? {
        guard let found = try find(name, directory, Self.hash(name, directory)).entry else { return nil }
        let entry = try entries[found]
        return entry.isDead ? nil : entry.inode
    }

    /// Makes a name in a directory mean an inode, whatever it meant before.
    func link(_ name: Span<UInt8>, in directory: InodeIndex, to inode: InodeIndex) throws(DiskImageError) {
        if try self[inode].isDirectory { try update(inode) { $0.payload = directory } }
        let hash = Self.hash(name, directory)
        let (slot, found) = try find(name, directory, hash)
        if let found {
            try entries.update(found) {
                $0.inode = inode
                $0.isDead = false
            }
            return
        }
        try entries.append(
            Entry(
                parent: directory, inode: inode, namePlace: try bytes.append(name),
                nameCount: UInt8(truncatingIfNeeded: name.count)))
        try table.set(slot, to: UInt64(hash) << 32 | UInt64(entries.count))
        if entries.count / 3 * 4 > table.count { try grow() }
    }

    /// Removes a name with all that is below it.
    func unlink(_ name: Span<UInt8>, in directory: InodeIndex) throws(DiskImageError) {
        guard let found = try find(name, directory, Self.hash(name, directory)).entry else { return }
        try entries.update(found) { $0.isDead = true }
    }

    /// Removes all that is in a directory.
    func clear(_ directory: InodeIndex) throws(DiskImageError) {
        for index in 0..<entries.count where try entries[index].parent == directory {
            try entries.update(index) { $0.isDead = true }
        }
    }

    // MARK: Inodes

    func add(_ inode: Inode) throws(DiskImageError) -> InodeIndex {
        try inodes.append(inode)
        return InodeIndex(inodes.count - 1)
    }

    /// Stores a link's target; the result is the inode's payload.
    func store(_ target: Span<UInt8>) throws(DiskImageError) -> UInt32 { try bytes.append(target) }

    func linkTarget(of inode: Inode) throws(DiskImageError) -> [UInt8] {
        try bytes.bytes(at: inode.payload, count: Int(inode.sizeInBytes))
    }

    /// Makes room for a file's block map, all holes; the result is the inode's payload.
    func storeChunkMap(count: Int) throws(DiskImageError) -> UInt32 {
        let start = chunkMap.count
        for _ in 0..<count { try chunkMap.append(Erofs.hole) }
        return UInt32(start)
    }

    /// Stores encoded attributes, and says in the inode where they are.
    func store(xattrs body: [UInt8], of inode: inout Inode) throws(DiskImageError) {
        inode.xattrUnits = ErofsXattrs.units(inBytes: body.count)
        if body.isEmpty { return }
        if let place = knownXattrs[body] {
            inode.xattrsPlace = place
            return
        }
        inode.xattrsPlace = try bytes.append(body.span)
        if knownXattrs.count < Self.maximumKnownXattrs && body.count <= Self.maximumKnownXattrsInBytes {
            knownXattrs[body] = inode.xattrsPlace
        }
    }

    func xattrs(of inode: Inode) throws(DiskImageError) -> [UInt8] {
        try bytes.bytes(at: inode.xattrsPlace, count: inode.xattrsInBytes)
    }

    /// Gives up what only growing needs.
    func seal() {
        table.removeAll()
        knownXattrs = [:]
    }

    // MARK: The table

    /// The entry of a name, whether dead or not, and its slot; or the slot where it would go.
    private func find(
        _ name: Span<UInt8>, _ directory: InodeIndex, _ hash: UInt32
    ) throws(DiskImageError) -> (slot: Int, entry: Int?) {
        let mask = table.count - 1
        var slot = Int(hash) & mask
        while case let value = try table[slot], value != 0 {
            if UInt32(truncatingIfNeeded: value >> 32) == hash {
                let index = Int(UInt32(truncatingIfNeeded: value)) - 1
                let entry = try entries[index]
                if entry.parent == directory, Int(entry.nameCount) == name.count,
                    try bytes.equals(at: entry.namePlace, name)
                {
                    return (slot, index)
                }
            }
            slot = (slot + 1) & mask
        }
        return (slot, nil)
    }

    private static func hash(_ name: Span<UInt8>, _ directory: InodeIndex) -> UInt32 {
        var hasher = Hasher()
        hasher.combine(directory)
        unsafe name.withUnsafeBytes { unsafe hasher.combine(bytes: $0) }
        return UInt32(truncatingIfNeeded: hasher.finalize())
    }

    private func grow() throws(DiskImageError) {
        let old = table
        let new = try PagedArray<UInt64>(pool, zeros: old.count * 2)
        let mask = new.count - 1
        for index in 0..<old.count {
            let value = try old[index]
            guard value != 0 else { continue }
            var slot = Int(value >> 32) & mask
            while try new[slot] != 0 { slot = (slot + 1) & mask }
            try new.set(slot, to: value)
        }
        table = new
    }
}
