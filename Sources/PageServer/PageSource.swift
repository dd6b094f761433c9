// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
package import Platform
internal import Wire

/// Where the memory is that this host has not: the stream from another host, and the cache of what has come from there,
/// a sparse file without a name. It becomes no larger than the memory's data.
package struct PageSource: ~Copyable {
    /// How long an answer may be owed without a byte of it.
    static let silenceInNanoseconds: UInt64 = 30_000_000_000
    /// The most reads in one turn, lest the stream holds up those who have what they need.
    private static let turnLimit = 32

    package let snapshot: String
    package let memorySize: UInt64
    let input: Descriptor
    let output: Descriptor
    private let cache: Descriptor
    private let silence: UInt64

    /// What comes next.
    private enum Part: Equatable {
        case header
        case maps
        case answer
        case pages(UInt16, Range<UInt64>)
    }

    private var part = Part.header
    /// The bytes of the part, as far as they have come.
    private var space: [UInt8]
    private var filled = 0
    private var needed = PageStream.headerSize
    /// Requests that have not left yet.
    private var outgoing: [UInt8]
    private var outgoingRange = 0..<0
    private var lastSign: UInt64 = 0

    /// - Parameters:
    ///   - input: what the other host sends; may be the same socket as the output.
    ///   - directory: where the cache is to be.
    ///   - snapshot: whose memory it is to be, 32 hexadecimal digits.
    ///   - memorySize: in bytes, whole pages.
    ///   - silence: how long an answer may be owed, in nanoseconds.
    package init(
        input: consuming Descriptor, output: consuming Descriptor, cacheIn directory: String, snapshot: String,
        memorySize: UInt64, silence: UInt64 = silenceInNanoseconds
    ) throws(SystemError) {
        try input.setNonBlocking()
        try output.setNonBlocking()
        cache = try Self.makeCache(directory, size: memorySize)
        self.input = input
        self.output = output
        self.snapshot = snapshot
        self.memorySize = memorySize
        self.silence = silence
        space = [UInt8](repeating: 0, count: Int(PageStream.chunkSize))
        let greeting = PageStream.greeting(wanting: snapshot)
        outgoing = greeting + [UInt8](repeating: 0, count: PageStream.window * PageStream.requestSize)
        outgoingRange = 0..<greeting.count
    }

    private static func makeCache(_ directory: String, size: UInt64) throws(SystemError) -> Descriptor {
        let file: Descriptor
        do throws(SystemError) {
            file = try Descriptor.open(directory, .unnamed, permissions: 0o600)
        } catch {
            guard [EOPNOTSUPP, EISDIR, EINVAL].contains(error.code) else {
                throw SystemError("open", directory, code: error.code)
            }
            let name = "\(directory)/memory\(Files.draftSuffix())"
            file = try Descriptor.open(name, .createNew, permissions: 0o600)
            Files.remove(name)
        }
        try file.truncate(to: size)
        return file
    }

    /// The memory, none of which is here yet.
    func makeImage() throws(SystemError) -> MemoryImage {
        try MemoryImage(arrivingIn: cache, size: memorySize, snapshot: snapshot)
    }

    /// Whether it has said what it has.
    var isAnnounced: Bool { part != .header && part != .maps }

    /// When an answer has been owed for too long, on the monotonic clock; nil where none is.
    func deadline(_ image: borrowing MemoryImage) -> UInt64? {
        guard let ledger = image.arriving, ledger.askedCount > 0 else { return nil }
        return lastSign + silence
    }

    var silenceInSeconds: UInt64 { silence / 1_000_000_000 }

    /// Whether requests wait for the other host to read.
    var isOutputFull: Bool { !outgoingRange.isEmpty }

    // MARK: - What comes

    /// Takes what has come.
    /// - Returns: whether there is more of the memory, or of what is known of it, than before.
    mutating func receive(_ image: inout MemoryImage) throws(StreamFailure) -> Bool {
        var hasArrived = false
        for _ in 0..<Self.turnLimit {
            let (raw, done, count) = (input.raw, filled, needed)
            let got = unsafe space.withUnsafeMutableBytes { bytes in
                retryingInterrupts { unsafe read(raw, bytes.baseAddress.map { unsafe $0 + done }, count - done) }
            }
            if got < 0, clinux_errno() == EAGAIN { return hasArrived }
            // A socket whose other end was closed with requests in it that nobody has read.
            let isEnd = got == 0 || got < 0 && clinux_errno() == ECONNRESET
            guard !isEnd else { throw isAnnounced ? .ended : .refused }
            guard got > 0 else { throw .system(SystemError("read")) }
            lastSign = monotonicNanoseconds()
            filled += got
            // An answer may be without pages.
            while filled == needed {
                if try take(&image) { hasArrived = true }
            }
        }
        return hasArrived
    }

    /// Takes a part that is whole, and goes on to the next.
    private mutating func take(_ image: inout MemoryImage) throws(StreamFailure) -> Bool {
        switch part {
        case .header:
            try PageAnnouncement.check(header: space, wanting: snapshot, memorySize: memorySize)
            let size = PageStream.mapsSize(ofMemory: memorySize)
            space = [UInt8](repeating: 0, count: size)
            expect(.maps, size)
            return false
        case .maps:
            image.expect(try PageAnnouncement(maps: space, snapshot: snapshot, memorySize: memorySize))
            space = [UInt8](repeating: 0, count: Int(PageStream.chunkSize))
            expect(.answer, PageStream.answerHeaderSize)
            return true
        case .answer:
            let offset = space.integer(at: 0, as: UInt64.self) ?? .max
            let pages = space.integer(at: 8, as: UInt16.self) ?? 0
            guard space.integer(at: 10, as: UInt16.self) == 0, space.integer(at: 12, as: UInt32.self) == 0 else {
                throw .answer("a head that is none")
            }
            let range = try image.expect(answer: offset, pages: pages)
            expect(.pages(pages, range), pages.nonzeroBitCount * Int(PageStream.pageSize))
            return false
        case .pages(let pages, let range):
            try keep(pages, at: range.lowerBound)
            image.answered(range, pages)
            expect(.answer, PageStream.answerHeaderSize)
            return true
        }
    }

    private mutating func expect(_ next: Part, _ count: Int) {
        part = next
        filled = 0
        needed = count
    }

    /// Writes pages to the cache, those side by side at once; what is left out stays a hole.
    private func keep(_ pages: UInt16, at offset: UInt64) throws(StreamFailure) {
        var source = 0
        var page = 0
        while page < 16 {
            var end = page
            while end < 16, pages >> UInt16(end) & 1 != 0 { end += 1 }
            let count = (end - page) * Int(PageStream.pageSize)
            if count > 0 {
                let place = offset + UInt64(page) * PageStream.pageSize
                do throws(SystemError) { try cache.writeAll(space, source..<source + count, at: place) } catch {
                    throw .cache(error)
                }
                source += count
            }
            page = end + 1
        }
    }

    // MARK: - What is asked

    /// Asks for what is wanted, as much as may be asked for at a time.
    mutating func ask(_ image: inout MemoryImage) throws(StreamFailure) {
        while true {
            if outgoingRange.isEmpty {
                var count = 0
                let wasOwed = image.arriving.map { $0.askedCount > 0 } ?? false
                while let offset = image.nextRequest() {
                    outgoing.setInteger(offset, at: count)
                    count += PageStream.requestSize
                }
                guard count > 0 else { return }
                if !wasOwed { lastSign = monotonicNanoseconds() }
                outgoingRange = 0..<count
            }
            let (raw, range) = (output.raw, outgoingRange)
            let put = unsafe outgoing.withUnsafeBytes { bytes in
                retryingInterrupts {
                    unsafe write(raw, bytes.baseAddress.map { unsafe $0 + range.lowerBound }, range.count)
                }
            }
            guard put >= 0 else {
                switch clinux_errno() {
                case EAGAIN: return
                // Why it does not read any more comes, or has come, from the other side of it.
                case EPIPE: return outgoingRange = 0..<0
                default: throw .system(SystemError("write"))
                }
            }
            outgoingRange = range.lowerBound + put..<range.upperBound
        }
    }
}
