// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform
internal import Wire

/// The snapshots of this user on this host (Docs/SNAPSHOTS.md): a directory each, its manifest written last. Without a
/// whole manifest a directory is no snapshot to anyone.
///
///     $XDG_DATA_HOME/martlet/snapshots/lock               held for microseconds while snapshots become known or go
///     $XDG_DATA_HOME/martlet/snapshots/ID/                a snapshot
///         manifest.json, state, memory, sums
///         working-set                                     which pages machines of it touch first, once one has
///     $XDG_DATA_HOME/martlet/snapshots/.new-ID/           one that is being made; its maker holds .new-ID/lock
package struct SnapshotStore: Sendable {
    package let root: String

    package init(root: String) { self.root = root }

    package static func ofUser(lookUp: (String) -> String?) throws(WorkerError) -> SnapshotStore {
        if let base = lookUp("XDG_DATA_HOME"), base.hasPrefix("/") {
            return SnapshotStore(root: "\(base)/martlet/snapshots")
        }
        guard let home = lookUp("HOME"), home.hasPrefix("/") else {
            throw .invalid("there is no place for snapshots: set HOME or XDG_DATA_HOME to an absolute path")
        }
        return SnapshotStore(root: "\(home)/.local/share/martlet/snapshots")
    }

    package func directory(of id: String) -> String { "\(root)/\(id)" }

    func lock() throws(WorkerError) -> FileLock {
        try system { () throws(SystemError) in
            try Files.makeDirectories(root, permissions: 0o700)
            return try FileLock(waitingAt: "\(root)/lock")
        }
    }

    /// A directory for a snapshot that is to be made.
    package func begin(id: String) throws(WorkerError) -> NewSnapshot {
        sweep()
        let lock = try lock()
        let directory = "\(root)/.new-\(id)"
        let held = try system { () throws(SystemError) in
            try Files.makeDirectory(directory, permissions: 0o700)
            do throws(SystemError) { return try FileLock(waitingAt: "\(directory)/lock") } catch {
                // The disk had room for a directory, and for nothing in it.
                try? Files.removeTree(directory)
                throw error
            }
        }
        lock.end()
        return NewSnapshot(id: id, directory: directory, lock: held)
    }

    /// Makes a snapshot known. A tag that another had is this one's from then on.
    /// - Parameter files: their names.
    /// - Throws: also where the snapshot is gone that a diff goes on from.
    package func finish(
        _ new: borrowing NewSnapshot, _ manifest: SnapshotManifest, files: [String]
    ) throws(WorkerError) {
        var manifest = manifest
        let directory = new.directory
        manifest.lengths = try Self.lengths(of: files, in: directory)
        let final = self.directory(of: new.id)
        let lock = try lock()
        if let parent = manifest.parent { _ = try self.manifest(parent) }
        manifest.taggedAt = manifest.tag == nil ? nil : wallClockNanoseconds()
        try write(manifest, in: directory)
        Files.remove("\(directory)/lock")
        try system { () throws(SystemError) in
            try Files.rename(directory, to: final)
            // It is there after a loss of power too: who is told of it may give up what it was made of.
            try Self.synchronize(root)
        }
        // From here on a tag is this one's, whatever the others' files say.
        if manifest.tag != nil { settleTags() }
        lock.end()
    }

    private static func lengths(
        of files: [String], in directory: String
    ) throws(WorkerError) -> [(name: String, bytes: UInt64)] {
        var lengths: [(name: String, bytes: UInt64)] = []
        for name in files {
            guard let length = length("\(directory)/\(name)") else {
                throw .malformed(path: directory, reason: "\(name) is missing")
            }
            lengths.append((name, length))
        }
        return lengths
    }

    /// A diff has been made a whole snapshot, whose files lie beside its own: it is one from then on.
    /// - Parameter files: their names.
    package func replace(_ manifest: SnapshotManifest, files: [String]) throws(WorkerError) -> SnapshotManifest {
        let lock = try lock()
        // Its tag may be another's by now.
        var whole = try self.manifest(manifest.id)
        let directory = directory(of: whole.id)
        let former = whole.lengths
        whole.parent = nil
        whole.lengths = try Self.lengths(of: files, in: directory)
        try write(whole, in: directory)
        for (name, _) in former where !files.contains(name) { Files.remove("\(directory)/\(name)") }
        lock.end()
        return whole
    }

    /// Those that go on from a snapshot.
    package func diffs(of id: String) -> [SnapshotManifest] { list().filter { $0.parent == id } }

    func write(_ manifest: SnapshotManifest, in directory: String) throws(WorkerError) {
        try system { () throws(SystemError) in
            try Files.writeAtomically(
                manifest.json.encoded(indented: true), to: "\(directory)/manifest.json", permissions: 0o600,
                durable: true)
            // With the names of the files that it speaks of; those that a whole one needs no more go only then.
            try Self.synchronize(directory)
        }
    }

    /// The names in a directory reach the disk before this returns.
    private static func synchronize(_ directory: String) throws(SystemError) {
        do throws(SystemError) { try Descriptor.open(directory, .readOnly).synchronize() } catch {
            // A file system that has no such thing.
            guard error.code == EINVAL else { throw SystemError("fsync", directory, code: error.code) }
        }
    }

    package func abandon(_ new: borrowing NewSnapshot) {
        try? Files.removeTree(new.directory)
    }

    /// All snapshots that can be read, the newest first. A tag that the files of several have, since a process was
    /// killed while it gave it, is the one's that was given it last.
    package func list() -> [SnapshotManifest] { Self.settled(readable()) }

    private static func settled(_ manifests: [SnapshotManifest]) -> [SnapshotManifest] {
        var result = manifests
        var holders: [String: SnapshotManifest] = [:]
        for manifest in result {
            guard let tag = manifest.tag else { continue }
            let other = holders[tag]
            if other.map({ ($0.tagTime, $0.id) < (manifest.tagTime, manifest.id) }) ?? true { holders[tag] = manifest }
        }
        for index in result.indices {
            if let tag = result[index].tag, holders[tag]?.id != result[index].id { result[index].tag = nil }
        }
        return result
    }

    func readable() -> [SnapshotManifest] {
        ids.compactMap { try? manifest($0) }.sorted { ($0.createdAt, $0.id) > ($1.createdAt, $1.id) }
    }

    private var ids: [String] { ((try? Files.list(root)) ?? []).filter(MachineIdentity.isID) }

    package func manifest(_ id: String) throws(WorkerError) -> SnapshotManifest {
        let path = manifestPath(id)
        guard let json = try MachineStore.readJSON(path) else { throw .noSuchSnapshot(id) }
        return try Self.manifest(json, path)
    }

    private func manifestPath(_ id: String) -> String { "\(directory(of: id))/manifest.json" }

    private static func manifest(_ json: JSON, _ path: String) throws(WorkerError) -> SnapshotManifest {
        do throws(JSONMismatch) { return try SnapshotManifest(json) } catch {
            throw .malformed(path: path, reason: "\(error)")
        }
    }

    /// Finds the snapshot that a tag, an id or the beginning of one means.
    package func find(_ reference: String) throws(WorkerError) -> SnapshotManifest {
        let word = Array(reference.utf8)
        let all = Self.settled(
            ids.compactMap { id in id.hasPrefix(reference) ? try? manifest(id) : manifest(id, with: word) })
        if let tagged = all.first(where: { $0.tag == reference }) { return tagged }
        let matches = all.filter { !reference.isEmpty && $0.id.hasPrefix(reference) }
        guard matches.count <= 1 else { throw .ambiguous(reference, matches: matches.map(\.id).sorted()) }
        guard let match = matches.first else { throw .noSuchSnapshot(reference) }
        return match
    }

    /// One whose file does not have the word in it cannot have it as its tag, and need not be understood.
    private func manifest(_ id: String, with word: [UInt8]) -> SnapshotManifest? {
        let path = manifestPath(id)
        guard let text = try? Files.read(path, limit: MachineStore.fileLimit), Self.contains(text, word),
            let json = try? MachineStore.parse(text, of: path)
        else { return nil }
        return try? Self.manifest(json, path)
    }

    private static func contains(_ text: [UInt8], _ word: [UInt8]) -> Bool {
        guard let first = word.first else { return false }
        for start in 0..<max(0, text.count - word.count + 1) where text[start] == first {
            if text[start..<start + word.count].elementsEqual(word) { return true }
        }
        return false
    }

    /// Removes a snapshot. Machines that were made from it keep its memory for as long as they run.
    /// - Throws: where others go on from it.
    package func remove(_ id: String) throws(WorkerError) {
        let lock = try lock()
        if let diff = diffs(of: id).first {
            throw .invalid("the snapshot \(id.prefix(12)) cannot be removed: \(diff.id.prefix(12)) goes on from it")
        }
        let directory = directory(of: id)
        // Without its manifest it is none, however far the rest comes.
        Files.remove("\(directory)/manifest.json")
        try system { () throws(SystemError) in try Files.removeTree(directory) }
        lock.end()
    }

    /// What is wrong with a snapshot's files, as far as their names and lengths tell; nil where nothing is.
    package func verify(_ manifest: SnapshotManifest) -> String? {
        for (name, length) in manifest.lengths {
            guard let found = Self.length("\(directory(of: manifest.id))/\(name)") else { return "\(name) is missing" }
            guard found == length else { return "\(name) has \(found) bytes instead of \(length)" }
        }
        return nil
    }

    private static func length(_ path: String) -> UInt64? {
        var status = stat()
        guard unsafe stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return nil }
        return UInt64(max(0, status.st_size))
    }
}

/// A snapshot that is being made.
package struct NewSnapshot: ~Copyable {
    package let id: String
    package let directory: String
    let lock: FileLock
}
