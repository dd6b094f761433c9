// SPDX-License-Identifier: Apache-2.0

internal import Platform
internal import Virtio

/// A snapshot's files while they are written, under names of their own.
struct SnapshotDrafts {
    let statePath: String
    let memoryPath: String
    let stateDraft: String
    let memoryDraft: String

    init(state: String, memory: String) {
        let suffix = Files.draftSuffix()
        (statePath, memoryPath) = (state, memory)
        (stateDraft, memoryDraft) = (state + suffix, memory + suffix)
    }

    /// Writes the memory's draft for a snapshot of the state's kind, and says in the state what that has.
    ///
    /// A diff with nothing to go on from has all of the memory, and is a full snapshot. One whose memory file is to take
    /// the place of the very file that it goes on from is made that file's copy with what was written since: a full
    /// snapshot too. Any other has the pages that were written since, alone.
    func writeMemory(
        _ memory: GuestMemory, _ source: MemorySource?, _ history: MemoryHistory, for state: inout MachineState,
        isDurable: Bool
    ) throws(SystemError) {
        let written: [Range<UInt64>]?
        if state.kind == .diff, history.isTracked, let last = history.last {
            (state.parent, written) = (last, history.written.ranges)
        } else if state.kind == .diff, case .file(let base)? = source {
            (state.parent, written) = (base.identifier, nil)
        } else {
            (state.kind, written) = (.full, nil)
        }
        // What a guest has in its memory is for its owner alone.
        let file = try Descriptor.open(memoryDraft, .createNew, permissions: 0o600)
        var joinsParent = false
        if let parent = state.parent, let before = try openMemory(of: parent, state.memorySize) {
            try FileCopy.clone(before, count: state.memorySize, to: file)
            joinsParent = true
        }
        var writer = MemoryWriter(memory, source: source, to: file)
        if state.kind == .full {
            try writer.writeAll()
        } else {
            let parts: [Range<UInt64>] = if let written { written } else { try writer.touched() }
            try writer.write(parts)
            if joinsParent { (state.kind, state.parent) = (.full, nil) } else { state.memoryParts = parts }
        }
        _ = try writer.finish(MemoryFile.trailer(state), isDurable: isDurable)
    }

    /// The file that is to be replaced, if it is all of the memory of that snapshot.
    private func openMemory(of parent: SnapshotIdentifier, _ memorySize: UInt64) throws(SystemError) -> Descriptor? {
        let file: Descriptor
        do throws(SystemError) { file = try Descriptor.open(memoryPath, .readOnly.nonBlocking) } catch {
            // None, or nothing that can be read: then it is no snapshot's.
            return nil
        }
        guard MemoryFile.isWhole(file, of: parent, memorySize: memorySize) else { return nil }
        return consume file
    }

    /// The memory's draft being whole, writes the state and gives both their names, the state last.
    func finish(_ state: MachineState, isDurable: Bool) throws(MachineError) {
        try system("the state file") { () throws(SystemError) in
            let file = try Descriptor.open(stateDraft, .createNew, permissions: 0o600)
            try file.writeAll(state.encoded())
            if isDurable { try file.synchronizeData() }
            try Files.rename(memoryDraft, to: memoryPath)
            try Files.rename(stateDraft, to: statePath)
        }
    }

    func remove() {
        Files.remove(memoryDraft)
        Files.remove(stateDraft)
    }
}
