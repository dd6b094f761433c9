// SPDX-License-Identifier: Apache-2.0

package import Platform
internal import Wire

/// A machine's memory as a stream of bytes hands it to another host, chunk by chunk: Docs/PAGE-STREAM.md. Who wants it
/// greets, who has it announces what there is, and answers requests in their order.
package enum PageStream {
    static let magic = Array("MARTPAGE".utf8)
    static let version: UInt32 = 1
    static let pageSize: UInt64 = 4096
    /// What is asked for and answered at a time: a bit for each of its pages is 16 bits.
    static let chunkSize: UInt64 = 16 * pageSize
    package static let greetingSize = 32
    static let headerSize = 64
    static let requestSize = 8
    static let answerHeaderSize = 16
    /// The most requests that wait for their answers.
    static let window = 64
    /// Of them, those for what nobody waits for yet: somebody who does is behind no more than these.
    static let prefetchWindow = 16

    static func chunkCount(ofMemory size: UInt64) -> Int { Int((size + chunkSize - 1) / chunkSize) }
    /// A map's words of a bit a chunk.
    static func wordCount(ofMemory size: UInt64) -> Int { (chunkCount(ofMemory: size) + 63) / 64 }
    /// What follows the header: two maps, their checksum, and four bytes.
    static func mapsSize(ofMemory size: UInt64) -> Int { 2 * 8 * wordCount(ofMemory: size) + 8 }

    /// What who wants a memory says first.
    /// - Parameter snapshot: 32 hexadecimal digits.
    static func greeting(wanting snapshot: String) -> [UInt8] {
        var bytes = magic
        bytes.appendInteger(version)
        bytes.appendInteger(0 as UInt32)
        return bytes + identifier(snapshot)
    }

    /// Reads a greeting: the snapshot that is wanted.
    package static func snapshot(greeting bytes: [UInt8]) throws(StreamFailure) -> String {
        guard bytes.count == greetingSize, bytes.starts(with: magic) else {
            throw .foreign("it does not begin with MARTPAGE")
        }
        try check(version: bytes)
        return hexadecimal(bytes[16..<32])
    }

    static func check(version bytes: [UInt8]) throws(StreamFailure) {
        let found = bytes.integer(at: 8, as: UInt32.self) ?? 0
        guard found == version else {
            throw .foreign("it has version \(found) of the protocol: have the same martlet on both hosts")
        }
    }

    /// Sixteen bytes of 32 digits; zeros for what is none.
    static func identifier(_ text: String) -> [UInt8] {
        let digits = Array(text.utf8)
        var bytes: [UInt8] = []
        for index in stride(from: 0, to: digits.count - digits.count % 2, by: 2) {
            bytes.append(UInt8(String(decoding: digits[index..<index + 2], as: UTF8.self), radix: 16) ?? 0)
        }
        return bytes.count == 16 ? bytes : [UInt8](repeating: 0, count: 16)
    }

    static func hexadecimal(_ bytes: ArraySlice<UInt8>) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
}

/// What who has a memory says first: how large it is, whose, and which chunks of it there are at all.
struct PageAnnouncement: Equatable, Sendable {
    /// In bytes.
    var memorySize: UInt64
    /// 32 hexadecimal digits.
    var snapshot: String
    /// Chunks with data, a bit each; others are zero throughout.
    var data: [UInt64]
    /// Chunks that machines touch first, a bit each. A hint.
    var first: [UInt64]

    func encoded() -> [UInt8] {
        var bytes = PageStream.magic
        bytes.appendInteger(PageStream.version)
        bytes.appendInteger(UInt32(PageStream.chunkSize))
        bytes.appendInteger(memorySize)
        bytes += PageStream.identifier(snapshot)
        while bytes.count < PageStream.headerSize - 4 { bytes.append(0) }
        bytes.appendInteger(CRC32C.of(bytes))
        for word in data + first { bytes.appendInteger(word) }
        bytes.appendInteger(CRC32C.of(bytes[PageStream.headerSize...]))
        bytes.appendInteger(0 as UInt32)
        return bytes
    }

    /// Judges the header, which may be anything.
    static func check(
        header bytes: [UInt8], wanting snapshot: String, memorySize: UInt64
    ) throws(StreamFailure) {
        let end = PageStream.headerSize - 4
        guard bytes.count >= PageStream.headerSize, bytes.starts(with: PageStream.magic) else {
            throw .foreign("it does not begin with MARTPAGE")
        }
        try PageStream.check(version: bytes)
        guard CRC32C.of(bytes[..<end]) == bytes.integer(at: end, as: UInt32.self),
            bytes.integer(at: 12, as: UInt32.self) == UInt32(PageStream.chunkSize)
        else { throw .foreign("its header is damaged") }
        let served = PageStream.hexadecimal(bytes[24..<40])
        guard served == snapshot else { throw .otherSnapshot(wanted: snapshot, served: served) }
        guard bytes.integer(at: 16, as: UInt64.self) == memorySize else {
            throw .foreign("the memory has another size than the snapshot's machine")
        }
    }

    /// Reads the maps behind a header that was found right.
    init(maps bytes: [UInt8], snapshot: String, memorySize: UInt64) throws(StreamFailure) {
        let count = PageStream.wordCount(ofMemory: memorySize)
        guard bytes.count == PageStream.mapsSize(ofMemory: memorySize),
            CRC32C.of(bytes[..<(16 * count)]) == bytes.integer(at: 16 * count, as: UInt32.self)
        else { throw .foreign("its maps are damaged") }
        let words = (0..<2 * count).map { bytes.integer(at: 8 * $0, as: UInt64.self) ?? 0 }
        self.init(
            memorySize: memorySize, snapshot: snapshot, data: Array(words[..<count]), first: Array(words[count...]))
    }

    init(memorySize: UInt64, snapshot: String, data: [UInt64], first: [UInt64]) {
        self.memorySize = memorySize
        self.snapshot = snapshot
        self.data = data
        self.first = first
    }
}

/// Why memory from another host cannot be served any more.
package enum StreamFailure: Error, Equatable, Sendable, CustomStringConvertible {
    /// Before anything was announced.
    case refused
    case ended
    /// What comes is not what this martlet understands.
    case foreign(String)
    case otherSnapshot(wanted: String, served: String)
    /// It answered what was not asked, or not as it must.
    case answer(String)
    /// It owes an answer and says nothing.
    case silent(seconds: UInt64)
    /// What has come cannot be kept.
    case cache(SystemError)
    case system(SystemError)

    package var description: String {
        switch self {
        case .refused:
            "the other host ended the stream before it said what it has: see above for what was said there, and whether "
                + "martlet is where commands find it (--remote-martlet)"
        case .ended: "the other host has ended the stream"
        case .foreign(let reason): "what the other host sends cannot be used: \(reason)"
        case .otherSnapshot(let wanted, let served):
            "the other host has the memory of the snapshot \(served), and that of \(wanted) is wanted"
        case .answer(let reason): "the other host has sent what was not asked for: \(reason)"
        case .silent(let seconds): "the other host has not answered for \(seconds) s"
        case .cache(let failure): "what has come from the other host cannot be kept: \(failure)"
        case .system(let failure): "the stream from the other host has failed: \(failure)"
        }
    }
}
