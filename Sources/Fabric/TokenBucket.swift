// SPDX-License-Identifier: Apache-2.0

/// Lets through so many a second, and so many at once.
package struct TokenBucket: Sendable {
    private let intervalInNanoseconds: UInt64
    private let burst: UInt64
    /// When the bucket would be full, in nanoseconds (generic cell rate algorithm, ITU-T I.371).
    private var fullAt: UInt64 = 0

    package init(perSecond: UInt64, burst: UInt64) {
        intervalInNanoseconds = 1_000_000_000 / max(1, perSecond)
        self.burst = burst
    }

    /// Takes one if there is one.
    package mutating func take(now: UInt64) -> Bool {
        let start = max(fullAt, now)
        guard start &- now <= (burst &- 1) &* intervalInNanoseconds else { return false }
        fullAt = start &+ intervalInNanoseconds
        return true
    }
}
