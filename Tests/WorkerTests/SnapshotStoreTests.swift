// SPDX-License-Identifier: Apache-2.0

import Foundation
import Platform
import TestSupport
import Testing
import Wire

@testable import Worker

/// The directory of snapshots: what is one, and what processes leave there that are killed.
@Suite struct SnapshotStoreTests {
    private func id(_ number: Int) -> String {
        let digits = String(number, radix: 16)
        return String(repeating: "0", count: 64 - digits.count) + digits
    }

    private func manifest(_ number: Int, tag: String? = nil, createdAt: UInt64? = nil) -> SnapshotManifest {
        SnapshotManifest(
            id: id(number), tag: tag, createdAt: createdAt ?? UInt64(number),
            machine: configuration(id: id(99), name: "box"))
    }

    private func make(_ store: SnapshotStore, _ manifest: SnapshotManifest) throws {
        let new = try store.begin(id: manifest.id)
        try Files.writeAtomically([1, 2, 3], to: "\(new.directory)/state")
        try Files.writeAtomically([4], to: "\(new.directory)/memory")
        try store.finish(new, manifest, files: ["state", "memory"])
    }

    @Test func aTagIsTheLastOnes() throws {
        try withDirectory { root in
            let store = SnapshotStore(root: "\(root)/snapshots")
            try make(store, manifest(1, tag: "warm"))
            // Of an archive, made long before.
            try make(store, manifest(2, tag: "warm", createdAt: 0))
            #expect(try store.find("warm").id == id(2))
            #expect(try store.manifest(id(1)).tag == nil)
            #expect(store.list().map(\.tag) == ["warm", nil].reversed())

            // Killed between the new one's name and the old one's loss of it: the file still says it.
            var old = try store.manifest(id(1))
            old.tag = "warm"
            old.taggedAt = 5
            try store.write(old, in: store.directory(of: id(1)))
            #expect(try store.find("warm").id == id(2))
            #expect(store.list().compactMap(\.tag) == ["warm"])
            store.sweep()
            #expect(try store.manifest(id(1)).tag == nil)
            #expect(try store.manifest(id(2)).tag == "warm")
        }
    }

    @Test func whatIsLeftGoes() throws {
        try withDirectory { root in
            let store = SnapshotStore(root: "\(root)/snapshots")
            try make(store, manifest(1))
            let directory = store.directory(of: id(1))
            let whole = try Files.list(directory).sorted()
            // Half a snapshot, with and without its maker's lock; one that was being removed; what was being written.
            try Files.makeDirectories("\(store.root)/.new-\(id(2))")
            try Files.makeDirectories("\(store.root)/.new-\(id(3))")
            for path in [
                ".new-\(id(2))/lock", ".new-\(id(2))/memory.1.2.tmp", "\(id(1))/memory.77.5.tmp", "\(id(1))/diff-state",
                "\(id(1))/manifest.json.77.5.tmp", "\(id(1))/working-set.4194305.5.tmp",
            ] { try Files.writeAtomically([7], to: "\(store.root)/\(path)") }
            let living = "working-set\(Files.draftSuffix())"
            for name in ["working-set", living] { try Files.writeAtomically([7], to: "\(directory)/\(name)") }
            try Files.makeDirectories(store.directory(of: id(4)))
            try Files.writeAtomically([7], to: "\(store.directory(of: id(4)))/memory")

            // One that is just being made whole, and one that is just being made, are left alone.
            let busy = try FileLock(waitingAt: "\(directory)/lock")
            let new = try store.begin(id: id(5))
            #expect(Files.exists("\(directory)/diff-state"))
            busy.end()
            store.sweep()
            #expect(try Files.list(store.root).sorted() == [".new-\(id(5))", id(1), "lock"].sorted())
            #expect(try Files.list(directory).sorted() == (whole + ["lock", "working-set", living]).sorted())
            #expect(store.verify(try store.manifest(id(1))) == nil)
            store.abandon(new)
            #expect(try Files.list(store.root).sorted() == [id(1), "lock"])
        }
    }

    /// A disk may have room for the directory and for nothing in it; here its path leaves none.
    @Test func whatCannotBeBegunLeavesNothing() throws {
        try withDirectory { root in
            // Linux takes paths of up to 4095 bytes.
            let wanted = 4095 - "/.new-\(id(1))".utf8.count
            var path = root
            while wanted - path.utf8.count > 250 { path += "/" + String(repeating: "d", count: 200) }
            path += "/" + String(repeating: "e", count: wanted - path.utf8.count - 1)
            let store = SnapshotStore(root: path)
            var failure: WorkerError?
            do throws(WorkerError) { store.abandon(try store.begin(id: id(1))) } catch { failure = error }
            let left = try Files.list(path)
            #expect(failure != nil && left == ["lock"])
        }
    }

    // MARK: - Manifests

    private var corpus: [(name: String, bytes: [UInt8])] {
        let directory = Bundle.module.url(forResource: "Corpus", withExtension: nil)
        let files = directory.flatMap {
            try? FileManager.default.contentsOfDirectory(at: $0, includingPropertiesForKeys: nil)
        }
        return (files ?? []).filter { $0.lastPathComponent.hasPrefix("manifest-") }.sorted { $0.path < $1.path }
            .compactMap { file in (try? Data(contentsOf: file)).map { (file.lastPathComponent, Array($0)) } }
    }

    /// Manifests as they were written since there are any: before diffs were, and with all that came since.
    @Test func oldManifestsAreRead() throws {
        let names = ["diff", "elsewhere", "first", "imported"].map { "manifest-1-\($0).json" }
        #expect(corpus.map(\.name) == names)
        for (name, bytes) in corpus {
            let manifest = try SnapshotManifest(try JSON(parsing: bytes))
            #expect(manifest.lengths.map(\.name).contains { $0.hasSuffix("state") }, "\(name)")
            #expect((manifest.parent != nil) == (name == "manifest-1-diff.json"))
            #expect(manifest.isImported == ["manifest-1-imported.json", "manifest-1-elsewhere.json"].contains(name))
            #expect(manifest.isMemoryElsewhere == (name == "manifest-1-elsewhere.json"))
            #expect(manifest.lengths.contains { $0.name.hasSuffix("memory") } != manifest.isMemoryElsewhere)
            #expect((manifest.identifier == nil) == (name == "manifest-1-first.json"))
            #expect(try SnapshotManifest(manifest.json).json.encoded() == manifest.json.encoded(), "\(name)")
        }
    }

    /// Whatever a manifest says, it is read or refused, and what is read is written as the same.
    @Test(arguments: 0..<UInt64(fuzzRounds(40))) func hostileManifests(seed: UInt64) throws {
        var generator = SeededGenerator(seed)
        let values: [JSON] = [
            .null, true, 0, -1, .number(UInt64.max), "", "../../etc", .array([]), .object(JSONObject()), .double(1.5),
        ]
        func change(_ value: JSON, depth: Int = 0) -> JSON {
            if Int.random(in: 0..<30, using: &generator) == 0 {
                return values.randomElement(using: &generator) ?? .null
            }
            switch value {
            case .object(let object):
                var result = JSONObject()
                for (name, value) in zip(object.names, object.values) {
                    if Int.random(in: 0..<40, using: &generator) == 0 { continue }
                    result[name] = change(value, depth: depth + 1)
                }
                return .object(result)
            case .array(let elements): return .array(elements.map { change($0, depth: depth + 1) })
            default: return value
            }
        }
        for (_, bytes) in corpus {
            let good = try JSON(parsing: bytes)
            for _ in 0..<50 {
                guard let manifest = try? SnapshotManifest(change(good)) else { continue }
                #expect(try SnapshotManifest(manifest.json).json.encoded() == manifest.json.encoded())
            }
            for _ in 0..<50 {
                var damaged = bytes
                damaged[Int.random(in: 0..<damaged.count, using: &generator)] = .random(in: 0...255, using: &generator)
                guard let json = try? JSON(parsing: damaged) else { continue }
                _ = try? SnapshotManifest(json)
            }
        }
    }
}
