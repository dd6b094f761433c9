// SPDX-License-Identifier: Apache-2.0

/// Collects the map of GNU tar's sparse format 1.0: decimal numbers, each ended by a newline. First the number of
/// segments, then offset and count of each; the rest of the last block is padding.
struct SparseMapReader {
    private var number: UInt64 = 0
    private var digits = 0
    private var expected: UInt64?
    private var pendingOffset: UInt64?
    private(set) var segments: [SparseMap.Segment] = []
    private(set) var isTooLong = false

    var isComplete: Bool { expected == UInt64(segments.count) }

    /// Takes a block; whether it was well-formed.
    mutating func take(_ block: [UInt8], maximum: Int) -> Bool {
        for byte in block {
            if isComplete { return true }
            if byte == 0x0A {
                guard digits > 0, take(number, maximum) else { return false }
                number = 0
                digits = 0
            } else {
                guard byte >= 0x30, byte <= 0x39, digits < 18 else { return false }
                number = number * 10 + UInt64(byte - 0x30)
                digits += 1
            }
        }
        return true
    }

    private mutating func take(_ number: UInt64, _ maximum: Int) -> Bool {
        if expected == nil {
            isTooLong = number > UInt64(maximum)
            expected = number
            return !isTooLong
        }
        if let offset = pendingOffset {
            segments.append(SparseMap.Segment(offset: offset, count: number))
            pendingOffset = nil
        } else {
            pendingOffset = number
        }
        return true
    }
}
