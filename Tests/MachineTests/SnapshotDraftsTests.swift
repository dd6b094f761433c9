// SPDX-License-Identifier: Apache-2.0

import Glibc
import MachineAPI
import Platform
import TestSupport
import Testing
import Virtio

@testable import Machine

/// What comes of a machine's memory when it is saved, by what there is already where it goes.
@Suite struct SnapshotDraftsTests {
    private let directory: ScratchDirectory
    private var state: MachineState
    private let memory: GuestMemory
    private var generator = SeededGenerator(3)

    private static let size: UInt64 = 64 << 20

    init() throws {
        directory = try ScratchDirectory()
        state = try MachineState(reading: try #require(snapshotCorpus("state").first).bytes)
        state.configuration.machine.memoryInMiB = Self.size >> 20
        state.memoryRanges = [0..<Self.size]
        memory = try GuestMemory(anonymous: [0..<Self.size])
    }

    /// Fills a page anew.
    private mutating func change(_ page: UInt64) throws { try memory.write(generator.bytes(4096), at: page * 4096) }

    private func files(_ name: String) -> SnapshotFiles {
        SnapshotFiles(state: "\(directory.path)/\(name).state", memory: "\(directory.path)/\(name).memory")
    }

    /// Saves the memory, as a diff where `kind` says so; gives what was written.
    private mutating func save(
        _ name: String, _ kind: SnapshotKind, after last: SnapshotIdentifier? = nil, written: [UInt64] = [],
        source: MemorySource? = nil
    ) throws -> SnapshotDescription {
        (state.identifier, state.kind, state.parent, state.memoryParts) = (.random(), kind, nil, [])
        var history = MemoryHistory(of: memory, isTracked: last != nil)
        history.last = last
        for page in written { history.written.insert(1 << (page % 64), word: Int(page / 64)) }
        let files = files(name)
        let drafts = SnapshotDrafts(state: files.state, memory: files.memory)
        try drafts.writeMemory(memory, source, history, for: &state, isDurable: false)
        try drafts.finish(state, isDurable: false)
        return try SnapshotDescription(files)
    }

    /// Whether a memory file has all that the memory has.
    private func isWhole(_ name: String) throws -> Bool {
        let file = try Descriptor.open(files(name).memory, .readOnly)
        var bytes = [UInt8](repeating: 0, count: 1 << 20)
        for offset in stride(from: 0, to: Self.size, by: bytes.count) {
            #expect(try bytes.withUnsafeMutableBytes { try file.readFully(into: $0, at: offset) } == bytes.count)
            guard memory.bytes(offset: offset, count: bytes.count).elementsEqual(bytes) else { return false }
        }
        return true
    }

    @Test mutating func theFirstDiffHasEverything() throws {
        for page in [0, 7, 9000] as [UInt64] { try change(page) }
        let first = try save("one", .diff)
        #expect(first.kind == .full && first.parent == nil && first.memoryParts.isEmpty)
        #expect(try isWhole("one"))
    }

    @Test mutating func aDiffOntoWhatItGoesOnFromIsWhole() throws {
        for page in [0, 7, 9000] as [UInt64] { try change(page) }
        _ = try save("one", .full)
        for round in 0..<3 as Range<UInt64> {
            let pages = [7, 20 + round, 16_383]
            for page in pages { try change(page) }
            let next = try save("one", .diff, after: state.identifier, written: pages)
            #expect(next.kind == .full && next.parent == nil && next.memoryParts.isEmpty)
            #expect(try isWhole("one"))
        }
    }

    @Test mutating func aDiffElsewhereHasWhatWasWrittenAlone() throws {
        try change(5)
        let base = try save("base", .full)
        let before = state.identifier
        try change(6)
        let diff = try save("diff", .diff, after: before, written: [6])
        #expect(diff.kind == .diff && diff.parent == base.identifier && diff.memoryParts == [6 * 4096..<7 * 4096])
        // The diff's own file is none to go on from, nor is that of another snapshot.
        let last = state.identifier
        try change(8)
        #expect(try save("diff", .diff, after: last, written: [8]).kind == .diff)
        try change(9)
        #expect(try save("base", .diff, after: state.identifier, written: [9]).kind == .diff)
        // What lies there need not be a file that ends.
        #expect(mkfifo(files("pipe").memory, 0o600) == 0)
        #expect(try save("pipe", .diff, after: state.identifier, written: [9]).kind == .diff)
    }

    /// Nobody noted what was written: it is what is no longer as in the file.
    @Test mutating func aDiffOfAMappedMachine() throws {
        for page in [3, 4] as [UInt64] { try change(page) }
        _ = try save("one", .full)
        let file = SharedDescriptor(try Descriptor.open(files("one").memory, .readOnly))
        let base = MemorySource.file(MemoryBase(file: file, identifier: state.identifier))
        var mapped = try SnapshotDraftsTests(mapping: file, of: self)
        try mapped.change(4)
        #expect(try mapped.save("apart", .diff, source: base).kind == .diff)
        #expect(try mapped.save("one", .diff, source: base).kind == .full)
        #expect(try mapped.isWhole("one"))
    }

    private init(mapping file: SharedDescriptor, of other: SnapshotDraftsTests) throws {
        (directory, state, generator) = (other.directory, other.state, other.generator)
        memory = GuestMemory(
            try MemoryMapping(count: Int(Self.size), file: file.raw, shared: false), ranges: [0..<Self.size])
    }
}
