// SPDX-License-Identifier: Apache-2.0

/// Cuts a stream of bytes into frames. Holds at most one frame that is not whole and what was given last.
package struct FrameDecoder: Sendable {
    private var buffer: [UInt8] = []
    private var position = 0
    /// A head announced more than its kind allows; nothing after it can be trusted.
    package private(set) var isBroken = false

    package init() {}

    /// Adds what was read. Take all frames with `next` before adding more: that bounds the memory.
    package mutating func append(_ bytes: UnsafeRawBufferPointer) {
        if position > 0 {
            buffer.removeFirst(position)
            position = 0
        }
        unsafe buffer.append(contentsOf: bytes)
    }

    /// The next whole frame, or nil until more bytes come.
    package mutating func next() -> Frame? {
        guard !isBroken, let header = FrameHeader(buffer, at: position) else { return nil }
        guard header.isWithinLimits else {
            isBroken = true
            return nil
        }
        let start = position + FrameHeader.byteCount
        let end = start + Int(header.payloadLength)
        guard end <= buffer.count else { return nil }
        position = end
        return Frame(header: header, payload: Array(buffer[start..<end]))
    }
}
