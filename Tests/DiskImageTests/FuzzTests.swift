// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import TestSupport
import Testing

@testable import DiskImage

/// Damaged and random input: an error or a result, never a trap, in bounded time and memory.
@Suite struct FuzzTests {
    /// How long each suite goes on; `MARTLET_FUZZ_SECONDS` makes it longer.
    private static var seconds: UInt64 {
        environmentVariable("MARTLET_FUZZ_SECONDS").flatMap { UInt64($0) } ?? 1
    }

    private static func mutate(_ bytes: [UInt8], _ generator: inout SeededGenerator, within range: Range<Int>)
        -> [UInt8]
    {
        var result = bytes
        for _ in 0..<(1 + generator.next() % 8) {
            let index = range.lowerBound + Int(generator.next() % UInt64(range.count))
            switch generator.next() % 5 {
            case 0: result[index] ^= 1 << UInt8(generator.next() % 8)
            case 1: result[index] = UInt8(truncatingIfNeeded: generator.next())
            case 2:  // a whole number
                let value = generator.pick([0, 1, UInt64.max, 1 << 31, 1 << 62, 4096, UInt64(UInt32.max)])
                for byte in 0..<min(8, range.upperBound - index) {
                    result[index + byte] = UInt8(truncatingIfNeeded: value >> UInt64(8 * byte))
                }
            case 3:  // bytes from elsewhere
                let count = min(Int(generator.next() % 64), range.upperBound - index)
                let from = range.lowerBound + Int(generator.next() % UInt64(range.count - count + 1))
                for byte in 0..<count { result[index + byte] = bytes[from + byte] }
            default:
                for byte in 0..<min(16, range.upperBound - index) { result[index + byte] = UInt8(ascii: "9") }
            }
        }
        return result
    }

    /// Calls `body` with one number after another for as long as a suite goes on.
    private static func repeatedly(_ body: (UInt64) throws -> Void) rethrows {
        let end = monotonicNanoseconds() + seconds * 1_000_000_000
        var iteration: UInt64 = 0
        while monotonicNanoseconds() < end {
            iteration += 1
            try body(iteration)
        }
    }

    private final class Collector: TarSink {
        var entries = 0
        var bytes = 0
        func begin(_ entry: TarEntry) throws(DiskImageError) { entries += 1 }
        func data(_ more: Span<UInt8>) throws(DiskImageError) { bytes += more.count }
        func end() throws(DiskImageError) {}
    }

    /// Makes the checksums of damaged headers right again, so that what lies behind them is reached.
    private static func repair(_ archive: inout [UInt8]) {
        for start in stride(from: 0, to: archive.count - 511, by: 512)
        where archive[(start + 257)..<(start + 262)].elementsEqual("ustar".utf8) {
            for index in 148..<156 { archive[start + index] = 0x20 }
            let sum = archive[start..<(start + 512)].reduce(0) { $0 + Int($1) }
            let digits = Array(String(sum, radix: 8).utf8)
            for (index, digit) in (Array(repeating: 0x30, count: max(0, 6 - digits.count)) + digits).prefix(6)
                .enumerated()
            {
                archive[start + 148 + index] = digit
            }
            archive[start + 154] = 0
        }
    }

    static let archive: [UInt8] = {
        var tar = TarWriter()
        tar.entry("a/b", uid: 1 << 30, content: [1, 2, 3], xattrs: ["user.x": [1], "trusted.y": [2]])
        tar.entry(String(repeating: "l", count: 150), type: "2", target: String(repeating: "t", count: 150))
        tar.entry("d", type: "5", modified: Timestamp(seconds: -5, nanoseconds: 7))
        tar.entry("h", type: "1", target: "a/b")
        tar.entry("d/.wh.x")
        tar.entry("d/.wh..wh..opq")
        tar.pax([
            ("GNU.sparse.size", Array("9999".utf8)), ("GNU.sparse.map", Array("0,2,5000,2".utf8)), ("size", [0x34]),
        ])
        tar.header(TarWriter.Header("sparse"))
        tar.data([1, 2, 3, 4])
        tar.pax([
            ("GNU.sparse.major", [0x31]), ("GNU.sparse.minor", [0x30]), ("GNU.sparse.realsize", Array("70000".utf8)),
            ("GNU.sparse.name", Array("one".utf8)), ("size", Array("516".utf8)),
        ])
        tar.header(TarWriter.Header("sparse1"))
        tar.data(Array("2\n0\n2\n60000\n2\n".utf8) + [UInt8](repeating: 0, count: 512 - 14) + [1, 2, 3, 4])
        var header = TarWriter.Header("old", type: "S")
        header.magic = Array("ustar  \u{0}".utf8)
        header.size = 2
        tar.header(header) { block in
            for (start, text) in [
                (386, "00000000000"), (398, "00000000001"), (410, "00000010000"), (422, "00000000001"),
                (483, "00000020000"),
            ] {
                for (index, byte) in text.utf8.enumerated() { block[start + index] = byte }
            }
            block[482] = 1
        }
        tar.data([UInt8](repeating: 0, count: 512))
        tar.data([1, 2])
        tar.entry("n", type: "L", content: Array("long/name".utf8))
        tar.entry("x", type: "3", major: 4, minor: 5)
        return tar.finished()
    }()

    @Test func archiveOfTheCorpusIsGood() throws {
        let output = try Descriptor.memoryFile("image")
        #expect(try feed(Self.archive, to: output.raw).inodeCount == 11)
    }

    @Test func tarReader() {
        var limits = ConversionLimits()
        limits.extendedHeaderInBytes = 10_000
        Self.repeatedly { iteration in
            var generator = SeededGenerator(iteration)
            var input = Self.mutate(Self.archive, &generator, within: 0..<Self.archive.count)
            if !generator.chance(10) { Self.repair(&input) }
            if generator.chance(10) { input.removeLast(Int(generator.next() % UInt64(input.count))) }
            var reader = TarReader(limits: limits)
            let collector = Collector()
            do throws(DiskImageError) {
                var position = 0
                while position < input.count {
                    let end = min(input.count, position + 1 + Int(generator.next() % 3000))
                    try reader.push(input.span.extracting(position..<end), to: collector)
                    position = end
                }
                try reader.finish()
            } catch {
                #expect(!error.description.isEmpty)
            }
            #expect(collector.bytes <= input.count)
        }
    }

    /// Whatever becomes an image is a sound one.
    @Test func converter() throws {
        let output = try Descriptor.memoryFile("image")
        var options = ConversionOptions()
        options.limits.imageInBytes = 64 << 20
        try Self.repeatedly { iteration in
            var generator = SeededGenerator(iteration &* 31)
            var input = Self.mutate(Self.archive, &generator, within: 0..<Self.archive.count)
            Self.repair(&input)
            do {
                let result = try feed(input, to: output.raw, options: options)
                let reader = try ErofsReader(file: output.raw, lengthInBytes: result.sizeInBytes)
                let all = try Self.walk(reader)
                #expect(all > 0)
            } catch let error as DiskImageError {
                if case .image = error { Issue.record("iteration \(iteration): \(error)") }
            }
        }
    }

    /// Reads all that an image offers, up to a bound; the number of names.
    private static func walk(_ reader: ErofsReader) throws(DiskImageError) -> Int {
        var pending = [try reader.root]
        var count = 1
        var space = [UInt8](repeating: 0, count: 4096)
        while let inode = pending.popLast() {
            _ = try reader.xattrs(inode)
            if inode.isSymbolicLink { _ = try reader.linkTarget(inode) }
            if inode.isRegularFile {
                for offset in [0, inode.sizeInBytes / 2, inode.sizeInBytes &- 5] {
                    var failure: DiskImageError?
                    space.withUnsafeMutableBytes { buffer in
                        do throws(DiskImageError) { _ = try reader.read(inode, at: offset, into: buffer) } catch {
                            failure = error
                        }
                    }
                    if let failure { throw failure }
                }
            }
            var below: [UInt64] = []
            try reader.forEachEntry(of: inode) { (_, number) throws(DiskImageError) in below.append(number) }
            for number in below {
                count += 1
                guard count < 2000 else { return count }  // a damaged image may be a circle
                pending.append(try reader.inode(number))
            }
        }
        return count
    }

    /// Bytes of the layer's image, with the superblock's checksum made right.
    private static func damagedImage(_ image: [UInt8], _ generator: inout SeededGenerator) -> [UInt8] {
        let start = 1024
        let metadata = Int(image[(start + 40)...].number32(0)) * 4096
        var damaged = mutate(
            image, &generator, within: generator.chance(20) ? start..<(start + 128) : metadata..<image.count)
        for index in 4..<8 { damaged[start + index] = 0 }
        let checksum = Erofs.crc32c(damaged[start..<4096])
        for index in 0..<4 { damaged[start + 4 + index] = UInt8(truncatingIfNeeded: checksum >> UInt32(8 * index)) }
        return damaged
    }

    @Test func readerAndMerge() throws {
        let good = try Descriptor.memoryFile("good")
        _ = try feed(ConversionTests.varied(), to: good.raw)
        let image = try good.readAllFromStart()
        let output = try Descriptor.memoryFile("merged")
        let layer = try Descriptor.memoryFile("layer")
        var limits = ConversionLimits()
        limits.metadataInBytes = 8 << 20
        limits.entries = 10_000
        try Self.repeatedly { iteration in
            var generator = SeededGenerator(iteration &* 77)
            let damaged = Self.damagedImage(image, &generator)
            try damaged.withUnsafeBytes { try layer.writeAll($0, at: 0) }
            do throws(DiskImageError) {
                let reader = try ErofsReader(file: layer.raw, lengthInBytes: UInt64(damaged.count))
                _ = try Self.walk(reader)
            } catch {}
            guard
                let merged = try? ImageMerger.merge(
                    layers: [good.raw, layer.raw], output: output.raw, limits: limits)
            else { return }
            // What a merge made of whatever it was given is sound.
            let all = [
                ImageSegment(file: output.raw, lengthInBytes: merged.metadataInBytes),
                ImageSegment(file: good.raw, lengthInBytes: merged.layersInBytes[0]),
                ImageSegment(file: layer.raw, lengthInBytes: merged.layersInBytes[1]),
            ]
            #expect(try Self.walk(try ErofsReader(segments: all)) > 0, "iteration \(iteration)")
        }
    }

    @Test(arguments: ["gzip -c", "zstd -qc", "zstd -qc --no-check"])
    func decompressor(command: String) throws {
        final class Sink: ByteSink {
            let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 5000, alignment: 16)
            var total = 0
            func space() throws(DiskImageError) -> UnsafeMutableRawBufferPointer { memory }
            func commit(_ count: Int) throws(DiskImageError) {
                total += count
                guard total < 64 << 20 else { throw .alreadyEnded }  // enough of a bomb
            }
            deinit { memory.deallocate() }
        }
        let space = try Workspace()
        try space.write(Self.archive, to: "archive")
        try space.shell("\(command) archive > out; \(command) archive >> out")
        let stream = try space.read("out")
        Self.repeatedly { iteration in
            var generator = SeededGenerator(iteration &* 1001)
            let input = Self.mutate(stream, &generator, within: 0..<stream.count)
            let decompressor = Decompressor()
            let sink = Sink()
            input.withUnsafeBytes { all in
                do throws(DiskImageError) {
                    var position = 0
                    while position < all.count {
                        let end = min(all.count, position + 1 + Int(generator.next() % 700))
                        try decompressor.push(UnsafeRawBufferPointer(rebasing: all[position..<end]), to: sink)
                        position = end
                    }
                    try decompressor.finish(to: sink)
                } catch {
                    if case .compressedData(_, let offset, _) = error { #expect(offset <= stream.count) }
                }
            }
        }
    }
}
