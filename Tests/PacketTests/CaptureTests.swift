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
