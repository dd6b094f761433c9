// SPDX-License-Identifier: Apache-2.0

/// Credit for a stream, seen from its sender: how far it may go, and how far it went. Pure.
package struct SendWindow: Equatable, Sendable {
    /// What a sender may send before the first `credit` of the receiver, in bytes.
    package static let initial: UInt64 = 262_144

    /// Bytes sent so far, which is the next byte's offset.
    package private(set) var sent: UInt64 = 0
    private var limit = SendWindow.initial
    package private(set) var isEnded = false

    package init() {}

    /// How many bytes may be sent now.
    package var available: Int { isEnded ? 0 : Int(clamping: limit - sent) }

    /// The receiver takes bytes up to `offset`; an older word than the last one changes nothing.
    package mutating func extend(to offset: UInt64) {
        if offset > limit { limit = offset }
    }

    /// Counts bytes that were sent, at most `available`; gives the offset of the first.
    package mutating func send(_ count: Int) -> UInt64 {
        precondition(count >= 0 && count <= available, "sent beyond the receiver's credit")
        let offset = sent
        sent += UInt64(count)
        return offset
    }

    /// No more will be sent; gives the offset of the end.
    package mutating func end() -> UInt64 {
        isEnded = true
        return sent
    }
}

/// Credit for a stream, seen from its receiver. Pure.
package struct ReceiveWindow: Equatable, Sendable {
    /// What came, so far.
    package private(set) var received: UInt64 = 0
    private var consumed: UInt64 = 0
    private var granted = SendWindow.initial
    package private(set) var isEnded = false

    package init() {}

    /// Bytes that came at `offset`: false when they are not the next ones or more than was granted, which a peer that
    /// keeps the protocol never sends.
    package mutating func receive(_ count: Int, at offset: UInt64) -> Bool {
        guard !isEnded, offset == received, count >= 0, UInt64(count) <= granted - received else { return false }
        received += UInt64(count)
        return true
    }

    /// The stream ends at `offset`: false when bytes are missing.
    package mutating func end(at offset: UInt64) -> Bool {
        guard !isEnded, offset == received else { return false }
        isEnded = true
        return true
    }

    /// Counts bytes that went on to where they belong. Gives the new limit to tell the sender once half the window is
    /// used up, so that credit costs a frame for each 128 KiB, not for each read.
    package mutating func consume(_ count: Int) -> UInt64? {
        consumed = min(consumed + UInt64(clamping: count), received)
        let wanted = consumed + SendWindow.initial
        guard !isEnded, wanted - granted >= SendWindow.initial / 2 else { return nil }
        granted = wanted
        return wanted
    }
}
