// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform
package import Wire

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

    private func lock() throws(WorkerError) -> FileLock {
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
            return try FileLock(waitingAt: "\(directory)/lock")
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
        if let tag = manifest.tag {
            for var other in list() where other.tag == tag {
                other.tag = nil
                try write(other, in: self.directory(of: other.id))
            }
        }
        try write(manifest, in: directory)
        Files.remove("\(directory)/lock")
        try system { () throws(SystemError) in try Files.rename(directory, to: final) }
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

    private func write(_ manifest: SnapshotManifest, in directory: String) throws(WorkerError) {
        try system { () throws(SystemError) in
            try Files.writeAtomically(
                manifest.json.encoded(indented: true), to: "\(directory)/manifest.json", permissions: 0o600,
                durable: true)
        }
    }

    package func abandon(_ new: borrowing NewSnapshot) {
        try? Files.removeTree(new.directory)
    }

    /// Removes what processes left that were killed while they made a snapshot.
    package func sweep() {
        for name in (try? Files.list(root)) ?? [] where name.hasPrefix(".new-") {
            let directory = "\(root)/\(name)"
            guard let lock = (try? FileLock.attempt(at: "\(directory)/lock")) ?? nil as FileLock? else { continue }
            try? Files.removeTree(directory)
            lock.end()
        }
    }

    /// All snapshots that can be read, the newest first.
    package func list() -> [SnapshotManifest] {
        ((try? Files.list(root)) ?? []).filter(MachineIdentity.isID).compactMap { try? manifest($0) }
            .sorted { ($0.createdAt, $0.id) > ($1.createdAt, $1.id) }
    }

    package func manifest(_ id: String) throws(WorkerError) -> SnapshotManifest {
        let path = "\(directory(of: id))/manifest.json"
        guard let json = try MachineStore.readJSON(path) else { throw .noSuchSnapshot(id) }
        do throws(JSONMismatch) { return try SnapshotManifest(json) } catch {
            throw .malformed(path: path, reason: "\(error)")
        }
    }

    /// Finds the snapshot that a tag, an id or the beginning of one means.
    package func find(_ reference: String) throws(WorkerError) -> SnapshotManifest {
        let all = list()
        if let tagged = all.first(where: { $0.tag == reference }) { return tagged }
        let matches = all.filter { !reference.isEmpty && $0.id.hasPrefix(reference) }
        guard matches.count <= 1 else { throw .ambiguous(reference, matches: matches.map(\.id).sorted()) }
        guard let match = matches.first else { throw .noSuchSnapshot(reference) }
        return match
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

/// `manifest.json`: what a snapshot is of.
package struct SnapshotManifest: Sendable {
    /// The files of a whole snapshot; its checksums may be missing.
    package static let state = "state"
    package static let memory = "memory"
    package static let sums = "sums"
    /// Before the names of a diff's.
    package static let diffPrefix = "diff-"
    /// Of a file that may be there: it is a hint, and nothing is wrong without it.
    package static let workingSetName = "working-set"

    package var id: String
    package var tag: String?
    /// Nanoseconds since 1970.
    package var createdAt: UInt64
    /// The machine that was saved.
    package var machine: ContainerConfiguration
    /// The monitor's name of it, in its state; nil in those that were made before diffs were.
    package var identifier: String?
    /// The snapshot that this one, a diff, goes on from, by its id.
    package var parent: String?
    /// It came from elsewhere: the paths in its state are another host's.
    package var isImported = false
    /// The steps of saving, with their microseconds.
    package var steps: [(step: String, microseconds: UInt64)] = []
    /// The files, with their bytes.
    package var lengths: [(name: String, bytes: UInt64)] = []

    package init(id: String, tag: String?, createdAt: UInt64, machine: ContainerConfiguration) {
        self.id = id
        self.tag = tag
        self.createdAt = createdAt
        self.machine = machine
    }

    package var json: JSON {
        var members: [(String, JSON)] = [("version", 1), ("id", .string(id))]
        if let tag { members.append(("tag", .string(tag))) }
        members += [
            ("createdAt", .number(createdAt))
        ]
        if let identifier { members.append(("identifier", .string(identifier))) }
        if let parent { members.append(("parent", .string(parent))) }
        if isImported { members.append(("imported", true)) }
        members += [
            ("files", JSON(members: lengths.map { ($0.name, .number($0.bytes)) })),
            ("workingSet", .string(Self.workingSetName)),
            ("stepsInMicroseconds", JSON(members: steps.map { ($0.step, .number($0.microseconds)) })),
            ("machine", machine.json),
        ]
        return JSON(members: members)
    }

    package init(_ json: JSON) throws(JSONMismatch) {
        let view = JSONView(json)
        _ = try view.required("version").unsigned(in: 1...1)
        id = try view.required("id").string()
        tag = try view.optional("tag")?.string()
        identifier = try view.optional("identifier")?.string()
        parent = try view.optional("parent")?.string()
        isImported = try view.optional("imported")?.bool() ?? false
        createdAt = try view.required("createdAt").unsigned()
        machine = try ContainerConfiguration(try view.required("machine").value)
        lengths = MachineState.steps(json["files"]).map { ($0.step, $0.microseconds) }
        steps = MachineState.steps(json["stepsInMicroseconds"])
    }
}
