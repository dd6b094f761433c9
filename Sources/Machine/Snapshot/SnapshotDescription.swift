// SPDX-License-Identifier: Apache-2.0

package import MachineAPI
internal import Platform

/// What can be told of a snapshot without a machine being made of it. All of its state has been read for that, with its
/// checksums; of its memory only whose it is.
package struct SnapshotDescription: Equatable, Sendable {
    package var kind: SnapshotKind
    /// 32 hexadecimal digits, the same for no two snapshots.
    package var identifier: String
    /// That of the snapshot that a diff goes on from.
    package var parent: String?
    /// In bytes.
    package var memorySize: UInt64
    /// The parts of the memory file that a diff has, by offset in bytes, ascending.
    package var memoryParts: [Range<UInt64>]
    /// The machine, as it was when it was saved.
    package var configuration: MachineConfiguration

    /// Reads a snapshot's state, and looks whether the memory is its.
    package init(_ files: SnapshotFiles) throws(MachineError) {
        let state = try Machine.readState(files.state)
        let memory = try system("the memory file \(files.memory)") { () throws(SystemError) in
            try Descriptor.open(files.memory, .readOnly)
        }
        try MemoryFile.check(memory, files.memory, state)
        self.init(state)
    }

    /// Reads a state whose memory is not there yet.
    package init(state path: String) throws(MachineError) {
        self.init(try Machine.readState(path))
    }

    private init(_ state: MachineState) {
        kind = state.kind
        identifier = "\(state.identifier)"
        parent = state.parent.map { "\($0)" }
        memorySize = state.memorySize
        memoryParts = state.memoryParts
        configuration = state.configuration
    }

    /// The length of the memory file, in bytes: the memory, and a page that says whose it is.
    package var memoryFileLength: UInt64 { memorySize + MemoryFile.trailerSize }
}
