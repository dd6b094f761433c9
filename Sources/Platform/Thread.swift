// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// A plain thread (pthreads(7)) with one owner, who joins it. One that is let go unjoined goes on by itself.
package struct Thread: ~Copyable, Sendable {
    /// Its pthread_t. Valid until it is joined.
    private let handle: UInt

    /// Starts a thread.
    /// - Parameters:
    ///   - name: shown by ps(1) and top(1); at most 15 bytes.
    ///   - stackSizeInBytes: room for its calls; what is never used costs address space only.
    package init(
        name: String, stackSizeInBytes: Int = 128 << 10, _ body: @escaping @Sendable () -> Void
    ) throws(SystemError) {
        var attributes = pthread_attr_t()
        guard unsafe pthread_attr_init(&attributes) == 0 else { throw SystemError("pthread_attr_init") }
        defer { unsafe pthread_attr_destroy(&attributes) }
        unsafe pthread_attr_setstacksize(&attributes, max(stackSizeInBytes, 16 << 10))
        var thread = pthread_t()
        let box = unsafe Unmanaged.passRetained(ThreadBody(name: name, body))
        let code = unsafe pthread_create(&thread, &attributes, runThread, box.toOpaque())
        guard code == 0 else {
            unsafe box.release()
            throw SystemError("pthread_create", name, code: code)
        }
        handle = UInt(thread)
    }

    deinit { pthread_detach(pthread_t(handle)) }

    /// Sends it a signal.
    package borrowing func send(_ signal: Int32) {
        pthread_kill(pthread_t(handle), signal)
    }

    /// Waits for its end.
    package consuming func join() {
        let handle = handle
        discard self
        _ = pthread_join(pthread_t(handle), nil)
    }
}

private final class ThreadBody: Sendable {
    let name: String
    let run: @Sendable () -> Void
    init(name: String, _ run: @escaping @Sendable () -> Void) {
        self.name = name
        self.run = run
    }
}

// A function and not a closure literal, which would take on the isolation of the place where it is written.
private func runThread(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let argument = unsafe argument else { return nil }
    let body = unsafe Unmanaged<ThreadBody>.fromOpaque(argument).takeRetainedValue()
    unsafe clinux_name_thread(body.name)
    body.run()
    return nil
}

/// The calling thread, for signals to it from others.
package struct ThreadReference: Sendable {
    private let handle: UInt

    private init() { handle = UInt(pthread_self()) }

    package static var current: ThreadReference { ThreadReference() }

    /// Sends it a signal. The thread must not have ended.
    package func send(_ signal: Int32) {
        pthread_kill(pthread_t(handle), signal)
    }
}

/// The calling thread's name, as ps(1) shows it.
package func currentThreadName() -> String {
    var name = InlineArray<16, CChar>(repeating: 0)
    return unsafe withUnsafeMutableBytes(of: &name) { bytes in
        guard let start = unsafe bytes.baseAddress?.assumingMemoryBound(to: CChar.self) else { return "" }
        unsafe clinux_thread_name(start)
        return unsafe String(cString: start)
    }
}
