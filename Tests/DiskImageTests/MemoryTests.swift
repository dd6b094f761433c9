// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import TestSupport
import Testing

@testable import DiskImage

/// Tables in pages, most of which lie in a file.
@Suite struct PagedTests {
    /// A pool of four frames; what finds no room in them goes to where temporary files go.
    private static func pool(limit: Int = 64 << 20) throws -> PagePool {
        var limits = ConversionLimits()
        limits.memoryInBytes = 0
        limits.metadataInBytes = limit
        return try PagePool(limits: limits, output: -1)
    }

    @Test(arguments: 0..<6) func arraysKeepWhatTheyHold(seed: UInt64) throws {
        struct Odd: BitwiseCopyable, Equatable {
            var number: UInt64
            var part: UInt32
        }
        var generator = SeededGenerator(seed)
        let pool = try Self.pool()
        let array = PagedArray<Odd>(pool)
        let other = try PagedArray<UInt32>(pool, zeros: 50_000)
        var model: [Odd] = []
        var otherModel = [UInt32](repeating: 0, count: 50_000)
        for _ in 0..<60_000 {
            switch generator.next() % 8 {
            case 0 where !model.isEmpty:
                let expected = model.removeLast()
                #expect(try array.popLast() == expected)
            case 1 where !model.isEmpty:
                let index = Int(generator.next() % UInt64(model.count))
                model[index].part = 7
                try array.update(index) { $0.part = 7 }
            case 2:
                let index = Int(generator.next() % 50_000)
                otherModel[index] = UInt32(index)
                try other.set(index, to: UInt32(index))
            default:
                let element = Odd(number: generator.next(), part: 1)
                model.append(element)
                try array.append(element)
            }
        }
        #expect(array.count == model.count)
        for index in stride(from: 0, to: model.count, by: 3) where try array[index] != model[index] {
            Issue.record("element \(index)")
        }
        for index in 0..<50_000 where try other[index] != otherModel[index] { Issue.record("number \(index)") }
        #expect(pool.spilledInBytes > 200_000)
        array.removeAll()
        #expect(try array.popLast() == nil)
        let zeros = try PagedArray<UInt64>(pool, zeros: 10_000)
        for index in 0..<10_000 where try zeros[index] != 0 { Issue.record("a page was not cleared") }
    }

    @Test func bytesAreFoundAgain() throws {
        var generator = SeededGenerator(5)
        let pool = try Self.pool()
        let paged = PagedBytes(pool)
        var model: [(place: UInt32, bytes: [UInt8])] = []
        for _ in 0..<3000 {
            let size = generator.chance(2) ? 70_000 : generator.chance(5) ? 16 << 10 : 200
            let bytes = generator.bytes(Int(generator.next() % UInt64(size + 1)))
            model.append((try paged.append(bytes.span), bytes))
        }
        for (place, bytes) in model { #expect(try paged.bytes(at: place, count: bytes.count) == bytes) }
        let short = model.filter { $0.bytes.count <= 255 }
        for _ in 0..<20_000 {
            let (one, other) = (generator.pick(short), generator.pick(short))
            let precedes = try paged.precedes((one.place, one.bytes.count), (other.place, other.bytes.count))
            #expect(precedes == one.bytes.lexicographicallyPrecedes(other.bytes))
            #expect(try paged.equals(at: one.place, one.bytes.span))
        }
    }

    @Test func mapsFindTheirKeys() throws {
        var generator = SeededGenerator(6)
        let pool = try Self.pool()
        let map = try PagedMap(pool)
        var model: [PagedMap.Key: UInt32] = [:]
        for index in 0..<20_000 as Range<UInt32> {
            let key = PagedMap.Key(generator.next() % 15_000, device: generator.next() % 2)
            model[key] = index
            try map.set(key, to: index)
        }
        for number in 0..<15_000 as Range<UInt64> {
            for device in 0..<2 as Range<UInt64> {
                let key = PagedMap.Key(number, device: device)
                #expect(try map[key] == model[key])
            }
        }
    }

    @Test func memoryCanBeTakenAway() throws {
        let output = try Descriptor.memoryFile("image")
        var limits = ConversionLimits()
        limits.memoryInBytes = 4 << 20
        let pool = try PagePool(limits: limits, output: output.raw)
        let array = PagedArray<UInt64>(pool)
        for index in 0..<200_000 as Range<UInt64> { try array.append(index) }
        #expect(pool.spilledInBytes == 0)
        try pool.limitMemory(to: 1 << 20)
        #expect(pool.spilledInBytes == 200_000 / 2048 * PagePool.pageInBytes + PagePool.pageInBytes - (1 << 20))
        for index in 0..<200_000 where try array[index] != UInt64(index) { Issue.record("element \(index)") }
    }

    @Test func theLimitHolds() throws {
        let pool = try Self.pool(limit: 1 << 20)
        let array = PagedArray<UInt64>(pool)
        let error = #expect(throws: DiskImageError.self) { while true { try array.append(1) } }
        #expect(error == .limit(entry: "image", limit: .metadata, maximum: 1 << 20))
        #expect(array.count >= 1 << 17)
    }
}

/// Conversions take bounded memory, and what they make does not depend on it.
@Suite struct BoundedMemoryTests {
    /// Many files in deep and in wide directories, some with attributes, links and more than one name.
    private static func layer(_ count: Int, seed: UInt64) -> [UInt8] {
        var generator = SeededGenerator(seed)
        var tar = TarWriter()
        for index in 0..<count {
            let name = "d\(generator.next() % 40)/e\(generator.next() % 30)/\(generator.next() % 100_000)"
            switch generator.next() % 12 {
            case 0: tar.entry(name, type: "2", target: String(repeating: "t", count: Int(generator.next() % 90)) + "t")
            case 1: tar.entry(name, content: [1], xattrs: ["user.n": Array("\(index)".utf8)])
            case 2: tar.entry("wide/\(generator.next())", modified: Timestamp(seconds: Int64(index)))
            case 3: tar.entry(name + "-dir", type: "5", mode: 0o700, xattrs: ["user.d": [2]])
            case 4:
                tar.entry("first\(index)", content: [3])
                tar.entry(name, type: "1", target: "first\(index)")
            default: tar.entry(name)
            }
        }
        return tar.finished()
    }

    @Test func littleMemoryGivesTheSameImage() throws {
        let space = try Workspace()
        var small = ConversionOptions()
        small.limits.memoryInBytes = 0
        for (index, seed) in [UInt64(1), 2, 3].enumerated() {
            let layer = Self.layer(6000, seed: seed)
            try space.convert(layer, to: "layer\(index)")
            try space.convert(layer, to: "small\(index)", options: small)
            try space.shell("cmp layer\(index) small\(index)")
        }
        try space.merge(["layer0", "layer1", "layer2"], to: "merged")
        try space.merge(["layer0", "layer1", "layer2"], to: "merged-small", limits: small.limits)
        try space.shell("cmp merged merged-small; fsck.erofs merged")
        // What did not fit was in files that have no names.
        #expect(try space.shell("ls -A | grep -v -e '^layer' -e '^small' -e '^merged' -e out || true") == "")
    }

    @Test func directoriesToo() throws {
        let space = try Workspace()
        try space.shell("mkdir -p tree/{a,b,c}/{1..60}; for d in tree/*/*; do touch $d/{1..30}; ln $d/1 $d/hard; done")
        var options = DirectoryOptions()
        for (name, memory) in [("large", 24 << 20), ("small", 0)] {
            options.limits.memoryInBytes = memory
            let output = try Descriptor.open(space[name], .create)
            _ = try DirectoryConverter.convert(path: space["tree"], output: output.raw, options: options)
        }
        try space.shell("cmp large small; fsck.erofs large")
    }

    /// The window that a stream asks for: granted up to a bound, and the metadata makes room for it.
    @Test func windows() throws {
        let space = try Workspace()
        let layer = Self.layer(3000, seed: 4)
        try space.write(layer, to: "layer")
        let plain = try space.convert(layer, to: "plain")
        for log in [10, 20, 23, 25] {
            try space.shell("zstd -q --long=\(log) --zstd=wlog=\(log) -f -c < layer > compressed")
            let result = try space.convert(try space.read("compressed"), to: "image", pieces: 777)
            #expect(result.diffID == plain.diffID)
            try space.shell("cmp plain image")
        }
        for log in [26, 27] {
            try space.shell("zstd -q --long=\(log) -c < layer > compressed")
            let compressed = try space.read("compressed")
            for pieces in [1, 1 << 20] {
                #expect(throws: DiskImageError.zstdWindow(wantedInBytes: 1 << log, maximumInBytes: 32 << 20)) {
                    try space.convert(compressed, to: "image", pieces: pieces)
                }
            }
        }
        // A later frame may ask for more than the first.
        try space.shell("zstd -qc layer > two; zstd -q --long=27 -c < layer >> two")
        #expect(throws: DiskImageError.zstdWindow(wantedInBytes: 1 << 27, maximumInBytes: 32 << 20)) {
            try space.convert(try space.read("two"), to: "image")
        }
        let limits = ConversionLimits()
        #expect(limits.memory(besideWindow: 8 << 20) == 24 << 20)
        #expect(limits.memory(besideWindow: 20 << 20) == 12 << 20)
        #expect(limits.memory(besideWindow: 32 << 20) == 6 << 20)
    }

    /// What follows the magic number, and the window that it asks for.
    private static let headers: [([UInt8], UInt64)] = [
        ([0x00, 0x00], 1024), ([0x04, 0x6B], 11 << 20), ([0x20, 0xC8], 200), ([0x61, 0x01, 0x10, 0x00], 272),
        ([0xA3, 1, 2, 3, 4, 0, 0, 0, 1], 1 << 24), ([0xE0, 0, 0, 0, 0, 0, 0, 0, 1], 1 << 56),
    ]

    @Test(arguments: headers) func frameHeaders(rest: [UInt8], window: UInt64) {
        var header = ZstdFrameHeader()
        for byte in [0x28, 0xB5, 0x2F, 0xFD] + rest {
            #expect(!header.isComplete)
            header.take(byte)
        }
        #expect(header.isComplete)
        #expect(header.windowInBytes == window)
    }

    @Test func skippedFrames() {
        var header = ZstdFrameHeader()
        for byte in [0x50, 0x2A, 0x4D, 0x18, 4] as [UInt8] { header.take(byte) }
        #expect(header.isComplete && header.windowInBytes == nil)
    }
}
