// SPDX-License-Identifier: Apache-2.0

import Foundation
import KVM
import MachineAPI
import TestSupport
import Testing
import VirtioTestSupport
import Wire

@testable import Machine

/// Files as monitors have written them since the formats' first versions. What was once written is read for ever.
func snapshotCorpus(_ kind: String) -> [(name: String, bytes: [UInt8])] {
    let directory = Bundle.module.url(forResource: "Snapshots", withExtension: nil)
    let files = directory.flatMap {
        try? FileManager.default.contentsOfDirectory(at: $0, includingPropertiesForKeys: nil)
    }
    return (files ?? []).filter { $0.pathExtension == kind }.sorted { $0.path < $1.path }
        .compactMap { file in (try? Data(contentsOf: file)).map { (file.lastPathComponent, Array($0)) } }
}

private let corpus = snapshotCorpus("state")

@Suite struct SnapshotFormatTests {
    @Test func oldFilesAreRead() throws {
        #expect(corpus.map(\.name).contains("version-1-one-vcpu.state"))
        for (name, bytes) in corpus {
            let state = try MachineState(reading: bytes)
            #expect(state.vcpus.count == state.configuration.machine.vcpuCount, "\(name)")
            #expect(state.memorySize == state.configuration.machine.memoryInMiB << 20, "\(name)")
            // What is written is what is read.
            #expect(try MachineState(reading: state.encoded()) == state, "\(name)")
            #expect((state.keyboard == KeyboardController()) == (name != "version-1-with-keyboard.state"), "\(name)")
            guard name == "version-1-with-network-diff.state" else { continue }
            #expect(state.kind == .diff && state.parent != nil && !state.memoryParts.isEmpty)
            #expect(state.devices.contains { $0.identity == .interface("eth0") })
        }
    }

    /// A monitor that knows nothing of the section does without it.
    @Test func theKeyboardControllerIsSavedForThoseWhoKnowIt() throws {
        let bytes = try #require(corpus.first { $0.name == "version-1-with-keyboard.state" }).bytes
        var keyboard = try MachineState(reading: bytes).keyboard
        var output: [UInt8] = []
        while keyboard.read(KeyboardController.command).value & 1 != 0 {
            output.append(keyboard.read(KeyboardController.data).value)
        }
        #expect(output == [0x1d, 0x38, 0xe0, 0x53])
        let file = try SnapshotFile(reading: bytes, known: SnapshotSection.known)
        #expect(file.sections.first { $0.kind == SnapshotSection.keyboard }?.isRequired == false)
    }

    @Test func foreignFilesAreNamed() throws {
        let bytes = try #require(corpus.first).bytes
        #expect(throws: SnapshotFileError.foreign) { try MachineState(reading: []) }
        #expect(throws: SnapshotFileError.foreign) { try MachineState(reading: Array("\u{7f}ELF".utf8) + bytes) }
        var newer = bytes
        newer.setInteger(SnapshotFile.version + 1, at: 8)
        newer.setInteger(CRC32C.of(newer[..<60]), at: 60)
        #expect(throws: SnapshotFileError.newer(version: SnapshotFile.version + 1, monitor: "0.1.0")) {
            try MachineState(reading: newer)
        }
        var other = bytes
        other.setInteger(7 as UInt32, at: 12)
        other.setInteger(CRC32C.of(other[..<60]), at: 60)
        #expect(throws: SnapshotFileError.otherArchitecture(7)) { try MachineState(reading: other) }
    }

    /// A file that was cut short, or that has one bit turned over anywhere, is refused.
    @Test func damageIsSeen() throws {
        let bytes = try #require(corpus.first).bytes
        for count in stride(from: 0, to: bytes.count, by: 97) {
            #expect(throws: SnapshotFileError.self) { try MachineState(reading: Array(bytes[..<count])) }
        }
        #expect(throws: SnapshotFileError.self) { try MachineState(reading: bytes + [0]) }
        var generator = SeededGenerator(4)
        let state = try MachineState(reading: bytes)
        for _ in 0..<fuzzRounds(500) {
            var damaged = bytes
            let place = Int.random(in: damaged.indices, using: &generator)
            damaged[place] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
            // The bytes between sections mean nothing; everything else is under a checksum.
            if let read = try? MachineState(reading: damaged) { #expect(read == state) }
        }
    }

    @Test func unknownSectionsAreSkippedOnlyWhereTheyMayBe() throws {
        let bytes = try #require(corpus.first).bytes
        var file = try SnapshotFile(reading: bytes, known: SnapshotSection.known)
        let state = try MachineState(reading: bytes)
        file.sections.append(SnapshotFile.Section(kind: 900, isRequired: false, payload: [1, 2, 3]))
        #expect(try MachineState(reading: file.encoded()) == state)
        file.sections.append(SnapshotFile.Section(kind: 901, payload: []))
        #expect(throws: SnapshotFileError.unknownSection(kind: 901, monitor: "0.1.0")) {
            try MachineState(reading: file.encoded())
        }
    }

    /// Whatever stands in the sections behind checksums that are right, a state is read whose parts fit, or an error
    /// comes.
    @Test func hostileSectionsAreReadOrRefused() throws {
        var generator = SeededGenerator(5)
        var read = 0
        for round in 0..<fuzzRounds(3000) {
            let bytes = corpus[round % corpus.count].bytes
            var file = try SnapshotFile(reading: bytes, known: SnapshotSection.known)
            for _ in 0..<Int.random(in: 1...3, using: &generator) {
                let index = Int.random(in: file.sections.indices, using: &generator)
                let section = file.sections[index]
                var payload = section.payload
                switch Int.random(in: 0..<5, using: &generator) {
                case 0: file.sections.remove(at: index)
                case 1: file.sections.append(section)
                case 2 where !payload.isEmpty: payload.removeLast(Int.random(in: 1...payload.count, using: &generator))
                case 3 where !payload.isEmpty:
                    payload[Int.random(in: 0..<min(48, payload.count), using: &generator)] =
                        UInt8.random(in: 0...255, using: &generator)
                default:
                    guard !payload.isEmpty else { continue }
                    payload[Int.random(in: payload.indices, using: &generator)] ^=
                        1 << UInt8.random(in: 0..<8, using: &generator)
                }
                if index < file.sections.count, file.sections[index] == section {
                    file.sections[index] = SnapshotFile.Section(
                        kind: section.kind, index: section.index, isRequired: section.isRequired, payload: payload)
                }
                if file.sections.isEmpty { break }
            }
            guard let state = try? MachineState(reading: file.encoded()) else { continue }
            read += 1
            #expect(state.vcpus.count == state.configuration.machine.vcpuCount)
            #expect(state.vcpus.allSatisfy { $0.parts[.extendedState]?.count == state.host.extendedStateSize })
            #expect(state.devices.allSatisfy { $0.slot < state.slotCount })
        }
        #expect(read > 50)
    }
}
