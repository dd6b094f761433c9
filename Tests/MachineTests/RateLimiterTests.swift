// SPDX-License-Identifier: Apache-2.0

import MachineAPI
import TestSupport
import Testing

@testable import Machine

@Suite struct RateLimiterTests {
    /// Sizes and times as people write them, and the extremes.
    private static func bucket(_ random: inout SeededGenerator) -> RateLimit.Bucket {
        let sizes: [UInt64] = [1, 2, 10, 1500, 65_562, 1_000_000, 1 << 32]
        let times: [UInt64] = [1, 7, 100, 1000, 60_000]
        return RateLimit.Bucket(
            size: sizes.randomElement(using: &random) ?? 1, refillTime: times.randomElement(using: &random) ?? 1,
            oneTimeBurst: Bool.random(using: &random) ? nil : UInt64.random(in: 1...100_000, using: &random))
    }

    /// Whatever comes whenever: in no stretch of time more goes than the bucket, the burst and what flows in allow,
    /// beside one request that is larger than the bucket.
    @Test(arguments: 0..<40 as Range<UInt64>) func noMoreThanAllowed(seed: UInt64) throws {
        var random = SeededGenerator(seed)
        let settings = Self.bucket(&random)
        var limiter = RateLimiter(RateLimit(bandwidth: settings), now: 5)
        let nanoseconds = Double(settings.refillTime) * 1e6
        let largest = Bool.random(using: &random) ? settings.size : 3 * settings.size
        var now: UInt64 = 5
        var gone: [(time: UInt64, tokens: UInt64)] = []
        for _ in 0..<300 {
            now += UInt64.random(in: 0...(settings.refillTime * 400_000), using: &random)
            let tokens = UInt64.random(in: 0...largest, using: &random)
            if limiter.admit(tokens, now: now) == 0 { gone.append((now, tokens)) }
        }
        #expect(!gone.isEmpty)
        for first in gone.indices {
            var sum = 0.0
            for entry in gone[first...] {
                sum += Double(entry.tokens)
                let flow = Double(entry.time - gone[first].time) / nanoseconds * Double(settings.size)
                let excess = Double(largest > settings.size ? largest : 0)
                let most = Double(settings.size) + Double(settings.oneTimeBurst ?? 0) + flow + excess + 1
                #expect(sum <= most * 1.000_001, "\(settings) from \(gone[first].time) to \(entry.time)")
            }
        }
    }

    /// Who waits as told gets what the limit promises, and is never sent away twice.
    @Test(arguments: 0..<40 as Range<UInt64>) func noLessThanPromised(seed: UInt64) throws {
        var random = SeededGenerator(seed &+ 1000)
        let settings = Self.bucket(&random)
        var limiter = RateLimiter(RateLimit(bandwidth: settings), now: 0)
        var now: UInt64 = 0
        var sum: UInt64 = 0
        var waits = 0
        for _ in 0..<1000 {
            let tokens = UInt64.random(in: 1...settings.size, using: &random)
            let wait = limiter.admit(tokens, now: now)
            if wait > 0 {
                waits += 1
                #expect(wait <= settings.refillTime * 1_000_000)
                now += wait
                #expect(limiter.admit(tokens, now: now) == 0)
            }
            sum += tokens
        }
        let flow = Double(now) / (Double(settings.refillTime) * 1e6) * Double(settings.size)
        let level = try #require(limiter.level.bandwidth)
        let left = Double(level.available) + Double(level.burst)
        // A nanosecond of each wait, and less than a token, are lost to whole numbers.
        let lost = Double(waits) * (2 + Double(settings.size) / (Double(settings.refillTime) * 1e6))
        let promised = Double(settings.size) + Double(settings.oneTimeBurst ?? 0) + flow
        #expect(Double(sum) + left + lost >= promised * 0.999_999)
    }

    @Test func bothBucketsOrNone() {
        var limiter = RateLimiter(
            RateLimit(bandwidth: .init(size: 100, refillTime: 1000), operations: .init(size: 2, refillTime: 10)), now: 0
        )
        #expect(limiter.admit(60, now: 0) == 0)
        // 20 tokens of bytes are missing, one of operations is there, and stays.
        #expect(limiter.admit(60, now: 0) == 200_000_000)
        #expect(limiter.level.operations?.available == 1)
        #expect(limiter.admit(40, now: 0) == 0)
        #expect(limiter.admit(0, now: 0) == 5_000_000)
        limiter.giveBack(40)
        #expect(limiter.admit(40, now: 0) == 0)
    }

    @Test func aLargeRequestIsPaidForAfterwards() {
        var limiter = RateLimiter(RateLimit(bandwidth: .init(size: 10, refillTime: 10)), now: 0)
        #expect(limiter.admit(45, now: 0) == 0)
        // 35 are owed, and 5 more wanted.
        #expect(limiter.admit(5, now: 0) == 40_000_000)
        #expect(limiter.admit(5, now: 39_000_000) == 1_000_000)
        #expect(limiter.admit(5, now: 40_000_000) == 0)
    }

    @Test func theBurstIsThereOnce() {
        var limiter = RateLimiter(
            RateLimit(operations: .init(size: 1, refillTime: 1000, oneTimeBurst: 3)), now: 0)
        for _ in 0..<4 { #expect(limiter.admit(1, now: 0) == 0) }
        #expect(limiter.admit(1, now: 0) == 1_000_000_000)
        #expect(limiter.admit(1, now: 1_000_000_000) == 0)
        #expect(limiter.admit(1, now: 1_000_000_000) > 0)
    }

    @Test func levelsAreKept() {
        let limit = RateLimit(
            bandwidth: .init(size: 100, refillTime: 1000, oneTimeBurst: 50), operations: .init(size: 2, refillTime: 10))
        var limiter = RateLimiter(limit, now: 0)
        #expect(limiter.admit(70, now: 0) == 0)
        var other = RateLimiter(limit, now: 7)
        other.restore(limiter.level, now: 7)
        #expect(other.level == limiter.level)
        #expect(other.level.bandwidth == TokenBucket.Level(available: 80, debt: 0, burst: 0))
        // What no such bucket can have had is cut; what is not limited any more is let go.
        let wrong = TokenBucket.Level(available: .max, debt: 0, burst: .max)
        other.restore(RateLimiter.Level(bandwidth: wrong, operations: wrong), now: 7)
        #expect(other.level.bandwidth == TokenBucket.Level(available: 100, debt: 0, burst: 50))
        var unlimited = RateLimiter(nil, now: 0)
        unlimited.restore(limiter.level, now: 0)
        #expect(unlimited.isUnlimited && unlimited.admit(1 << 40, now: 0) == 0)
    }

    @Test func settingsThatLimitNothing() {
        for (size, time) in [(0, 5), (5, 0), (5, .max)] as [(UInt64, UInt64)] {
            #expect(RateLimiter(RateLimit(bandwidth: .init(size: size, refillTime: time)), now: 0).isUnlimited)
        }
    }

    /// No number that a client may write makes arithmetic overflow.
    @Test(arguments: 0..<20 as Range<UInt64>) func extremes(seed: UInt64) {
        var random = SeededGenerator(seed)
        let numbers: [UInt64] = [1, 2, 1 << 31, 1 << 40, 1 << 62, .max - 1, .max]
        func any(_ random: inout SeededGenerator) -> UInt64 { numbers.randomElement(using: &random) ?? 1 }
        var limiter = RateLimiter(
            RateLimit(
                bandwidth: .init(
                    size: any(&random), refillTime: any(&random) % (UInt64.max / 1_000_000) + 1,
                    oneTimeBurst: any(&random)),
                operations: .init(size: any(&random), refillTime: 1 + any(&random) % 1_000_000)), now: 0)
        var now: UInt64 = 0
        for _ in 0..<200 {
            now = now.addingReportingOverflow(any(&random) >> 8).partialValue
            let tokens = UInt64.random(in: 0...(1 << 32), using: &random)
            if limiter.admit(tokens, now: now) == 0, Bool.random(using: &random) {
                limiter.giveBack(UInt64.random(in: 0...(1 << 32), using: &random))
            }
            let level = TokenBucket.Level(available: any(&random), debt: any(&random), burst: any(&random))
            if Int.random(in: 0..<20, using: &random) == 0 {
                limiter.restore(RateLimiter.Level(bandwidth: level, operations: level), now: now)
            }
        }
    }
}
