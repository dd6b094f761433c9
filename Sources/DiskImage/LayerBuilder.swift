// SPDX-License-Identifier: Apache-2.0

/// Makes a layer's tree and data from an archive's entries, in their order: a later entry replaces an earlier one.
final class LayerBuilder: TarSink {
    private(set) var tree: ImageTree
    let output: BlockOutput
    private var data = FileDataWriter()
    private var isInFile = false
    /// The inode that all whiteouts share.
    private var whiteout: ImageTree.InodeIndex?

    init(output: BlockOutput, limits: ConversionLimits) {
        tree = ImageTree(limits: limits)
        self.output = output
    }

    func begin(_ entry: TarEntry) throws(DiskImageError) {
        isInFile = false
        let path = try LayerPath(entry.path, problem: entry.problem)
        guard let last = path.last else {
            // The root itself.
            guard entry.kind == .directory else { throw entry.problem(.rootIsNoDirectory) }
            try describe(ImageTree.root, as: entry)
            return
        }
        let parent = try resolve(path.parent, of: entry)
        if try takeWhiteout(last, in: parent) { return }
        switch entry.kind {
        case .directory: try makeDirectory(last, in: parent, entry)
        case .hardLink: try makeHardLink(last, in: parent, entry)
        case .file:
            var inode = try makeInode(entry, .file)
            inode.sizeInBytes = entry.sizeInBytes
            try data.begin(
                &inode, sparse: entry.sparse, tree: &tree, output: output, entry: displayed(entry.path))
            try put(inode, last, in: parent)
            isInFile = true
        case .symbolicLink:
            guard !entry.linkTarget.isEmpty else { throw entry.problem(.emptyLinkTarget) }
            guard entry.linkTarget.count < LayerPath.maximumInBytes else {
                throw entry.problem(.linkTargetTooLong(length: entry.linkTarget.count))
            }
            var inode = try makeInode(entry, .symbolicLink)
            inode.mode = FileType.symbolicLink.rawValue | 0o777  // as Linux has them, whatever the archive says
            inode.payload = try tree.store(entry.linkTarget.span)
            inode.sizeInBytes = UInt64(entry.linkTarget.count)
            try put(inode, last, in: parent)
        case .characterDevice, .blockDevice:
            guard let device = Erofs.device(major: entry.deviceMajor, minor: entry.deviceMinor) else {
                throw entry.problem(.badDeviceNumber)
            }
            var inode = try makeInode(entry, entry.kind == .characterDevice ? .characterDevice : .blockDevice)
            inode.payload = device
            try put(inode, last, in: parent)
        case .fifo:
            try put(try makeInode(entry, .fifo), last, in: parent)
        }
    }

    func data(_ bytes: Span<UInt8>) throws(DiskImageError) {
        if isInFile { try data.write(bytes, tree: &tree, output: output) }
    }

    func end() throws(DiskImageError) {
        if isInFile { try data.end(output: output) }
        isInFile = false
    }

    /// The finished tree, with the marks of directories made attributes.
    func finish() throws(DiskImageError) -> ImageTree {
        for index in tree.inodes.indices where tree.inodes[index].isOpaque || tree.inodes[index].isImplicit {
            let mark = tree.inodes[index].isOpaque ? ErofsXattrs.opaque : ErofsXattrs.implicit
            var attributes = describedXattrs[ImageTree.InodeIndex(index)] ?? []
            attributes.append(mark)
            let body = try ErofsXattrs.encode(attributes, entry: "directory", limits: markLimits)
            tree[ImageTree.InodeIndex(index)].xattrs = try tree.store(xattrs: body)
        }
        let finished = tree
        tree = ImageTree(limits: tree.limits)
        return finished
    }

    // MARK: Inodes

    /// Attributes of opaque directories, to which `finish` adds the mark.
    private var describedXattrs: [ImageTree.InodeIndex: [ExtendedAttribute]] = [:]

    /// The mark comes on top of what an entry may have.
    private var markLimits: ConversionLimits {
        var limits = tree.limits
        limits.xattrsInBytes += 64
        return limits
    }

    private func makeInode(_ entry: TarEntry, _ type: FileType) throws(DiskImageError) -> ImageTree.Inode {
        let kept = entry.xattrs.filter { ErofsXattrs.isKept($0.name) }
        let body = try ErofsXattrs.encode(kept, entry: displayed(entry.path), limits: tree.limits)
        return ImageTree.Inode(
            mode: type.rawValue | entry.permissions, uid: entry.uid, gid: entry.gid, modified: entry.modified,
            xattrs: try tree.store(xattrs: body))
    }

    private func put(
        _ inode: ImageTree.Inode, _ name: ArraySlice<UInt8>, in parent: ImageTree.InodeIndex
    ) throws(DiskImageError) {
        let index = try tree.add(inode)
        try tree.link(name.span, in: parent, to: index)
    }

    private func makeDirectory(
        _ name: ArraySlice<UInt8>, in parent: ImageTree.InodeIndex, _ entry: TarEntry
    ) throws(DiskImageError) {
        var hidesLower = false
        if let found = tree.entry(name.span, in: parent) {
            let existing = tree.entries[found].inode
            if tree[existing].isDirectory {
                try describe(existing, as: entry)
                return
            }
            // What was there, a file or a whiteout, has hidden what lower layers have; that stays so.
            hidesLower = true
        }
        var inode = ImageTree.Inode(mode: FileType.directory.rawValue)
        inode.isOpaque = hidesLower
        let index = try tree.add(inode)
        try tree.link(name.span, in: parent, to: index)
        try describe(index, as: entry)
    }

    /// Gives a directory the attributes of its entry.
    private func describe(_ index: ImageTree.InodeIndex, as entry: TarEntry) throws(DiskImageError) {
        var inode = try makeInode(entry, .directory)
        inode.isOpaque = tree[index].isOpaque
        tree[index] = inode
        let kept = entry.xattrs.filter { ErofsXattrs.isKept($0.name) }
        describedXattrs[index] = kept.isEmpty ? nil : kept
    }

    private func makeHardLink(
        _ name: ArraySlice<UInt8>, in parent: ImageTree.InodeIndex, _ entry: TarEntry
    ) throws(DiskImageError) {
        guard !entry.linkTarget.isEmpty else { throw entry.problem(.emptyLinkTarget) }
        let target = try LayerPath(entry.linkTarget, problem: entry.problem)
        guard let last = target.last else {
            throw entry.problem(.linkTargetIsDirectory(displayed(entry.linkTarget)))
        }
        guard let directory = try find(target.parent, of: entry), let found = tree.entry(last.span, in: directory),
            tree.entries[found].inode != whiteout
        else { throw entry.problem(.linkTargetMissing(displayed(entry.linkTarget))) }
        let inode = tree.entries[found].inode
        guard !tree[inode].isDirectory else {
            throw entry.problem(.linkTargetIsDirectory(displayed(entry.linkTarget)))
        }
        try tree.link(name.span, in: parent, to: inode)
    }

    // MARK: Whiteouts (OCI image specification, "Whiteouts")

    /// Takes `.wh.NAME`, `.wh..wh..opq` and the bookkeeping of AUFS; whether it was one of these.
    private func takeWhiteout(
        _ name: ArraySlice<UInt8>, in parent: ImageTree.InodeIndex
    ) throws(DiskImageError) -> Bool {
        guard name.starts(with: Self.whiteoutPrefix) else { return false }
        if name.elementsEqual(Self.opaqueName) {
            tree[parent].isOpaque = true
            tree[parent].isImplicit = false
            return true
        }
        let hidden = name.dropFirst(Self.whiteoutPrefix.count)
        if hidden.isEmpty || hidden.starts(with: Self.whiteoutPrefix) { return true }
        if let found = tree.entry(hidden.span, in: parent) {
            // A whiteout concerns lower layers only: what this layer brings stays, without what was there before.
            let existing = tree.entries[found].inode
            if tree[existing].isDirectory {
                tree[existing].isOpaque = true
                tree[existing].isImplicit = false
            }
            return true
        }
        if whiteout == nil { whiteout = try tree.add(ImageTree.Inode(mode: FileType.characterDevice.rawValue)) }
        if let whiteout { try tree.link(hidden.span, in: parent, to: whiteout) }
        return true
    }

    private static let whiteoutPrefix: [UInt8] = Array(".wh.".utf8)
    private static let opaqueName: [UInt8] = Array(".wh..wh..opq".utf8)

    // MARK: Paths

    /// The directory that a path leads to; what is missing is made.
    private func resolve(_ path: ArraySlice<UInt8>, of entry: TarEntry) throws(DiskImageError) -> ImageTree.InodeIndex {
        guard let directory = try walk(path, of: entry, making: true) else {
            throw entry.problem(.parentIsNoDirectory)
        }
        return directory
    }

    /// The directory that a path leads to, or nil.
    private func find(_ path: ArraySlice<UInt8>, of entry: TarEntry) throws(DiskImageError) -> ImageTree.InodeIndex? {
        try walk(path, of: entry, making: false)
    }

    /// Follows a path from the layer's root. Symbolic links of this layer are followed within it, as if it were the
    /// root of the file system.
    private func walk(
        _ path: ArraySlice<UInt8>, of entry: TarEntry, making: Bool
    ) throws(DiskImageError) -> ImageTree.InodeIndex? {
        var rest = path
        var above: [ImageTree.InodeIndex] = []
        var directory = ImageTree.root
        var hops = 0
        while let first = rest.first {
            if first == UInt8(ascii: "/") {
                rest.removeFirst()
                continue
            }
            let name = rest.prefix { $0 != UInt8(ascii: "/") }
            rest = rest[name.endIndex...]
            if name.count == 1 && name.first == 0x2E { continue }
            if name.count == 2 && name.allSatisfy({ $0 == 0x2E }) {
                directory = above.popLast() ?? ImageTree.root
                continue
            }
            guard name.count <= Erofs.maximumNameInBytes else {
                throw entry.problem(.componentTooLong(length: name.count))
            }
            var child: ImageTree.InodeIndex?
            if let found = tree.entry(name.span, in: directory) { child = tree.entries[found].inode }
            if let child, tree[child].type == .symbolicLink {
                let target = tree.linkTarget(of: tree[child])
                hops += 1
                guard hops <= 40, target.count + rest.count < 4 * LayerPath.maximumInBytes else {
                    throw entry.problem(.tooManyLinks)
                }
                if target.first == UInt8(ascii: "/") {
                    above = []
                    directory = ImageTree.root
                }
                rest = ArraySlice(target + [UInt8(ascii: "/")] + rest)
                continue
            }
            if let child, child != whiteout {
                guard tree[child].isDirectory else { return nil }
                above.append(directory)
                directory = child
                continue
            }
            guard making else { return nil }
            var made = ImageTree.Inode(mode: FileType.directory.rawValue | 0o755)
            made.isOpaque = child == whiteout && child != nil
            made.isImplicit = !made.isOpaque
            let index = try tree.add(made)
            try tree.link(name.span, in: directory, to: index)
            above.append(directory)
            directory = index
        }
        return directory
    }
}

/// A path of an archive, cleaned: without a leading `/`, `.`, `..` and empty components.
struct LayerPath {
    /// PATH_MAX, the terminating zero included.
    static let maximumInBytes = 4096

    private var bytes: [UInt8] = []
    private var lastStart = 0

    init(_ path: [UInt8], problem: (ArchiveProblem) -> DiskImageError) throws(DiskImageError) {
        guard !path.isEmpty else { throw problem(.emptyName) }
        // Nothing sensible is so long; this bounds the work below.
        guard path.count < 4 * Self.maximumInBytes else { throw problem(.pathTooLong(length: path.count)) }
        var starts: [Int] = []
        bytes.reserveCapacity(path.count)
        for component in path.split(separator: UInt8(ascii: "/")) {
            if component.count == 1 && component.first == 0x2E { continue }
            if component.count == 2 && component.allSatisfy({ $0 == 0x2E }) {
                guard let start = starts.popLast() else { throw problem(.escapes) }
                bytes.removeSubrange(max(0, start - 1)...)
                continue
            }
            guard component.count <= Erofs.maximumNameInBytes else {
                throw problem(.componentTooLong(length: component.count))
            }
            if !bytes.isEmpty { bytes.append(UInt8(ascii: "/")) }
            starts.append(bytes.count)
            bytes.append(contentsOf: component)
        }
        guard bytes.count < Self.maximumInBytes else { throw problem(.pathTooLong(length: bytes.count)) }
        lastStart = starts.last ?? 0
    }

    /// The last component; nil for the root.
    var last: ArraySlice<UInt8>? { bytes.isEmpty ? nil : bytes[lastStart...] }
    /// What comes before the last component.
    var parent: ArraySlice<UInt8> { bytes[..<lastStart] }
}
