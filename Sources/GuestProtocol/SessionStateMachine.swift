// SPDX-License-Identifier: Apache-2.0

// One session: a process that the host asked for, from its `request` to the frame that ends it. Both ends run this same
// machine, each from its own side. Pure: it says what may be sent and judges what came, the caller does it.
//
// Phases, and the frame that leads on (H: sent by the host, G: by the guest):
//
//     requested ──accepted G──▶ accepted ──go H──▶ starting ──started G──▶ running ──exited G──▶ ended
//         │                        │                  │
//         └───────refused G────────┴──────────────────┴──────────────────────────────────────▶ ended
//
// Where the request says that the process need not wait for `go`, `started` may come in place of `accepted`.
//
// Allowed besides, without a change of phase:
//   H data, end of `input`           until ended, if the request has an input; within the credit; nothing after `end`
//   G credit of `input`              until ended, if the request has an input
//   G data, end of `output`/`errors` in running; within the credit; nothing after `end`
//   H credit of `output`/`errors`    until ended
//   H signal, hangUp                 until ended; a second hangUp says nothing new
//   G exited                         only once `output` and `errors` are ended, unless the host hung up
//
// Illegal input: a frame that only the own end sends; one that the phase does not allow; a stream of the wrong
// direction or one that is not there; data or an end at another offset than the next; data beyond the credit.
// After `ended` the guest takes whatever the host still sends for late (it crossed the frame that ended the session),
// while the guest, which ends sessions, can send nothing more.

package enum SessionEnd: Sendable {
    case host
    case guest
}

package struct SessionStateMachine: Sendable {
    package enum Phase: Sendable {
        case requested
        case accepted
        case starting
        case running
        case ended
    }

    package enum Verdict: Equatable, Sendable {
        /// It was to be expected: act on it.
        case taken
        /// It crossed the end of the session and means nothing any more.
        case late
        /// The peer does not keep the protocol: the connection ends.
        case illegal
    }

    package let end: SessionEnd
    package let hasInput: Bool
    package let startsAtOnce: Bool
    package private(set) var phase = Phase.requested
    package private(set) var isHungUp = false
    private var input = Direction()
    private var output = Direction()
    private var errors = Direction()

    /// A stream's credit; one of the windows is in use, depending on which end this is.
    private struct Direction: Sendable {
        var sending = SendWindow()
        var receiving = ReceiveWindow()
        var isEnded: Bool { sending.isEnded || receiving.isEnded }
    }

    /// The session as it is after its `request` was sent or came.
    package init(_ end: SessionEnd, hasInput: Bool, startsAtOnce: Bool = false) {
        self.end = end
        self.hasInput = hasInput
        self.startsAtOnce = startsAtOnce
    }

    /// A session that goes on over another connection: its process runs, its streams begin anew, but for those that
    /// had ended.
    package init(resuming end: SessionEnd, _ session: RunningSession) {
        self.end = end
        hasInput = session.hasInput
        startsAtOnce = false
        phase = .running
        if session.isOutputEnded { _ = output.sending.end() }
        if session.isErrorsEnded { _ = errors.sending.end() }
    }

    // MARK: What comes

    /// Judges a frame of this session that came, and follows it. Data that is taken is to be handed on, and then counted
    /// with `consume`.
    package mutating func receive(_ header: FrameHeader) -> Verdict {
        guard let kind = FrameKind(rawValue: header.kind) else { return .taken }
        if phase == .ended { return end == .guest && SessionStateMachine.isHosts(kind) ? .late : .illegal }
        let stream = StreamKind(rawValue: header.stream)
        guard permits(kind, stream, from: end == .guest ? .host : .guest) else { return .illegal }
        switch kind {
        case .data:
            guard let stream else { return .illegal }
            guard self[stream].receiving.receive(Int(header.payloadLength), at: header.offset) else { return .illegal }
        case .end:
            guard let stream else { return .illegal }
            guard self[stream].receiving.end(at: header.offset) else { return .illegal }
        case .credit:
            guard let stream else { return .illegal }
            self[stream].sending.extend(to: header.offset)
        default: follow(kind)
        }
        return .taken
    }

    /// Counts bytes of a stream that went on to where they belong. Gives the offset of the `credit` to send now, if any.
    package mutating func consume(_ count: Int, of stream: StreamKind) -> UInt64? {
        guard phase != .ended else { return nil }
        return self[stream].receiving.consume(count)
    }

    // MARK: What goes

    /// Whether a frame of this kind may be sent now; of `data`, whether any byte may.
    package func maySend(_ kind: FrameKind, _ stream: StreamKind = .input) -> Bool {
        guard permits(kind, stream, from: end) else { return false }
        switch kind {
        case .data: return self[stream].sending.available > 0
        case .end: return !self[stream].sending.isEnded
        default: return true
        }
    }

    /// Follows a frame that is sent, other than `data`, `end` and `credit`.
    package mutating func send(_ kind: FrameKind) {
        precondition(permits(kind, .input, from: end), "a frame out of its place")
        follow(kind)
    }

    /// How many bytes of a stream may be sent now.
    package func available(_ stream: StreamKind) -> Int {
        maySend(.data, stream) ? self[stream].sending.available : 0
    }

    /// Counts bytes that are sent, at most `available`; gives the offset of their `data` frame.
    package mutating func send(_ count: Int, on stream: StreamKind) -> UInt64 {
        self[stream].sending.send(count)
    }

    /// Ends a stream; gives the offset of the `end` frame.
    package mutating func sendEnd(_ stream: StreamKind) -> UInt64 {
        precondition(maySend(.end, stream), "an end out of its place")
        return self[stream].sending.end()
    }

    // MARK: The rules

    private func permits(_ kind: FrameKind, _ stream: StreamKind?, from sender: SessionEnd) -> Bool {
        guard phase != .ended else { return false }
        switch (kind, sender) {
        case (.accepted, .guest): return phase == .requested
        case (.refused, .guest): return phase != .running
        case (.go, .host): return phase == .accepted
        case (.started, .guest): return phase == .starting || phase == .requested && startsAtOnce
        case (.exited, .guest): return phase == .running && (isHungUp || output.isEnded && errors.isEnded)
        case (.data, .host), (.end, .host), (.credit, .guest): return stream == .input && hasInput
        case (.data, .guest), (.end, .guest): return phase == .running && (stream == .output || stream == .errors)
        case (.credit, .host): return stream == .output || stream == .errors
        case (.signal, .host), (.hangUp, .host): return true
        default: return false
        }
    }

    private static func isHosts(_ kind: FrameKind) -> Bool {
        switch kind {
        case .go, .data, .end, .credit, .signal, .hangUp: true
        default: false
        }
    }

    private mutating func follow(_ kind: FrameKind) {
        switch kind {
        case .accepted: phase = .accepted
        case .go: phase = .starting
        case .started: phase = .running
        case .refused, .exited: phase = .ended
        case .hangUp: isHungUp = true
        default: break
        }
    }

    private subscript(stream: StreamKind) -> Direction {
        get {
            switch stream {
            case .input: input
            case .output: output
            case .errors: errors
            }
        }
        set {
            switch stream {
            case .input: input = newValue
            case .output: output = newValue
            case .errors: errors = newValue
            }
        }
    }
}
