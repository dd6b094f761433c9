// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import TestSupport
import Testing

@testable import DiskImage

@Suite struct MergeTests {
    /// Makes layers, merges them, and gives what the merged image has; the judges have looked at it.
    private func merged(_ space: Workspace, _ layers: [(inout TarWriter) -> Void]) throws -> [String: FileNode] {
        var names: [String] = []
        for (index, make) in layers.enumerated() {
            var tar = TarWriter()
            make(&tar)
            names.append("layer\(index)")
            try space.convert(tar.finished(), to: "layer\(index)")
        }
        try space.merge(names, to: "merged")
        let nodes = try space.contents("merged")
        try space.expectImage("merged", nodes)
        return nodes
    }

    @Test func unionOfLayers() throws {
        let space = try Workspace()
        let large = [UInt8](repeating: 3, count: 20_000)
        let nodes = try merged(
            space,
            [
                { tar in
                    tar.entry("./", type: "5", mode: 0o711, modified: Timestamp(seconds: 9))
                    tar.entry("etc/", type: "5", mode: 0o750, uid: 4, xattrs: ["user.kept": [1]])
                    tar.entry("etc/passwd", content: Array("lower".utf8))
                    tar.entry("etc/group", content: Array("group".utf8))
                    tar.entry("gone", content: [1])
                    tar.entry("gonedir/x/y", content: [1])
                    tar.entry("opaque/old", content: [1])
                    tar.entry("becomes-file/x", content: [1])
                    tar.entry("becomes-dir", content: [1])
                    tar.entry("one", content: [1])
                    tar.entry("other", type: "1", target: "one")
                    tar.entry("large", content: large)
                    tar.entry("bin", type: "2", target: "usr/bin")
                    tar.entry("usr/bin/sh", content: [1])
                },
                { tar in
                    tar.entry("etc/passwd", content: Array("upper".utf8))
                    tar.entry(".wh.gone")
                    tar.entry(".wh.gonedir")
                    tar.entry(".wh.never-was")
                    tar.entry("opaque/.wh..wh..opq")
                    tar.entry("opaque/new", content: [2])
                    tar.entry("becomes-file", content: [2])
                    tar.entry("becomes-dir/x", content: [2])
                    tar.entry("one", content: [2])
                    tar.entry("cap", content: large, xattrs: ["trusted.kept": [1, 2, 3, 4]])
                    tar.entry("bin/tool", content: [5])
                },
                { tar in
                    tar.entry("gonedir/again", content: [3])
                    tar.entry("etc", type: "5", mode: 0o700)
                },
            ])
        #expect(nodes["."]?.permissions == 0o711)
        #expect(nodes["."]?.modified == Timestamp(seconds: 9))
        #expect(nodes["./etc"]?.permissions == 0o700)
        #expect(nodes["./etc"]?.xattrs == [:])
        #expect(nodes["./etc/passwd"]?.content == Array("upper".utf8))
        #expect(nodes["./etc/group"]?.content == Array("group".utf8))
        #expect(nodes["./gone"] == nil)
        #expect(nodes["./never-was"] == nil)
        #expect(nodes["./gonedir/x"] == nil)
        #expect(nodes["./gonedir/again"]?.content == [3])
        #expect(nodes["./opaque/old"] == nil)
        #expect(nodes["./opaque/new"]?.content == [2])
        #expect(nodes["./opaque"]?.xattrs == [:])
        #expect(nodes["./becomes-file"]?.content == [2])
        #expect(nodes["./becomes-dir/x"]?.content == [2])
        #expect(nodes["./one"]?.content == [2])
        #expect(nodes["./other"]?.content == [1])
        #expect(nodes["./other"]?.linkCount == 1)
        #expect(nodes["./cap"]?.xattrs == ["trusted.kept": [1, 2, 3, 4]])
        #expect(nodes["./cap"]?.content == (try digested(large)))
        #expect(nodes["./large"]?.content == (try digested(large)))
        // What a path implies goes where the path leads.
        #expect(nodes["./bin"]?.type == .symbolicLink)
        #expect(nodes["./usr/bin/tool"]?.content == [5])
        #expect(!nodes.values.contains { $0.type == .characterDevice })
    }

    @Test func impliedDirectoriesKeepAttributes() throws {
        let space = try Workspace()
        let nodes = try merged(
            space,
            [
                { $0.entry("a/b/c", content: [1]) },
                { $0.entry("a/b", type: "5", mode: 0o700, uid: 3, modified: Timestamp(seconds: 5)) },
                { $0.entry("a/b/d", content: [1]) },
            ])
        #expect(nodes["./a/b"]?.permissions == 0o700)
        #expect(nodes["./a/b"]?.uid == 3)
        #expect(nodes["./a/b"]?.modified == Timestamp(seconds: 5))
        #expect(nodes["./a"]?.permissions == 0o755)
        #expect(nodes["./a/b/c"] != nil && nodes["./a/b/d"] != nil)
    }

    @Test func opaqueRoot() throws {
        let space = try Workspace()
        let nodes = try merged(
            space,
            [
                { $0.entry("a/b", content: [1]) },
                { tar in
                    tar.entry(".wh..wh..opq"); tar.entry("c")
                },
            ])
        #expect(nodes.keys.sorted() == [".", "./c"])
    }

    @Test func manyLayers() throws {
        let space = try Workspace()
        var names: [String] = []
        var expected: [String: [UInt8]] = [:]
        var generator = SeededGenerator(127)
        for layer in 0..<127 {
            var tar = TarWriter()
            for file in 0..<10 {
                let name = "d\(file)/f\(generator.next() % 40)"
                let content = generator.bytes(Int(generator.next() % 6000))
                tar.entry(name, content: content)
                expected["./" + name] = try digested(content)
            }
            if layer % 5 == 4, let victim = expected.keys.sorted().first {
                let parts = victim.split(separator: "/")
                tar.entry("\(parts[1])/.wh.\(parts[2])")
                // Not hidden where this very layer brings it.
                let path = "\(parts[1])/\(parts[2])"
                if !String(decoding: tar.bytes, as: UTF8.self).contains(path + "\u{0}") { expected[victim] = nil }
            }
            names.append("l\(layer)")
            try space.convert(tar.finished(), to: "l\(layer)")
        }
        let result = try space.merge(names, to: "merged")
        #expect(result.layersInBytes.count == 127)
        let nodes = try space.contents("merged")
        try space.expectImage("merged", nodes)
        let files = nodes.filter { $0.value.type == .file }
        #expect(Set(files.keys) == Set(expected.keys))
        for (path, content) in expected { #expect(files[path]?.content == content, "\(path)") }
    }

    @Test func sameLayersSameImage() throws {
        let space = try Workspace()
        try space.convert(ConversionTests.varied(), to: "a")
        try space.convert(CompressionTests.layer, to: "b")
        try space.merge(["a", "b", "a"], to: "first")
        try space.merge(["a", "b", "a"], to: "second")
        #expect(try space.read("first") == (try space.read("second")))
        try space.expectImage("first", try space.contents("first"))
    }

    @Test func noLayers() throws {
        let space = try Workspace()
        try space.merge([], to: "merged")
        #expect(try space.contents("merged").keys.sorted() == ["."])
        try space.expectImage("merged", try space.contents("merged"))
    }

    @Test func sparseFilesOfSeveralLayers() throws {
        let space = try Workspace()
        func layer(_ name: String, _ byte: UInt8) -> (inout TarWriter) -> Void {
            return { tar in
                tar.entry("pad\(byte)", content: [UInt8](repeating: byte, count: 5000))
                tar.pax([
                    ("GNU.sparse.size", Array("1000000".utf8)),
                    ("GNU.sparse.map", Array("8192,100,500000,10".utf8)), ("size", Array("110".utf8)),
                ])
                tar.header(TarWriter.Header(name))
                tar.data([UInt8](repeating: byte, count: 110))
            }
        }
        let nodes = try merged(space, [layer("one", 1), layer("two", 2)])
        for (name, byte) in [("./one", UInt8(1)), ("./two", 2)] {
            var content = [UInt8](repeating: 0, count: 1_000_000)
            for index in 0..<100 { content[8192 + index] = byte }
            for index in 0..<10 { content[500_000 + index] = byte }
            #expect(nodes[name]?.content == (try digested(content)))
        }
    }

    @Test func whatIsNoImageIsRefused() throws {
        let space = try Workspace()
        try space.write([UInt8](repeating: 1, count: 8192), to: "junk")
        try space.write([1, 2, 3], to: "short")
        try space.convert(CompressionTests.layer, to: "good")
        try space.shell("head -c 100000 good > cut")
        for name in ["junk", "short", "cut"] {
            let layer = try Descriptor.open(space[name], .readOnly)
            let output = try Descriptor.memoryFile("merged")
            let error = #expect(throws: DiskImageError.self) {
                try ImageMerger.merge(layers: [layer.raw], output: output.raw)
            }
            guard case .image = error else {
                Issue.record("\(name): \(String(describing: error))")
                return
            }
        }
    }
}

@Suite struct DirectoryTests {
    @Test func treeOfTheHost() throws {
        let space = try Workspace()
        try space.shell(
            """
            mkdir -p tree/a/b && cd tree && umask 022
            echo x > a/file; ln a/file hard; ln -s a/file link; mkfifo fifo; chmod 4711 a/file; chmod 1777 a/b
            truncate -s 3G sparse; printf mid | dd of=sparse bs=1 seek=1000000001 conv=notrunc status=none
            head -c 300000 /dev/urandom > random; touch empty
            printf bad > $'latin-\\xe9'
            mkdir -p deep; cd deep; for i in $(seq 1 12); do n=$(printf 'd%.0s' {1..250}); mkdir $n; cd $n; done; touch end
            """)
        var options = DirectoryOptions()
        options.rootOwner = (getuid(), getgid())
        func convert(_ name: String) throws -> ConvertedLayer {
            let output = try Descriptor.open(space[name], .create)
            return try DirectoryConverter.convert(path: space["tree"], output: output.raw, options: options)
        }
        let first = try convert("first")
        let second = try convert("second")
        #expect(first == second)
        try space.shell("cmp first second; fsck.erofs first; rm second")
        #expect(try Descriptor.open(space["first"], .readOnly).size() < 2 << 20)

        let file = try Descriptor.open(space["first"], .readOnly)
        let reader = try ErofsReader(file: file.raw, lengthInBytes: try file.size())
        let sparse = try reader.lookup("sparse")
        var part = [UInt8](repeating: 1, count: 5)
        _ = try part.withUnsafeMutableBytes { try reader.read(sparse, at: 1_000_000_000, into: $0) }
        #expect(part == [0] + Array("mid".utf8) + [0])
        #expect(sparse.uid == 0)

        try space.shell("rm tree/sparse tree/fifo")
        _ = try convert("image")
        // The name that is not UTF-8 is compared by the shell.
        if KernelMount.isPossible {
            try space.shell(
                "mkdir -p mnt; mount -t erofs -o loop,ro image mnt; diff -r --no-dereference mnt tree || { umount mnt; exit 1; }; umount mnt"
            )
        }
        try space.shell("rm tree/latin-*")
        _ = try convert("image")
        var expected = try hostNodes(space["tree"])
        for path in expected.keys {
            expected[path]?.uid = 0
            expected[path]?.gid = 0
        }
        try space.expectImage("image", expected)
    }

    @Test func failuresNameThePath() throws {
        let space = try Workspace()
        let output = try Descriptor.memoryFile("image")
        #expect(throws: DiskImageError.system(SystemError("open", "/no/such/tree", code: ENOENT))) {
            try DirectoryConverter.convert(path: "/no/such/tree", output: output.raw)
        }
        try space.shell("mkdir tree; touch tree/a tree/b tree/c")
        var options = DirectoryOptions()
        options.limits.entries = 2
        #expect(throws: DiskImageError.limit(entry: space["tree"], limit: .entries, maximum: 2)) {
            try DirectoryConverter.convert(path: space["tree"], output: output.raw, options: options)
        }
    }
}
