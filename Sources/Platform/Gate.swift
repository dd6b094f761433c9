// SPDX-License-Identifier: Apache-2.0

internal import Glibc

// Zone 1: one lock, one condition.

/// A place where threads stop when they are asked to, and go on together.
///
/// A number of threads belong to it. Each comes by now and then with `pass`, at a point where nothing of its own is half
/// done; while the gate is closed it stays there. Whoever closed the gate waits until all are in, does what needs them
/// to stand still, and opens it again.
///
/// `@unchecked Sendable`: every field is read and written under the lock only.
@safe package final class Gate: @unchecked Sendable {
    private let lock = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let changed = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    private var isClosed = false
    private var population = 0
    private var waiting = 0

    package init() {
        unsafe pthread_mutex_init(lock, nil)
        unsafe pthread_cond_init(changed, nil)
    }

    deinit {
        unsafe pthread_mutex_destroy(lock)
        unsafe pthread_cond_destroy(changed)
        unsafe lock.deallocate()
        unsafe changed.deallocate()
    }

    private func withLock<Result>(_ body: () -> Result) -> Result {
        unsafe pthread_mutex_lock(lock)
        defer { unsafe pthread_mutex_unlock(lock) }
        return body()
    }

    private func change(_ body: () -> Void) {
        withLock {
            body()
            unsafe pthread_cond_broadcast(changed)
        }
    }

    // MARK: - Threads

    /// One thread more belongs to the gate: called before it runs.
    package func join() { change { population += 1 } }

    /// A thread comes here no more.
    package func leave() { change { population -= 1 } }

    /// Stays for as long as the gate is closed.
    package func pass() {
        withLock {
            guard isClosed else { return }
            waiting += 1
            unsafe pthread_cond_broadcast(changed)
            while isClosed { unsafe pthread_cond_wait(changed, lock) }
            waiting -= 1
        }
    }

    // MARK: - Whoever wants them to stand still

    package func close() { change { isClosed = true } }

    package func open() { change { isClosed = false } }

    /// Waits, the gate being closed, until all threads that belong to it are in.
    package func waitForAll() {
        withLock { while waiting < population { unsafe pthread_cond_wait(changed, lock) } }
    }
}
