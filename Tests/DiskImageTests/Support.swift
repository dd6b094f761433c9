// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Synchronization
import TestSupport
import Testing

@testable import DiskImage

/// A directory of a test's own, removed with all in it when the test lets it go.
final class Workspace: Sendable {
    private static let counter = Atomic<Int>(0)

    let path: String

    init() throws {
        let number = Self.counter.add(1, ordering: .relaxed).newValue
        path = "/tmp/martlet-diskimage-\(getpid())-\(number)"
        try Files.makeDirectories(path)
    }

    deinit { try? Files.removeTree(path) }

    subscript(name: String) -> String { path + "/" + name }

    /// Runs a shell script in the directory; its output. A failure of the script is a failure of the test.
    @discardableResult
    func shell(_ script: String, sourceLocation: SourceLocation = #_sourceLocation) throws -> String {
        let output = try Descriptor.open(self["shell.out"], .create)
        var specification = ProcessSpecification(
            "/bin/bash", ["bash", "-euc", script],
            environment: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/nonexistent"])
        specification.directory = path
        specification.descriptors = [-1, output.raw, output.raw]
        let end = try ChildProcess(specification).wait()
        let text = String(decoding: try Files.read(self["shell.out"], limit: 1 << 24), as: UTF8.self)
        #expect(end == .exited(0), "\(script)\n\(text)", sourceLocation: sourceLocation)
        return text
    }

    func write(_ bytes: [UInt8], to name: String) throws {
        try Files.writeAtomically(bytes, to: self[name])
    }

    func read(_ name: String) throws -> [UInt8] { try Files.read(self[name], limit: 1 << 28) }

    /// Converts bytes of a layer into an image of this name.
    @discardableResult
    func convert(
        _ layer: [UInt8], to name: String, pieces: Int = 1 << 20, options: ConversionOptions = ConversionOptions()
    ) throws -> ConvertedLayer {
        let output = try Descriptor.open(self[name], .create)
        return try feed(layer, to: output.raw, pieces: pieces, options: options)
    }

    /// Converts a file of the workspace.
    @discardableResult
    func convert(file: String, to name: String) throws -> ConvertedLayer {
        let input = try Descriptor.open(self[file], .readOnly)
        let output = try Descriptor.open(self[name], .create)
        return try LayerConverter.convert(from: input, output: output.raw)
    }

    /// Merges images, lowest first, and puts the whole device into one file.
    @discardableResult
    func merge(
        _ layers: [String], to name: String, limits: ConversionLimits = .ofMerge
    ) throws -> MergedImage {
        var files: [Int32] = []
        for layer in layers { files.append(try Descriptor.open(self[layer], .readOnly).release()) }
        defer { for file in files { close(file) } }
        let merged: MergedImage
        do {
            let output = try Descriptor.open(self[name], .create)
            merged = try ImageMerger.merge(layers: files, output: output.raw, limits: limits)
            #expect(try output.size() == merged.metadataInBytes)
        }
        for layer in layers { try shell("cat '\(layer)' >> '\(name)'") }
        let device = try Descriptor.open(self[name], .readOnly)
        #expect(try device.size() == merged.totalInBytes)
        return merged
    }

    /// What our own reader says of an image.
    func contents(_ image: String) throws -> [String: FileNode] {
        let file = try Descriptor.open(self[image], .readOnly)
        return try nodes(of: ErofsReader(file: file.raw, lengthInBytes: try file.size()))
    }

    /// The image is sound in the eyes of erofs-utils, and unpacks to the same content.
    func expectSound(
        _ image: String, _ expected: [String: FileNode], sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let target = "unpacked-\(image)"
        try shell("fsck.erofs --extract='\(target)' '\(image)'", sourceLocation: sourceLocation)
        var unpacked = try hostNodes(self[target])
        // erofs-utils 1.5 neither sets attributes nor links, and leaves out sockets; the kernel judges these.
        for path in expected.keys where expected[path]?.type == .socket { unpacked[path] = expected[path] }
        for (path, node) in unpacked {
            if node.type == .file, let wanted = expected[path], node.sizeInBytes < wanted.sizeInBytes {
                unpacked[path]?.sizeInBytes = wanted.sizeInBytes  // it leaves out holes as well
                unpacked[path]?.content = wanted.content
            }
            // and loses setuid and setgid as it sets the owner.
            unpacked[path]?.permissions = (node.permissions & 0o1777) | (expected[path]?.permissions ?? 0) & 0o6000
            unpacked[path]?.xattrs = expected[path]?.xattrs ?? node.xattrs
            unpacked[path]?.linkCount = expected[path]?.linkCount ?? node.linkCount
            if node.type == .symbolicLink {
                unpacked[path]?.modified = expected[path]?.modified ?? Timestamp()
            }
            if getuid() != 0 {
                unpacked[path]?.uid = expected[path]?.uid ?? 0
                unpacked[path]?.gid = expected[path]?.gid ?? 0
            }
        }
        expectEqual(unpacked, expected, "fsck.erofs", sourceLocation: sourceLocation)
        try shell("rm -rf '\(target)'")
    }

    /// The kernel mounts the image, and sees the same content.
    func expectMounts(
        _ image: String, _ expected: [String: FileNode], sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        guard KernelMount.isPossible else { return }
        try shell("mkdir -p mnt && mount -t erofs -o loop,ro '\(image)' mnt", sourceLocation: sourceLocation)
        let seen = Result { try hostNodes(self["mnt"]) }
        // Lazily: a child that another test starts just now may still hold what this one had open.
        try shell("umount -l mnt", sourceLocation: sourceLocation)
        expectEqual(try seen.get(), expected, "the kernel", sourceLocation: sourceLocation)
    }

    /// Both judges, and our own reader.
    func expectImage(
        _ image: String, _ expected: [String: FileNode], sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        expectEqual(try contents(image), expected, "our reader", sourceLocation: sourceLocation)
        try expectSound(image, expected, sourceLocation: sourceLocation)
        try expectMounts(image, expected, sourceLocation: sourceLocation)
    }
}

/// Whether this machine's kernel may be asked to mount images, besides erofs-utils. The kernel that matters is asked
/// everywhere, by the end-to-end tests: a machine mounts images of many layers, and shows what it sees in them.
enum KernelMount {
    static let isPossible: Bool = {
        guard getuid() == 0, Files.exists("/dev/loop-control"),
            let systems = try? Files.read("/proc/filesystems", limit: 1 << 16)
        else { return false }
        return String(decoding: systems, as: UTF8.self).contains("erofs")
    }()
}

/// Feeds bytes to a converter in pieces of one size.
func feed(
    _ layer: [UInt8], to output: Int32, pieces: Int = 1 << 20, options: ConversionOptions = ConversionOptions()
) throws -> ConvertedLayer {
    let converter = try LayerConverter(output: output, options: options)
    try layer.withUnsafeBytes { all in
        var position = 0
        while position < all.count {
            let end = min(all.count, position + pieces)
            try converter.feed(UnsafeRawBufferPointer(rebasing: all[position..<end]))
            position = end
        }
    }
    return try converter.finish()
}

/// What is compared of a file.
struct FileNode: Equatable {
    var type: FileType
    var permissions: UInt16
    var uid: UInt32 = 0
    var gid: UInt32 = 0
    var sizeInBytes: UInt64 = 0
    var modified = Timestamp()
    /// A file's bytes, or a digest where there are many; a link's target.
    var content: [UInt8] = []
    var device: UInt32 = 0
    /// Of a directory nothing.
    var linkCount: UInt32 = 1
    var xattrs: [String: [UInt8]] = [:]
}

/// All files of an image by path; the root is `.`.
func nodes(of reader: ErofsReader) throws -> [String: FileNode] {
    var result: [String: FileNode] = [:]
    func take(_ inode: ErofsReader.Inode, _ path: String) throws {
        var node = FileNode(
            type: try #require(inode.type), permissions: inode.mode & 0o7777, uid: inode.uid, gid: inode.gid,
            modified: inode.modified, linkCount: inode.linkCount)
        for attribute in try reader.xattrs(inode) {
            node.xattrs[String(decoding: attribute.name, as: UTF8.self)] = attribute.value
        }
        switch node.type {
        case .file:
            node.sizeInBytes = inode.sizeInBytes
            node.content = try digested(try reader.contents(inode))
        case .symbolicLink: node.content = try reader.linkTarget(inode)
        case .characterDevice, .blockDevice:
            node.device = try #require(Erofs.device(major: inode.deviceMajor, minor: inode.deviceMinor))
        case .directory:
            node.linkCount = 0
            var below: [(String, UInt64)] = []
            try reader.forEachEntry(of: inode) { (name, number) throws(DiskImageError) in
                below.append((path + "/" + String(decoding: name, as: UTF8.self), number))
            }
            for (path, number) in below { try take(try reader.inode(number), path) }
        case .fifo, .socket: break
        }
        result[path] = node
    }
    try take(try reader.root, ".")
    return result
}

func digested(_ bytes: [UInt8]) throws -> [UInt8] {
    guard bytes.count > 4096 else { return bytes }
    var digester = Digester()
    digester.update(bytes.span)
    return digester.finish()
}

/// All files of a directory of the host.
func hostNodes(_ root: String) throws -> [String: FileNode] {
    var result: [String: FileNode] = [:]
    func take(_ path: String) throws {
        let host = root + "/" + path
        var status = stat()
        guard lstat(host, &status) == 0 else { throw SystemError("lstat", host) }
        let mode = UInt16(truncatingIfNeeded: status.st_mode)
        var node = FileNode(
            type: try #require(FileType(rawValue: mode & FileType.mask)), permissions: mode & 0o7777,
            uid: status.st_uid, gid: status.st_gid,
            modified: Timestamp(
                seconds: Int64(status.st_mtim.tv_sec), nanoseconds: UInt32(status.st_mtim.tv_nsec)),
            linkCount: UInt32(status.st_nlink))
        for attribute in try hostXattrs(host) { node.xattrs[attribute.0] = attribute.1 }
        switch node.type {
        case .file:
            node.sizeInBytes = UInt64(status.st_size)
            node.content = try digested(try Files.read(host, limit: 1 << 28))
        case .symbolicLink:
            var target = [UInt8](repeating: 0, count: 4096)
            let count = target.withUnsafeMutableBufferPointer { space in
                space.withMemoryRebound(to: CChar.self) { text in
                    text.baseAddress.map { readlink(host, $0, text.count) } ?? -1
                }
            }
            node.content = Array(target[..<max(0, count)])
        case .characterDevice, .blockDevice:
            node.device = UInt32(truncatingIfNeeded: status.st_rdev)  // the kernel's own encoding below 2^32
        case .directory:
            node.linkCount = 0
            for name in try Files.list(host) { try take(path + "/" + name) }
        case .fifo, .socket: break
        }
        result[path] = node
    }
    try take(".")
    return result
}

func expectEqual(
    _ seen: [String: FileNode], _ expected: [String: FileNode], _ judge: String, sourceLocation: SourceLocation
) {
    if seen == expected { return }
    for path in Set(seen.keys).union(expected.keys).sorted() where seen[path] != expected[path] {
        Issue.record(
            """
            '\(path)' as \(judge) sees it:
            \(seen[path].map { "\($0)" } ?? "missing"), expected:
            \(expected[path].map { "\($0)" } ?? "missing")
            """, sourceLocation: sourceLocation)
    }
}

extension SeededGenerator {
    mutating func pick<Element>(_ elements: [Element]) -> Element {
        elements[Int(next() % UInt64(elements.count))]
    }

    mutating func chance(_ percent: UInt64) -> Bool { next() % 100 < percent }
}
