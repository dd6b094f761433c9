// SPDX-License-Identifier: Apache-2.0

import Platform
import TestSupport
import Testing
import Wire

@testable import Machine

/// The page behind a memory file, which says whose memory it is.
@Suite struct MemoryFileTests {
    /// A sparse memory file of a state, its last page changed.
    private func check(
        _ state: MachineState, memorySize: UInt64? = nil, _ change: (inout [UInt8]) -> Void = { _ in }
    ) throws {
        let path = "/tmp/martlet-memory-\(monotonicNanoseconds())"
        let file = try Descriptor.open(path, .createNew, permissions: 0o600)
        defer { Files.remove(path) }
        var last = MemoryFile.trailer(state)
        change(&last)
        try file.truncate(to: memorySize ?? state.memorySize)
        try last.withUnsafeBytes { try file.writeAll($0, at: memorySize ?? state.memorySize) }
        try MemoryFile.check(file, path, state)
    }

    private func state() throws -> MachineState {
        try MachineState(reading: try #require(snapshotCorpus("state").first).bytes)
    }

    @Test func anotherMachinesIsNamed() throws {
        let state = try state()
        try check(state)
        var other = state
        other.identifier = .random()
        let error = #expect(throws: MachineError.self) {
            try check(state) { $0 = MemoryFile.trailer(other) }
        }
        #expect("\(error.map { "\($0)" } ?? "")".contains("another"), "\(String(describing: error))")
    }

    /// Of a first version's file the end, as the format says it, made by other means than ours.
    @Test func oldFilesAreRead() throws {
        var state = try state()
        state.identifier = SnapshotIdentifier(bytes: Array(0..<16))
        let old = try #require(snapshotCorpus("memory-end").first).bytes
        let size = try #require(old.integer(at: 16, as: UInt64.self))
        state.memoryRanges = [0..<size]
        try check(state) { $0 = old }
        #expect(MemoryFile.trailer(state) == old)
    }

    /// Any bit of what is under the sum turned over, any part cut off, any length of the rest: it is refused.
    @Test func damageIsSeen() throws {
        let state = try state()
        var generator = SeededGenerator(11)
        for _ in 0..<fuzzRounds(400) {
            let place = Int.random(in: 0..<64, using: &generator)
            let bit = UInt8.random(in: 0..<8, using: &generator)
            #expect(throws: MachineError.self, "byte \(place)") { try check(state) { $0[place] ^= 1 << bit } }
        }
        for _ in 0..<fuzzRounds(100) {
            let count = Int.random(in: 0..<4096, using: &generator)
            #expect(throws: MachineError.self, "\(count)") { try check(state) { $0.removeSubrange(count...) } }
            let size = UInt64.random(in: 0..<2 * state.memorySize, using: &generator) & ~4095
            if size != state.memorySize {
                #expect(throws: MachineError.self, "\(size)") { try check(state, memorySize: size) }
            }
        }
    }

    /// Behind a sum that is right anything at all: what is taken is this state's.
    @Test func sumsThatAreRightDoNotMakeItRight() throws {
        let state = try state()
        var generator = SeededGenerator(12)
        for _ in 0..<fuzzRounds(400) {
            var changed = false
            do {
                try check(state) { last in
                    for _ in 0..<Int.random(in: 1...3, using: &generator) {
                        // What lies between the fields means nothing.
                        let place = Int.random(in: 0..<40, using: &generator)
                        let byte = UInt8.random(in: 0...255, using: &generator)
                        if last[place] != byte, place < 12 || place >= 16 { changed = true }
                        last[place] = byte
                    }
                    last.setInteger(CRC32C.of(last[..<60]), at: 60)
                }
                #expect(!changed)
            } catch is MachineError {}
        }
    }
}
