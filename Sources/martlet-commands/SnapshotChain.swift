// SPDX-License-Identifier: Apache-2.0

internal import Launch
internal import Machine
internal import Platform
internal import Snapshots
internal import Worker

/// Snapshots that go on from one another: a whole one and diffs. Each diff can be made a whole one at any time, which
/// happens once, before a container is made of it or a snapshot before it goes.
enum SnapshotChain {
    /// The most diffs one after another.
    private static let limit = 1000

    /// The snapshot as a whole one; a diff is made one.
    static func whole(_ manifest: SnapshotManifest, in store: SnapshotStore) throws -> SnapshotManifest {
        guard manifest.parent != nil else { return manifest }
        // Of two that want it at a time one does it.
        let lock = try FileLock(waitingAt: "\(store.directory(of: manifest.id))/lock")
        let result = Result { try join(try store.manifest(manifest.id), in: store) }
        lock.end()
        return try result.get()
    }

    private static func join(_ current: SnapshotManifest, in store: SnapshotStore) throws -> SnapshotManifest {
        guard current.parent != nil else { return current }
        var chain = [current]
        while let parent = chain[chain.count - 1].parent {
            guard chain.count <= limit else {
                throw Failure("\(current.id.prefix(12)) goes on from too many snapshots")
            }
            chain.append(try store.manifest(parent))
        }
        chain.reverse()
        let parts = chain.map { SnapshotFiles(in: store.directory(of: $0.id), isDiff: $0.parent != nil) }
        let result = SnapshotFiles(in: store.directory(of: current.id))
        try SnapshotFiles.join(parts[0], Array(parts.dropFirst()), to: result)
        let hasSums = try writeSums(chain, parts, result, in: store)
        let files = SnapshotManifest.files(isDiff: false)
        return try store.replace(current, files: hasSums ? files : Array(files.prefix(2)))
    }

    /// The checksums of the whole one: what no diff has keeps those of the first, so that what went wrong with it since
    /// is still found. False where the first has none.
    private static func writeSums(
        _ chain: [SnapshotManifest], _ parts: [SnapshotFiles], _ result: SnapshotFiles, in store: SnapshotStore
    ) throws -> Bool {
        guard let base = try sums(of: chain[0], in: store) else { return false }
        let written = try parts.dropFirst().flatMap { try SnapshotDescription($0).memoryParts }
        let sums = try MemorySums(of: result.memory, base: base, written: written)
        let path = "\(store.directory(of: chain[chain.count - 1].id))/\(SnapshotManifest.sums)"
        try Files.writeAtomically(sums.encoded, to: path, permissions: 0o600, durable: true)
        return true
    }

    /// The checksums that were made with a snapshot, where they were.
    private static func sums(of manifest: SnapshotManifest, in store: SnapshotStore) throws -> MemorySums? {
        let name = SnapshotManifest.files(isDiff: manifest.parent != nil)[2]
        guard manifest.lengths.contains(where: { $0.name == name }) else { return nil }
        let path = "\(store.directory(of: manifest.id))/\(name)"
        return try MemorySums(reading: try Files.read(path, limit: MemorySums.fileSizeLimit))
    }

    /// Removes a snapshot; those that go on from it are made whole ones before.
    static func remove(_ id: String, from store: SnapshotStore) throws {
        for diff in store.diffs(of: id) { _ = try whole(diff, in: store) }
        try store.remove(id)
    }

    /// Reads all of a snapshot and says what is wrong with it; nil where nothing is.
    static func problem(_ manifest: SnapshotManifest, in store: SnapshotStore) -> String? {
        if let problem = store.verify(manifest) { return problem }
        do {
            let description = try SnapshotDescription(of: manifest, in: store)
            guard (description.kind == .diff) == (manifest.parent != nil) else { return "the state is of another kind" }
            if let parent = manifest.parent {
                guard let before = try? store.manifest(parent), before.identifier == description.parent else {
                    return "the snapshot that it goes on from is missing"
                }
            }
            guard let sums = try sums(of: manifest, in: store) else { return nil }
            let files = SnapshotFiles(in: store.directory(of: manifest.id), isDiff: manifest.parent != nil)
            let found = try MemorySums(of: files.memory)
            return sums.firstDifference(in: found).map { "the memory is not what was saved, from byte \($0) on" }
        } catch {
            return "\(error)"
        }
    }
}
