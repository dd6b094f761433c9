// SPDX-License-Identifier: Apache-2.0

package import MachineAPI

/// A bucket of tokens that fills up again, as a value: time is an argument, in nanoseconds on a clock that never runs
/// backward.
///
/// Between any two moments it gives out at most `size`, the burst where it was not used up, and what flowed in between;
/// beyond that one request that is larger than the bucket: such a one goes when nothing is owed, and leaves a debt that
/// flows in before anything else goes.
package struct TokenBucket: Equatable, Sendable {
    /// How full a bucket is.
    package struct Level: Equatable, Sendable {
        package var available: UInt64
        package var debt: UInt64
        /// What is left of the tokens that are there once.
        package var burst: UInt64

        package init(available: UInt64, debt: UInt64, burst: UInt64) {
            self.available = available
            self.debt = debt
            self.burst = burst
        }
    }

    private let size: UInt64
    /// From empty to full.
    private let refillTime: UInt64
    private let oneTimeBurst: UInt64
    package private(set) var level: Level
    /// The moment that `level` is of.
    private var moment: UInt64

    /// A full bucket; nil where the settings limit nothing.
    package init?(_ settings: RateLimit.Bucket, now: UInt64) {
        guard settings.limits else { return nil }
        size = settings.size
        refillTime = settings.refillTime * 1_000_000
        oneTimeBurst = settings.oneTimeBurst ?? 0
        level = Level(available: size, debt: 0, burst: oneTimeBurst)
        moment = now
    }

    /// Goes on from a level that such a bucket had; what it cannot have had is cut.
    package mutating func restore(_ kept: Level, now: UInt64) {
        level = Level(
            available: kept.debt > 0 ? 0 : min(kept.available, size), debt: min(kept.debt, 1 << 40),
            burst: min(kept.burst, oneTimeBurst))
        moment = now
    }

    /// Lets flow in what has come until now.
    package mutating func settle(now: UInt64) {
        guard now > moment else { return }
        let elapsed = now - moment
        let missing = self.missing
        let (high, low) = elapsed.multipliedFullWidth(by: size)
        guard high < refillTime else { return fill(now) }
        let (gained, _) = refillTime.dividingFullWidth((high, low))
        guard gained < missing else { return fill(now) }
        guard gained > 0 else { return }
        // No moment counts twice: the time of whole tokens, rounded up, at most what has passed.
        moment += time(for: gained)
        let paid = min(gained, level.debt)
        level.debt -= paid
        level.available += gained - paid
    }

    private var missing: UInt64 {
        let (sum, overflow) = (size - level.available).addingReportingOverflow(level.debt)
        return overflow ? .max : sum
    }

    private mutating func fill(_ now: UInt64) {
        level.available = size
        level.debt = 0
        moment = now
    }

    /// How long that many tokens take to flow in, rounded up.
    private func time(for tokens: UInt64) -> UInt64 {
        let product = tokens.multipliedFullWidth(by: refillTime)
        guard product.high < size else { return .max }
        let (quotient, remainder) = size.dividingFullWidth(product)
        return remainder == 0 || quotient == .max ? quotient : quotient + 1
    }

    /// Whether a request may go now; settled before.
    package func allows(_ tokens: UInt64) -> Bool {
        guard tokens > level.burst else { return true }
        let rest = tokens - level.burst
        return level.debt == 0 && (rest <= level.available || rest > size)
    }

    /// Takes a request's tokens, which `allows` has said are there.
    package mutating func take(_ tokens: UInt64) {
        let once = min(level.burst, tokens)
        level.burst -= once
        let rest = tokens - once
        let here = min(rest, level.available)
        level.available -= here
        level.debt += rest - here
    }

    /// Gives back the tokens of a request that did not go after all.
    package mutating func giveBack(_ tokens: UInt64) {
        let paid = min(tokens, level.debt)
        level.debt -= paid
        level.available += min(tokens - paid, size - level.available)
    }

    /// How long a request that is not allowed now has to wait, at least. Short waits are drawn out to `quantum`, in which
    /// more requests can gather, but never beyond the time in which the bucket is full: nothing flows over.
    package func wait(for tokens: UInt64, quantum: UInt64, now: UInt64) -> UInt64 {
        let rest = tokens - min(tokens, level.burst)
        let wanted = rest > size ? 0 : rest - min(rest, level.available)
        let (needed, overflow) = wanted.addingReportingOverflow(level.debt)
        let target = max(time(for: overflow ? .max : needed), min(quantum, time(for: missing)))
        let passed = min(now - min(now, moment), target)
        return max(1, target - passed)
    }
}

/// What one direction of a device may move: a request has a token for itself and one for each of its bytes, or waits.
package struct RateLimiter: Equatable, Sendable {
    /// How full its buckets are.
    package struct Level: Equatable, Sendable {
        package var bandwidth: TokenBucket.Level?
        package var operations: TokenBucket.Level?

        package init(bandwidth: TokenBucket.Level? = nil, operations: TokenBucket.Level? = nil) {
            self.bandwidth = bandwidth
            self.operations = operations
        }
    }

    /// Waits are drawn out to this, in nanoseconds.
    private static let quantum: UInt64 = 1_000_000

    private var bandwidth: TokenBucket?
    private var operations: TokenBucket?

    package init(_ limit: RateLimit?, now: UInt64) {
        bandwidth = limit?.bandwidth.flatMap { TokenBucket($0, now: now) }
        operations = limit?.operations.flatMap { TokenBucket($0, now: now) }
    }

    package var isUnlimited: Bool { bandwidth == nil && operations == nil }

    package var level: Level { Level(bandwidth: bandwidth?.level, operations: operations?.level) }

    /// Goes on from kept levels, where there are such buckets.
    package mutating func restore(_ level: Level, now: UInt64) {
        if let kept = level.bandwidth { bandwidth?.restore(kept, now: now) }
        if let kept = level.operations { operations?.restore(kept, now: now) }
    }

    /// Puts other, full buckets in the place of those that there are.
    package mutating func update(_ update: RateLimitUpdate, now: UInt64) {
        if let settings = update.bandwidth { bandwidth = TokenBucket(settings, now: now) }
        if let settings = update.operations { operations = TokenBucket(settings, now: now) }
    }

    /// Takes the tokens for a request of `byteCount` bytes, or none.
    /// - Returns: 0 when it may go, else for how many nanoseconds it is not asked about again.
    package mutating func admit(_ byteCount: UInt64, now: UInt64) -> UInt64 {
        bandwidth?.settle(now: now)
        operations?.settle(now: now)
        let hasBytes = bandwidth?.allows(byteCount) ?? true
        let hasOperation = operations?.allows(1) ?? true
        if hasBytes, hasOperation {
            bandwidth?.take(byteCount)
            operations?.take(1)
            return 0
        }
        var wait: UInt64 = 1
        if !hasBytes, let bandwidth { wait = bandwidth.wait(for: byteCount, quantum: Self.quantum, now: now) }
        if !hasOperation, let operations {
            wait = max(wait, operations.wait(for: 1, quantum: Self.quantum, now: now))
        }
        return wait
    }

    /// A request that was admitted did not go after all.
    package mutating func giveBack(_ byteCount: UInt64) {
        bandwidth?.giveBack(byteCount)
        operations?.giveBack(1)
    }
}
