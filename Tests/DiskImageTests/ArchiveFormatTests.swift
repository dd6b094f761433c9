// SPDX-License-Identifier: Apache-2.0

import CLinux
import Platform
import TestSupport
import Testing

@testable import DiskImage

/// Archives that real programs write.
@Suite struct ArchiveFormatTests {
    /// A tree with all that GNU tar can carry.
    private static func makeTree(_ space: Workspace) throws {
        try space.shell(
            """
            mkdir -p tree/d/e && cd tree
            echo hello > d/file; ln d/file d/hard; ln -s file d/link; ln -s /nowhere/\(String(repeating: "l", count: 200)) long
            mkfifo fifo; chmod 4755 d/file; chmod 1777 d/e
            long=$(printf 'n%.0s' {1..200}); mkdir -p $long/$long; echo deep > $long/$long/$long
            truncate -s 300K sparse; printf data | dd of=sparse bs=1 seek=100000 conv=notrunc status=none
            truncate -s 5G huge; printf end | dd of=huge bs=1 seek=5000000000 conv=notrunc status=none
            for i in $(seq 1 60); do printf x | dd of=holes bs=1 seek=$((i*50000)) conv=notrunc status=none; done
            head -c 100000 /dev/urandom > random; touch -d '1969-12-01 00:00:00.5 UTC' old
            touch -d '2020-02-02 02:02:02.123456789 UTC' precise; touch -h -d '2001-01-01 UTC' long
            if [ $(id -u) = 0 ]; then mknod char c 4 7; mknod block b 8 300; chown 3000000000:12345 random; fi
            """)
    }

    @Test(arguments: [
        "--format=gnu", "--format=gnu --sparse", "--format=posix", "--format=posix --sparse --sparse-version=0.0",
        "--format=posix --sparse --sparse-version=0.1", "--format=posix --sparse --sparse-version=1.0",
    ])
    func gnuTar(options: String) throws {
        let space = try Workspace()
        try Self.makeTree(space)
        // Without --sparse the five gigabytes would be there as zeros.
        if !options.contains("--sparse") { try space.shell("rm tree/huge") }
        try space.shell("tar \(options) --numeric-owner -cf layer.tar -C tree .")
        try space.convert(file: "layer.tar", to: "image")
        try compare(space, hasNanoseconds: options.contains("posix"))
        #expect(try Descriptor.open(space["image"], .readOnly).size() < 8 << 20)
    }

    @Test func gnuTarAttributes() throws {
        let space = try Workspace()
        try space.shell("mkdir tree && echo x > tree/file && mkdir tree/dir")
        for (path, name, value) in [("file", "user.one", "1"), ("dir", "user.two", "22"), ("file", "user.none", "")] {
            guard lsetxattr(space["tree/"] + path, name, value, value.utf8.count, 0) == 0 else {
                throw SystemError("lsetxattr", path)
            }
        }
        try space.shell("tar --xattrs --format=posix -cf layer.tar -C tree .")
        try space.convert(file: "layer.tar", to: "image")
        try compare(space, hasNanoseconds: true)
    }

    /// The image has what the tree has; the kernel and erofs-utils agree. Large files are looked at apart.
    private func compare(_ space: Workspace, hasNanoseconds: Bool) throws {
        if Files.exists(space["tree/huge"]) {
            let file = try Descriptor.open(space["image"], .readOnly)
            let reader = try ErofsReader(file: file.raw, lengthInBytes: try file.size())
            let huge = try reader.lookup("huge")
            #expect(huge.sizeInBytes == 5 << 30)
            var part = [UInt8](repeating: 1, count: 8)
            let count = try part.withUnsafeMutableBytes { try reader.read(huge, at: 4_999_999_999, into: $0) }
            #expect(count == 8)
            #expect(part == [0] + Array("end".utf8) + [0, 0, 0, 0])
            if KernelMount.isPossible {
                try space.shell(
                    """
                    mkdir -p mnt; mount -t erofs -o loop,ro image mnt
                    (cmp mnt/huge tree/huge && stat -c %s mnt/huge) || { umount mnt; exit 1; }; umount mnt
                    """)
            }
            try space.shell("fsck.erofs image")
            return
        }
        var expected = try hostNodes(space["tree"])
        if !hasNanoseconds {
            for path in expected.keys {
                expected[path]?.modified.nanoseconds = 0
            }
        }
        try space.expectImage("image", expected)
    }

    @Test func libarchiveAttributes() throws {
        let space = try Workspace()
        var tar = TarWriter()
        tar.pax([("LIBARCHIVE.xattr.user.a%3Db%20c", Array("aGk".utf8)), ("path", Array("file".utf8))])
        tar.header(TarWriter.Header("ignored"))
        try space.convert(tar.finished(), to: "image")
        #expect(try space.contents("image")["./file"]?.xattrs == ["user.a=b c": Array("hi".utf8)])
    }

    @Test func globalHeadersHoldForAllThatFollow() throws {
        let space = try Workspace()
        var tar = TarWriter()
        tar.pax([("mtime", Array("77".utf8)), ("comment", Array("0123456789".utf8))], type: "g")
        tar.entry("a")
        tar.pax([("mtime", Array("5.5".utf8))])
        tar.header(TarWriter.Header("b"))
        tar.entry("c")
        try space.convert(tar.finished(), to: "image")
        let nodes = try space.contents("image")
        #expect(nodes["./a"]?.modified == Timestamp(seconds: 77))
        #expect(nodes["./b"]?.modified == Timestamp(seconds: 5, nanoseconds: 500_000_000))
        #expect(nodes["./c"]?.modified == Timestamp(seconds: 77))
    }

    @Test func archivesBeforePOSIX() throws {
        let space = try Workspace()
        var tar = TarWriter()
        var header = TarWriter.Header("dir/")
        header.magic = []
        header.type = 0
        tar.header(header)
        header.name = Array("dir/file".utf8)
        header.size = 3
        header.modified = -5
        tar.header(header)
        tar.data([1, 2, 3])
        header.name = Array("contiguous".utf8)
        header.type = UInt8(ascii: "7")
        header.magic = Array("ustar\u{0}00".utf8)
        tar.header(header)
        tar.data([4, 5, 6])
        try space.convert(tar.finished(), to: "image")
        let nodes = try space.contents("image")
        #expect(nodes["./dir"]?.type == .directory)
        #expect(nodes["./dir/file"]?.content == [1, 2, 3])
        #expect(nodes["./dir/file"]?.modified == Timestamp(seconds: -5))
        #expect(nodes["./contiguous"]?.content == [4, 5, 6])
    }

    @Test func prefixOfUstar() throws {
        let space = try Workspace()
        var tar = TarWriter()
        tar.header(TarWriter.Header("name")) { block in
            for (index, byte) in "some/where".utf8.enumerated() { block[345 + index] = byte }
        }
        try space.convert(tar.finished(), to: "image")
        #expect(try space.contents("image")["./some/where/name"] != nil)
    }
}

@Suite struct CompressionTests {
    static let layer: [UInt8] = {
        var generator = SeededGenerator(1)
        var tar = TarWriter()
        for index in 0..<40 { tar.entry("f\(index)", content: generator.bytes(index * 997)) }
        tar.entry("zeros", content: [UInt8](repeating: 0, count: 3_000_000))
        return tar.finished()
    }()

    @Test(arguments: [
        ("gzip -c layer > out", Compression.gzip), ("gzip -9cN layer > out", .gzip), ("zstd -qc layer > out", .zstd),
        ("zstd -q19c layer > out", .zstd), ("zstd -qc --no-check layer > out", .zstd), ("cp layer out", .none),
        // several members, empty ones among them, and padding
        ("head -c 100001 layer | gzip > out; gzip < /dev/null >> out; tail -c +100002 layer | gzip -1 >> out", .gzip),
        ("gzip -c layer > out; head -c 1000 /dev/zero >> out", .gzip),
        ("head -c 100001 layer | zstd -q > out; tail -c +100002 layer | zstd -q >> out", .zstd),
        ("printf '\\x50\\x2a\\x4d\\x18\\x04\\x00\\x00\\x00skip' > out; zstd -qc layer >> out", .zstd),
    ])
    func sameImage(command: String, compression: Compression) throws {
        let space = try Workspace()
        try space.write(Self.layer, to: "layer")
        try space.shell(command)
        let plain = try space.convert(Self.layer, to: "plain")
        var options = ConversionOptions()
        options.digestsInput = true
        let compressed = try space.read("out")
        for pieces in [1 << 20, 4093] {
            let result = try space.convert(compressed, to: "image", pieces: pieces, options: options)
            #expect(result.compression == compression)
            #expect(result.diffID == plain.diffID)
            #expect(result.inputInBytes == UInt64(compressed.count))
            #expect(try space.shell("sha256sum out").hasPrefix(result.inputDigest?.dropFirst(7) ?? "-"))
            #expect(try space.read("image") == (try space.read("plain")))
        }
    }

    @Test(arguments: ["gzip", "zstd -q"])
    func damage(program: String) throws {
        let space = try Workspace()
        try space.write(Self.layer, to: "layer")
        try space.shell("\(program) -c layer > out")
        let good = try space.read("out")
        let format: Compression = program == "gzip" ? .gzip : .zstd
        for length in [good.count - 1, good.count - 5, good.count / 2, 30, 7] {
            #expect(throws: DiskImageError.truncated(what: "its \(format) data", offset: UInt64(length))) {
                try space.convert(Array(good.prefix(length)), to: "image")
            }
        }
        var spoiled = good
        spoiled[good.count - 3] ^= 0x40  // in the checksum, or the length after it
        let error = #expect(throws: DiskImageError.self) { try space.convert(spoiled, to: "image") }
        guard case .compressedData(format, let offset, _) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(offset > good.count / 2 && offset <= good.count)
        if format == .gzip {
            let garbage = #expect(throws: DiskImageError.self) { try space.convert(good + [0, 0, 7], to: "image") }
            #expect(garbage?.description.contains("other data follows") == true)
        }
    }

    @Test func otherInput() throws {
        let space = try Workspace()
        let html = Array(String(repeating: "<html><body>No such blob</body></html>\n", count: 40).utf8)
        let error = #expect(throws: DiskImageError.self) { try space.convert(html, to: "image") }
        guard case .archive(_, 0, .badChecksum) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(error?.description.contains("no tar archive") == true)
        #expect(throws: DiskImageError.truncated(what: "a header", offset: 5)) {
            try space.convert(Array("<html".utf8), to: "image")
        }
        let xz = #expect(throws: DiskImageError.self) { try space.convert([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0], to: "i") }
        #expect(xz?.description.contains("xz compression is not supported") == true)
    }

    @Test func aConverterCanBeDroppedAtAnyTime() throws {
        let output = try Descriptor.memoryFile("image")
        for count in [0, 100, 5000, 2_000_000] {
            let converter = try LayerConverter(output: output.raw)
            try Array(Self.layer.prefix(count)).withUnsafeBytes { try converter.feed($0) }
        }
        let converter = try LayerConverter(output: output.raw)
        _ = try converter.finish()
        #expect(throws: DiskImageError.alreadyEnded) { try converter.finish() }
    }

    @Test func fullDisk() throws {
        guard KernelMount.isPossible else { return }
        let space = try Workspace()
        try space.shell("mkdir small; mount -t tmpfs -o size=1M tmpfs small")
        defer { _ = try? space.shell("umount small") }
        let error = #expect(throws: DiskImageError.self) { try space.convert(Self.layer, to: "small/image") }
        guard case .system(let cause) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(cause.code == 28)
        #expect(error?.description.contains("make room") == true)
    }
}
