// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing
import Wire

@testable import PageServer

/// What hosts say to each other about memory, be it what it may, and who is asked for what when.
@Suite struct PageStreamTests {
    private static let snapshot = "00112233445566778899aabbccddeeff"
    /// 130 chunks, of which the last has 3 pages.
    private static let size = 129 * PageStream.chunkSize + 3 * 4096

    private static func ledger(_ data: [UInt64] = [.max, .max, .max], first: [UInt64] = []) -> ChunkLedger {
        ChunkLedger(memorySize: size, data: data, first: first)
    }

    private static func chunk(_ number: UInt64) -> Range<UInt64> {
        number * PageStream.chunkSize..<(number + 1) * PageStream.chunkSize
    }

    // MARK: - Words

    @Test func whatIsSaidIsUnderstood() throws {
        let greeting = PageStream.greeting(wanting: Self.snapshot)
        #expect(greeting.count == PageStream.greetingSize)
        #expect(try PageStream.snapshot(greeting: greeting) == Self.snapshot)

        let said = PageAnnouncement(
            memorySize: Self.size, snapshot: Self.snapshot, data: [5, 6, 1], first: [4, 0, 0])
        let bytes = said.encoded()
        let header = Array(bytes[..<PageStream.headerSize])
        try PageAnnouncement.check(header: header, wanting: Self.snapshot, memorySize: Self.size)
        let maps = Array(bytes[PageStream.headerSize...])
        #expect(maps.count == PageStream.mapsSize(ofMemory: Self.size))
        #expect(try PageAnnouncement(maps: maps, snapshot: Self.snapshot, memorySize: Self.size) == said)
    }

    /// Docs/PAGE-STREAM.md, byte by byte: what hosts of another version meet.
    @Test func theFormatIsAsWritten() throws {
        let greeting = PageStream.greeting(wanting: Self.snapshot)
        #expect(greeting[..<16].elementsEqual(Array("MARTPAGE".utf8) + [1, 0, 0, 0, 0, 0, 0, 0]))
        #expect(greeting[16..<32].elementsEqual((0..<16).map { UInt8($0 * 17) }))
        let bytes = PageAnnouncement(memorySize: 4096, snapshot: Self.snapshot, data: [1], first: [0]).encoded()
        #expect(bytes.count == 64 + 8 + 8 + 8)
        #expect(bytes[8..<24].elementsEqual([1, 0, 0, 0, 0, 0, 1, 0, 0, 16, 0, 0, 0, 0, 0, 0]))
        #expect(bytes[64..<80].elementsEqual([1] + [UInt8](repeating: 0, count: 15)))
    }

    @Test func othersAreNamed() throws {
        func reason(_ change: (inout [UInt8]) -> Void, size: UInt64 = Self.size, wanting: String = Self.snapshot)
            -> String
        {
            var bytes = PageAnnouncement(memorySize: Self.size, snapshot: Self.snapshot, data: [], first: []).encoded()
            change(&bytes)
            do {
                try PageAnnouncement.check(header: bytes, wanting: wanting, memorySize: size)
                return ""
            } catch { return "\(error)" }
        }
        let other = String(repeating: "ab", count: 16)
        #expect(reason({ _ in }) == "")
        #expect(reason({ _ in }, wanting: other).contains(other))
        #expect(reason({ _ in }, size: 4096).contains("another size"))
        #expect(reason({ $0[8] = 2 }).contains("version 2"))
        #expect(reason({ $0[13] ^= 1 }).contains("damaged"))
        #expect(reason({ $0 = Array("bash: martlet: command not found".utf8) }).contains("MARTPAGE"))
    }

    @Test func anyBytesAreRefusedOrUnderstood() throws {
        var generator = SeededGenerator(11)
        let good = PageAnnouncement(memorySize: Self.size, snapshot: Self.snapshot, data: [1], first: [2, 3]).encoded()
        for _ in 0..<fuzzRounds(3000) {
            var bytes =
                Bool.random(using: &generator) ? good : generator.bytes(Int.random(in: 0...200, using: &generator))
            if bytes == good {
                bytes[Int.random(in: 0..<84, using: &generator)] ^= 1 << UInt8.random(in: 0...7, using: &generator)
            }
            _ = try? PageStream.snapshot(greeting: bytes)
            let header = Array(bytes.prefix(PageStream.headerSize))
            let maps = Array(bytes.dropFirst(PageStream.headerSize))
            let isRight =
                (try? PageAnnouncement.check(header: header, wanting: Self.snapshot, memorySize: Self.size)) != nil
                && (try? PageAnnouncement(maps: maps, snapshot: Self.snapshot, memorySize: Self.size)) != nil
            // Whatever bit of it was turned over.
            #expect(!isRight)
        }
    }

    /// What a working set's file says first, and nothing of what is none.
    @Test func workingSets() throws {
        var file = Array("MARTWSET".utf8)
        func integer(_ value: UInt64, _ count: Int) -> [UInt8] {
            (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
        }
        let body = integer(17, 4) + integer(2 | 1 << 31, 4) + integer(1 << 30, 4) + integer(5, 4)
        file += integer(1, 4) + integer(1, 4) + integer(Self.size, 8) + PageStream.identifier(Self.snapshot)
        file += integer(2, 4) + integer(UInt64(CRC32C.of(body)), 4)
        file += [UInt8](repeating: 0, count: 60 - file.count)
        file += integer(UInt64(CRC32C.of(file)), 4) + body
        func read(_ bytes: [UInt8], _ snapshot: String = Self.snapshot) -> [Range<UInt64>] {
            MemoryImage.stretches(ofWorkingSet: bytes, of: snapshot, memorySize: Self.size)
        }
        #expect(read(file) == [17 * 4096..<19 * 4096])
        #expect(read(file, String(repeating: "0", count: 32)).isEmpty)
        var generator = SeededGenerator(12)
        for _ in 0..<fuzzRounds(500) {
            var bytes = file
            bytes[Int.random(in: 0..<bytes.count, using: &generator)] ^= 1 << UInt8.random(in: 0...7, using: &generator)
            #expect(read(bytes).isEmpty)
            #expect(read(Array(file.prefix(Int.random(in: 0..<file.count, using: &generator)))).isEmpty)
        }
    }

    /// What the program is asked for.
    @Test func arguments() throws {
        func work(_ line: String) throws -> PageServerStart.Work {
            try PageServerStart(arguments: line.split(separator: " ").map(String.init)).work
        }
        #expect(try work("--memory m --listen s") == .serve(memory: "m", socket: "s"))
        #expect(try work("--memory m --stream --first f") == .send(memory: "m", first: "f"))
        let fetch = "--from 5,6 --snapshot i --size 8192 --cache c --listen s"
        let ends = try #require(PageServerStart.StreamEnds("5,6"))
        #expect(try work(fetch) == .fetch(from: ends, snapshot: "i", size: 8192, cache: "c", socket: "s"))
        for wrong in [
            "", "--memory", "--memory m", "--stream", "--listen s", "--other", "--from 5 --size 8192",
            "--from 5,6,7 --snapshot i --size 8192 --cache c --listen s", fetch.dropping("8192", for: "8191"),
            fetch.dropping("8192", for: "0"), fetch.dropping("5,6", for: "-1,6"), fetch.dropping("--cache c ", for: ""),
        ] { #expect(throws: PageServerError.self, "\(wrong)") { try work(wrong) } }
    }

    // MARK: - Requests

    @Test func eachChunkIsAskedForOnce() throws {
        var ledger = Self.ledger()
        ledger.want(Self.chunk(3))
        ledger.want(3 * PageStream.chunkSize + 4096..<3 * PageStream.chunkSize + 8192)
        ledger.want(Self.chunk(2).lowerBound..<Self.chunk(3).upperBound)
        #expect(ledger.next() == Self.chunk(3).lowerBound && ledger.next() == Self.chunk(2).lowerBound)
        // What lies behind comes after it.
        for chunk in 4...6 as ClosedRange<UInt64> { #expect(ledger.next() == Self.chunk(chunk).lowerBound) }
        #expect(ledger.next() == nil && ledger.askedCount == 5)
        #expect(!ledger.isPresent(Self.chunk(3)))
        #expect(try ledger.expect(answer: Self.chunk(3).lowerBound, pages: .max) == Self.chunk(3))
        ledger.answered()
        #expect(ledger.isPresent(Self.chunk(3)) && !ledger.isPresent(Self.chunk(2)))
        ledger.want(Self.chunk(3))
        #expect(ledger.next() == nil)
    }

    @Test func holesAreThereAndWhatIsWaitedForGoesFirst() throws {
        // Chunks 0 and 2 and the last have data; 1, 2 and one beyond the memory are to come first.
        var ledger = Self.ledger([5, 0, 2], first: [6, 0, 4])
        #expect(ledger.isPresent(Self.chunk(1)) && !ledger.isPresent(Self.chunk(0)))
        ledger.want(Self.chunk(1))
        ledger.want(Self.chunk(0))
        #expect(ledger.next() == 0 && ledger.next() == Self.chunk(2).lowerBound && ledger.next() == nil)
        ledger.want(Self.size - 1..<Self.size)
        #expect(ledger.next() == Self.chunk(129).lowerBound)
        // Beyond its end there is nothing to wait for.
        #expect(ledger.isPresent(Self.size..<Self.size + 4096))
    }

    @Test func soManyAreAskedForAtATime() throws {
        var ledger = Self.ledger(first: [.max, .max, .max])
        var offsets: [UInt64] = []
        while let next = ledger.next() { offsets.append(next) }
        #expect(offsets.count == PageStream.prefetchWindow)
        ledger.want(0..<Self.size)
        while let next = ledger.next() { offsets.append(next) }
        #expect(offsets.count == PageStream.window && ledger.askedCount == PageStream.window)
        var done = 0
        while done < offsets.count {
            _ = try ledger.expect(answer: offsets[done], pages: 0)
            ledger.answered()
            done += 1
            if let next = ledger.next() { offsets.append(next) }
        }
        #expect(offsets.count == 130 && Set(offsets).count == 130 && ledger.isPresent(0..<Self.size))
    }

    @Test func answersThatWereNotAskedForAreRefused() throws {
        var ledger = Self.ledger()
        #expect(throws: StreamFailure.self) { try ledger.expect(answer: 0, pages: 1) }
        ledger.want(Self.chunk(129))
        ledger.want(Self.chunk(1))
        while ledger.next() != nil {}
        for offset in [Self.chunk(1).lowerBound, Self.chunk(129).lowerBound + 4096, 0, .max] {
            #expect(throws: StreamFailure.self) { try ledger.expect(answer: offset, pages: 1) }
        }
        // The last chunk has three pages.
        #expect(throws: StreamFailure.self) { try ledger.expect(answer: Self.chunk(129).lowerBound, pages: 8) }
        #expect(try ledger.expect(answer: Self.chunk(129).lowerBound, pages: 7).upperBound == Self.size)
    }

    /// Wanting and answers in any order: nothing twice, nothing lost, never too much at a time.
    @Test(arguments: 0..<20 as Range<UInt64>) func anyOrder(seed: UInt64) throws {
        var generator = SeededGenerator(seed)
        let data = (0..<3).map { _ in generator.next() }
        var ledger = Self.ledger(data, first: (0..<3).map { _ in generator.next() })
        var wanted: Set<UInt64> = []
        var asked: [UInt64] = []
        var answered = 0
        for _ in 0..<2000 {
            if Bool.random(using: &generator) {
                let chunk = UInt64.random(in: 0..<130, using: &generator)
                ledger.want(Self.chunk(chunk))
                if data[Int(chunk / 64)] >> (chunk % 64) & 1 != 0 { wanted.insert(chunk) }
            }
            if Bool.random(using: &generator), let next = ledger.next() { asked.append(next) }
            if Bool.random(using: &generator), answered < asked.count {
                _ = try ledger.expect(answer: asked[answered], pages: 1)
                ledger.answered()
                answered += 1
            }
            #expect(ledger.askedCount == asked.count - answered && ledger.askedCount <= PageStream.window)
        }
        while let next = ledger.next() { asked.append(next) }
        #expect(Set(asked).count == asked.count)
        #expect(wanted.isSubset(of: asked.map { $0 / PageStream.chunkSize }))
        for offset in asked {
            #expect(data[Int(offset / PageStream.chunkSize / 64)] >> (offset / PageStream.chunkSize % 64) & 1 != 0)
        }
    }
}

extension String {
    /// Itself with another word in the place of the first one that is so.
    fileprivate func dropping(_ word: String, for other: String) -> String {
        guard let place = firstRange(of: word) else { return self }
        return String(self[..<place.lowerBound]) + other + String(self[place.upperBound...])
    }
}
