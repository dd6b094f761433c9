// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform

/// A directory tree of the host as a conversion reads it: never through a symbolic link, and always below its root.
struct HostTree: ~Copyable {
    /// From the root, without a slash at either end; the root is empty. Bytes, which need not be UTF-8.
    typealias Path = [UInt8]

    private let path: String
    let root: Descriptor
    private let limits: ConversionLimits

    /// - Parameter path: of the root, for messages.
    init(path: String, root: consuming Descriptor, limits: ConversionLimits) {
        self.path = path
        self.root = root
        self.limits = limits
    }

    // MARK: Directories

    func rootStatus() throws(DiskImageError) -> stat {
        var status = stat()
        guard unsafe fstat(root.raw, &status) == 0 else { throw failure("fstat", of: []) }
        return status
    }

    /// Opens a directory.
    func open(_ path: Path) throws(DiskImageError) -> Descriptor {
        let name = terminated(path.isEmpty ? [0x2E] : path)
        let raw = retryingInterrupts { unsafe clinux_open_beneath(root.raw, name, O_RDONLY | O_DIRECTORY) }
        guard raw >= 0 else { throw failure("openat2", of: path) }
        return Descriptor(owning: raw)
    }

    /// The names in a directory, in the order of their bytes.
    func names(_ directory: borrowing Descriptor, _ path: Path) throws(DiskImageError) -> [[UInt8]] {
        let copy: Int32
        do throws(SystemError) { copy = try directory.duplicate().release() } catch { throw .system(error) }
        guard let stream = unsafe fdopendir(copy) else {
            _ = Descriptor(owning: copy)
            throw failure("fdopendir", of: path)
        }
        defer { unsafe closedir(stream) }
        var names: [[UInt8]] = []
        while true {
            errno = 0
            guard let entry = unsafe readdir(stream) else {
                guard errno == 0 else { throw failure("readdir", of: path) }
                break
            }
            let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) { unsafe Array($0.prefix { $0 != 0 }) }
            if name != [0x2E] && name != [0x2E, 0x2E] { names.append(name) }
            guard names.count <= limits.entries else { throw limit(.entries, of: path) }
        }
        return names.sorted { $0.lexicographicallyPrecedes($1) }
    }

    // MARK: Files

    func status(_ name: [UInt8], in directory: borrowing Descriptor, _ path: Path) throws(DiskImageError) -> stat {
        var status = stat()
        guard unsafe fstatat(directory.raw, terminated(name), &status, AT_SYMLINK_NOFOLLOW) == 0 else {
            throw failure("fstatat", of: path)
        }
        return status
    }

    func linkTarget(
        _ name: [UInt8], in directory: borrowing Descriptor, _ path: Path
    ) throws(DiskImageError) -> [UInt8] {
        var target = [UInt8](repeating: 0, count: LayerPath.maximumInBytes)
        let raw = directory.raw
        let name = terminated(name)
        let count = unsafe target.withUnsafeMutableBytes { space in
            guard let start = space.baseAddress else { return -1 }
            return unsafe readlinkat(raw, name, start.assumingMemoryBound(to: CChar.self), space.count)
        }
        guard count > 0, count < target.count else { throw failure("readlinkat", of: path) }
        return Array(target[..<count])
    }

    /// The attributes that whoever runs this may see; none where the file system has no such thing.
    func xattrs(
        _ name: [UInt8], in directory: borrowing Descriptor, _ path: Path
    ) throws(DiskImageError) -> [ExtendedAttribute] {
        // A path, since these calls take no descriptor with a name.
        let reachable = terminated(Array("/proc/self/fd/\(directory.raw)/".utf8) + name)
        // 64 KiB is the kernel's own limit, for the list as for a value.
        let none = unsafe llistxattr(reachable, nil, 0)
        if none == 0 || (none < 0 && errno == ENOTSUP) { return [] }
        var space = [UInt8](repeating: 0, count: 65536)
        let count = unsafe space.withUnsafeMutableBytes { buffer in
            unsafe llistxattr(reachable, buffer.baseAddress?.assumingMemoryBound(to: CChar.self), buffer.count)
        }
        guard count >= 0 else { throw failure("llistxattr", of: path) }
        var attributes: [ExtendedAttribute] = []
        for name in Array(space[..<count]).split(separator: 0) {
            let text = terminated(Array(name))
            let size = unsafe space.withUnsafeMutableBytes {
                unsafe lgetxattr(reachable, text, $0.baseAddress, $0.count)
            }
            if size < 0 && errno == ENODATA { continue }
            guard size >= 0 else { throw failure("lgetxattr", of: path) }
            attributes.append(ExtendedAttribute(name: Array(name), value: Array(space[..<size])))
        }
        return attributes
    }

    /// Opens a regular file, which is still the one of that status.
    func openFile(
        _ name: [UInt8], in directory: borrowing Descriptor, _ path: Path, expecting status: stat
    ) throws(DiskImageError) -> Descriptor {
        let raw = retryingInterrupts {
            unsafe clinux_openat(directory.raw, terminated(name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0)
        }
        guard raw >= 0 else { throw failure("openat", of: path) }
        let file = Descriptor(owning: raw)
        var opened = stat()
        guard unsafe fstat(file.raw, &opened) == 0 else { throw failure("fstat", of: path) }
        guard opened.st_ino == status.st_ino, opened.st_dev == status.st_dev else { throw changed(path) }
        return file
    }

    /// Where a file has data, or nil where the file system cannot tell.
    func segments(
        of file: borrowing Descriptor, _ path: Path, sizeInBytes: UInt64
    ) throws(DiskImageError) -> SparseMap? {
        var map = SparseMap(sizeInBytes: sizeInBytes)
        var position = 0
        while position < Int(sizeInBytes) {
            let start = lseek(file.raw, position, CLINUX_SEEK_DATA)
            if start < 0 {
                if errno == ENXIO { break }  // only a hole is left
                if errno == EINVAL { return nil }
                throw failure("lseek", of: path)
            }
            let end = lseek(file.raw, start, CLINUX_SEEK_HOLE)
            guard end > start, start < Int(sizeInBytes) else { break }
            map.segments.append(
                SparseMap.Segment(offset: UInt64(start), count: min(UInt64(end), sizeInBytes) - UInt64(start)))
            guard map.segments.count <= limits.sparseSegments else { throw limit(.sparseSegments, of: path) }
            position = end
        }
        return map
    }

    private func terminated(_ name: [UInt8]) -> [CChar] { name.map { CChar(bitPattern: $0) } + [0] }

    // MARK: Errors

    func shown(_ path: Path) -> String { path.isEmpty ? self.path : self.path + "/" + displayed(path) }

    func problem(_ problem: String, with path: Path) -> DiskImageError { .source(path: shown(path), problem: problem) }

    func changed(_ path: Path) -> DiskImageError {
        problem("it changed while it was read; try again when it is at rest", with: path)
    }

    func limit(_ kind: LimitKind, of path: Path) -> DiskImageError {
        let maximum = kind == .entries ? limits.entries : limits.sparseSegments
        return .limit(entry: shown(path), limit: kind, maximum: UInt64(maximum))
    }

    func failure(_ call: StaticString, of path: Path) -> DiskImageError {
        let error = SystemError(call, shown(path))
        return error.code == EACCES
            ? problem("it cannot be read (\(error.reason)); make it readable, or leave it out", with: path)
            : .system(error)
    }
}

/// The size of an open file in bytes.
func fileSize(_ file: Int32) throws(DiskImageError) -> UInt64 {
    var status = stat()
    guard unsafe fstat(file, &status) == 0 else { throw .system(SystemError("fstat", "image")) }
    return UInt64(max(0, status.st_size))
}
