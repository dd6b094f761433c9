// SPDX-License-Identifier: Apache-2.0

import Platform
import TestSupport
import Testing

@testable import DiskImage

/// Random layers, whose outcome a plain model of directories foretells.
@Suite struct PropertyTests {
    /// The model: files by path, as the union of layers shows them.
    struct Model {
        var nodes: [String: FileNode] = [".": Self.implied]
        /// Directories that no entry described.
        var isImplied: Set<String> = ["."]
        /// Directories that came in place of something else in their layer.
        var isOpaque: Set<String> = []

        static let implied = FileNode(type: .directory, permissions: 0o755, linkCount: 0)

        mutating func remove(_ path: String) {
            for other in Array(nodes.keys) where other == path || other.hasPrefix(path + "/") {
                nodes[other] = nil
                isImplied.remove(other)
                isOpaque.remove(other)
            }
        }

        mutating func makeParents(_ path: String) {
            var parts = path.split(separator: "/").dropLast()
            while parts.count > 1 {
                let parent = parts.joined(separator: "/")
                if nodes[parent] == nil {
                    nodes[parent] = Self.implied
                    isImplied.insert(parent)
                }
                parts = parts.dropLast()
            }
        }
    }

    private static let names = [
        "a", "b", "c", "d", "a-", "a.", "!", "ab", "long-\(String(repeating: "n", count: 240))",
    ]

    /// A path whose directories can be there: none of them is a file in the layer so far.
    private static func path(_ generator: inout SeededGenerator, _ layer: [String: FileType]) -> String {
        var path = "."
        for _ in 0..<(1 + Int(generator.next() % 4)) {
            let next = path + "/" + generator.pick(names)
            path = next
            if let type = layer[next], type != .directory { break }
        }
        return path
    }

    /// Writes a random layer and applies it to the model.
    private static func layer(
        _ generator: inout SeededGenerator, _ model: inout Model, entries: Int, isUpper: Bool
    ) -> [UInt8] {
        var tar = TarWriter()
        // What this layer has brought: a later entry sees it, and whiteouts do not touch it.
        var own: [String: FileType] = [:]
        var links: [String: Int] = [:]
        var whiteouts: Set<String> = []
        func forget(_ path: String) {
            for other in Array(own.keys) where other == path || other.hasPrefix(path + "/") {
                own[other] = nil
                links[other] = nil
            }
        }
        for number in 0..<entries {
            let path = path(&generator, own)
            let name = String(path.dropFirst(generator.chance(50) ? 0 : 2))
            let ownBefore = own[path]
            let isOwnDirectory = ownBefore == .directory
            if isUpper && generator.chance(15) && own[path] == nil && !whiteouts.contains(path)
                && model.nodes[path] != nil
            {
                // A whiteout, of a path this layer does not touch afterwards.
                var parts = name.split(separator: "/", omittingEmptySubsequences: false)
                parts[parts.count - 1] = ".wh." + parts[parts.count - 1]
                let parents = path.split(separator: "/").dropLast()
                let touchesFile = (1..<max(1, parents.count)).contains { count in
                    let parent = parents.prefix(count + 1).joined(separator: "/")
                    return model.nodes[parent].map { $0.type != .directory } ?? false
                }
                if touchesFile { continue }
                tar.entry(parts.joined(separator: "/"))
                whiteouts.insert(path)
                var parent = "."
                for part in path.split(separator: "/").dropFirst().dropLast() {
                    parent += "/" + part
                    own[parent] = .directory  // its path implies it
                }
                model.remove(path)
                continue
            }
            if whiteouts.contains(where: { path == $0 || path.hasPrefix($0 + "/") }) { continue }
            var node = FileNode(
                type: .file, permissions: UInt16(generator.next() % 0o10000),
                uid: UInt32(truncatingIfNeeded: generator.chance(20) ? generator.next() : generator.next() % 1000),
                gid: UInt32(generator.next() % 100_000),
                modified: Timestamp(
                    seconds: generator.chance(70) ? 1_700_000_000 : Int64(generator.next() % 1 << 33) - 1000,
                    nanoseconds: generator.chance(70) ? 0 : UInt32(generator.next() % 1_000_000_000)))
            var target = ""
            var major: UInt64 = 0
            var minor: UInt64 = 0
            var type: Character = "0"
            let candidates = links.keys.filter { $0 != path && !path.hasPrefix($0 + "/") && !$0.hasPrefix(path + "/") }
                .sorted()
            let kind = generator.next() % 10
            if kind < 3 || kind > 5 {
                if generator.chance(20) {
                    node.xattrs["user.n\(generator.next() % 3)"] = generator.bytes(Int(generator.next() % 50))
                }
                if generator.chance(5) { node.xattrs["trusted.t"] = generator.bytes(2000) }
            }
            switch kind {
            case 0, 1, 2:
                node.type = .directory
                node.linkCount = 0
                type = "5"
            case 3:
                node.type = .symbolicLink
                node.permissions = 0o777
                target = "/t/" + String(repeating: "x", count: 1 + Int(generator.next() % 400))
                node.content = Array(target.utf8)
                type = "2"
            case 4:
                node.type = generator.chance(50) ? .characterDevice : .blockDevice
                major = 1 + generator.next() % 4095
                minor = generator.next() % (1 << 20)
                node.device = Erofs.device(major: UInt32(major), minor: UInt32(minor)) ?? 0
                type = node.type == .characterDevice ? "3" : "4"
            case 5:
                node.type = .fifo
                type = "6"
            case 6 where !candidates.isEmpty:
                let other = generator.pick(candidates)
                target = other
                type = "1"
            default:
                let content = generator.bytes(Int(generator.next() % (generator.chance(20) ? 20_000 : 300)))
                node.content = (try? digested(content)) ?? []
                node.sizeInBytes = UInt64(content.count)
                tar.entry(
                    name, mode: UInt64(node.permissions), uid: node.uid, gid: node.gid, modified: node.modified,
                    content: content, xattrs: node.xattrs)
            }
            if type == "1" {
                tar.entry(name, type: type, target: target)
                guard let linked = model.nodes[target], let group = links[target] else { continue }
                forget(path)
                model.remove(path)
                // Links to one file share a number, by which the counts are made up in the end.
                node = linked
                links[path] = group
            } else {
                if type != "0" {
                    tar.entry(
                        name, type: type, mode: UInt64(node.permissions), uid: node.uid, gid: node.gid,
                        modified: node.modified, target: target, major: major, minor: minor, xattrs: node.xattrs)
                }
                if node.type == .directory {
                    if model.nodes[path]?.type != .directory || (own[path] != nil && !isOwnDirectory) {
                        forget(path)
                        model.remove(path)
                    }
                } else {
                    forget(path)
                    model.remove(path)
                    links[path] = number
                }
            }
            // A parent that is a file in a lower layer gives way to a directory.
            var parent = "."
            for part in path.split(separator: "/").dropFirst().dropLast() {
                parent += "/" + part
                if let lower = model.nodes[parent], lower.type != .directory { model.remove(parent) }
                if own[parent] == nil { own[parent] = .directory }
            }
            model.makeParents(path)
            model.nodes[path] = node
            model.isImplied.remove(path)
            if node.type == .directory && own[path] == nil && ownBefore != nil && ownBefore != .directory {
                model.isOpaque.insert(path)
            }
            own[path] = node.type
        }
        // Count links: only within this layer, and only those that are still there.
        var counts: [Int: UInt32] = [:]
        for (path, group) in links where model.nodes[path] != nil { counts[group, default: 0] += 1 }
        for (path, group) in links { model.nodes[path]?.linkCount = counts[group] ?? 1 }
        return tar.finished()
    }

    @Test(arguments: 0..<24)
    func oneLayer(seed: Int) throws {
        var generator = SeededGenerator(UInt64(seed))
        var model = Model()
        let layer = Self.layer(&generator, &model, entries: 20 + seed * 8, isUpper: false)
        let space = try Workspace()
        try space.convert(layer, to: "image", pieces: 1 + Int(generator.next() % 70_000))
        var expected = model.nodes
        for path in model.isImplied { expected[path]?.xattrs = ["trusted.martlet.implicit": [0x79]] }
        for path in model.isOpaque {
            expected[path]?.xattrs["trusted.overlay.opaque"] = [0x79]
        }
        expectEqual(try space.contents("image"), expected, "our reader", sourceLocation: #_sourceLocation)
        if seed % 4 == 0 { try space.expectImage("image", expected) }
        // The same layer, compressed and cut otherwise, is the same image.
        let again = try Descriptor.memoryFile("again")
        _ = try feed(layer, to: again.raw, pieces: 10_000)
        #expect(try again.readAllFromStart() == (try space.read("image")))
    }

    @Test(arguments: 100..<116)
    func severalLayers(seed: Int) throws {
        var generator = SeededGenerator(UInt64(seed))
        var model = Model()
        let space = try Workspace()
        var names: [String] = []
        for index in 0..<(2 + seed % 5) {
            let layer = Self.layer(&generator, &model, entries: 60, isUpper: index > 0)
            names.append("layer\(index)")
            try space.convert(layer, to: "layer\(index)")
        }
        try space.merge(names, to: "merged")
        var expected = model.nodes
        let seen = try space.contents("merged")
        // A lower layer's links may have lost a name to an upper one; the kernel and our reader must agree on the rest.
        for (path, node) in expected where node.linkCount > 1 { expected[path]?.linkCount = seen[path]?.linkCount ?? 0 }
        expectEqual(seen, expected, "our reader", sourceLocation: #_sourceLocation)
        if seed % 4 == 0 { try space.expectImage("merged", seen) }
    }
}

extension Descriptor {
    /// All of a file, whatever its position is.
    borrowing func readAllFromStart() throws -> [UInt8] {
        var result = [UInt8](repeating: 0, count: Int(try size()))
        let count = try result.withUnsafeMutableBytes { try readFully(into: $0, at: 0) }
        return Array(result.prefix(count))
    }
}
