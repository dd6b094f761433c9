// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing

@testable import DiskImage

@Suite struct ConversionTests {
    /// One of each kind, with each attribute that can be odd.
    static func varied() -> [UInt8] {
        var tar = TarWriter()
        tar.entry("./", type: "5", mode: 0o755, modified: Timestamp(seconds: 1_700_000_000))
        tar.entry("etc/", type: "5", mode: 0o750, uid: 5, gid: 6)
        tar.entry("etc/passwd", content: Array("root:x:0:0::/:/bin/sh\n".utf8))
        tar.entry("empty")
        tar.entry("block", content: [UInt8](repeating: 7, count: 4096))
        tar.entry("large", content: Array(repeating: Array(0...250), count: 5000).flatMap { $0 })
        tar.entry("suid", mode: 0o6755, uid: 70_000, gid: 4_000_000_000, content: [1])
        tar.entry("tmp", type: "5", mode: 0o1777)
        tar.entry("link", type: "2", target: "etc/passwd")
        tar.entry("longlink", type: "2", target: String(repeating: "x", count: 4095))
        tar.entry("bin/hard", type: "1", target: "./etc/passwd")
        tar.entry("hard-of-link", type: "1", target: "/link")
        tar.entry("null", type: "3", mode: 0o666, major: 1, minor: 3)
        tar.entry("disk", type: "4", mode: 0o660, gid: 6, major: 259, minor: 70_000)
        tar.entry("fifo", type: "6", mode: 0o600)
        tar.entry("old", modified: Timestamp(seconds: -1_000_000, nanoseconds: 250_000_000), content: [2])
        tar.entry("precise", modified: Timestamp(seconds: 1_600_000_000, nanoseconds: 123_456_789), content: [3])
        tar.entry(String(repeating: "n", count: 255), content: [4])
        tar.entry(
            "capable", mode: 0o755, content: [5],
            xattrs: [
                "security.capability": [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                "user.comment": Array("hello".utf8), "user.empty": [], "trusted.overlay.redirect": [0x2F],
                "unknown.name": [1],
            ])
        tar.entry("etc/with", type: "5", xattrs: ["user.dir": [UInt8](repeating: 9, count: 3000)])
        for index in 0..<600 { tar.entry("many/file-\(index)-with-a-rather-long-name", content: [UInt8(index & 255)]) }
        for name in ["!", "+", "-", ".a", "..a", ".-", "/many/~", "ü"] { tar.entry("names/" + name) }
        return tar.finished()
    }

    @Test func allKindsOfFiles() throws {
        let space = try Workspace()
        let layer = Self.varied()
        let result = try space.convert(layer, to: "image")
        let nodes = try space.contents("image")
        try space.expectImage("image", nodes)

        #expect(result.uncompressedInBytes == UInt64(layer.count))
        #expect(result.inputInBytes == UInt64(layer.count))
        #expect(result.compression == .none)
        try space.write(layer, to: "layer")
        #expect(try space.shell("sha256sum layer").hasPrefix(result.diffID.dropFirst(7)))
        #expect(nodes["."]?.modified == Timestamp(seconds: 1_700_000_000))
        #expect(nodes["./etc"]?.permissions == 0o750)
        #expect(nodes["./etc"]?.uid == 5)
        #expect(nodes["./etc/passwd"]?.linkCount == 2)
        #expect(nodes["./bin/hard"] == nodes["./etc/passwd"])
        #expect(nodes["./bin"]?.xattrs == ["trusted.martlet.implicit": [0x79]])
        #expect(nodes["./hard-of-link"]?.type == .symbolicLink)
        #expect(nodes["./suid"]?.permissions == 0o6755)
        #expect(nodes["./suid"]?.gid == 4_000_000_000)
        #expect(nodes["./tmp"]?.permissions == 0o1777)
        #expect(nodes["./longlink"]?.content.count == 4095)
        #expect(nodes["./disk"]?.device == Erofs.device(major: 259, minor: 70_000))
        #expect(nodes["./old"]?.modified == Timestamp(seconds: -1_000_000, nanoseconds: 250_000_000))
        #expect(nodes["./precise"]?.modified == Timestamp(seconds: 1_600_000_000, nanoseconds: 123_456_789))
        #expect(nodes["./capable"]?.xattrs.keys.sorted() == ["security.capability", "user.comment", "user.empty"])
        #expect(nodes["./large"]?.sizeInBytes == 251 * 5000)
        #expect(nodes.keys.filter { $0.hasPrefix("./many/file") }.count == 600)
    }

    @Test func readerFindsFiles() throws {
        let space = try Workspace()
        try space.convert(Self.varied(), to: "image")
        let file = try Descriptor.open(space["image"], .readOnly)
        let reader = try ErofsReader(file: file.raw, lengthInBytes: try file.size())
        let passwd = Array("root:x:0:0::/:/bin/sh\n".utf8)
        #expect(try reader.readFile("/etc/passwd", limit: 100) == passwd)
        #expect(try reader.readFile("link", limit: 100) == passwd)
        #expect(try reader.readFile("etc/../bin/./hard", limit: 100) == passwd)
        #expect(try reader.lookup("/link", followingLast: false).isSymbolicLink)
        #expect(throws: DiskImageError.lookup(path: "/etc/shadow", problem: .missing)) {
            try reader.lookup("/etc/shadow")
        }
        #expect(throws: DiskImageError.lookup(path: "/empty/x", problem: .notADirectory)) {
            try reader.lookup("/empty/x")
        }
        #expect(throws: DiskImageError.lookup(path: "/etc", problem: .notAFile)) {
            try reader.readFile("/etc", limit: 1)
        }
        #expect(throws: DiskImageError.lookup(path: "/etc/passwd", problem: .tooLarge(limit: 3))) {
            try reader.readFile("/etc/passwd", limit: 3)
        }
    }

    @Test(arguments: [1, 7, 511, 512, 513, 4096, 100_000])
    func piecesOfAnySizeGiveTheSameBytes(pieces: Int) throws {
        let space = try Workspace()
        let layer = Self.varied()
        // Byte by byte a small one is enough.
        let part = pieces < 100 ? FuzzTests.archive : layer
        let first = try space.convert(part, to: "first")
        let second = try space.convert(part, to: "second", pieces: pieces)
        #expect(first == second)
        #expect(try space.read("first") == (try space.read("second")))
    }

    @Test func replacements() throws {
        let space = try Workspace()
        var tar = TarWriter()
        tar.entry("a", content: [1])
        tar.entry("a", content: [2, 2])  // the last wins
        tar.entry("b/c/d", content: [3])
        tar.entry("b", content: [4])  // a file replaces a directory
        tar.entry("e", content: [5])
        tar.entry("e/f", type: "5")
        let broken = tar.finished()
        #expect(throws: DiskImageError.archive(entry: "e/f", offset: 5120, problem: .parentIsNoDirectory)) {
            try space.convert(broken, to: "broken")
        }
        tar = TarWriter()
        tar.entry("a", content: [1])
        tar.entry("keep", type: "1", target: "a")
        tar.entry("a", content: [2, 2])
        tar.entry("b/c/d", content: [3])
        tar.entry("b", content: [4])
        tar.entry("e", content: [5])
        tar.directory("e")  // a directory replaces a file
        tar.entry("e/f", content: [6])
        tar.directory("g")
        tar.entry("g/h", content: [7])
        tar.entry("g", type: "5", mode: 0o700)  // a directory again: its content stays
        tar.entry("i/j", content: [8])
        tar.entry("i", type: "2", target: "g")
        tar.directory("i")
        tar.entry("s", type: "2", target: "g")
        tar.entry("s/through", content: [9])  // within the layer a link is followed
        tar.entry("t", type: "2", target: "/new/place")
        tar.entry("t/x", content: [10])
        try space.convert(tar.finished(), to: "image")
        let nodes = try space.contents("image")
        try space.expectImage("image", nodes)
        #expect(nodes["./a"]?.content == [2, 2])
        #expect(nodes["./a"]?.linkCount == 1)
        #expect(nodes["./keep"]?.content == [1])
        #expect(nodes["./keep"]?.linkCount == 1)
        #expect(nodes["./b"]?.content == [4])
        #expect(nodes["./b/c"] == nil)
        #expect(nodes["./e/f"]?.content == [6])
        #expect(nodes["./g/h"]?.content == [7])
        #expect(nodes["./g"]?.permissions == 0o700)
        #expect(nodes["./i"]?.type == .directory)
        #expect(nodes["./i/j"] == nil)
        #expect(nodes["./g/through"]?.content == [9])
        #expect(nodes["./new/place/x"]?.content == [10])
    }

    @Test func whiteoutsAreWhatOverlayfsWants() throws {
        let space = try Workspace()
        var tar = TarWriter()
        tar.entry("etc/.wh.passwd")
        tar.entry("opaque/", type: "5", mode: 0o711)
        tar.entry("opaque/.wh..wh..opq")
        tar.entry("opaque/new", content: [1])
        tar.entry(".wh..wh.plnk", type: "5")
        tar.entry(".wh.both")
        tar.entry("both", content: [2])
        tar.entry("dir/x", content: [3])
        tar.entry(".wh.dir")
        tar.entry(".wh.later")
        tar.entry("later/y", content: [4])
        try space.convert(tar.finished(), to: "image")
        let nodes = try space.contents("image")
        try space.expectImage("image", nodes)
        let opaque = ["trusted.overlay.opaque": [UInt8(ascii: "y")]]
        #expect(nodes["./etc/passwd"]?.type == .characterDevice)
        #expect(nodes["./etc/passwd"]?.device == 0)
        #expect(nodes["./opaque"]?.xattrs == opaque)
        #expect(nodes["./opaque"]?.permissions == 0o711)
        #expect(nodes["./both"]?.content == [2])
        #expect(nodes["./dir"]?.xattrs == opaque)
        #expect(nodes["./later"]?.xattrs == opaque)
        #expect(nodes.keys.contains { $0.contains(".wh.") } == false)
    }

    @Test func emptyLayers() throws {
        let space = try Workspace()
        for (index, layer) in [[], [UInt8](repeating: 0, count: 1024), [UInt8](repeating: 0, count: 10240)].enumerated()
        {
            let result = try space.convert(layer, to: "image\(index)")
            #expect(result.inodeCount == 1)
            try space.expectImage("image\(index)", try space.contents("image\(index)"))
        }
    }

    @Test func aLayerMayEndWithoutItsZeroBlocks() throws {
        let space = try Workspace()
        var tar = TarWriter()
        tar.entry("a", content: [1])
        try space.convert(tar.bytes, to: "image")
        #expect(try space.contents("image")["./a"]?.content == [1])
    }

    @Test func largeDirectories() throws {
        let space = try Workspace()
        var tar = TarWriter()
        for index in 0..<2500 { tar.entry("d/\(String(repeating: "x", count: index % 200))\(index)") }
        try space.convert(tar.finished(), to: "image")
        let nodes = try space.contents("image")
        #expect(nodes.count == 2502)
        let file = try Descriptor.open(space["image"], .readOnly)
        let reader = try ErofsReader(file: file.raw, lengthInBytes: try file.size())
        for index in stride(from: 0, to: 2500, by: 41) {
            let name = "\(String(repeating: "x", count: index % 200))\(index)"
            #expect(try reader.lookup("d/" + name).isRegularFile)
            #expect(throws: DiskImageError.self) { try reader.lookup("d/" + name + "!") }
        }
        try space.expectImage("image", nodes)
    }
}
