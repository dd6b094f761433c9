// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Runs blocking or computing work on a thread of its own, so that neither an event loop nor the few threads of
/// Swift's concurrency stand still for it.
package func onOwnThread<Value: Sendable>(_ work: @escaping @Sendable () -> Value) async -> Value {
    await withCheckedContinuation { continuation in
        startThread { continuation.resume(returning: work()) }
    }
}

/// What a new thread is to do.
private final class ThreadWork: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}

private func startThread(_ body: @escaping @Sendable () -> Void) {
    let work = Unmanaged.passRetained(ThreadWork(body))
    var thread: pthread_t = 0
    if pthread_create(&thread, nil, threadMain, work.toOpaque()) == 0 {
        pthread_detach(thread)
    } else {
        // No thread is to be had (the user's limit): rather slow than not at all.
        work.takeRetainedValue().body()
    }
}

/// A function, not a closure: a closure written in an isolated place would be isolated itself.
private func threadMain(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    if let argument { Unmanaged<ThreadWork>.fromOpaque(argument).takeRetainedValue().body() }
    return nil
}
