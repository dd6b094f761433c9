// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// What processes leave that are killed in the middle of their work. None of it is a snapshot to anyone.
extension SnapshotStore {
    /// Removes what processes left that were killed while they made, joined, tagged or removed a snapshot.
    package func sweep() {
        for name in (try? Files.list(root)) ?? [] {
            if name.hasPrefix(".new-") {
                removeIfUnheld("\(root)/\(name)")
            } else if MachineIdentity.isID(name) {
                sweep(snapshot: name)
            }
        }
        guard let lock = try? lock() else { return }
        settleTags()
        lock.end()
    }

    /// Removes a directory whose maker does not live.
    private func removeIfUnheld(_ directory: String) {
        // A maker that has its directory and not yet the lock in it has the store's.
        guard let lock = try? lock() else { return }
        let held = (try? FileLock.attempt(at: "\(directory)/lock")) ?? nil as FileLock?
        lock.end()
        guard held != nil else { return }
        try? Files.removeTree(directory)
    }

    private func sweep(snapshot id: String) {
        let directory = directory(of: id)
        guard let lock = try? lock() else { return }
        if !Files.exists("\(directory)/manifest.json") {
            // One that was being removed: it is none any more.
            lock.end()
            try? Files.removeTree(directory)
            return
        }
        if let manifest = try? manifest(id) { removeRemains(in: directory, besides: manifest.lengths.map(\.name)) }
        lock.end()
    }

    /// Removes what a process left in a snapshot's directory that was killed while it made a whole one of a diff, or
    /// wrote a manifest or a working set. The store's lock is held.
    private func removeRemains(in directory: String, besides files: [String]) {
        let known = files + ["manifest.json", "lock", SnapshotManifest.workingSetName]
        let remains = ((try? Files.list(directory)) ?? []).filter { name in
            // A monitor that is about to write a working set holds no lock.
            let isBeingWritten = name.hasPrefix(SnapshotManifest.workingSetName) && Files.isDraftOfTheLiving(name)
            return !known.contains(name) && !isBeingWritten
        }
        guard !remains.isEmpty, let held = (try? FileLock.attempt(at: "\(directory)/lock")) ?? nil as FileLock? else {
            return
        }
        for name in remains { Files.remove("\(directory)/\(name)") }
        held.end()
    }

    /// Has the files say of tags what `list` does. The store's lock is held.
    func settleTags() {
        let tags = Dictionary(list().map { ($0.id, $0.tag) }) { first, _ in first }
        for var manifest in readable() where manifest.tag != nil && tags[manifest.id] == .some(nil) {
            manifest.tag = nil
            try? write(manifest, in: directory(of: manifest.id))
        }
    }
}
