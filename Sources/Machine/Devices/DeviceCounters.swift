// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

// What devices count while they work. A virtio device's belong to the loop's thread, as plain numbers; those of vCPU
// threads are atomics without order, each written by few.

/// What a disk was asked for.
struct BlockCounters {
    var notifications: UInt64 = 0
    var reads: UInt64 = 0
    var readBytes: UInt64 = 0
    var writes: UInt64 = 0
    var writtenBytes: UInt64 = 0
    var flushes: UInt64 = 0
    var failures: UInt64 = 0
    var invalidRequests: UInt64 = 0
    /// How often another file was put behind it.
    var replacements: UInt64 = 0
}

/// How often a throttle held something back, and how often its wait has ended.
struct ThrottleCounters: Sendable {
    var holds: UInt64
    var releases: UInt64

    init(_ throttle: Throttle) {
        (holds, releases) = (throttle.holdCount, throttle.releaseCount)
    }
}

/// What a vsock device has moved, in packets and in bytes of data.
struct VsockCounters {
    var packetsToGuest: UInt64 = 0
    var bytesToGuest: UInt64 = 0
    var packetsFromGuest: UInt64 = 0
    var bytesFromGuest: UInt64 = 0
}

struct EntropyCounters {
    var requests: UInt64 = 0
    var bytes: UInt64 = 0
}

/// Why a vCPU left the guest. Written by its thread only, so that counting needs no locked instruction.
final class ExitCounters: Sendable {
    let portReads = Atomic<UInt64>(0)
    let portWrites = Atomic<UInt64>(0)
    let memoryReads = Atomic<UInt64>(0)
    let memoryWrites = Atomic<UInt64>(0)

    @inline(__always)
    static func count(_ counter: borrowing Atomic<UInt64>) {
        counter.store(counter.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
    }
}
