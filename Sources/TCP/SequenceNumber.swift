// SPDX-License-Identifier: Apache-2.0

/// A place in the sequence space of one direction, which wraps at 2³² (RFC 9293 §3.4).
///
/// Comparisons hold for numbers less than 2³¹ apart, as all that are compared here are: windows are below 2³⁰. There is
/// no `Comparable`, since the order is not transitive around the whole circle.
package struct SequenceNumber: Hashable, Sendable {
    package var value: UInt32

    package init(_ value: UInt32) { self.value = value }

    /// How far `other` lies behind, negative when it lies ahead.
    package static func - (one: SequenceNumber, other: SequenceNumber) -> Int { one.distance(from: other) }

    @inline(__always)
    private func distance(from other: SequenceNumber) -> Int { Int(Int32(bitPattern: value &- other.value)) }

    package static func + (one: SequenceNumber, count: Int) -> SequenceNumber {
        SequenceNumber(one.value &+ UInt32(truncatingIfNeeded: count))
    }
    package static func - (one: SequenceNumber, count: Int) -> SequenceNumber {
        SequenceNumber(one.value &- UInt32(truncatingIfNeeded: count))
    }
    package static func += (one: inout SequenceNumber, count: Int) { one = one + count }
    package static func < (one: SequenceNumber, other: SequenceNumber) -> Bool { one.distance(from: other) < 0 }
    package static func <= (one: SequenceNumber, other: SequenceNumber) -> Bool { one.distance(from: other) <= 0 }
    package static func > (one: SequenceNumber, other: SequenceNumber) -> Bool { one.distance(from: other) > 0 }
    package static func >= (one: SequenceNumber, other: SequenceNumber) -> Bool { one.distance(from: other) >= 0 }

    static func later(_ one: SequenceNumber, _ other: SequenceNumber) -> SequenceNumber { one > other ? one : other }
    static func earlier(_ one: SequenceNumber, _ other: SequenceNumber) -> SequenceNumber { one < other ? one : other }
}

/// A stretch of sequence space: `start` belongs to it, `end` does not.
package struct SequenceRange: Hashable, Sendable {
    package var start: SequenceNumber
    package var end: SequenceNumber

    package init(start: SequenceNumber, end: SequenceNumber) {
        self.start = start
        self.end = end
    }

    package var count: Int { end - start }
}

/// A bounded set of stretches, in order, none touching another: what has arrived beyond a hole, or what the peer says
/// has arrived. Its bound is what a hostile peer can make us remember.
///
/// It has memory only while there is a stretch: of many thousand connections that wait, none has one.
struct SequenceRanges: Sendable {
    static let capacity = 16

    private var ranges: [SequenceRange] = []

    var count: Int { ranges.count }
    var isEmpty: Bool { ranges.isEmpty }

    subscript(index: Int) -> SequenceRange { ranges[index] }

    /// The end of the last stretch; nil when there is none.
    var highestEnd: SequenceNumber? { ranges.last?.end }

    /// How many numbers are in the set.
    var total: Int {
        var sum = 0
        for range in ranges { sum += range.count }
        return sum
    }

    /// Adds a stretch, merged with those it overlaps or touches.
    /// - Returns: false when there is no room for another stretch; the set is then as before.
    mutating func insert(_ added: SequenceRange) -> Bool {
        var first = 0
        while first < ranges.count && ranges[first].end < added.start { first += 1 }
        var last = first
        while last < ranges.count && ranges[last].start <= added.end { last += 1 }
        if first == last {
            guard ranges.count < Self.capacity else { return false }
            if ranges.isEmpty { ranges.reserveCapacity(Self.capacity) }
            ranges.insert(added, at: first)
            return true
        }
        ranges[first] = SequenceRange(
            start: SequenceNumber.earlier(added.start, ranges[first].start),
            end: SequenceNumber.later(added.end, ranges[last - 1].end))
        ranges.removeSubrange(first + 1..<last)
        return true
    }

    /// Forgets all below a number.
    mutating func removeBelow(_ edge: SequenceNumber) {
        var gone = 0
        while gone < ranges.count && ranges[gone].end <= edge { gone += 1 }
        guard gone < ranges.count else { return removeAll() }
        ranges.removeFirst(gone)
        if ranges[0].start < edge { ranges[0].start = edge }
    }

    mutating func removeAll() { if !ranges.isEmpty { ranges = [] } }

    /// The stretch that a number lies in.
    func range(containing number: SequenceNumber) -> SequenceRange? {
        for range in ranges where range.start <= number && number < range.end { return range }
        return nil
    }

    /// The start of the first stretch beyond a number.
    func nextStart(after number: SequenceNumber) -> SequenceNumber? {
        for range in ranges where range.start > number { return range.start }
        return nil
    }
}
