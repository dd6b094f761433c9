// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import GuestProtocol
internal import Platform

/// Where one stream of output goes: a descriptor that others may share, for example the shell's terminal. It is
/// therefore never made non-blocking (that would be so for all who share it). Instead at most so much is written at a
/// time as is sure not to block when poll(2) says writable: a pipe then has room for PIPE_BUF bytes (pipe(7)).
///
/// When the reader has gone (EPIPE) or a disk is full the rest is dropped, and the process gets its credit as before.
struct OutputSink: ~Copyable {
    private enum Kind {
        case file
        case socket
        case other
    }

    /// Nil when nobody wants the stream, or does no more.
    private var descriptor: Descriptor?
    private var kind = Kind.other
    private var pending: [UInt8] = []
    private var written = 0
    /// Why writing stopped, unless the reader just went away.
    private(set) var failure: SystemError?
    /// The reader went away; true once.
    private var hasLostReader = false

    /// - Parameter raw: the descriptor, which stays the caller's; nil drops the stream.
    init(_ raw: Int32?) throws(SystemError) {
        guard let raw else {
            descriptor = nil
            return
        }
        let copy = clinux_fcntl(raw, F_DUPFD_CLOEXEC, 3)
        guard copy >= 0 else { throw SystemError("fcntl", "F_DUPFD_CLOEXEC") }
        var status = stat()
        if unsafe fstat(copy, &status) == 0 {
            switch status.st_mode & S_IFMT {
            case S_IFREG, S_IFBLK: kind = .file
            case S_IFSOCK: kind = .socket
            default: kind = .other
            }
        }
        descriptor = Descriptor(owning: copy)
    }

    var pendingByteCount: Int { pending.count - written }

    /// The descriptor to wait for until it is writable; -1 while there is nothing to write.
    var waitsFor: Int32 {
        guard pendingByteCount > 0 else { return -1 }
        switch descriptor {
        case .some(let descriptor): return descriptor.raw
        case .none: return -1
        }
    }

    /// Adds bytes; gives how many of them are dealt with at once, because nobody wants them.
    mutating func append(_ bytes: [UInt8]) -> Int {
        guard isOpen else { return bytes.count }
        if written == pending.count {
            pending.removeAll(keepingCapacity: true)
            written = 0
        }
        pending.append(contentsOf: bytes)
        return 0
    }

    /// Writes after poll(2) said writable; gives how many bytes are dealt with.
    mutating func write() -> Int {
        var done = 0
        // A bounded turn: the other streams and signals get theirs.
        for _ in 0..<16 where pendingByteCount > 0 {
            let raw = waitsFor
            let count = writeOnce(raw)
            if count < 0 {
                let code = clinux_errno()
                if code == EAGAIN { break }
                if code == EPIPE { hasLostReader = true } else { failure = SystemError("write", code: code) }
                done += pendingByteCount
                descriptor = nil
                pending = []
                written = 0
                break
            }
            written += count
            done += count
            if kind == .other && !isWritable(raw) { break }
        }
        return done
    }

    /// Whether the reader was found to be gone since this was asked last.
    mutating func takeLostReader() -> Bool {
        defer { hasLostReader = false }
        return hasLostReader
    }

    private var isOpen: Bool {
        switch descriptor {
        case .some: true
        case .none: false
        }
    }

    private func writeOnce(_ raw: Int32) -> Int {
        unsafe pending.withUnsafeBytes { bytes in
            let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[written...])
            return retryingInterrupts {
                switch kind {
                case .file: unsafe Glibc.write(raw, rest.baseAddress, rest.count)
                case .socket:
                    unsafe send(
                        raw, rest.baseAddress, rest.count, Int32(MSG_NOSIGNAL | MSG_DONTWAIT))
                case .other: unsafe Glibc.write(raw, rest.baseAddress, min(rest.count, Int(PIPE_BUF)))
                }
            }
        }
    }

    private func isWritable(_ raw: Int32) -> Bool {
        var entry = pollfd(fd: raw, events: Int16(POLLOUT), revents: 0)
        return unsafe poll(&entry, 1, 0) == 1 && entry.revents & Int16(POLLOUT) != 0
    }
}
