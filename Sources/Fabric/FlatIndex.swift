// SPDX-License-Identifier: Apache-2.0

/// From 64-bit keys to small numbers, built once: open addressing at most half full. A key may stand for several numbers
/// when it is a digest; whoever looks one up goes through all of them and compares.
struct FlatIndex: Sendable {
    private var keys: [UInt64]
    private var values: [Int32]
    private let mask: Int

    /// - Parameter capacity: the most entries that will be added.
    init(capacity: Int) {
        var size = 8
        while size < capacity * 2 { size *= 2 }
        keys = [UInt64](repeating: 0, count: size)
        values = [Int32](repeating: -1, count: size)
        mask = size - 1
    }

    @inline(__always)
    private func start(_ key: UInt64) -> Int {
        // Fibonacci hashing: the high bits of the product are the well-mixed ones.
        Int(truncatingIfNeeded: (key &* 0x9E37_79B9_7F4A_7C15) >> 32) & mask
    }

    mutating func add(_ key: UInt64, _ value: Int) {
        var place = start(key)
        while values[place] >= 0 { place = (place + 1) & mask }
        keys[place] = key
        values[place] = Int32(value)
    }

    /// The first number of a key for which `matches` holds, or nil.
    @inline(__always)
    func find(_ key: UInt64, where matches: (Int) -> Bool) -> Int? {
        var place = start(key)
        while values[place] >= 0 {
            if keys[place] == key, matches(Int(values[place])) { return Int(values[place]) }
            place = (place + 1) & mask
        }
        return nil
    }

    @inline(__always)
    func find(_ key: UInt64) -> Int? { find(key) { _ in true } }
}
