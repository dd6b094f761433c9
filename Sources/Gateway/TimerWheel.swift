// SPDX-License-Identifier: Apache-2.0

/// One timer a slot, in buckets that double as they lie further off: setting and stopping cost the same however many
/// there are. Times in microseconds; a bucket of the lowest level is 1.024 ms.
struct TimerWheel {
    private static let levels = 6
    private static let tickShift: UInt64 = 10
    private static let none = UInt32.max
    private static let unset = UInt16.max

    private var elapsed: UInt64
    private var heads = [UInt32](repeating: TimerWheel.none, count: TimerWheel.levels * 64)
    /// Which buckets of a level hold anything.
    private var occupied = [UInt64](repeating: 0, count: TimerWheel.levels)
    private var next: [UInt32] = []
    private var previous: [UInt32] = []
    private var bucket: [UInt16] = []
    /// In ticks.
    private var due: [UInt64] = []

    init(now: UInt64) { elapsed = now >> TimerWheel.tickShift }

    /// Sets the timer of a slot; `UInt64.max` stops it.
    mutating func set(_ slot: UInt32, _ time: UInt64) {
        let index = Int(slot)
        while bucket.count <= index {
            next.append(TimerWheel.none)
            previous.append(TimerWheel.none)
            bucket.append(TimerWheel.unset)
            due.append(0)
        }
        if bucket[index] != TimerWheel.unset { unlink(slot) }
        guard time != .max else { return }
        due[index] = max(elapsed + 1, (time >> TimerWheel.tickShift) + 1)
        link(slot)
    }

    /// When the next bucket is to be looked at, in microseconds; `UInt64.max` for never. Nothing runs out before.
    var deadline: UInt64 {
        guard let (level, position) = nextBucket() else { return .max }
        return start(level, position) << TimerWheel.tickShift
    }

    /// Takes the next slot whose timer has run out; nil when there is none.
    mutating func popExpired(now: UInt64) -> UInt32? {
        let current = now >> TimerWheel.tickShift
        while let (level, position) = nextBucket() {
            let start = start(level, position)
            guard start <= current else { break }
            elapsed = max(elapsed, start)
            let head = heads[level * 64 + position]
            unlink(head)
            if due[Int(head)] <= elapsed { return head }
            link(head)
        }
        elapsed = max(elapsed, current)
        return nil
    }

    /// The bucket that begins first, whatever its level: a higher one that time has reached is to be spread over the
    /// lower ones before anything later in those has its turn.
    private func nextBucket() -> (Int, Int)? {
        var best: (Int, Int)?
        var earliest = UInt64.max
        for level in 0..<TimerWheel.levels where occupied[level] != 0 {
            let at = Int(elapsed >> UInt64(6 * level) & 63)
            let rotated = occupied[level] >> UInt64(at) | (at == 0 ? 0 : occupied[level] << UInt64(64 - at))
            let position = (at + rotated.trailingZeroBitCount) & 63
            let begin = start(level, position)
            if begin < earliest {
                earliest = begin
                best = (level, position)
            }
        }
        return best
    }

    private func start(_ level: Int, _ position: Int) -> UInt64 {
        let shift = UInt64(6 * level)
        let round: UInt64 = 64 << shift
        let begin = elapsed & ~(round - 1)
        let start = begin + UInt64(position) << shift
        return start + (1 << shift) <= elapsed ? start + round : start
    }

    private mutating func link(_ slot: UInt32) {
        let index = Int(slot)
        let difference = max(1, elapsed ^ due[index])
        let level = min(TimerWheel.levels - 1, (63 - difference.leadingZeroBitCount) / 6)
        // Beyond the last level's round, it is looked at again when that round comes to its end.
        let limit = elapsed + (63 << UInt64(6 * (TimerWheel.levels - 1)))
        let position = Int(min(due[index], limit) >> UInt64(6 * level) & 63)
        let place = level * 64 + position
        bucket[index] = UInt16(place)
        previous[index] = TimerWheel.none
        next[index] = heads[place]
        if heads[place] != TimerWheel.none { previous[Int(heads[place])] = slot }
        heads[place] = slot
        occupied[level] |= 1 << UInt64(position)
    }

    private mutating func unlink(_ slot: UInt32) {
        let index = Int(slot)
        let place = Int(bucket[index])
        bucket[index] = TimerWheel.unset
        if previous[index] == TimerWheel.none {
            heads[place] = next[index]
        } else {
            next[Int(previous[index])] = next[index]
        }
        if next[index] != TimerWheel.none { previous[Int(next[index])] = previous[index] }
        if heads[place] == TimerWheel.none { occupied[place / 64] &= ~(1 << UInt64(place % 64)) }
    }
}
