// SPDX-License-Identifier: Apache-2.0

import Platform
import TestSupport
import Testing
import Wire

@testable import Snapshots

@Suite struct MemorySumsTests {
    private static let length: UInt64 = 5 << 20 | 4096

    private func file(_ scratch: Scratch, _ generator: inout SeededGenerator) throws -> String {
        try scratch.write(
            "memory", length: Self.length,
            [
                (8192, generator.bytes(300_000)), (3 << 20, generator.bytes(4096)),
                (Self.length - 64, generator.bytes(64)),
            ])
    }

    @Test func theyAreThoseOfTheWholeFile() throws {
        let scratch = try Scratch()
        var generator = SeededGenerator(1)
        let sums = try MemorySums(of: try file(scratch, &generator))
        let bytes = try scratch.read("memory")
        let size = MemorySums.chunkSize
        #expect(sums.length == Self.length)
        #expect(
            sums.sums
                == stride(from: 0, to: bytes.count, by: size).map { start in
                    CRC32C.of(bytes[start..<min(bytes.count, start + size)])
                })
        #expect(try MemorySums(reading: sums.encoded) == sums)
    }

    @Test func oneWrongBitIsFound() throws {
        let scratch = try Scratch()
        var generator = SeededGenerator(2)
        let path = try file(scratch, &generator)
        let sums = try MemorySums(of: path)
        let bytes = try scratch.read("memory")
        for place in [0, 9000, 3 << 20, 4 << 20, Int(Self.length) - 1] {
            let damaged = try scratch.write("damaged", length: Self.length, [(0, bytes)])
            try scratch.overwrite("damaged", at: UInt64(place), [bytes[place] ^ 1])
            let size = MemorySums.chunkSize
            #expect(sums.firstDifference(in: try MemorySums(of: damaged)) == UInt64(place / size * size))
        }
        #expect(sums.firstDifference(in: sums) == nil)
    }

    /// What was not written keeps its sums, whatever has become of it since.
    @Test func partsThatWereWrittenAreSummedAnew() throws {
        let scratch = try Scratch()
        var generator = SeededGenerator(3)
        let path = try file(scratch, &generator)
        let base = try MemorySums(of: path)
        let size = UInt64(MemorySums.chunkSize)
        try scratch.overwrite("memory", at: 4 * size, generator.bytes(8192))
        try scratch.overwrite("memory", at: 2 * size - 4096, generator.bytes(8192))
        let written = [2 * size - 4096..<2 * size + 4096, 4 * size..<4 * size + 8192]
        #expect(try MemorySums(of: path, base: base, written: written) == MemorySums(of: path))
        try scratch.overwrite("memory", at: 9000, [1, 2, 3])
        let carried = try MemorySums(of: path, base: base, written: written)
        #expect(carried.firstDifference(in: try MemorySums(of: path)) == 0)
    }

    @Test func whatIsNoneIsRefused() throws {
        let scratch = try Scratch()
        var generator = SeededGenerator(4)
        let bytes = try MemorySums(of: try file(scratch, &generator)).encoded
        for count in 0..<bytes.count {
            #expect(throws: SnapshotsError.self) { try MemorySums(reading: Array(bytes[..<count])) }
        }
        for _ in 0..<fuzzRounds(500) {
            var spoiled = bytes
            spoiled[Int.random(in: 0..<bytes.count, using: &generator)] ^=
                1 << UInt8.random(in: 0..<8, using: &generator)
            #expect(throws: SnapshotsError.self) { try MemorySums(reading: spoiled) }
        }
        // Lengths that cannot be, under a checksum that fits.
        for length in [0, 1, UInt64.max, 6 << 20] {
            var forged = bytes
            withUnsafeBytes(of: length.littleEndian) { forged.replaceSubrange(16..<24, with: $0) }
            withUnsafeBytes(of: CRC32C.of(forged.dropLast(4)).littleEndian) {
                forged.replaceSubrange(forged.count - 4..<forged.count, with: $0)
            }
            #expect(throws: SnapshotsError.self) { try MemorySums(reading: forged) }
        }
    }

    /// One as the format's first version has it, made by other means than ours.
    @Test func oldFilesAreRead() throws {
        let bytes = try corpusFile("version-1.sums")
        let sums = try MemorySums(reading: bytes)
        #expect(sums.length == 528_384 && sums.sums == [0xf032_bcf3, 0x6718_8207, 0xfcb9_3f11])
        #expect(sums.encoded == bytes)
    }

    /// Any file at all: it is refused, or has as many sums as its length wants.
    @Test(arguments: 0..<UInt64(fuzzRounds(50))) func hostileFiles(seed: UInt64) throws {
        var generator = SeededGenerator(seed)
        let good = try corpusFile("version-1.sums")
        for _ in 0..<40 {
            var bytes = good
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                switch Int.random(in: 0..<4, using: &generator) {
                case 0:
                    bytes[Int.random(in: 0..<bytes.count, using: &generator)] = .random(in: 0...255, using: &generator)
                case 1: bytes.removeLast(Int.random(in: 0..<bytes.count, using: &generator))
                case 2: bytes += generator.bytes(Int.random(in: 1...64, using: &generator))
                default:
                    let number = [0, 1, 4095, 4096, 1 << 44, .max].randomElement(using: &generator) ?? 0 as UInt64
                    guard bytes.count >= 24 else { continue }
                    withUnsafeBytes(of: number.littleEndian) { bytes.replaceSubrange(16..<24, with: $0) }
                }
                if bytes.isEmpty { break }
            }
            if bytes.count >= 4, Bool.random(using: &generator) {
                withUnsafeBytes(of: CRC32C.of(bytes.dropLast(4)).littleEndian) {
                    bytes.replaceSubrange(bytes.count - 4..<bytes.count, with: $0)
                }
            }
            guard let sums = try? MemorySums(reading: bytes) else { continue }
            let size = UInt64(MemorySums.chunkSize)
            #expect(UInt64(sums.sums.count) == (sums.length + size - 1) / size)
        }
    }
}
