// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// An open file descriptor with one owner. It is closed when its owner lets it go, and cannot be closed twice.
package struct Descriptor: ~Copyable, Sendable {
    /// The number, for system calls made while the owner is alive. Never close it.
    package let raw: Int32

    /// Takes over an open descriptor.
    package init(owning raw: Int32) {
        precondition(raw >= 0, "a descriptor is never negative")
        self.raw = raw
    }

    deinit {
        // EINTR leaves the descriptor closed on Linux; EBADF would be our own bug.
        if Glibc.close(raw) == -1 && clinux_errno() == EBADF { fatalError("descriptor \(raw) was closed by another") }
    }

    /// Ends ownership now; the same as letting the value go, but visible.
    package consuming func close() {}

    /// Ends ownership without closing: the number now belongs to the caller.
    package consuming func release() -> Int32 {
        let raw = raw
        discard self
        return raw
    }

    /// A second descriptor of the same open file.
    package borrowing func duplicate() throws(SystemError) -> Descriptor { try Descriptor(duplicating: raw) }

    /// A second descriptor of an open file whose first one is somebody else's, such as a standard stream.
    package init(duplicating raw: Int32) throws(SystemError) {
        let copy = clinux_fcntl(raw, F_DUPFD_CLOEXEC, 0)
        guard copy >= 0 else { throw SystemError("fcntl", "F_DUPFD_CLOEXEC") }
        self.init(owning: copy)
    }

    package borrowing func setNonBlocking(_ on: Bool = true) throws(SystemError) {
        let flags = clinux_fcntl(raw, F_GETFL, 0)
        guard flags >= 0 else { throw SystemError("fcntl", "F_GETFL") }
        let wanted = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK
        guard clinux_fcntl(raw, F_SETFL, Int(wanted)) >= 0 else { throw SystemError("fcntl", "F_SETFL") }
    }

    /// Lets an exec'ed program inherit it, or not. All our descriptors start as not inherited.
    package borrowing func setInherited(_ on: Bool) throws(SystemError) {
        guard clinux_fcntl(raw, F_SETFD, on ? 0 : Int(FD_CLOEXEC)) >= 0 else { throw SystemError("fcntl", "F_SETFD") }
    }
}

/// How `Descriptor.open` opens.
package struct OpenMode: Sendable {
    let flags: Int32
    package static let readOnly = OpenMode(flags: O_RDONLY)
    package static let writeOnly = OpenMode(flags: O_WRONLY)
    package static let readWrite = OpenMode(flags: O_RDWR)
    package static let directory = OpenMode(flags: O_RDONLY | O_DIRECTORY)
    /// Creates or empties the file.
    package static let create = OpenMode(flags: O_RDWR | O_CREAT | O_TRUNC)
    /// Creates the file and fails where it exists.
    package static let createNew = OpenMode(flags: O_RDWR | O_CREAT | O_EXCL)
    /// Opens the file, which is created when missing.
    package static let openOrCreate = OpenMode(flags: O_RDWR | O_CREAT)
    /// Of a directory: a new file in it that has no name (O_TMPFILE), and is gone when it is closed.
    package static let unnamed = OpenMode(flags: O_RDWR | O_DIRECTORY | 0o20_000_000)
    /// Adds at the end; the file is created when missing.
    package static let append = OpenMode(flags: O_WRONLY | O_CREAT | O_APPEND)
    /// Adds at the end of a file, which is created when missing, or of a named pipe, with or without a reader (fifo(7)).
    /// Non-blocking.
    package static let appendOrPipe = OpenMode(flags: O_RDWR | O_CREAT | O_APPEND | O_NONBLOCK)
    /// The same mode, non-blocking.
    package var nonBlocking: OpenMode { OpenMode(flags: flags | O_NONBLOCK) }
    /// The same mode, refusing a symbolic link as the last component.
    package var noFollow: OpenMode { OpenMode(flags: flags | O_NOFOLLOW) }
}

extension Descriptor {
    /// Opens a file.
    /// - Parameter permissions: those of a file that is created, before the umask.
    package static func open(
        _ path: String, _ mode: OpenMode, permissions: UInt32 = 0o644
    ) throws(SystemError) -> Descriptor {
        let raw = retryingInterrupts { unsafe clinux_open(path, mode.flags, permissions) }
        guard raw >= 0 else { throw SystemError("open", path) }
        return Descriptor(owning: raw)
    }

    /// Opens a file by its name within a directory.
    package static func open(
        _ name: String, in directory: borrowing Descriptor, _ mode: OpenMode, permissions: UInt32 = 0o644
    ) throws(SystemError) -> Descriptor {
        let base = directory.raw
        let raw = retryingInterrupts { unsafe clinux_openat(base, name, mode.flags, permissions) }
        guard raw >= 0 else { throw SystemError("openat", name) }
        return Descriptor(owning: raw)
    }

    /// A file in memory, without a name in any file system.
    package static func memoryFile(_ name: String) throws(SystemError) -> Descriptor {
        let raw = unsafe clinux_memfd_create(name, 0)
        guard raw >= 0 else { throw SystemError("memfd_create", name) }
        return Descriptor(owning: raw)
    }
}

/// Both ends of a pipe.
@frozen package struct Pipe: ~Copyable {
    package let reading: Descriptor
    package let writing: Descriptor

    package init() throws(SystemError) {
        var ends: [Int32] = [-1, -1]
        guard unsafe clinux_pipe2(&ends, 0) == 0 else { throw SystemError("pipe2") }
        reading = Descriptor(owning: ends[0])
        writing = Descriptor(owning: ends[1])
    }
}
