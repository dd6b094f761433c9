// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform

/// The two files of a snapshot.
package struct SnapshotFiles: Equatable, Sendable {
    package var state: String
    package var memory: String

    /// The most bytes of a state.
    package static let stateLimit = SnapshotFile.sizeLimitInBytes

    package init(state: String, memory: String) {
        self.state = state
        self.memory = memory
    }

    /// Makes one full snapshot of a full one and the diffs that go on from it, in their order: it is the last one's. The
    /// files stay as they are.
    package static func join(
        _ base: SnapshotFiles, _ diffs: [SnapshotFiles], to result: SnapshotFiles
    ) throws(MachineError) {
        var state = try readBase(base)
        let drafts = SnapshotDrafts(state: result.state, memory: result.memory)
        do throws(MachineError) {
            let file = try purpose(result.memory) { () throws(SystemError) in
                try Descriptor.open(drafts.memoryDraft, .createNew, permissions: 0o600)
            }
            try copy(base.memory, state, [0..<state.memorySize], to: file)
            for diff in diffs { try apply(diff, to: &state, file) }
            try finish(&state, file, result.memory)
            try drafts.finish(state, isDurable: true)
        } catch {
            drafts.remove()
            throw error
        }
    }

    /// As `join` with one diff, but without a copy: the base's files become the result, and nothing is left where they
    /// were. After a failure the base is no whole snapshot any more: it is one that nobody knows of yet.
    package static func fold(
        _ diff: SnapshotFiles, into base: SnapshotFiles, as result: SnapshotFiles
    ) throws(MachineError) {
        var state = try readBase(base)
        let file = try purpose(base.memory) { () throws(SystemError) in try Descriptor.open(base.memory, .readWrite) }
        try MemoryFile.check(file, base.memory, state)
        try apply(diff, to: &state, file)
        try finish(&state, file, base.memory)
        let drafts = SnapshotDrafts(state: result.state, memory: result.memory)
        do throws(MachineError) {
            try purpose(base.memory) { () throws(SystemError) in try Files.rename(base.memory, to: drafts.memoryDraft) }
            try drafts.finish(state, isDurable: true)
        } catch {
            drafts.remove()
            throw error
        }
        Files.remove(base.state)
    }

    private static func readBase(_ base: SnapshotFiles) throws(MachineError) -> MachineState {
        let state = try Machine.readState(base.state)
        guard state.kind == .full else { throw .snapshot(path: base.state, .malformed("a chain begins with a diff")) }
        return state
    }

    /// Copies what a diff has into the memory of the snapshot before it, whose state is the diff's afterwards.
    private static func apply(
        _ diff: SnapshotFiles, to state: inout MachineState, _ file: borrowing Descriptor
    ) throws(MachineError) {
        let next = try Machine.readState(diff.state)
        guard next.kind == .diff, next.parent == state.identifier, next.memoryRanges == state.memoryRanges else {
            throw .snapshot(path: diff.state, .malformed("it is no diff of the snapshot before it"))
        }
        try copy(diff.memory, next, next.memoryParts, to: file)
        state = next
    }

    /// Makes a memory file, all of which is there, that of a full snapshot.
    private static func finish(
        _ state: inout MachineState, _ file: borrowing Descriptor, _ path: String
    ) throws(MachineError) {
        state.kind = .full
        state.parent = nil
        state.memoryParts = []
        let trailer = MemoryFile.trailer(state)
        let (raw, offset) = (file.raw, Int(state.memorySize))
        try purpose(path) { () throws(SystemError) in
            let count = unsafe trailer.withUnsafeBytes { bytes in
                retryingInterrupts { unsafe pwrite(raw, bytes.baseAddress, bytes.count, offset) }
            }
            guard count == trailer.count else {
                throw SystemError("pwrite", code: count < 0 ? clinux_errno() : EIO)
            }
            guard retryingInterrupts({ fdatasync(raw) }) == 0 else { throw SystemError("fdatasync") }
        }
    }

    private static func purpose<Result: ~Copyable>(
        _ path: String, _ body: () throws(SystemError) -> Result
    ) throws(MachineError) -> Result {
        try system("the memory file \(path)", body)
    }

    private static func copy(
        _ path: String, _ state: MachineState, _ parts: [Range<UInt64>], to file: borrowing Descriptor
    ) throws(MachineError) {
        let source = try purpose(path) { () throws(SystemError) in try Descriptor.open(path, .readOnly) }
        try MemoryFile.check(source, path, state)
        do throws(SystemError) {
            try file.truncate(to: state.memorySize)
            for part in parts { try FileCopy.copy(part, from: source, to: file, skipsHoles: state.kind == .full) }
        } catch {
            throw .system("the memory file \(path)", error)
        }
    }
}
