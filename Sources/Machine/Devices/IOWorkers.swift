// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

// Zone 1: plain threads. One lock around a list and two counters; items are handed over whole.

/// Something that waits for a disk: made by a device, performed by a worker, then handed back.
///
/// `@unchecked Sendable`: it belongs to one thread at a time, which the hand-overs see to.
class WorkItem: @unchecked Sendable {
    fileprivate(set) final var next: WorkItem?

    /// The work, on a worker's thread; hands the item back as its last act.
    func perform() {}
}

/// A list of items, oldest first.
struct WorkList {
    private var first: WorkItem?
    private var last: WorkItem?

    var isEmpty: Bool { first == nil }

    mutating func append(_ item: WorkItem) {
        item.next = nil
        if let last { last.next = item } else { first = item }
        last = item
    }

    mutating func popFirst() -> WorkItem? {
        guard let item = first else { return nil }
        first = item.next
        item.next = nil
        if first == nil { last = nil }
        return item
    }
}

/// A few threads that wait for disks so that the loop does not have to. They are started when they are first needed.
package final class IOWorkers: Sendable {
    private let state: State

    /// - Parameter limit: the most threads there may be.
    package init(limit: Int = 4) {
        state = State(limit: limit)
    }

    deinit {
        state.stop()
    }

    /// Waits until no worker does anything; nobody submits meanwhile.
    func waitUntilIdle() {
        state.waitUntilIdle()
    }

    /// Has a worker perform the item, after those submitted before it.
    func submit(_ item: WorkItem) {
        state.submit(item)
    }

    /// `@unchecked Sendable`: every field is read and written under the lock only.
    @safe fileprivate final class State: @unchecked Sendable {
        private let limit: Int
        private let lock = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
        private let hasWork = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
        private let becameIdle = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
        private var items = WorkList()
        private var queuedCount = 0
        private var threadCount = 0
        private var idleCount = 0
        private var isStopped = false

        init(limit: Int) {
            self.limit = limit
            unsafe pthread_mutex_init(lock, nil)
            unsafe pthread_cond_init(hasWork, nil)
            unsafe pthread_cond_init(becameIdle, nil)
        }

        deinit {
            unsafe pthread_mutex_destroy(lock)
            unsafe pthread_cond_destroy(hasWork)
            unsafe pthread_cond_destroy(becameIdle)
            unsafe becameIdle.deallocate()
            unsafe lock.deallocate()
            unsafe hasWork.deallocate()
        }

        func submit(_ item: WorkItem) {
            unsafe pthread_mutex_lock(lock)
            items.append(item)
            queuedCount += 1
            var mustStart = false
            if queuedCount > idleCount, threadCount < limit {
                threadCount += 1
                mustStart = true
            } else {
                unsafe pthread_cond_signal(hasWork)
            }
            unsafe pthread_mutex_unlock(lock)
            if mustStart, !startThread() { performWithoutThread() }
        }

        private func startThread() -> Bool {
            var attributes = pthread_attr_t()
            unsafe pthread_attr_init(&attributes)
            defer { unsafe pthread_attr_destroy(&attributes) }
            unsafe pthread_attr_setstacksize(&attributes, 256 * 1024)
            unsafe pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
            var thread = pthread_t()
            let context = unsafe Unmanaged.passRetained(self)
            // Signals are for the thread that asked for them.
            var all = sigset_t()
            var before = sigset_t()
            unsafe sigfillset(&all)
            unsafe pthread_sigmask(SIG_SETMASK, &all, &before)
            let result = unsafe pthread_create(&thread, &attributes, runWorker, context.toOpaque())
            unsafe pthread_sigmask(SIG_SETMASK, &before, nil)
            if result != 0 { unsafe context.release() }
            return result == 0
        }

        /// No thread to be had: if there is none at all, the caller waits itself.
        private func performWithoutThread() {
            unsafe pthread_mutex_lock(lock)
            threadCount -= 1
            let item = threadCount == 0 ? takeItem() : nil
            unsafe pthread_mutex_unlock(lock)
            item?.perform()
        }

        private func takeItem() -> WorkItem? {
            guard let item = items.popFirst() else { return nil }
            queuedCount -= 1
            return item
        }

        func run() {
            unsafe pthread_mutex_lock(lock)
            while true {
                if let item = takeItem() {
                    unsafe pthread_mutex_unlock(lock)
                    item.perform()
                    unsafe pthread_mutex_lock(lock)
                } else if isStopped {
                    break
                } else {
                    idleCount += 1
                    unsafe pthread_cond_broadcast(becameIdle)
                    unsafe pthread_cond_wait(hasWork, lock)
                    idleCount -= 1
                }
            }
            threadCount -= 1
            unsafe pthread_mutex_unlock(lock)
        }

        func waitUntilIdle() {
            unsafe pthread_mutex_lock(lock)
            while queuedCount > 0 || idleCount < threadCount { unsafe pthread_cond_wait(becameIdle, lock) }
            unsafe pthread_mutex_unlock(lock)
        }

        func stop() {
            unsafe pthread_mutex_lock(lock)
            isStopped = true
            unsafe pthread_cond_broadcast(hasWork)
            unsafe pthread_mutex_unlock(lock)
        }
    }
}

private func runWorker(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let context = unsafe context else { return nil }
    unsafe Unmanaged<IOWorkers.State>.fromOpaque(context).takeRetainedValue().run()
    return nil
}
