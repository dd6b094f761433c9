// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import GuestProtocol
package import Platform

extension SessionClient {
    /// The signals that a foreground command passes on to its process.
    package static let forwardedSignals = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH]

    /// Asks for a process and stands for it until it ends: input, output and signals pass, byte-exact and
    /// flow-controlled.
    ///
    /// Signals that come before the request was accepted withdraw it (those that end a process by default) or are
    /// dropped; after the process's end they end the wait for readers that do not read.
    /// - Parameters:
    ///   - request: what to start; nil attaches to what the other side was told to start by other ways.
    ///   - signals: a queue of the signals to pass on, made before any thread.
    ///   - onStarted: called once when the process runs.
    package mutating func run(
        _ request: ProcessRequest?, session: UInt32 = 1, streams: SessionStreams,
        signals: borrowing SignalQueue, onStarted: () -> Void = {}
    ) throws(SessionError) -> SessionResult {
        try run(
            request, session: session, streams: streams, signalDescriptor: signals.descriptor.raw,
            nextSignal: { signals.next() }, onStarted: onStarted)
    }

    /// The same without signals.
    package mutating func run(
        _ request: ProcessRequest?, session: UInt32 = 1, streams: SessionStreams, onStarted: () -> Void = {}
    ) throws(SessionError) -> SessionResult {
        try run(
            request, session: session, streams: streams, signalDescriptor: -1, nextSignal: { nil },
            onStarted: onStarted)
    }

    private mutating func run(
        _ request: ProcessRequest?, session: UInt32, streams: SessionStreams, signalDescriptor: Int32,
        nextSignal: () -> Int32?, onStarted: () -> Void
    ) throws(SessionError) -> SessionResult {
        var run: ForegroundRun
        do throws(SystemError) {
            run = try ForegroundRun(session: session, request: request, streams: streams)
        } catch {
            throw .system(error)
        }
        if let request {
            let payload = request.payload
            guard payload.count <= FrameHeader.requestPayloadLimit else { throw .requestTooLarge }
            socket.queue(Frame(.request, session: session, payload: payload))
        }

        while true {
            // Some may have come together with an earlier one, thus before the wait.
            while let frame = try socket.next() {
                if awaitsHello {
                    awaitsHello = false
                    _ = try Self.hello(in: frame)
                } else if try run.take(frame, &socket) {
                    onStarted()
                }
            }
            try flush()
            if let outcome = run.outcome, run.isDrained { return run.result(outcome) }
            let isOver = run.outcome != nil
            let ready = try poll([
                pollfd(
                    fd: isOver ? -1 : socket.raw,
                    events: Int16(POLLIN) | (socket.pendingByteCount > 0 ? Int16(POLLOUT) : 0), revents: 0),
                pollfd(
                    fd: socket.pendingByteCount < Self.outgoingLimit ? run.inputToWaitFor : -1,
                    events: Int16(POLLIN), revents: 0),
                pollfd(fd: run.output.waitsFor, events: Int16(POLLOUT), revents: 0),
                pollfd(fd: run.errors.waitsFor, events: Int16(POLLOUT), revents: 0),
                pollfd(fd: signalDescriptor, events: Int16(POLLIN), revents: 0),
            ])
            if ready[4].revents != 0 {
                while let signal = nextSignal() {
                    if let outcome = run.take(signal, &socket) { return run.result(outcome) }
                }
            }
            if ready[0].revents & Int16(POLLIN | POLLHUP | POLLERR) != 0 {
                try readSocket()
            }
            if ready[1].revents != 0 { run.pumpInput(&socket) }
            if ready[2].revents != 0 { run.pumpOutput(&socket) }
            if ready[3].revents != 0 { run.pumpErrors(&socket) }
        }
    }
}

/// The state of one foreground session between two waits.
private struct ForegroundRun: ~Copyable {
    private var session: ClientSession
    private var input: Int32?
    /// The process reads a stream, yet nothing is joined to it: its end is sent first of all.
    private let isInputEmpty: Bool
    private var inputFailure: SystemError?
    private var space = [UInt8](repeating: 0, count: FrameHeader.payloadLimit)
    var output: OutputSink
    var errors: OutputSink
    var outcome: SessionResult.Outcome?

    /// - Parameter request: nil where the other side knows it and `streams` follow that.
    init(session: UInt32, request: ProcessRequest?, streams: SessionStreams) throws(SystemError) {
        let output = try OutputSink(streams.output)
        let errors = try OutputSink(streams.errors)
        self.session = ClientSession(identifier: session, startsAtOnce: request?.startsAtOnce == true)
        input = request?.hasInput == false ? nil : streams.input
        isInputEmpty = request?.hasInput == true && streams.input == nil
        self.output = output
        self.errors = errors
    }

    var isDrained: Bool { output.pendingByteCount == 0 && errors.pendingByteCount == 0 }

    /// The descriptor to read input from as soon as it has some; -1 while none may be sent.
    var inputToWaitFor: Int32 {
        guard let input, session.inputRoom > 0 else { return -1 }
        return input
    }

    func result(_ outcome: SessionResult.Outcome) -> SessionResult {
        SessionResult(outcome: outcome, inputFailure: inputFailure, outputFailure: output.failure ?? errors.failure)
    }

    /// A signal of this process: the session's outcome if that ends the wait.
    mutating func take(_ signal: Int32, _ socket: inout FrameSocket) -> SessionResult.Outcome? {
        let isEnding = signal == SIGINT || signal == SIGTERM || signal == SIGHUP || signal == SIGQUIT
        switch session.phase {
        case .requested: return isEnding ? .interrupted(signal: signal) : nil
        case .ended: return isEnding ? outcome : nil
        case .accepted, .running:
            let message = NumberMessage(UInt64(signal))
            socket.queue(Frame(.signal, session: session.identifier, payload: message.payload))
            return nil
        }
    }

    /// A frame of the other side; whether it said that the process runs.
    mutating func take(_ frame: Frame, _ socket: inout FrameSocket) throws(SessionError) -> Bool {
        switch try session.receive(frame) {
        case .nothing, .inputExtended, .outputEnded: break
        case .accepted:
            socket.queue(Frame(.go, session: session.identifier))
            endEmptyInput(&socket)
        case .started:
            endEmptyInput(&socket)
            return true
        case .output(.errors, let bytes): credit(errors.append(bytes), of: .errors, &socket)
        case .output(_, let bytes): credit(output.append(bytes), of: .output, &socket)
        case .inputClosed: input = nil
        case .refused(let refusal): outcome = .refused(refusal)
        case .exited(let report): outcome = .exited(report)
        }
        return false
    }

    private mutating func endEmptyInput(_ socket: inout FrameSocket) {
        if isInputEmpty, !session.isInputEnded { socket.queue(session.endInput()) }
    }

    /// Reads input and queues it; any failure to read is its end.
    mutating func pumpInput(_ socket: inout FrameSocket) {
        guard let raw = input else { return }
        let room = min(session.inputRoom, space.count)
        guard room > 0 else { return }
        let count = unsafe space.withUnsafeMutableBytes { buffer in
            retryingInterrupts { unsafe read(raw, buffer.baseAddress, room) }
        }
        if count > 0 {
            socket.queue(session.input(Array(space[..<count])))
            return
        }
        if count < 0 {
            let failure = SystemError("read", "standard input")
            if failure.code == EAGAIN { return }
            inputFailure = failure
        }
        input = nil
        socket.queue(session.endInput())
    }

    mutating func pumpOutput(_ socket: inout FrameSocket) {
        credit(output.write(), of: .output, &socket)
        if output.takeLostReader() { sendBrokenPipe(&socket) }
    }

    mutating func pumpErrors(_ socket: inout FrameSocket) {
        credit(errors.write(), of: .errors, &socket)
        if errors.takeLostReader() { sendBrokenPipe(&socket) }
    }

    /// A process that writes to a pipe without a reader gets SIGPIPE: so does this one, for `… | head -1` to come to its
    /// end as it would without a machine in between. One that ignores or handles it goes on, its output dropped.
    private mutating func sendBrokenPipe(_ socket: inout FrameSocket) {
        guard session.phase == .running else { return }
        socket.queue(
            Frame(.signal, session: session.identifier, payload: NumberMessage(UInt64(SIGPIPE)).payload))
    }

    private mutating func credit(_ count: Int, of stream: StreamKind, _ socket: inout FrameSocket) {
        guard count > 0, let frame = session.consumed(count, of: stream) else { return }
        socket.queue(frame)
    }
}
