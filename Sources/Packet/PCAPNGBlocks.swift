// SPDX-License-Identifier: Apache-2.0

/// Cuts a stream of a capture file's bytes into its blocks (draft-ietf-opsawg-pcapng §3.1), so that what is passed on ends
/// with a whole one, whenever it ends.
package struct PCAPNGBlocks: Sendable {
    /// The longest block that is taken: a frame of the greatest length has room in it, and its options.
    package static let limitInBytes = 1 << 18

    private var waiting: [UInt8] = []
    /// Blocks that carry a frame, of those that were handed out.
    package private(set) var frames: UInt64 = 0

    package init() {}

    /// Bytes that came, with those of an unfinished block before them, as far as they are whole blocks; the rest waits.
    /// - Returns: nil where this is no such file: a length that no block has.
    package mutating func append(_ bytes: ArraySlice<UInt8>) -> [UInt8]? {
        waiting += bytes
        var end = 0
        while waiting.count - end >= 8 {
            let length = Int(PCAPNG.word(waiting, at: end + 4))
            guard length >= 12, length <= Self.limitInBytes, length.isMultiple(of: 4) else { return nil }
            guard waiting.count - end >= length else { break }
            if PCAPNG.word(waiting, at: end) == 6 { frames += 1 }
            end += length
        }
        let whole = Array(waiting[..<end])
        waiting.removeFirst(end)
        return whole
    }
}
