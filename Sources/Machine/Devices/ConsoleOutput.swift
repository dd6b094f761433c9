// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform

/// Opens what the guest's console is written to so that neither opening nor writing waits for whoever reads there.
enum ConsoleOutput {
    /// A file, which is created when missing, or a named pipe, with or without a reader.
    static func file(_ path: String) throws(SystemError) -> Descriptor { try Descriptor.open(path, .appendOrPipe) }

    /// The standard output. Others have the same open file, and would not expect it to be non-blocking: a pipe or a
    /// terminal is opened once more. What cannot be, such as a socket, `Serial16550` asks before each write.
    static func standard(_ number: Int32 = STDOUT_FILENO) throws(SystemError) -> Descriptor {
        var status = stat()
        if unsafe fstat(number, &status) == 0, [S_IFIFO, S_IFCHR].contains(status.st_mode & S_IFMT) {
            let flags = O_WRONLY | O_NONBLOCK | O_NOCTTY
            let raw = retryingInterrupts { unsafe clinux_open("/proc/self/fd/\(number)", flags, 0) }
            if raw >= 0 { return Descriptor(owning: raw) }
        }
        return try Descriptor(duplicating: number)
    }

    /// Whether a write may wait: for what is non-blocking, and for files, it does not.
    static func mayWait(_ descriptor: borrowing Descriptor) -> Bool {
        var status = stat()
        return clinux_fcntl(descriptor.raw, F_GETFL, 0) & O_NONBLOCK == 0
            && !(unsafe fstat(descriptor.raw, &status) == 0 && status.st_mode & S_IFMT == S_IFREG)
    }

    /// Waits until something can be written, or nobody reads any more; false where the time is up before.
    static func isWritable(_ raw: Int32, withinMilliseconds limit: Int32 = 0) -> Bool {
        var entry = pollfd(fd: raw, events: Int16(POLLOUT), revents: 0)
        return retryingInterrupts { unsafe poll(&entry, 1, limit) } > 0
    }
}
