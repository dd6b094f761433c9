// SPDX-License-Identifier: Apache-2.0

import Packet
import TestSupport
import Testing

@Suite struct PCAPNGBlocksTests {
    /// A capture of some frames, and the places where its blocks end.
    private func capture(_ frames: Int, _ generator: inout SeededGenerator) -> (bytes: [UInt8], ends: [Int]) {
        var blocks = [PCAPNG.begin(application: "tests"), PCAPNG.interface(name: "one", lengthLimit: 65_536)]
        for index in 0..<frames {
            let frame = generator.bytes(Int(generator.next() % 3000))
            blocks.append(
                reading(frame) {
                    PCAPNG.packet(
                        $0, originalLength: frame.count, interface: 0, nanoseconds: UInt64(index), direction: .inbound,
                        comment: index.isMultiple(of: 3) ? "dropped: why" : nil)
                })
        }
        var ends: [Int] = []
        for block in blocks { ends.append((ends.last ?? 0) + block.count) }
        return (Array(blocks.joined()), ends)
    }

    @Test(arguments: 0..<20 as Range<UInt64>) func whatIsPassedOnEndsWithABlock(seed: UInt64) throws {
        var generator = SeededGenerator(seed)
        let (bytes, ends) = capture(30, &generator)
        // It may end anywhere.
        let cut = Int(generator.next() % UInt64(bytes.count + 1))
        var reader = PCAPNGBlocks()
        var passed: [UInt8] = []
        var rest = bytes[..<cut]
        while !rest.isEmpty {
            let piece = rest.prefix(1 + Int(generator.next() % 5000))
            let whole = reader.append(piece)
            passed += try #require(whole)
            rest = rest.dropFirst(piece.count)
        }
        let expected = ends.last { $0 <= cut } ?? 0
        #expect(passed == Array(bytes[..<expected]))
        #expect(reader.frames == UInt64(max(0, ends.count { $0 <= cut } - 2)))
    }

    /// Whatever comes is refused, or held within bounds.
    @Test func hostileBytesAreBounded() {
        var generator = SeededGenerator(77)
        for _ in 0..<2000 {
            var reader = PCAPNGBlocks()
            var taken = 0
            var passed = 0
            while taken < 3 * PCAPNGBlocks.limitInBytes {
                var piece = generator.bytes(1 + Int(generator.next() % 4096))
                // Some lengths that a block may have.
                if generator.next().isMultiple(of: 2), piece.count >= 8 {
                    piece.replaceSubrange(4..<8, with: [0, 2, 0, 0])
                }
                taken += piece.count
                guard let whole = reader.append(piece[...]) else { break }
                passed += whole.count
                #expect(taken - passed < PCAPNGBlocks.limitInBytes + 4096)
            }
        }
    }
}

@Suite struct PCAPNGMergeTests {
    /// A block's type, and the interface and time of a frame's.
    private struct Block: Equatable {
        let type: UInt32
        var interface: UInt32 = 0
        var time: UInt32 = 0
    }

    private func blocks(_ bytes: [UInt8]) -> [Block] {
        func word(_ offset: Int) -> UInt32 { (0..<4).reduce(0) { $0 | UInt32(bytes[offset + $1]) << UInt32(8 * $1) } }
        var result: [Block] = []
        var start = 0
        while start < bytes.count {
            let length = Int(word(start + 4))
            #expect(word(start + length - 4) == UInt32(length))
            var block = Block(type: word(start))
            if block.type == 6 { (block.interface, block.time) = (word(start + 8), word(start + 16)) }
            result.append(block)
            start += length
        }
        return result
    }

    /// Two captures, each with interfaces of its own, whose pieces come in any sizes and in turns.
    @Test(arguments: 0..<10 as Range<UInt64>) func severalCapturesBecomeOne(seed: UInt64) throws {
        var generator = SeededGenerator(seed)
        var merge = PCAPNGMerge(application: "tests", interfaces: [("eth0", "blue"), ("eth1", "red")])
        var rest: [ArraySlice<UInt8>] = (0..<2).map { source in
            var bytes = PCAPNG.begin(application: "other") + PCAPNG.interface(name: "x", lengthLimit: 65_536)
            for index in 0..<20 {
                // A machine that leaves and comes is another interface.
                if index == 10 { bytes += PCAPNG.interface(name: "y", lengthLimit: 65_536) }
                let frame = generator.bytes(Int(generator.next() % 2000))
                bytes += reading(frame) {
                    PCAPNG.packet(
                        $0, originalLength: frame.count, interface: index < 10 ? 0 : 1,
                        nanoseconds: UInt64(100 * source + index), direction: .outbound)
                }
            }
            return bytes[...]
        }
        var written = merge.head
        while let source = [0, 1].filter({ !rest[$0].isEmpty }).randomElement(using: &generator) {
            let piece = rest[source].prefix(1 + Int(generator.next() % 3000))
            rest[source] = rest[source].dropFirst(piece.count)
            let whole = merge.append(piece, from: source)
            written += try #require(whole)
        }
        let found = blocks(written)
        #expect(found.prefix(3) == [Block(type: 0x0A0D_0D0A), Block(type: 1), Block(type: 1)])
        #expect(found.dropFirst(3).allSatisfy { $0.type == 6 } && found.count == 43 && merge.frames == 40)
        for source in 0..<2 as Range<UInt32> {
            let times = found.filter { $0.type == 6 && $0.interface == source }.map(\.time)
            #expect(times == (0..<20).map { 100 * source + $0 })
        }
    }

    @Test func hostileBlocksAreRefused() {
        var generator = SeededGenerator(78)
        for _ in 0..<3000 {
            var merge = PCAPNGMerge(application: "tests", interfaces: [("eth0", "blue")])
            var bytes = generator.bytes(12 + Int(generator.next() % 64) / 4 * 4)
            let length = UInt8(bytes.count)
            bytes.replaceSubrange(0..<8, with: [6, 0, 0, 0, length, 0, 0, 0])
            let whole = merge.append(bytes[...], from: 0)
            #expect(whole.map(\.count) == (bytes.count >= 32 ? bytes.count : nil))
        }
    }
}
