// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import GuestProtocol
package import Platform

/// The descriptors that a session's streams are joined to. They stay the caller's and are never made non-blocking.
package struct SessionStreams: Sendable {
    /// Nil gives a process that reads its input the end at once; unused where the request has no input.
    package var input: Int32?
    /// Nil drops the stream.
    package var output: Int32?
    package var errors: Int32?

    package init(input: Int32?, output: Int32?, errors: Int32?) {
        self.input = input
        self.output = output
        self.errors = errors
    }

    /// This process's own.
    package static let standard = SessionStreams(input: 0, output: 1, errors: 2)
}

/// How a session came to its end.
package struct SessionResult: Equatable, Sendable {
    package enum Outcome: Equatable, Sendable {
        case exited(ExitReport)
        /// The process was not started: the exit code and the reason.
        case refused(Refusal)
        /// A signal came before the process was accepted; the request is withdrawn with the connection.
        case interrupted(signal: Int32)
    }
    package var outcome: Outcome
    /// Reading this side's input failed; the process saw its end there.
    package var inputFailure: SystemError?
    /// Writing output failed other than by a reader that went away; the rest of it was dropped.
    package var outputFailure: SystemError?

    /// What a command that stands for the process exits with.
    package var exitStatus: UInt8 {
        switch outcome {
        case .exited(let report): report.shellStatus
        case .refused(let refusal): refusal.exitCode
        case .interrupted(let signal): UInt8(truncatingIfNeeded: 128 + signal)
        }
    }
}

/// One foreground session over a connected socket whose other side is a guest, or stands for one (a supervisor, the
/// keeper of the emulated host). A plain thread in one poll(2) loop: poll, because it takes every kind of descriptor,
/// regular files and /dev/null included, and keeps no state on descriptors that others share.
///
/// Memory is bounded: by the credit given for output (256 KiB a stream), and for input by not reading it while
/// `outgoingLimit` bytes wait for the socket.
package struct SessionClient: ~Copyable {
    static let outgoingLimit = 262_144

    var socket: FrameSocket
    /// Hello was said, and the other side's is the next frame.
    var awaitsHello = false

    package init(socket: consuming Descriptor) throws(SessionError) {
        do throws(SystemError) {
            self.socket = try FrameSocket(socket)
        } catch {
            throw .system(error)
        }
    }

    /// Says hello and waits for the other side's.
    /// - Parameter timeoutInMilliseconds: how long to wait (ETIMEDOUT beyond); nil for as long as it takes.
    package mutating func hello(
        program: String = "martlet", timeoutInMilliseconds: Int32? = nil
    ) throws(SessionError) -> Hello {
        try send(Self.hello(of: program))
        guard let frame = try receive(timeoutInMilliseconds: timeoutInMilliseconds) else {
            throw .system(SystemError("poll", "hello", code: ETIMEDOUT))
        }
        return try Self.hello(in: frame)
    }

    /// Says hello together with what is asked for next, by `run`, which also takes the other side's.
    package mutating func helloAhead(program: String = "martlet") {
        socket.queue(Self.hello(of: program))
        awaitsHello = true
    }

    private static func hello(of program: String) -> Frame {
        var own = Hello()
        own.program = Array(program.utf8)
        return Frame(.hello, payload: own.payload)
    }

    static func hello(in frame: Frame) throws(SessionError) -> Hello {
        if frame.kind == .failure { throw .failure(Refusal(frame.payload) ?? Refusal(exitCode: 125, message: [])) }
        guard frame.kind == .hello, let theirs = Hello(frame.payload) else {
            throw .violation("something other than hello first")
        }
        guard theirs.major == ProtocolVersion.major else { throw .versionMismatch(theirs: theirs.major) }
        return theirs
    }

    /// Sends a frame, waiting until the socket has taken all of it.
    package mutating func send(_ frame: Frame) throws(SessionError) {
        socket.queue(frame)
        while true {
            try flush()
            if socket.pendingByteCount == 0 { return }
            _ = try poll([pollfd(fd: socket.raw, events: Int16(POLLOUT), revents: 0)])
        }
    }

    /// The next frame, or nil after the timeout.
    package mutating func receive(timeoutInMilliseconds: Int32? = nil) throws(SessionError) -> Frame? {
        let deadline = timeoutInMilliseconds.map { monotonicNanoseconds() + UInt64(max(0, $0)) * 1_000_000 }
        while true {
            if let frame = try socket.next() { return frame }
            var wait: Int32 = -1
            if let deadline {
                let now = monotonicNanoseconds()
                if now >= deadline { return nil }
                wait = Int32(clamping: (deadline - now + 999_999) / 1_000_000)
            }
            let ready = try poll([pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)], timeout: wait)
            if ready[0].revents != 0 { try readSocket() }
        }
    }

    /// Ends the connection.
    package consuming func close() {}

    mutating func readSocket() throws(SessionError) {
        do throws(SystemError) {
            if case .closed = try socket.receive() { throw SystemError("read", code: ECONNRESET) }
        } catch {
            if error.code == ECONNRESET { throw .connectionLost }
            throw .system(error)
        }
    }

    mutating func flush() throws(SessionError) {
        do throws(SystemError) {
            try socket.flush()
        } catch {
            throw .system(error)
        }
    }

    func poll(_ entries: [pollfd], timeout: Int32 = -1) throws(SessionError) -> [pollfd] {
        var entries = entries
        let count = unsafe entries.withUnsafeMutableBufferPointer { space in
            retryingInterrupts { unsafe Glibc.poll(space.baseAddress, nfds_t(space.count), timeout) }
        }
        guard count >= 0 else { throw .system(SystemError("poll")) }
        return entries
    }
}
