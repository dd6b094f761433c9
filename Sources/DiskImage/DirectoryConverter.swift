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
        var walk = DirectoryWalk(path: path, root: root, output: output, options: options)
        return try walk.convert()
    }
}

/// One conversion of a directory tree.
private struct DirectoryWalk: ~Copyable {
    /// A file that has been met under another name already.
    private struct FileIdentity: Hashable {
        var device: UInt64
        var number: UInt64
    }

    private struct Pending {
        /// From the root, without a slash at either end; the root is empty. Bytes, which need not be UTF-8.
        var path: [UInt8]
        var inode: ImageTree.InodeIndex
    }

    private let rootPath: String
    private let root: Descriptor
    private let options: DirectoryOptions
    private let output: BlockOutput
    private var tree: ImageTree
    private var data = FileDataWriter()
    private var hardLinks: [FileIdentity: ImageTree.InodeIndex] = [:]
    private var entries = 0
    private var dataInBytes: UInt64 = 0
    private var buffer = [UInt8](repeating: 0, count: 512 << 10)

    init(path: String, root: consuming Descriptor, output: Int32, options: DirectoryOptions) {
        rootPath = path
        self.root = root
        self.options = options
        self.output = BlockOutput(
            file: output, position: UInt64(Erofs.blockInBytes), maximumInBytes: options.limits.imageInBytes,
            digesting: true)
        tree = ImageTree(limits: options.limits)
    }

    mutating func convert() throws(DiskImageError) -> ConvertedLayer {
        var status = stat()
        guard unsafe fstat(root.raw, &status) == 0 else { throw failure([], "fstat") }
        tree[ImageTree.root] = try makeInode(status, path: [], xattrsOf: reachable([0x2E], in: root))
        var pending = [Pending(path: [], inode: ImageTree.root)]
        while let next = pending.popLast() {
            pending.append(contentsOf: try takeDirectory(next).reversed())
        }
        let metadata = try ErofsMetadata(tree)
        var writer = ErofsWriter(metadata, to: output)
        let output = output
        try writer.write(uuid: output.digester?.finish() ?? [])
        return ConvertedLayer(
            diffID: Digester.text(output.digester?.finish() ?? []), inputDigest: nil, compression: .none,
            inputInBytes: dataInBytes, uncompressedInBytes: dataInBytes, sizeInBytes: output.position,
            inodeCount: metadata.inodeCount)
    }

    // MARK: Directories

    private mutating func takeDirectory(_ directory: Pending) throws(DiskImageError) -> [Pending] {
        let path = terminated(directory.path.isEmpty ? [0x2E] : directory.path)
        let raw = retryingInterrupts { unsafe clinux_open_beneath(root.raw, path, O_RDONLY | O_DIRECTORY) }
        guard raw >= 0 else { throw failure(directory.path, "openat2") }
        let opened = Descriptor(owning: raw)
        var below: [Pending] = []
        for name in try names(opened, directory.path) {
            entries += 1
            guard entries <= options.limits.entries else {
                throw .limit(entry: shown(directory.path), limit: .entries, maximum: UInt64(options.limits.entries))
            }
            let path = directory.path.isEmpty ? name : directory.path + [UInt8(ascii: "/")] + name
            if let inode = try takeFile(name, in: opened, path, parent: directory.inode) {
                below.append(Pending(path: path, inode: inode))
            }
        }
        return below
    }

    /// The names in a directory, in the order of their bytes.
    private func names(_ directory: borrowing Descriptor, _ path: [UInt8]) throws(DiskImageError) -> [[UInt8]] {
        let copy: Int32
        do throws(SystemError) { copy = try directory.duplicate().release() } catch { throw .system(error) }
        guard let stream = unsafe fdopendir(copy) else {
            _ = Descriptor(owning: copy)
            throw failure(path, "fdopendir")
        }
        defer { unsafe closedir(stream) }
        var names: [[UInt8]] = []
        while true {
            errno = 0
            guard let entry = unsafe readdir(stream) else {
                guard errno == 0 else { throw failure(path, "readdir") }
                break
            }
            let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) { unsafe Array($0.prefix { $0 != 0 }) }
            if name != [0x2E] && name != [0x2E, 0x2E] { names.append(name) }
            guard names.count <= options.limits.entries else {
                throw .limit(entry: shown(path), limit: .entries, maximum: UInt64(options.limits.entries))
            }
        }
        return names.sorted { $0.lexicographicallyPrecedes($1) }
    }

    // MARK: Files

    /// Takes one file; of a directory the inode, whose content is still to be taken.
    private mutating func takeFile(
        _ name: [UInt8], in directory: borrowing Descriptor, _ path: [UInt8], parent: ImageTree.InodeIndex
    ) throws(DiskImageError) -> ImageTree.InodeIndex? {
        var status = stat()
        let fileName = terminated(name)
        guard unsafe fstatat(directory.raw, fileName, &status, AT_SYMLINK_NOFOLLOW) == 0 else {
            throw failure(path, "fstatat")
        }
        let identity = FileIdentity(device: UInt64(status.st_dev), number: UInt64(status.st_ino))
        let type = FileType(rawValue: UInt16(truncatingIfNeeded: status.st_mode) & FileType.mask)
        if type != .directory && status.st_nlink > 1, let known = hardLinks[identity] {
            try tree.link(name.span, in: parent, to: known)
            return nil
        }
        var inode = try makeInode(status, path: path, xattrsOf: reachable(name, in: directory))
        switch type {
        case .file: try copyData(&inode, fileName, in: directory, path, status)
        case .symbolicLink:
            let target = try linkTarget(fileName, in: directory, path)
            inode.sizeInBytes = UInt64(target.count)
            inode.payload = try tree.store(target.span)
        case .characterDevice, .blockDevice:
            let device = UInt64(status.st_rdev)
            let major = UInt32(truncatingIfNeeded: device >> 8 & 0xFFF | device >> 32 & ~0xFFF)
            let minor = UInt32(truncatingIfNeeded: device & 0xFF | device >> 12 & ~0xFF)
            guard let encoded = Erofs.device(major: major, minor: minor) else {
                throw .source(path: shown(path), problem: ArchiveProblem.badDeviceNumber.description)
            }
            inode.payload = encoded
        case .directory, .fifo, .socket: break
        case nil: throw .source(path: shown(path), problem: "it is of an unknown type")
        }
        let index = try tree.add(inode)
        try tree.link(name.span, in: parent, to: index)
        if type != .directory && status.st_nlink > 1 { hardLinks[identity] = index }
        return type == .directory ? index : nil
    }

    private func terminated(_ name: [UInt8]) -> [CChar] { name.map { CChar(bitPattern: $0) } + [0] }

    /// A path for calls that take no descriptor with a name.
    private func reachable(_ name: [UInt8], in directory: borrowing Descriptor) -> [CChar] {
        terminated(Array("/proc/self/fd/\(directory.raw)/".utf8) + name)
    }

    private mutating func makeInode(
        _ status: stat, path: [UInt8], xattrsOf reachable: [CChar]
    ) throws(DiskImageError) -> ImageTree.Inode {
        let kept = try xattrs(reachable, path).filter { ErofsXattrs.isKept($0.name) }
        let body = try ErofsXattrs.encode(kept, entry: shown(path), limits: options.limits)
        let owner = options.rootOwner
        return ImageTree.Inode(
            mode: UInt16(truncatingIfNeeded: status.st_mode),
            uid: owner?.uid == status.st_uid ? 0 : status.st_uid,
            gid: owner?.gid == status.st_gid ? 0 : status.st_gid,
            modified: Timestamp(
                seconds: Int64(status.st_mtim.tv_sec), nanoseconds: UInt32(truncatingIfNeeded: status.st_mtim.tv_nsec)),
            xattrs: try tree.store(xattrs: body))
    }

    private func linkTarget(
        _ name: [CChar], in directory: borrowing Descriptor, _ path: [UInt8]
    ) throws(DiskImageError) -> [UInt8] {
        var target = [UInt8](repeating: 0, count: LayerPath.maximumInBytes)
        let raw = directory.raw
        let count = unsafe target.withUnsafeMutableBytes { space in
            guard let start = space.baseAddress else { return -1 }
            return unsafe readlinkat(raw, name, start.assumingMemoryBound(to: CChar.self), space.count)
        }
        guard count > 0, count < target.count else { throw failure(path, "readlinkat") }
        return Array(target[..<count])
    }

    /// The attributes that whoever runs this may see; none where the file system has no such thing.
    private func xattrs(_ reachable: [CChar], _ path: [UInt8]) throws(DiskImageError) -> [ExtendedAttribute] {
        // 64 KiB is the kernel's own limit, for the list as for a value.
        let none = unsafe llistxattr(reachable, nil, 0)
        if none == 0 || (none < 0 && errno == ENOTSUP) { return [] }
        var space = [UInt8](repeating: 0, count: 65536)
        let count = unsafe space.withUnsafeMutableBytes { buffer in
            unsafe llistxattr(reachable, buffer.baseAddress?.assumingMemoryBound(to: CChar.self), buffer.count)
        }
        guard count >= 0 else { throw failure(path, "llistxattr") }
        var attributes: [ExtendedAttribute] = []
        for name in Array(space[..<count]).split(separator: 0) {
            let text = terminated(Array(name))
            let size = unsafe space.withUnsafeMutableBytes {
                unsafe lgetxattr(reachable, text, $0.baseAddress, $0.count)
            }
            if size < 0 && errno == ENODATA { continue }
            guard size >= 0 else { throw failure(path, "lgetxattr") }
            attributes.append(ExtendedAttribute(name: Array(name), value: Array(space[..<size])))
        }
        return attributes
    }

    // MARK: Data

    private mutating func copyData(
        _ inode: inout ImageTree.Inode, _ name: [CChar], in directory: borrowing Descriptor, _ path: [UInt8],
        _ status: stat
    ) throws(DiskImageError) {
        inode.sizeInBytes = UInt64(max(0, status.st_size))
        guard inode.sizeInBytes > 0 else { return }
        let raw = retryingInterrupts {
            unsafe clinux_openat(directory.raw, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0)
        }
        guard raw >= 0 else { throw failure(path, "openat") }
        let file = Descriptor(owning: raw)
        var opened = stat()
        guard unsafe fstat(file.raw, &opened) == 0 else { throw failure(path, "fstat") }
        guard opened.st_ino == status.st_ino, opened.st_dev == status.st_dev else { throw changed(path) }
        var map: SparseMap?
        if UInt64(max(0, status.st_blocks)) * 512 < inode.sizeInBytes {
            map = try segments(of: file, path, sizeInBytes: inode.sizeInBytes)
        }
        let segments = map?.segments ?? [SparseMap.Segment(offset: 0, count: inode.sizeInBytes)]
        let entry = shown(path)
        try data.begin(&inode, sparse: map, tree: &tree, output: output, entry: entry)
        for segment in segments { try copy(segment, of: file, path) }
        try data.end(output: output)
    }

    private mutating func copy(
        _ segment: SparseMap.Segment, of file: borrowing Descriptor, _ path: [UInt8]
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
            guard result >= 0 else { throw failure(path, "pread") }
            guard result > 0 else { throw changed(path) }
            try data.write(space.span.extracting(..<result), tree: &tree, output: output)
            try output.flush()
            position += UInt64(result)
            dataInBytes += UInt64(result)
        }
    }

    private func segments(
        of file: borrowing Descriptor, _ path: [UInt8], sizeInBytes: UInt64
    ) throws(DiskImageError) -> SparseMap? {
        var map = SparseMap(sizeInBytes: sizeInBytes)
        var position = 0
        while position < Int(sizeInBytes) {
            let start = lseek(file.raw, position, CLINUX_SEEK_DATA)
            if start < 0 {
                if errno == ENXIO { break }  // only a hole is left
                if errno == EINVAL { return nil }  // the file system cannot tell
                throw failure(path, "lseek")
            }
            let end = lseek(file.raw, start, CLINUX_SEEK_HOLE)
            guard end > start, start < Int(sizeInBytes) else { break }
            map.segments.append(
                SparseMap.Segment(offset: UInt64(start), count: min(UInt64(end), sizeInBytes) - UInt64(start)))
            guard map.segments.count <= options.limits.sparseSegments else {
                throw .limit(
                    entry: shown(path), limit: .sparseSegments, maximum: UInt64(options.limits.sparseSegments))
            }
            position = end
        }
        return map
    }

    // MARK: Errors

    private func shown(_ path: [UInt8]) -> String { path.isEmpty ? rootPath : rootPath + "/" + displayed(path) }

    private func changed(_ path: [UInt8]) -> DiskImageError {
        .source(path: shown(path), problem: "it changed while it was read; try again when it is at rest")
    }

    private func failure(_ path: [UInt8], _ call: StaticString) -> DiskImageError {
        let error = SystemError(call, shown(path))
        return error.code == EACCES
            ? .source(
                path: shown(path), problem: "it cannot be read (\(error.reason)); make it readable, or leave it out")
            : .system(error)
    }
}

/// The size of an open file in bytes.
func fileSize(_ file: Int32) throws(DiskImageError) -> UInt64 {
    var status = stat()
    guard unsafe fstat(file, &status) == 0 else { throw .system(SystemError("fstat", "image")) }
    return UInt64(max(0, status.st_size))
}
