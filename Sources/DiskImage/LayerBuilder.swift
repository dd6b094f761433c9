// SPDX-License-Identifier: Apache-2.0

/// Makes a layer's tree and data from an archive's entries, in their order: a later entry replaces an earlier one.
final class LayerBuilder: TarSink {
    private let tree: ImageTree
    let output: BlockOutput
    private var data = FileDataWriter()
    private var isInFile = false
    /// The inode that all whiteouts share.
    private var whiteout: ImageTree.InodeIndex?

    init(tree: ImageTree, output: BlockOutput) {
        self.tree = tree
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
                &inode, sparse: entry.sparse, tree: tree, output: output, entry: displayed(entry.path))
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
        if isInFile { try data.write(bytes, tree: tree, output: output) }
    }

    func end() throws(DiskImageError) {
        if isInFile { try data.end(output: output) }
        isInFile = false
    }

    /// All entries have come: the marks of directories become attributes.
    func finish() throws(DiskImageError) {
        // The mark comes on top of what an entry may have.
        var limits = tree.limits
        limits.xattrsInBytes += 64
        for index in 0..<tree.inodes.count {
            var inode = try tree.inodes[index]
            guard inode.isOpaque || inode.isImplicit else { continue }
            var attributes = ErofsXattrs.decode(try tree.xattrs(of: inode)[...]) ?? []
            attributes.append(inode.isOpaque ? ErofsXattrs.opaque : ErofsXattrs.implicit)
            let body = try ErofsXattrs.encode(attributes, entry: "directory", limits: limits)
            try tree.store(xattrs: body, of: &inode)
            try tree.inodes.set(index, to: inode)
        }
    }

    // MARK: Inodes

    private func makeInode(_ entry: TarEntry, _ type: FileType) throws(DiskImageError) -> ImageTree.Inode {
        let kept = entry.xattrs.filter { ErofsXattrs.isKept($0.name) }
        let body = try ErofsXattrs.encode(kept, entry: displayed(entry.path), limits: tree.limits)
        var inode = ImageTree.Inode(mode: type.rawValue | entry.permissions)
        inode.uid = entry.uid
        inode.gid = entry.gid
        inode.modified = entry.modified
        try tree.store(xattrs: body, of: &inode)
        return inode
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
        if let existing = try tree.child(name.span, of: parent) {
            if try tree[existing].isDirectory {
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
        let inode = try makeInode(entry, .directory)
        try tree.update(index) { old in
            let (isOpaque, parent) = (old.isOpaque, old.payload)
            old = inode
            old.isOpaque = isOpaque
            old.payload = parent
        }
    }

    private func makeHardLink(
        _ name: ArraySlice<UInt8>, in parent: ImageTree.InodeIndex, _ entry: TarEntry
    ) throws(DiskImageError) {
        guard !entry.linkTarget.isEmpty else { throw entry.problem(.emptyLinkTarget) }
        let target = try LayerPath(entry.linkTarget, problem: entry.problem)
        guard let last = target.last else {
            throw entry.problem(.linkTargetIsDirectory(displayed(entry.linkTarget)))
        }
        guard let directory = try find(target.parent, of: entry),
            let inode = try tree.child(last.span, of: directory), inode != whiteout
        else { throw entry.problem(.linkTargetMissing(displayed(entry.linkTarget))) }
        guard try !tree[inode].isDirectory else {
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
            try makeOpaque(parent)
            return true
        }
        let hidden = name.dropFirst(Self.whiteoutPrefix.count)
        if hidden.isEmpty || hidden.starts(with: Self.whiteoutPrefix) { return true }
        if let existing = try tree.child(hidden.span, of: parent) {
            // A whiteout concerns lower layers only: what this layer brings stays, without what was there before.
            if try tree[existing].isDirectory { try makeOpaque(existing) }
            return true
        }
        if whiteout == nil { whiteout = try tree.add(ImageTree.Inode(mode: FileType.characterDevice.rawValue)) }
        if let whiteout { try tree.link(hidden.span, in: parent, to: whiteout) }
        return true
    }

    private func makeOpaque(_ directory: ImageTree.InodeIndex) throws(DiskImageError) {
        try tree.update(directory) {
            $0.isOpaque = true
            $0.isImplicit = false
        }
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
            let child = try tree.child(name.span, of: directory)
            let inode = try child.map { (child) throws(DiskImageError) in try tree[child] }
            if let inode, inode.type == .symbolicLink {
                let target = try tree.linkTarget(of: inode)
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
            if let child, let inode, child != whiteout {
                guard inode.isDirectory else { return nil }
                above.append(directory)
                directory = child
                continue
            }
            guard making else { return nil }
            var made = ImageTree.Inode.impliedDirectory
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
