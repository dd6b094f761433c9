// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// SplitMix64: the same numbers for the same seed, on every machine, so that what fails can be made to fail again.
package struct SeededGenerator: RandomNumberGenerator, Sendable {
    private var state: UInt64

    package init(_ seed: UInt64) { state = seed }

    package mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
        return value ^ value >> 31
    }

    package mutating func bytes(_ count: Int) -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(count + 8)
        while result.count < count { withUnsafeBytes(of: next().littleEndian) { result += $0 } }
        result.removeLast(result.count - count)
        return result
    }
}

/// How often something is tried with other random numbers: `count` times, or as many times more as the environment's
/// MARTLET_FUZZ says, for who has hours.
package func fuzzRounds(_ count: Int) -> Int {
    guard let text = getenv("MARTLET_FUZZ"), let factor = Int(String(cString: text)), factor > 0 else { return count }
    return count * factor
}
