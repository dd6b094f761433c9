// SPDX-License-Identifier: Apache-2.0

internal import MachineAPI
internal import Platform

/// A rate limiter at work: what it holds back waits for a timer. The loop thread's.
///
/// A device has one for each direction that can be limited. What it does not limit costs a comparison.
final class Throttle {
    private var limiter: RateLimiter
    /// There once there is a limit.
    private var timer: Timer?
    /// Nothing goes before the timer has fired.
    private(set) var isWaiting = false
    /// How often something was held back, and how often a wait has ended.
    private(set) var holdCount: UInt64 = 0
    private(set) var releaseCount: UInt64 = 0

    init(_ limit: RateLimit?) throws(SystemError) {
        limiter = RateLimiter(limit, now: monotonicNanoseconds())
        if !limiter.isUnlimited { timer = try Timer() }
    }

    /// The timer's descriptor.
    var descriptor: Int32? { timer?.descriptor.raw }

    var level: RateLimiter.Level { limiter.level }

    func restore(_ level: RateLimiter.Level) {
        limiter.restore(level, now: monotonicNanoseconds())
    }

    /// Takes what a request of `byteCount` bytes costs; false when it has to wait until `release`.
    @inline(__always)
    func admits(_ byteCount: Int) -> Bool {
        limiter.isUnlimited || admitsLimited(byteCount)
    }

    private func admitsLimited(_ byteCount: Int) -> Bool {
        guard !isWaiting else { return false }
        let wait = limiter.admit(UInt64(byteCount), now: monotonicNanoseconds())
        guard wait > 0 else { return true }
        // A wait that nothing would end is none.
        guard (try? timer?.arm(afterNanoseconds: wait)) != nil else { return true }
        isWaiting = true
        holdCount &+= 1
        return false
    }

    /// A request that was admitted did not go after all.
    func giveBack(_ byteCount: Int) {
        if !limiter.isUnlimited { limiter.giveBack(UInt64(byteCount)) }
    }

    /// The timer has fired.
    func release() {
        guard timer?.drain() == true else { return }
        isWaiting = false
        releaseCount &+= 1
    }

    /// Changes the limit; nothing waits any more.
    /// - Returns: whether there is a timer now where there was none.
    func update(_ update: RateLimitUpdate) throws(SystemError) -> Bool {
        let wasThere = timer != nil
        var changed = limiter
        changed.update(update, now: monotonicNanoseconds())
        if !changed.isUnlimited, !wasThere { timer = try Timer() }
        try timer?.arm(afterMilliseconds: nil)
        limiter = changed
        isWaiting = false
        return !wasThere && timer != nil
    }
}
