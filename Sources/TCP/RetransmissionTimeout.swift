// SPDX-License-Identifier: Apache-2.0

/// How long to wait for an acknowledgement (RFC 6298).
struct RetransmissionTimeout: Sendable {
    private var smoothed: UInt32 = 0
    private var variation: UInt32 = 0
    private(set) var backoffs: UInt8 = 0
    private var base: UInt32
    private let minimum: UInt32
    private let maximum: UInt32

    init(_ configuration: Configuration) {
        base = configuration.initialTimeout
        minimum = configuration.minimumTimeout
        maximum = configuration.maximumTimeout
    }

    /// The smoothed round-trip time in microseconds; 0 before the first sample.
    var roundTrip: UInt32 { smoothed }

    /// §2.2 and §2.3, with the clock's granularity of a millisecond.
    mutating func sample(_ microseconds: UInt64) {
        let sample = UInt32(clamping: Swift.min(microseconds, UInt64(maximum)))
        if smoothed == 0 {
            smoothed = Swift.max(1, sample)
            variation = sample / 2
        } else {
            let difference = sample > smoothed ? sample - smoothed : smoothed - sample
            variation = variation - variation / 4 + difference / 4
            smoothed = Swift.max(1, smoothed - smoothed / 8 + sample / 8)
        }
        base = Swift.min(maximum, Swift.max(minimum, smoothed + Swift.max(1000, 4 * variation)))
    }

    /// What the timer is set to now: the estimate, doubled for each time it ran out (§5.5).
    var current: UInt64 { Swift.min(UInt64(maximum), UInt64(base) << UInt64(Swift.min(backoffs, 16))) }

    mutating func backOff() { backoffs = backoffs == .max ? .max : backoffs + 1 }
    mutating func resetBackoff() { backoffs = 0 }
}
