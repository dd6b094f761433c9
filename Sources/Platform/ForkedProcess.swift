// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// What a process does that was forked from one with several threads, and goes on without executing a program.
package enum ForkedProcess {
    /// Closes all descriptors but some. No value of a type that owns a descriptor of the old process may end after this:
    /// the number may be another's.
    package static func closeDescriptors(except kept: [Int32]) {
        let kept = kept.sorted()
        unsafe clinux_close_all_but(kept, kept.count)
    }

    /// Has a session of its own: what is meant for the old process's group is not for this one.
    /// - Parameter name: the process's, as ps(1) shows it; at most 15 bytes.
    package static func detach(name: String) {
        _ = setsid()
        unsafe clinux_name_thread(name)
    }

    /// Puts something in the place of a standard stream.
    /// - Parameter stream: 0, 1 or 2.
    package static func replace(_ stream: Int32, by descriptor: borrowing Descriptor) throws(SystemError) {
        let raw = descriptor.raw
        guard retryingInterrupts({ dup2(raw, stream) }) == stream else { throw SystemError("dup2") }
    }

    package static func changeDirectory(to path: String) throws(SystemError) {
        guard unsafe chdir(path) == 0 else { throw SystemError("chdir", path) }
    }
}

/// Lets this process have as many descriptors open as the host lets its user have.
package func raiseDescriptorLimit() {
    var limit = rlimit()
    guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
    limit.rlim_cur = limit.rlim_max
    _ = unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}
