// SPDX-License-Identifier: Apache-2.0

internal import GuestProtocol

/// Credit for a stream that passes through, seen from the middle: what the receiver at the far end has granted, and
/// whether the sender keeps to it. It bounds what the middle may have to hold. Pure.
struct RelayWindow: Equatable, Sendable {
    private(set) var received: UInt64 = 0
    private var limit = SendWindow.initial
    private(set) var isEnded = false

    /// Bytes that came at `offset`: false where they are not the next ones or more than was granted.
    mutating func receive(_ count: Int, at offset: UInt64) -> Bool {
        guard !isEnded, offset == received, count >= 0, UInt64(count) <= limit - received else { return false }
        received += UInt64(count)
        return true
    }

    mutating func end(at offset: UInt64) -> Bool {
        guard !isEnded, offset == received else { return false }
        isEnded = true
        return true
    }

    /// The receiver takes bytes up to `offset`. False where that is further than a receiver of ours goes: more than
    /// one window beyond what it can have consumed.
    mutating func extend(to offset: UInt64) -> Bool {
        guard offset <= received + SendWindow.initial else { return false }
        limit = max(limit, offset)
        return true
    }
}
