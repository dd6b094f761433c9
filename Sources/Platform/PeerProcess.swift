// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// The process at the other end of a unix socket, which need not be a child of this one.
package struct PeerProcess: ~Copyable, Sendable {
    package let pid: Int32
    /// Readable when the process has ended (pidfd_open(2)).
    package let ended: Descriptor

    /// - Parameter socket: connected by the process itself, which alone holds the other end.
    package init(of socket: borrowing Descriptor) throws(SystemError) {
        let pid = clinux_peer_process(socket.raw)
        guard pid > 0 else { throw SystemError("getsockopt", "SO_PEERCRED") }
        let raw = clinux_pidfd_open(pid)
        guard raw >= 0 else { throw SystemError("pidfd_open", "\(pid)") }
        let ended = Descriptor(owning: raw)
        // Where the socket has ended, the process may have, and another may have its number by now.
        var entry = pollfd(fd: socket.raw, events: 0, revents: 0)
        guard unsafe poll(&entry, 1, 0) == 0 else { throw SystemError("pidfd_open", "\(pid)", code: ESRCH) }
        self.pid = pid
        self.ended = ended
    }

    /// Sends a signal; a process that has ended already is no failure.
    package borrowing func send(_ signal: Int32) throws(SystemError) {
        guard clinux_pidfd_send_signal(ended.raw, signal) == 0 || clinux_errno() == ESRCH else {
            throw SystemError("pidfd_send_signal", "\(pid)")
        }
    }
}
