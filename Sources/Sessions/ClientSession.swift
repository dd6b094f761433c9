// SPDX-License-Identifier: Apache-2.0

package import GuestProtocol

/// A session seen from who wants the process (Docs/GUEST-PROTOCOL.md). Pure: frames in, events and frames out.
///
///     requested ──accepted──▶ accepted ──started──▶ running ──exited──▶ ended
///         └──refused──▶ ended     └──refused──▶ ended
///
/// One that starts at once may go from `requested` to `running`.
///
/// Illegal, and thrown as a violation: output before `accepted`, output out of order or beyond the credit given, output
/// after its end, a payload that cannot be read, a kind that only this side sends. A frame of another session, of an
/// unknown kind, or after the end is skipped.
package struct ClientSession: Sendable {
    package enum Phase: Equatable, Sendable {
        case requested
        case accepted
        case running
        case ended
    }

    /// What a frame meant.
    package enum Event: Equatable, Sendable {
        case nothing
        /// The process can be started; `go` is to be sent.
        case accepted
        case started
        /// Bytes for one of this side's streams: once they are where they belong, `consumed` gives the credit.
        case output(StreamKind, [UInt8])
        case outputEnded(StreamKind)
        /// More input may be sent.
        case inputExtended
        /// The process takes no more input.
        case inputClosed
        case refused(Refusal)
        case exited(ExitReport)
    }

    package let identifier: UInt32
    private let startsAtOnce: Bool
    package private(set) var phase = Phase.requested
    private var input = SendWindow()
    private var output = ReceiveWindow()
    private var errors = ReceiveWindow()

    package init(identifier: UInt32, startsAtOnce: Bool = false) {
        self.identifier = identifier
        self.startsAtOnce = startsAtOnce
    }

    /// How many bytes of input may be sent now.
    package var inputRoom: Int {
        phase == .running || phase == .accepted ? min(input.available, FrameHeader.payloadLimit) : 0
    }

    package var isInputEnded: Bool { input.isEnded }

    /// The frame that carries input, at most `inputRoom` bytes.
    package mutating func input(_ bytes: [UInt8]) -> Frame {
        Frame(.data, session: identifier, stream: .input, offset: input.send(bytes.count), payload: bytes)
    }

    /// The frame that ends the input.
    package mutating func endInput() -> Frame {
        Frame(.end, session: identifier, stream: .input, offset: input.end())
    }

    /// Counts output that went to where it belongs; gives the credit to send, if it is time for some.
    package mutating func consumed(_ count: Int, of stream: StreamKind) -> Frame? {
        let limit: UInt64?
        switch stream {
        case .output: limit = output.consume(count)
        case .errors: limit = errors.consume(count)
        case .input: limit = nil
        }
        guard let limit, phase != .ended else { return nil }
        return Frame(.credit, session: identifier, stream: stream, offset: limit)
    }

    /// Takes one frame of the other side.
    package mutating func receive(_ frame: Frame) throws(SessionError) -> Event {
        guard let kind = frame.kind else { return .nothing }
        if kind == .failure {
            throw .failure(Refusal(frame.payload) ?? Refusal(exitCode: 125, message: Array("no reason given".utf8)))
        }
        guard frame.header.session == identifier, phase != .ended else { return .nothing }
        switch kind {
        case .accepted: return try advance(from: .requested, to: .accepted, .accepted)
        case .started:
            let isAhead = phase == .requested && startsAtOnce
            return try advance(from: isAhead ? .requested : .accepted, to: .running, .started)
        case .refused:
            guard phase == .requested || phase == .accepted else { throw .violation("refused a process that runs") }
            guard let refusal = Refusal(frame.payload) else { throw .violation("a refusal that cannot be read") }
            phase = .ended
            return .refused(refusal)
        case .exited:
            guard phase == .running else { throw .violation("the exit of a process that was not started") }
            guard let report = ExitReport(frame.payload) else { throw .violation("an exit that cannot be read") }
            phase = .ended
            return .exited(report)
        case .data: return try receiveData(frame)
        case .end: return try receiveEnd(frame)
        case .credit:
            guard frame.stream == .input else { throw .violation("credit for a stream that it sends itself") }
            input.extend(to: frame.header.offset)
            return .inputExtended
        case .hello, .configured, .identified, .frozen, .thawed, .running, .saved, .forked, .networksChanged, .arranged,
            .activity, .failure:
            return .nothing
        case .identify, .freeze, .thaw, .save, .fork, .connect, .disconnect, .arrange, .configure, .request, .go,
            .signal,
            .hangUp, .shutDown, .stop:
            throw .violation("a frame of kind \(frame.header.kind), which only clients send")
        }
    }

    private mutating func advance(from: Phase, to: Phase, _ event: Event) throws(SessionError) -> Event {
        guard phase == from else { throw .violation("an answer out of turn") }
        phase = to
        return event
    }

    private mutating func receiveData(_ frame: Frame) throws(SessionError) -> Event {
        guard phase != .requested else { throw .violation("output before it accepted the request") }
        let count = frame.payload.count
        let isNext: Bool
        switch frame.stream {
        case .output: isNext = output.receive(count, at: frame.header.offset)
        case .errors: isNext = errors.receive(count, at: frame.header.offset)
        default: throw .violation("output on a stream that is none")
        }
        guard isNext, let stream = frame.stream else { throw .violation("output out of order or beyond its credit") }
        return .output(stream, frame.payload)
    }

    private mutating func receiveEnd(_ frame: Frame) throws(SessionError) -> Event {
        guard phase != .requested else { throw .violation("the end of a stream before it accepted the request") }
        let isNext: Bool
        switch frame.stream {
        case .output: isNext = output.end(at: frame.header.offset)
        case .errors: isNext = errors.end(at: frame.header.offset)
        case .input:
            _ = input.end()
            return .inputClosed
        case nil: throw .violation("the end of a stream that is none")
        }
        guard isNext, let stream = frame.stream else { throw .violation("a stream that ended with bytes missing") }
        return .outputEnded(stream)
    }
}
