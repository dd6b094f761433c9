// SPDX-License-Identifier: Apache-2.0

internal import GuestProtocol
internal import Launch
internal import Machine
internal import Platform
internal import Snapshots
internal import Wire
internal import Worker

extension SnapshotManifest {
    /// The names of a snapshot's files: a diff's are others, so that those of a whole one can lie beside them.
    static func files(isDiff: Bool) -> [String] {
        [state, memory, sums].map { isDiff ? diffPrefix + $0 : $0 }
    }
}

extension SnapshotDescription {
    /// Of a snapshot in its store: of its state, and whether the memory is its, where that is there.
    init(of manifest: SnapshotManifest, in store: SnapshotStore) throws {
        let files = SnapshotFiles(in: store.directory(of: manifest.id), isDiff: manifest.parent != nil)
        if manifest.isMemoryElsewhere { try self.init(state: files.state) } else { try self.init(files) }
    }
}

extension SnapshotFiles {
    /// Those of a snapshot in its directory.
    init(in directory: String, isDiff: Bool = false) {
        let names = SnapshotManifest.files(isDiff: isDiff)
        self.init(state: "\(directory)/\(names[0])", memory: "\(directory)/\(names[1])")
    }
}

/// A snapshot that is being made of a running container.
enum SavedSnapshot {
    /// Saves a running container, which goes on.
    /// - Parameter isKept: it is to be found whole later, and gets checksums for that.
    static func create(
        _ reference: String, tag: String?, manner: SaveOrder.Manner = .full, isKept: Bool = true
    ) throws -> SnapshotManifest {
        try check(tag: tag)
        let record = try SnapshotLaunch.running(reference)
        let store = try SnapshotLaunch.store()
        if let manifest = try make(of: record, tag: tag, manner: manner, isKept: isKept, store) {
            return manifest
        }
        // A diff of a snapshot that is not there, or not with its memory: what it would need is in the machine.
        guard let manifest = try make(of: record, tag: tag, manner: .full, isKept: isKept, store) else {
            throw Failure("\(record.name) could not be saved whole")
        }
        return manifest
    }

    static func check(tag: String?) throws(Failure) {
        guard let tag, !MachineIdentity.isName(tag) || MachineIdentity.isID(tag) else { return }
        throw Failure("--tag: '\(tag)' is not a tag: 2 to 128 letters, digits, '_', '.', '-', a letter or digit first")
    }

    /// - Returns: nil where a diff was made of a snapshot that the store does not have, or not its memory; nothing is
    ///   left of it.
    static func make(
        of record: MachineRecord, tag: String?, manner: SaveOrder.Manner, isKept: Bool, _ store: SnapshotStore
    ) throws -> SnapshotManifest? {
        var control = try Control(record)
        var generator = SystemRandomNumberGenerator()
        let new = try store.begin(id: MachineIdentity.makeID(using: &generator))
        do {
            let report = try control.save(into: new.directory, manner)
            guard report.failure.isEmpty else {
                throw Failure("\(record.name) could not be saved: \(printable(report.failure))")
            }
            var manifest = SnapshotManifest(
                id: new.id, tag: tag, createdAt: wallClockNanoseconds(), machine: record.configuration)
            manifest.machine.networks = record.networksToKeep
            manifest.randomSample = record.state.randomSample
            manifest.steps = report.steps.map { (printable($0.name, limit: 40), $0.nanoseconds / 1000) }
            guard try complete(new.directory, manner, isKept: isKept, &manifest, store) else {
                store.abandon(new)
                return nil
            }
            let files = SnapshotManifest.files(isDiff: manifest.parent != nil)
            try store.finish(new, manifest, files: isKept ? files : Array(files.prefix(2)))
            return manifest
        } catch {
            store.abandon(new)
            throw error
        }
    }

    /// Makes what the machine's supervisor has written one snapshot; false where a diff has nothing to go on from.
    private static func complete(
        _ directory: String, _ manner: SaveOrder.Manner, isKept: Bool, _ manifest: inout SnapshotManifest,
        _ store: SnapshotStore
    ) throws -> Bool {
        let saved = SnapshotFiles(in: directory)
        if manner == .live {
            let copied = SnapshotFiles(
                state: "\(directory)/\(SavedFiles.copied.state)", memory: "\(directory)/\(SavedFiles.copied.memory)")
            try SnapshotFiles.fold(saved, into: copied, as: saved)
        }
        let description = try SnapshotDescription(saved)
        manifest.identifier = description.identifier
        let isDiff = description.kind == .diff
        if isDiff {
            guard let parent = description.parent,
                let before = store.list().first(where: { $0.identifier == parent }), !before.isMemoryElsewhere
            else { return false }
            manifest.parent = before.id
            let diff = SnapshotFiles(in: directory, isDiff: true)
            try Files.rename(saved.state, to: diff.state)
            try Files.rename(saved.memory, to: diff.memory)
        }
        if isKept {
            let names = SnapshotManifest.files(isDiff: isDiff)
            let sums = try MemorySums(of: "\(directory)/\(names[1])")
            try Files.writeAtomically(
                sums.encoded, to: "\(directory)/\(names[2])", permissions: 0o600, durable: true)
        }
        return true
    }
}
