// SPDX-License-Identifier: Apache-2.0

import Platform
import TestSupport
import Testing
import Virtio

@testable import Machine

/// What is written of a memory that is a private mapping of a file.
@Suite struct MemoryWriterTests {
    private static let size: UInt64 = 16 << 20

    /// A file system of its own, from which no other one's kernel code copies: tmpfs.
    private static func base(_ generator: inout SeededGenerator) throws -> SharedDescriptor {
        let path = "/dev/shm/martlet-memory-\(monotonicNanoseconds())"
        let file = try Descriptor.open(path, .createNew, permissions: 0o600)
        Files.remove(path)
        try file.truncate(to: size)
        for page in stride(from: 3 as UInt64, to: size / 4096, by: 5) {
            let bytes = generator.bytes(4096)
            try bytes.withUnsafeBytes { try file.writeAll($0, at: page * 4096) }
        }
        return SharedDescriptor(file)
    }

    /// A machine's working set is what it touched itself, also when its memory was saved meanwhile.
    @Test(arguments: ["/dev/shm", "/tmp"]) func whatIsSavedIsNotTouched(directory: String) throws {
        var generator = SeededGenerator(21)
        let file = try Self.base(&generator)
        let memory = GuestMemory(
            try MemoryMapping(count: Int(Self.size), file: file.raw, shared: false), ranges: [0..<Self.size])
        let single = memory.mapSingly()
        // One page is read, one is written, one was zero and is so again.
        #expect(memory.bytes(offset: 8 * 4096, count: 1)[0] == memory.bytes(offset: 8 * 4096, count: 1)[0])
        try memory.write(generator.bytes(4096), at: 13 * 4096)
        try memory.write([UInt8](repeating: 0, count: 4096), at: 14 * 4096)
        let before = (try memory.pages(.ofFile), try memory.pages(.own))
        #expect(before.0.contains(8 * 4096..<9 * 4096) && before.1 == [13 * 4096..<15 * 4096])

        let path = "\(directory)/martlet-saved-\(monotonicNanoseconds())"
        defer { Files.remove(path) }
        let source = MemorySource.file(MemoryBase(file: file, identifier: .random()))
        var writer = MemoryWriter(
            memory, source: source, to: try Descriptor.open(path, .createNew, permissions: 0o600))
        try writer.writeAll()
        #expect(try memory.pages(.ofFile) == before.0 && memory.pages(.own) == before.1)
        // The pages of the base that are not zero and one more, whole ones.
        #expect(try writer.finish([1], isDurable: false) == (Self.size / 4096 + 1) / 5 * 4096)

        let saved = try Descriptor.open(path, .readOnly)
        var bytes = [UInt8](repeating: 0, count: Int(Self.size))
        #expect(try bytes.withUnsafeMutableBytes { try saved.readFully(into: $0, at: 0) } == bytes.count)
        #expect(memory.bytes(offset: 0, count: Int(Self.size)).elementsEqual(bytes))
        withExtendedLifetime(single) {}
    }
}
