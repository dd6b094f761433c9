// SPDX-License-Identifier: Apache-2.0

import MachineAPI
import TestSupport
import Testing

@testable import PageServer

/// What is put where pages are missing.
@Suite struct ClientPagesTests {
    private static let page: UInt64 = 4096
    /// Two ranges, 40 and 20 pages, whose order in the file is not that of their addresses.
    private static let handoff = MemoryHandoff(regions: [
        MemoryHandoff.Region(address: 0x20_0000, size: 40 * page, offset: 20 * page),
        MemoryHandoff.Region(address: 0x10_0000, size: 20 * page, offset: 0),
    ])
    private static let all = DataMap(ranges: [0..<60 * page])

    @Test func theWindowAroundAPage() throws {
        let pages = ClientPages(Self.handoff)
        let pieces = try #require(pages.pieces(missing: 0x20_0000 + 17 * Self.page + 5, Self.all))
        #expect(
            pieces == [
                .init(
                    address: 0x20_0000 + 16 * Self.page, count: 16 * Self.page, content: .file(36 * Self.page),
                    pageSize: Self.page)
            ])
        // The last window ends with its range.
        let last = try #require(pages.pieces(missing: 0x20_0000 + 39 * Self.page, Self.all))
        #expect(last.map(\.count) == [8 * Self.page])
        for address in [0, 0x20_0000 - 1, 0x20_0000 + 40 * Self.page, UInt64.max] as [UInt64] {
            #expect(pages.pieces(missing: address, Self.all) == nil)
        }
    }

    @Test func thePageItselfComesFirstAndHolesAreZeros() throws {
        let pages = ClientPages(Self.handoff)
        // In the first range's first window only the pages 4 and 5 have data.
        let data = DataMap(ranges: [24 * Self.page..<26 * Self.page])
        let pieces = try #require(pages.pieces(missing: 0x20_0000 + 5 * Self.page, data))
        #expect(pieces.count == 3)
        #expect(pieces.first?.content == .file(24 * Self.page))
        var zeros: UInt64 = 0
        for piece in pieces where piece.content == .zero { zeros += piece.count }
        #expect(zeros == 14 * Self.page)
    }

    @Test func whatIsThereIsLeftOutAndWhatWasTakenAwayIsZero() throws {
        var pages = ClientPages(Self.handoff)
        pages.note(0x10_0000, count: 4 * Self.page)
        var pieces = try #require(pages.pieces(missing: 0x10_0000 + 6 * Self.page, Self.all))
        #expect(pieces.map(\.address) == [0x10_0000 + 4 * Self.page])
        // The kernel knows better which page is missing.
        pieces = try #require(pages.pieces(missing: 0x10_0000 + Self.page, Self.all))
        #expect(pieces.first?.address == 0x10_0000 + Self.page)
        // Taken away over the borders of a range, and around.
        pages.remove(0x10_0000 + 2 * Self.page..<0x20_0000 + Self.page)
        pieces = try #require(pages.pieces(missing: 0x10_0000 + 2 * Self.page, Self.all))
        #expect(pieces.map(\.content) == [.zero] && pieces.map(\.count) == [Self.page])
        pieces = try #require(pages.pieces(missing: 0x20_0000, Self.all))
        #expect(pieces.first?.content == .zero)
        pieces = try #require(pages.pieces(missing: 0x20_0000 + 2 * Self.page, Self.all))
        #expect(pieces.first?.content == .file(21 * Self.page) && pieces.first?.count == 15 * Self.page)
    }

    @Test func hugePagesComeWhole() throws {
        let size: UInt64 = 2 << 20
        var pages = ClientPages(
            MemoryHandoff(regions: [.init(address: 4 * size, size: 3 * size, offset: 4096, pageSize: size)]))
        let pieces = try #require(pages.pieces(missing: 5 * size + 77, DataMap(ranges: [])))
        #expect(pieces == [.init(address: 5 * size, count: size, content: .file(4096 + size), pageSize: size)])
        pages.remove(5 * size..<6 * size)
        #expect(pages.pieces(missing: 5 * size, DataMap(ranges: []))?.first?.content == .zero)
    }

    /// Every page comes from its own place of the file, whatever is missing, there and taken away.
    @Test(arguments: 0..<20 as Range<UInt64>) func everyPageIsTheRightOne(seed: UInt64) throws {
        var generator = SeededGenerator(seed)
        var pages = ClientPages(Self.handoff)
        var ranges: [Range<UInt64>] = []
        var position: UInt64 = 0
        while position < 60 {
            let start = position + UInt64.random(in: 0...4, using: &generator)
            let end = start + UInt64.random(in: 1...6, using: &generator)
            if end <= 60 { ranges.append(start * Self.page..<end * Self.page) }
            position = end + 1
        }
        let data = DataMap(ranges: ranges)
        var removed: Set<UInt64> = []
        for _ in 0..<300 {
            let region = Self.handoff.regions[Int.random(in: 0...1, using: &generator)]
            let index = UInt64.random(in: 0..<region.size / Self.page, using: &generator)
            let address = region.address + index * Self.page
            if UInt8.random(in: 0...9, using: &generator) == 0 {
                pages.remove(address..<address + Self.page)
                removed.insert(address)
                continue
            }
            let pieces = try #require(pages.pieces(missing: address, data))
            #expect(pieces.first.map { $0.address <= address && address < $0.address + $0.count } == true)
            for piece in pieces {
                for place in stride(from: piece.address, to: piece.address + piece.count, by: 4096) {
                    let offset = place - region.address + region.offset
                    let isData = ranges.contains { $0.contains(offset) } && !removed.contains(place)
                    let content: ClientPages.Piece.Content =
                        if case .file(let first) = piece.content { .file(first + place - piece.address) } else { .zero }
                    #expect(content == (isData ? .file(offset) : .zero))
                }
                pages.note(piece.address, count: piece.count)
            }
        }
    }
}
