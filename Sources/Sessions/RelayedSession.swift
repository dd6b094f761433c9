// SPDX-License-Identifier: Apache-2.0

internal import GuestProtocol

/// A session that passes through a relay, judged from both sides. Pure.
///
///     requested ──accepted──▶ accepted ──go──▶ starting ──started──▶ running ──exited──▶ ended
///         └──────────refused──────┴───────────────┴────────────────────────────────────▶ ended
///
/// One that starts at once may go from `requested` to `running`.
///
/// Credit is end to end: the relay passes it on and only sees to it that nobody sends more than was granted, and that
/// nobody grants more than one window. So what waits in the relay for one session is at most one window a stream.
struct RelayedSession {
    enum Phase {
        case requested
        case accepted
        case starting
        case running
    }

    enum Verdict: Equatable {
        /// To be passed on.
        case relay
        /// To be passed on, and it was the last.
        case last
        /// The sender broke the protocol.
        case illegal
    }

    /// One direction of bytes.
    private struct Flow {
        var next: UInt64 = 0
        var limit = SendWindow.initial
        var isEnded = false

        mutating func data(_ count: Int, at offset: UInt64) -> Bool {
            guard !isEnded, offset == next, UInt64(count) <= limit - next else { return false }
            next += UInt64(count)
            return true
        }

        mutating func end(at offset: UInt64) -> Bool {
            guard !isEnded, offset == next else { return false }
            isEnded = true
            return true
        }

        mutating func credit(_ offset: UInt64) -> Bool {
            guard offset <= next + SendWindow.initial else { return false }
            limit = max(limit, offset)
            return true
        }
    }

    let hasInput: Bool
    let startsAtOnce: Bool
    private(set) var phase = Phase.requested
    private var input = Flow()
    private var output = Flow()
    private var errors = Flow()

    init(hasInput: Bool, startsAtOnce: Bool) {
        self.hasInput = hasInput
        self.startsAtOnce = startsAtOnce
    }

    mutating func receiveFromClient(_ frame: Frame) -> Verdict {
        let header = frame.header
        switch FrameKind(rawValue: header.kind) {
        case .go:
            guard phase == .accepted else { return .illegal }
            phase = .starting
            return .relay
        case .data:
            guard isInput(header) else { return .illegal }
            return input.data(Int(header.payloadLength), at: header.offset) ? .relay : .illegal
        case .end:
            guard isInput(header) else { return .illegal }
            return input.end(at: header.offset) ? .relay : .illegal
        case .credit:
            switch StreamKind(rawValue: header.stream) {
            case .output: return output.credit(header.offset) ? .relay : .illegal
            case .errors: return errors.credit(header.offset) ? .relay : .illegal
            default: return .illegal
            }
        case .signal:
            // A number that is no signal would end the connection to the guest, for all clients.
            guard let number = NumberMessage(payload: frame.payload)?.number else { return .illegal }
            return (1...64).contains(number) ? .relay : .illegal
        case .hangUp: return .relay
        default: return .illegal
        }
    }

    mutating func receiveFromGuest(_ header: FrameHeader) -> Verdict {
        switch FrameKind(rawValue: header.kind) {
        case .accepted:
            guard phase == .requested else { return .illegal }
            phase = .accepted
            return .relay
        case .started:
            guard phase == .starting || phase == .requested && startsAtOnce else { return .illegal }
            phase = .running
            return .relay
        case .refused: return phase == .running ? .illegal : .last
        case .exited: return phase == .running ? .last : .illegal
        case .data, .end:
            guard phase == .running else { return .illegal }
            let isData = header.kind == FrameKind.data.rawValue
            let count = Int(header.payloadLength)
            let isRight: Bool
            switch StreamKind(rawValue: header.stream) {
            case .output: isRight = isData ? output.data(count, at: header.offset) : output.end(at: header.offset)
            case .errors: isRight = isData ? errors.data(count, at: header.offset) : errors.end(at: header.offset)
            default: isRight = false
            }
            return isRight ? .relay : .illegal
        case .credit:
            guard isInput(header) else { return .illegal }
            return input.credit(header.offset) ? .relay : .illegal
        default: return .illegal
        }
    }

    /// Output that nobody takes any more is taken all the same, so that its process can come to its end.
    mutating func creditForDropped(_ stream: StreamKind) -> UInt64 {
        switch stream {
        case .errors:
            errors.limit = errors.next + SendWindow.initial
            return errors.limit
        default:
            output.limit = output.next + SendWindow.initial
            return output.limit
        }
    }

    private func isInput(_ header: FrameHeader) -> Bool {
        hasInput && header.stream == StreamKind.input.rawValue
    }
}
