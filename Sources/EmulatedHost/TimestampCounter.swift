// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform

/// The processor's time-stamp counter, which an emulated processor has as its own.
enum TimestampCounter {
    /// Measures how fast it counts, in kHz; nil where there is none. Takes 20 ms.
    static func measureFrequency() -> UInt64? {
        let first = sample()
        var pause = timespec(tv_sec: 0, tv_nsec: 20_000_000)
        unsafe nanosleep(&pause, nil)
        let last = sample()
        guard last.counter > first.counter, last.time > first.time else { return nil }
        return (last.counter - first.counter) * 1_000_000 / (last.time - first.time)
    }

    /// Counter and clock at the same moment: of several tries the one in which nothing came between.
    private static func sample() -> (counter: UInt64, time: UInt64) {
        var best: (width: UInt64, counter: UInt64, time: UInt64) = (.max, 0, 0)
        for _ in 0..<20 {
            let before = clinux_timestamp_counter()
            let time = monotonicNanoseconds()
            let after = clinux_timestamp_counter()
            let width = after &- before
            if width < best.width { best = (width, before &+ width / 2, time) }
        }
        return (best.counter, best.time)
    }
}
