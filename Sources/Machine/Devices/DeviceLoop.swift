// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import Platform
internal import Synchronization

// Zone 1: plain threads, locks, atomics, eventfds. One thread runs the loop and owns the devices' queues and
// descriptors; other threads reach it with `post` and `performAndWait`, a batch at a time.

/// Something that a `DeviceLoop` calls when one of its descriptors is ready or its time has come.
///
/// `@unchecked Sendable`: a handler's fields belong to the loop's thread, but for those that say otherwise.
package class EventHandler: @unchecked Sendable {
    package init() {}

    /// A descriptor is ready. Tokens are the handler's own, given at registration.
    func handleEvent(_ token: UInt32, _ readiness: Readiness) {}

    /// A timer has run out.
    func handleTimer(_ token: UInt32) {}
}

/// A registered descriptor; stays good until it is deregistered.
package struct EventRegistration: Equatable, Sendable {
    fileprivate let slot: UInt32
    fileprivate let generation: UInt32
}

/// An epoll loop for devices, run by a thread that the caller starts.
///
/// Registering and timers are for the loop's own thread, or for any one thread while the loop does not run.
///
/// `@unchecked Sendable`: what is not a constant, an atomic or a lock belongs to the loop's thread.
package final class DeviceLoop: @unchecked Sendable {
    package typealias Job = @Sendable () -> Void

    private struct Slot {
        var handler: EventHandler?
        var fd: Int32 = -1
        var token: UInt32 = 0
        /// Counts the slot's uses: an event of an earlier use that is still in the batch is not delivered.
        var generation: UInt32 = 0
    }

    private struct PendingTimer {
        let handler: EventHandler
        let token: UInt32
        /// In nanoseconds of the monotonic clock.
        let deadline: UInt64
    }

    private struct Mailbox {
        var jobs: [Job] = []
        var hasEnded = false
    }

    /// Where devices report what a user should know: one line, without a newline.
    package let log: @Sendable (String) -> Void

    private let epoll: Epoll
    private let wake: EventCounter
    private let mailbox = Mutex(Mailbox())
    private let stopRequested = Atomic(false)
    private var slots: [Slot] = []
    private var freeSlots: [UInt32] = []
    private var timers: [PendingTimer] = []
    private var events = EpollEvents(capacity: 64)

    private static let wakeToken = UInt64.max

    package init(log: @escaping @Sendable (String) -> Void = { _ in }) throws(SystemError) {
        self.log = log
        epoll = try Epoll()
        wake = try EventCounter()
        try epoll.add(wake.descriptor.raw, .readable, token: Self.wakeToken)
    }

    // MARK: - Descriptors

    /// Watches a descriptor for a handler, which the loop keeps until `deregister`.
    package func register(
        _ fd: Int32, _ readiness: Readiness, _ handler: EventHandler, token: UInt32
    ) throws(SystemError) -> EventRegistration {
        let index: UInt32
        if let free = freeSlots.popLast() {
            index = free
        } else {
            index = UInt32(slots.count)
            slots.append(Slot())
        }
        slots[Int(index)].generation &+= 1
        let generation = slots[Int(index)].generation
        do throws(SystemError) {
            try epoll.add(fd, readiness, token: UInt64(generation) << 32 | UInt64(index))
        } catch {
            freeSlots.append(index)
            throw error
        }
        slots[Int(index)].handler = handler
        slots[Int(index)].fd = fd
        slots[Int(index)].token = token
        return EventRegistration(slot: index, generation: generation)
    }

    /// Watches a registered descriptor for something else.
    package func modify(_ registration: EventRegistration, _ readiness: Readiness) throws(SystemError) {
        let slot = slots[Int(registration.slot)]
        guard slot.generation == registration.generation, slot.handler != nil else { return }
        try epoll.modify(
            slot.fd, readiness, token: UInt64(registration.generation) << 32 | UInt64(registration.slot))
    }

    /// Ends the watch, before the descriptor is closed. No event of it is delivered any more, not even one that is in
    /// the batch at hand. Doing it twice does nothing.
    package func deregister(_ registration: EventRegistration) {
        let index = Int(registration.slot)
        guard slots[index].generation == registration.generation, slots[index].handler != nil else { return }
        do throws(SystemError) { try epoll.remove(slots[index].fd) } catch {
            preconditionFailure("a registered descriptor was closed: \(error)")
        }
        slots[index].handler = nil
        slots[index].fd = -1
        freeSlots.append(registration.slot)
    }

    /// Ends all watches and timers, and lets go of their handlers, which have the loop in turn. For any one thread once
    /// the loop has ended.
    package func forgetHandlers() {
        for index in slots.indices where slots[index].handler != nil {
            _ = try? epoll.remove(slots[index].fd)
            slots[index] = Slot(generation: slots[index].generation)
            freeSlots.append(UInt32(index))
        }
        timers.removeAll()
    }

    // MARK: - Timers

    /// Calls the handler once after the time; an earlier setting of the same token is replaced, nil only ends it.
    package func setTimer(_ handler: EventHandler, token: UInt32, afterMilliseconds milliseconds: UInt64?) {
        timers.removeAll { $0.handler === handler && $0.token == token }
        guard let milliseconds else { return }
        let deadline = monotonicNanoseconds() + milliseconds * 1_000_000
        timers.append(PendingTimer(handler: handler, token: token, deadline: deadline))
    }

    private func timeoutInMilliseconds() -> Int32? {
        guard !timers.isEmpty else { return nil }
        let now = monotonicNanoseconds()
        var nearest = UInt64.max
        for timer in timers { nearest = min(nearest, timer.deadline) }
        guard nearest > now else { return 0 }
        return Int32(clamping: (nearest - now + 999_999) / 1_000_000)
    }

    private func expireTimers() {
        guard !timers.isEmpty else { return }
        let now = monotonicNanoseconds()
        // A handler may set timers: those are for the next round.
        let due = timers.filter { $0.deadline <= now }
        timers.removeAll { $0.deadline <= now }
        for timer in due { timer.handler.handleTimer(timer.token) }
    }

    // MARK: - Running

    /// Runs until `stop`; may be run again after that.
    package func run() throws(SystemError) {
        mailbox.withLock { $0.hasEnded = false }
        defer { end() }
        while !stopRequested.exchange(false, ordering: .acquiring) {
            let count = try epoll.wait(&events, timeoutInMilliseconds: timeoutInMilliseconds())
            for index in 0..<count {
                let (token, readiness) = events[index]
                if token == Self.wakeToken {
                    wake.drain()
                    runJobs()
                    continue
                }
                let slot = slots[Int(truncatingIfNeeded: token & 0xffff_ffff)]
                guard slot.generation == UInt32(truncatingIfNeeded: token >> 32), let handler = slot.handler else {
                    continue
                }
                handler.handleEvent(slot.token, readiness)
            }
            expireTimers()
        }
    }

    /// Ends `run` after the batch at hand. For any thread.
    package func stop() {
        stopRequested.store(true, ordering: .releasing)
        wake.signal()
    }

    private func runJobs() {
        let jobs = mailbox.withLock { mailbox in
            let jobs = mailbox.jobs
            mailbox.jobs = []
            return jobs
        }
        for job in jobs { job() }
    }

    /// What is still in the mailbox is done; what comes later is done by those who bring it.
    private func end() {
        while true {
            runJobs()
            let isEmpty = mailbox.withLock { mailbox in
                mailbox.hasEnded = mailbox.jobs.isEmpty
                return mailbox.hasEnded
            }
            if isEmpty { return }
        }
    }

    // MARK: - From other threads

    /// Has the loop's thread do something, soon. For any thread. A loop that has not begun to run does it first thing;
    /// one that has ended does it no more.
    /// - Returns: whether it has not ended.
    @discardableResult
    package func post(_ job: @escaping Job) -> Bool {
        let (isTaken, isFirst) = mailbox.withLock { mailbox in
            guard !mailbox.hasEnded else { return (false, false) }
            mailbox.jobs.append(job)
            return (true, mailbox.jobs.count == 1)
        }
        if isFirst { wake.signal() }
        return isTaken
    }

    /// Has the loop's thread do something and waits until it is done. For any thread but the loop's own. Once the loop
    /// has ended, the caller's thread does it.
    package func performAndWait(_ job: @escaping Job) throws(SystemError) {
        let done = Completion(try EventCounter())
        let taken = mailbox.withLock { mailbox in
            guard !mailbox.hasEnded else { return false }
            mailbox.jobs.append {
                job()
                done.event.signal()
            }
            return true
        }
        guard taken else { return job() }
        wake.signal()
        done.wait()
    }

    private final class Completion: Sendable {
        let event: EventCounter
        init(_ event: consuming EventCounter) { self.event = event }

        func wait() {
            while event.drain() == 0 {
                var watched = pollfd(fd: event.descriptor.raw, events: Int16(POLLIN), revents: 0)
                _ = unsafe poll(&watched, 1, -1)
            }
        }
    }
}
