// SPDX-License-Identifier: Apache-2.0

/// Which chunks of a memory have come, which were asked for, and what is to be asked for next. Each is asked for once,
/// however many wait for it. Without any call of the system.
///
///     absent ──want──▶ queued ──next──▶ asked ──answered──▶ present
package struct ChunkLedger: Equatable, Sendable {
    /// How many chunks are asked for behind those that somebody waits for.
    static let readAhead = 3

    /// In bytes.
    let memorySize: UInt64
    /// A bit a chunk: it has come, or is zero throughout.
    private var present: [UInt64]
    /// It is queued, asked for or present.
    private var known: [UInt64]
    /// To be asked for when nobody waits for others.
    private var first: [UInt64]
    /// No word of `first` before this one has any.
    private var firstWord = 0
    /// Those that somebody waits for, the next at `queueStart`.
    private var queue: [Int] = []
    private var queueStart = 0
    /// Those that were asked for, in their order: a ring.
    private var asked = [Int](repeating: 0, count: PageStream.window)
    private var askedStart = 0
    /// How many answers are owed.
    private(set) var askedCount = 0

    /// - Parameters:
    ///   - data: chunks with data, a bit each; what is beyond the memory is left out.
    ///   - first: those of them to be asked for before anybody waits.
    init(memorySize: UInt64, data: [UInt64], first: [UInt64]) {
        self.memorySize = memorySize
        let count = PageStream.wordCount(ofMemory: memorySize)
        let rest = PageStream.chunkCount(ofMemory: memorySize) % 64
        present = (0..<count).map { index in
            let isCut = index == count - 1 && rest > 0
            return ~(index < data.count ? data[index] : 0) | (isCut ? ~0 << UInt64(rest) : 0)
        }
        known = present
        self.first = (0..<count).map { $0 < first.count ? first[$0] : 0 }
        queue.reserveCapacity(1024)
    }

    private static func has(_ map: [UInt64], _ chunk: Int) -> Bool { map[chunk / 64] >> UInt64(chunk % 64) & 1 != 0 }
    private static func set(_ map: inout [UInt64], _ chunk: Int) { map[chunk / 64] |= 1 << UInt64(chunk % 64) }

    private func chunks(_ range: Range<UInt64>) -> Range<Int> {
        let end = min(range.upperBound, memorySize)
        guard range.lowerBound < end else { return 0..<0 }
        let size = PageStream.chunkSize
        return Int(range.lowerBound / size)..<Int((end - 1) / size) + 1
    }

    /// Whether all of a range of the memory is here.
    func isPresent(_ range: Range<UInt64>) -> Bool {
        for chunk in chunks(range) where !Self.has(present, chunk) { return false }
        return true
    }

    /// Somebody waits for a range. What lies behind it is asked for as well, when nobody waits for others: it is touched
    /// next more often than not, and each chunk that is waited for costs a way there and back.
    mutating func want(_ range: Range<UInt64>) {
        let wanted = chunks(range)
        var isNew = false
        for chunk in wanted where !Self.has(known, chunk) {
            Self.set(&known, chunk)
            queue.append(chunk)
            isNew = true
        }
        guard isNew else { return }
        let count = PageStream.chunkCount(ofMemory: memorySize)
        for chunk in wanted.upperBound..<max(wanted.upperBound, min(wanted.upperBound + Self.readAhead, count)) {
            Self.set(&first, chunk)
        }
        firstWord = min(firstWord, wanted.upperBound / 64)
    }

    /// What to ask for now, by its offset in bytes; nil where nothing is to be asked for yet.
    mutating func next() -> UInt64? {
        guard askedCount < PageStream.window, let chunk = nextQueued() ?? nextOfFirst() else { return nil }
        asked[(askedStart + askedCount) % PageStream.window] = chunk
        askedCount += 1
        return UInt64(chunk) * PageStream.chunkSize
    }

    private mutating func nextQueued() -> Int? {
        guard queueStart < queue.count else { return nil }
        let chunk = queue[queueStart]
        queueStart += 1
        if queueStart == queue.count {
            queue.removeAll(keepingCapacity: true)
            queueStart = 0
        }
        return chunk
    }

    private mutating func nextOfFirst() -> Int? {
        guard askedCount < PageStream.prefetchWindow else { return nil }
        while firstWord < first.count {
            let rest = first[firstWord] & ~known[firstWord]
            guard rest == 0 else {
                let chunk = firstWord * 64 + rest.trailingZeroBitCount
                Self.set(&known, chunk)
                return chunk
            }
            firstWord += 1
        }
        return nil
    }

    /// An answer has begun: the bytes of the memory that it is about. They are present once it is whole.
    /// - Parameters:
    ///   - offset: of the chunk, as it was answered.
    ///   - pages: those of it that come, a bit each.
    func expect(answer offset: UInt64, pages: UInt16) throws(StreamFailure) -> Range<UInt64> {
        guard askedCount > 0 else { throw .answer("an answer without a request") }
        let wanted = UInt64(asked[askedStart]) * PageStream.chunkSize
        guard offset == wanted else { throw .answer("bytes at \(offset), and those at \(wanted) come next") }
        let range = wanted..<min(wanted + PageStream.chunkSize, memorySize)
        let count = (range.upperBound - range.lowerBound) / PageStream.pageSize
        guard count == 16 || pages >> UInt16(count) == 0 else { throw .answer("pages beyond the memory") }
        return range
    }

    /// The answer that was expected has come whole.
    mutating func answered() {
        precondition(askedCount > 0)
        Self.set(&present, asked[askedStart])
        askedStart = (askedStart + 1) % PageStream.window
        askedCount -= 1
    }
}
