// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// Unix sockets by path, of any length: a path beyond the 107 bytes of `sun_path` (unix(7)) is reached through
/// its directory's descriptor.
package enum UnixSocket {
    package enum Kind: Sendable {
        /// Bytes, without borders.
        case stream
        /// Records, each sent and received whole, in order (SOCK_SEQPACKET).
        case records

        fileprivate var type: Int32 {
            switch self {
            case .stream: Int32(SOCK_STREAM.rawValue)
            case .records: Int32(SOCK_SEQPACKET.rawValue)
            }
        }
    }

    /// A listening socket; a stale socket file of the same name is an error (EADDRINUSE), not replaced.
    package static func listen(
        at path: String, kind: Kind = .stream, backlog: Int32 = 128, nonBlocking: Bool = true
    ) throws(SystemError) -> Descriptor {
        let socket = try make(kind, nonBlocking: nonBlocking)
        try unsafe withAddress(path) { address, length throws(SystemError) in
            guard unsafe bind(socket.raw, address, length) == 0 else { throw SystemError("bind", path) }
        }
        guard Glibc.listen(socket.raw, backlog) == 0 else { throw SystemError("listen", path) }
        return socket
    }

    /// A socket connected to the one that listens at `path`. A non-blocking one does not wait for room in the
    /// listener's backlog either: where there is none, that is an error (EAGAIN).
    package static func connect(
        to path: String, kind: Kind = .stream, nonBlocking: Bool = false
    ) throws(SystemError) -> Descriptor {
        let socket = try make(kind, nonBlocking: nonBlocking)
        try unsafe withAddress(path) { address, length throws(SystemError) in
            let raw = socket.raw
            guard retryingInterrupts({ unsafe Glibc.connect(raw, address, length) }) == 0 else {
                throw SystemError("connect", path)
            }
        }
        return socket
    }

    /// The next connection, or nil when none waits.
    package static func accept(
        on listener: borrowing Descriptor, nonBlocking: Bool = true
    ) throws(SystemError) -> Descriptor? {
        let base = listener.raw
        let raw = retryingInterrupts {
            clinux_accept4(base, nonBlocking ? Int32(SOCK_NONBLOCK.rawValue) : 0)
        }
        if raw < 0 {
            let code = clinux_errno()
            // A connection that ended before it was taken is no failure of the listener.
            if code == EAGAIN || code == ECONNABORTED { return nil }
            throw SystemError("accept4", code: code)
        }
        return Descriptor(owning: raw)
    }

    /// A connected pair.
    package static func pair(kind: Kind = .stream, nonBlocking: Bool = false) throws(SystemError) -> SocketPair {
        var ends: [Int32] = [-1, -1]
        let type =
            kind.type | Int32(SOCK_CLOEXEC.rawValue) | (nonBlocking ? Int32(SOCK_NONBLOCK.rawValue) : 0)
        guard unsafe socketpair(AF_UNIX, type, 0, &ends) == 0 else { throw SystemError("socketpair") }
        return SocketPair(first: Descriptor(owning: ends[0]), second: Descriptor(owning: ends[1]))
    }

    private static func make(_ kind: Kind, nonBlocking: Bool) throws(SystemError) -> Descriptor {
        let type =
            kind.type | Int32(SOCK_CLOEXEC.rawValue) | (nonBlocking ? Int32(SOCK_NONBLOCK.rawValue) : 0)
        let raw = socket(AF_UNIX, type, 0)
        guard raw >= 0 else { throw SystemError("socket", "AF_UNIX") }
        return Descriptor(owning: raw)
    }

    private static func withAddress(
        _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) throws(SystemError) -> Void
    ) throws(SystemError) {
        let capacity = MemoryLayout.size(ofValue: sockaddr_un().sun_path)
        if path.utf8.count < capacity { return try unsafe withShortAddress(path, body) }
        let (directory, name) = splitPath(path)
        let base = try Descriptor.open(directory, .directory)
        let short = "/proc/self/fd/\(base.raw)/\(name)"
        guard short.utf8.count < capacity else { throw SystemError("socket", path, code: ENAMETOOLONG) }
        try unsafe withShortAddress(short, body)
        base.close()
    }

    private static func withShortAddress(
        _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) throws(SystemError) -> Void
    ) throws(SystemError) {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { space in
            for (index, byte) in path.utf8.enumerated() { unsafe space[index] = byte }
        }
        let length = socklen_t(MemoryLayout<sockaddr_un>.size)
        var failure: SystemError?
        unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                do throws(SystemError) { try unsafe body(generic, length) } catch { failure = error }
            }
        }
        if let failure { throw failure }
    }
}

/// Two sockets, each the other's peer. Take the ends by consuming the pair.
@frozen package struct SocketPair: ~Copyable {
    package let first: Descriptor
    package let second: Descriptor
}

/// A path's directory and last component: `/a/b` gives `/a` and `b`, `b` gives `.` and `b`.
package func splitPath(_ path: String) -> (directory: String, name: String) {
    guard let slash = path.utf8.lastIndex(of: UInt8(ascii: "/")) else { return (".", path) }
    let name = String(path[path.index(after: slash)...])
    return slash == path.startIndex ? ("/", name) : (String(path[..<slash]), name)
}
