// SPDX-License-Identifier: Apache-2.0

/// The control bits of a segment (RFC 9293 §3.1).
@usableFromInline package struct Flags: OptionSet, Hashable, Sendable {
    @usableFromInline package let rawValue: UInt8
    @inlinable package init(rawValue: UInt8) { self.rawValue = rawValue }
    @inlinable package static var fin: Flags { Flags(rawValue: 0x01) }
    @inlinable package static var syn: Flags { Flags(rawValue: 0x02) }
    @inlinable package static var rst: Flags { Flags(rawValue: 0x04) }
    @inlinable package static var psh: Flags { Flags(rawValue: 0x08) }
    @inlinable package static var ack: Flags { Flags(rawValue: 0x10) }
    @inlinable package static var urg: Flags { Flags(rawValue: 0x20) }
}

/// The clock values of RFC 7323 §3.
package struct Timestamps: Hashable, Sendable {
    package var value: UInt32
    package var echo: UInt32
    package init(value: UInt32, echo: UInt32) {
        self.value = value
        self.echo = echo
    }
}

/// Up to four stretches that have arrived out of order (RFC 2018 §3).
package struct SelectiveAcknowledgement: Sendable {
    package private(set) var count = 0
    private var blocks = InlineArray<4, SequenceRange>(
        repeating: SequenceRange(start: SequenceNumber(0), end: SequenceNumber(0)))

    package init() {}

    package subscript(index: Int) -> SequenceRange {
        precondition(index < count)
        return blocks[index]
    }

    /// Adds a block; a fifth is ignored.
    package mutating func append(_ block: SequenceRange) {
        guard count < 4 else { return }
        blocks[count] = block
        count += 1
    }

    func contains(_ block: SequenceRange) -> Bool {
        for index in 0..<count where blocks[index] == block { return true }
        return false
    }
}

/// What the options of a segment say; those that are not here are ignored.
package struct SegmentOptions: Sendable {
    /// Only on a SYN.
    package var maximumSegmentSize: UInt16?
    /// Only on a SYN; 0 to 14.
    package var windowScale: UInt8?
    /// Only on a SYN.
    package var allowsSelective = false
    package var timestamps: Timestamps?
    package var selective = SelectiveAcknowledgement()

    package init() {}

    /// How many bytes they take in a header, in whole words.
    package var byteCount: Int {
        var count = 0
        if maximumSegmentSize != nil { count += 4 }
        if timestamps != nil { count += 12 }
        if windowScale != nil { count += 4 }
        if allowsSelective { count += 4 }
        if selective.count > 0 { count += 4 + 8 * selective.count }
        return count
    }
}

/// A segment that has come, without its bytes: those stay where they are, and the endpoint says which of them to take.
package struct Segment: Sendable {
    package var sequence: SequenceNumber
    package var acknowledgement: SequenceNumber
    package var flags: Flags
    /// As in the header, not yet scaled.
    package var window: UInt16
    package var options: SegmentOptions
    package var payloadCount: Int

    package init(
        sequence: SequenceNumber, acknowledgement: SequenceNumber = SequenceNumber(0), flags: Flags,
        window: UInt16 = 0, options: SegmentOptions = SegmentOptions(), payloadCount: Int = 0
    ) {
        self.sequence = sequence
        self.acknowledgement = acknowledgement
        self.flags = flags
        self.window = window
        self.options = options
        self.payloadCount = payloadCount
    }

    /// SEG.LEN: what the segment takes of the sequence space.
    package var sequenceCount: Int {
        payloadCount + (flags.contains(.syn) ? 1 : 0) + (flags.contains(.fin) ? 1 : 0)
    }
}

/// A segment to be sent.
package struct OutgoingSegment: Sendable {
    package var sequence: SequenceNumber
    package var acknowledgement: SequenceNumber
    package var flags: Flags
    package var window: UInt16
    package var options: SegmentOptions
    /// Where its bytes begin in the send buffer, counted from the oldest byte that is not acknowledged.
    package var payloadOffset: Int
    package var payloadCount: Int
    /// Payload of one segment on the wire. A `payloadCount` beyond it is cut up by whoever has the last word on the
    /// link: it is then what a virtio header calls `gso_size`.
    package var segmentSize: Int

    /// The reset that answers a segment for which there is no connection (RFC 9293 §3.5.2); nil for a reset.
    package static func reset(answering segment: Segment) -> OutgoingSegment? {
        guard !segment.flags.contains(.rst) else { return nil }
        let acknowledges = segment.flags.contains(.ack)
        return OutgoingSegment(
            sequence: acknowledges ? segment.acknowledgement : SequenceNumber(0),
            acknowledgement: acknowledges ? SequenceNumber(0) : segment.sequence + segment.sequenceCount,
            flags: acknowledges ? .rst : [.rst, .ack], window: 0, options: SegmentOptions(), payloadOffset: 0,
            payloadCount: 0, segmentSize: 0)
    }

    /// The same segment as the peer sees it.
    package var asIncoming: Segment {
        Segment(
            sequence: sequence, acknowledgement: acknowledgement, flags: flags, window: window, options: options,
            payloadCount: payloadCount)
    }
}
