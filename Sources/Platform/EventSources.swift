// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// A counter that wakes whoever waits for it (eventfd(2)); non-blocking.
package struct EventCounter: ~Copyable, Sendable {
    package let descriptor: Descriptor

    package init() throws(SystemError) {
        let raw = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        guard raw >= 0 else { throw SystemError("eventfd") }
        descriptor = Descriptor(owning: raw)
    }

    /// Adds one. Never blocks: a counter that is full is awake already.
    package borrowing func signal() {
        _ = eventfd_write(descriptor.raw, 1)
    }

    /// Takes the count and sets it to zero; 0 when nobody has signalled.
    @discardableResult
    package borrowing func drain() -> UInt64 {
        var value: UInt64 = 0
        return unsafe eventfd_read(descriptor.raw, &value) == 0 ? value : 0
    }
}

/// A timer as a descriptor on the monotonic clock (timerfd(2)); non-blocking.
package struct Timer: ~Copyable, Sendable {
    package let descriptor: Descriptor

    package init() throws(SystemError) {
        let raw = timerfd_create(CLOCK_MONOTONIC, Int32(TFD_CLOEXEC | TFD_NONBLOCK))
        guard raw >= 0 else { throw SystemError("timerfd_create") }
        descriptor = Descriptor(owning: raw)
    }

    /// Fires once after the given time; 0 fires at once; nil disarms.
    package borrowing func arm(afterMilliseconds milliseconds: UInt64?) throws(SystemError) {
        let nanoseconds = milliseconds?.multipliedReportingOverflow(by: 1_000_000)
        try arm(afterNanoseconds: nanoseconds.map { $0.overflow ? .max : $0.partialValue })
    }

    /// The same, to the nanosecond. What is beyond 290 years is cut to that.
    package borrowing func arm(afterNanoseconds nanoseconds: UInt64?) throws(SystemError) {
        var setting = itimerspec()
        if let nanoseconds {
            // A setting of 0 would disarm.
            let time = min(max(1, nanoseconds), UInt64(Int64.max))
            setting.it_value.tv_sec = Int(time / 1_000_000_000)
            setting.it_value.tv_nsec = Int(time % 1_000_000_000)
        }
        guard unsafe timerfd_settime(descriptor.raw, 0, &setting, nil) == 0 else {
            throw SystemError("timerfd_settime")
        }
    }

    /// Whether it has fired since the last look.
    package borrowing func drain() -> Bool {
        var expirations: UInt64 = 0
        return unsafe Glibc.read(descriptor.raw, &expirations, 8) == 8
    }
}

/// Signals as a descriptor (signalfd(2)). The signals are blocked for the calling thread, and so for all threads that
/// it starts afterwards: make it before any thread.
package struct SignalQueue: ~Copyable, Sendable {
    package let descriptor: Descriptor

    package init(_ signals: [Int32]) throws(SystemError) {
        var set = sigset_t()
        unsafe sigemptyset(&set)
        for signal in signals { unsafe sigaddset(&set, signal) }
        guard unsafe pthread_sigmask(SIG_BLOCK, &set, nil) == 0 else { throw SystemError("pthread_sigmask") }
        let raw = unsafe signalfd(-1, &set, Int32(SFD_CLOEXEC | SFD_NONBLOCK))
        guard raw >= 0 else { throw SystemError("signalfd") }
        descriptor = Descriptor(owning: raw)
    }

    /// The next signal that has come, or nil.
    package borrowing func next() -> Int32? {
        var information = signalfd_siginfo()
        let size = MemoryLayout<signalfd_siginfo>.size
        guard unsafe Glibc.read(descriptor.raw, &information, size) == size else { return nil }
        return Int32(bitPattern: information.ssi_signo)
    }
}

/// Writes to a closed pipe or socket become errors instead of ending the process.
package func ignoreBrokenPipes() {
    _ = signal(SIGPIPE, SIG_IGN)
}

/// Nanoseconds on the monotonic clock.
package func monotonicNanoseconds() -> UInt64 {
    var now = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}

/// Nanoseconds since 1970 on the wall clock.
package func wallClockNanoseconds() -> UInt64 {
    var now = timespec()
    unsafe clock_gettime(CLOCK_REALTIME, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}

/// Microseconds of processor time that this process has used so far.
package func processorTimeInMicroseconds() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1000
}
