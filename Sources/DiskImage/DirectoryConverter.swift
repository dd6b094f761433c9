// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform

/// How to convert a directory tree.
package struct DirectoryOptions: Sendable {
    package var limits = ConversionLimits()
    /// Files of this user, and of this group, become those of 0: so that a root file system that an ordinary user
    /// unpacked works as one. Nil keeps all ids as they are.
    package var rootOwner: (uid: UInt32, gid: UInt32)?

    package init() {}

    /// Files of whoever runs this process become root's.
    package static var ofCaller: DirectoryOptions {
        var options = DirectoryOptions()
        options.rootOwner = (getuid(), getgid())
        return options
    }
}

/// Makes an EROFS image from a directory tree of the host.
///
/// The tree is walked in the order of names, so equal trees give equal images. Symbolic links are taken as such and never
/// followed; hard links, holes, devices, attributes and times are kept. Files of other file systems mounted in the tree
/// are taken as well.
package enum DirectoryConverter {
    /// - Parameters:
    ///   - path: the directory that becomes the image's root.
    ///   - output: a file that can be written at any place; what it held before is lost.
    package static func convert(
        path: String, output: Int32, options: DirectoryOptions = DirectoryOptions()
    ) throws(DiskImageError) -> ConvertedLayer {
        guard ftruncate(output, 0) == 0 else { throw .system(SystemError("ftruncate", "image")) }
        let root: Descriptor
        do throws(SystemError) { root = try Descriptor.open(path, .directory) } catch { throw .system(error) }
        let tree = try ImageTree(limits: options.limits, output: output)
        var walk = DirectoryWalk(
            host: HostTree(path: path, root: root, limits: options.limits), tree: tree,
            hardLinks: try PagedMap(tree.pool), output: output, options: options)
        return try walk.convert()
    }
}

/// One conversion of a directory tree.
///
/// Beside the tree that is made, the names of one directory and the paths of those still to come are in memory.
private struct DirectoryWalk: ~Copyable {
    private struct Pending {
        var path: HostTree.Path
        var inode: ImageTree.InodeIndex
    }

    private let host: HostTree
    private let options: DirectoryOptions
    private let output: BlockOutput
    private let tree: ImageTree
    private var data = FileDataWriter()
    /// Files that have more names than one, those that were met already.
    private let hardLinks: PagedMap
    private var entries = 0
    private var dataInBytes: UInt64 = 0
    private var buffer = [UInt8](repeating: 0, count: 512 << 10)

    init(
        host: consuming HostTree, tree: ImageTree, hardLinks: PagedMap, output: Int32, options: DirectoryOptions
    ) {
        self.host = host
        self.tree = tree
        self.hardLinks = hardLinks
        self.options = options
        self.output = BlockOutput(
            file: output, position: UInt64(Erofs.blockInBytes), maximumInBytes: options.limits.imageInBytes,
            digesting: true)
    }

    mutating func convert() throws(DiskImageError) -> ConvertedLayer {
        let root = try makeInode(try host.rootStatus(), path: [], name: [0x2E], in: host.root)
        try tree.inodes.set(Int(ImageTree.root), to: root)
        var pending = [Pending(path: [], inode: ImageTree.root)]
        while let next = pending.popLast() {
            pending.append(contentsOf: try takeDirectory(next).reversed())
        }
        hardLinks.removeAll()
        let metadata = try ErofsMetadata(tree)
        var writer = ErofsWriter(metadata, to: output)
        let output = output
        try writer.write(uuid: output.digester?.finish() ?? [])
        return ConvertedLayer(
            diffID: Digester.text(output.digester?.finish() ?? []), inputDigest: nil, compression: .none,
            inputInBytes: dataInBytes, uncompressedInBytes: dataInBytes, sizeInBytes: output.position,
            inodeCount: metadata.inodeCount)
    }

    private mutating func takeDirectory(_ directory: Pending) throws(DiskImageError) -> [Pending] {
        let opened = try host.open(directory.path)
        var below: [Pending] = []
        for name in try host.names(opened, directory.path) {
            entries += 1
            guard entries <= options.limits.entries else { throw host.limit(.entries, of: directory.path) }
            let path = directory.path.isEmpty ? name : directory.path + [UInt8(ascii: "/")] + name
            if let inode = try takeFile(name, in: opened, path, parent: directory.inode) {
                below.append(Pending(path: path, inode: inode))
            }
        }
        return below
    }

    /// Takes one file; of a directory the inode, whose content is still to be taken.
    private mutating func takeFile(
        _ name: [UInt8], in directory: borrowing Descriptor, _ path: HostTree.Path, parent: ImageTree.InodeIndex
    ) throws(DiskImageError) -> ImageTree.InodeIndex? {
        let status = try host.status(name, in: directory, path)
        let identity = PagedMap.Key(UInt64(status.st_ino), device: UInt64(status.st_dev))
        let type = FileType(rawValue: UInt16(truncatingIfNeeded: status.st_mode) & FileType.mask)
        if type != .directory && status.st_nlink > 1, let known = try hardLinks[identity] {
            try tree.link(name.span, in: parent, to: known)
            return nil
        }
        var inode = try makeInode(status, path: path, name: name, in: directory)
        switch type {
        case .file: try takeData(&inode, name, in: directory, path, status)
        case .symbolicLink:
            let target = try host.linkTarget(name, in: directory, path)
            inode.sizeInBytes = UInt64(target.count)
            inode.payload = try tree.store(target.span)
        case .characterDevice, .blockDevice:
            let device = UInt64(status.st_rdev)
            let major = UInt32(truncatingIfNeeded: device >> 8 & 0xFFF | device >> 32 & ~0xFFF)
            let minor = UInt32(truncatingIfNeeded: device & 0xFF | device >> 12 & ~0xFF)
            guard let encoded = Erofs.device(major: major, minor: minor) else {
                throw host.problem(ArchiveProblem.badDeviceNumber.description, with: path)
            }
            inode.payload = encoded
        case .directory, .fifo, .socket: break
        case nil: throw host.problem("it is of an unknown type", with: path)
        }
        let index = try tree.add(inode)
        try tree.link(name.span, in: parent, to: index)
        if type != .directory && status.st_nlink > 1 { try hardLinks.set(identity, to: index) }
        return type == .directory ? index : nil
    }

    private func makeInode(
        _ status: stat, path: HostTree.Path, name: [UInt8], in directory: borrowing Descriptor
    ) throws(DiskImageError) -> ImageTree.Inode {
        let kept = try host.xattrs(name, in: directory, path).filter { ErofsXattrs.isKept($0.name) }
        let body = try ErofsXattrs.encode(kept, entry: host.shown(path), limits: options.limits)
        let owner = options.rootOwner
        var inode = ImageTree.Inode(mode: UInt16(truncatingIfNeeded: status.st_mode))
        inode.uid = owner?.uid == status.st_uid ? 0 : status.st_uid
        inode.gid = owner?.gid == status.st_gid ? 0 : status.st_gid
        inode.modified = Timestamp(
            seconds: Int64(status.st_mtim.tv_sec), nanoseconds: UInt32(truncatingIfNeeded: status.st_mtim.tv_nsec))
        try tree.store(xattrs: body, of: &inode)
        return inode
    }

    // MARK: Data

    private mutating func takeData(
        _ inode: inout ImageTree.Inode, _ name: [UInt8], in directory: borrowing Descriptor, _ path: HostTree.Path,
        _ status: stat
    ) throws(DiskImageError) {
        inode.sizeInBytes = UInt64(max(0, status.st_size))
        guard inode.sizeInBytes > 0 else { return }
        let file = try host.openFile(name, in: directory, path, expecting: status)
        var map: SparseMap?
        if UInt64(max(0, status.st_blocks)) * 512 < inode.sizeInBytes {
            map = try host.segments(of: file, path, sizeInBytes: inode.sizeInBytes)
        }
        let segments = map?.segments ?? [SparseMap.Segment(offset: 0, count: inode.sizeInBytes)]
        let entry = host.shown(path)
        try data.begin(&inode, sparse: map, tree: tree, output: output, entry: entry)
        for segment in segments { try copy(segment, of: file, path) }
        try data.end(output: output)
    }

    private mutating func copy(
        _ segment: SparseMap.Segment, of file: borrowing Descriptor, _ path: HostTree.Path
    ) throws(DiskImageError) {
        var space: [UInt8] = []
        swap(&space, &buffer)  // lent to `data`, apart from the rest of this value
        defer { swap(&space, &buffer) }
        var position = segment.offset
        while position < segment.end {
            let count = Int(min(UInt64(space.count), segment.end - position))
            let raw = file.raw
            let result = unsafe space.withUnsafeMutableBytes { target in
                retryingInterrupts { unsafe pread(raw, target.baseAddress, count, Int(position)) }
            }
            guard result >= 0 else { throw host.failure("pread", of: path) }
            guard result > 0 else { throw host.changed(path) }
            try data.write(space.span.extracting(..<result), tree: tree, output: output)
            try output.flush()
            position += UInt64(result)
            dataInBytes += UInt64(result)
        }
    }
}
