// SPDX-License-Identifier: Apache-2.0

import Glibc
import GuestProtocol
import Platform
import Sessions

/// The other side of a session, on a thread of its own: says hello, then does what the script says.
final class ScriptedPeer: @unchecked Sendable {  // The thread is joined before anything of it is read.
    private var thread = pthread_t()
    private let body: (inout Conversation) throws -> Void
    private let raw: Int32
    private(set) var failure: (any Error)?
    /// Whatever the script wants the test to see.
    private(set) var record: [String] = []

    /// - Parameter descriptor: this side's end of the connection.
    init(
        _ descriptor: consuming Descriptor, sayingHello: Bool = true,
        _ body: @escaping (inout Conversation) throws -> Void
    ) {
        raw = descriptor.release()
        self.body = { conversation in
            if sayingHello { try conversation.sayHello() }
            try body(&conversation)
        }
        let context = Unmanaged.passRetained(self).toOpaque()
        pthread_create(&thread, nil, { context in runPeer(context) }, context)
    }

    fileprivate func run() {
        do {
            var conversation = Conversation(client: try SessionClient(socket: Descriptor(owning: raw)))
            do { try body(&conversation) } catch { failure = error }
            record = conversation.record
        } catch {
            failure = error
        }
    }

    /// Waits for the script's end and gives its record.
    func join() throws -> [String] {
        pthread_join(thread, nil)
        if let failure { throw failure }
        return record
    }
}

private func runPeer(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    if let context { Unmanaged<ScriptedPeer>.fromOpaque(context).takeRetainedValue().run() }
    return nil
}

struct UnexpectedFrame: Error { var frame: Frame? }

struct Conversation: ~Copyable {
    var client: SessionClient
    var record: [String] = []
    var signals: [UInt64] = []

    mutating func sayHello() throws {
        let hello = try next()
        guard hello.kind == .hello else { throw UnexpectedFrame(frame: hello) }
        try send(Frame(.hello, payload: Hello().payload))
    }

    mutating func send(_ frame: Frame) throws { try client.send(frame) }

    mutating func next() throws -> Frame {
        guard let frame = try client.receive(timeoutInMilliseconds: 20_000) else { throw UnexpectedFrame(frame: nil) }
        return frame
    }

    @discardableResult
    mutating func expect(_ kind: FrameKind) throws -> Frame {
        var frame = try next()
        // Where there is no input its end comes right after `go`.
        if frame.kind == .end && kind != .end { frame = try next() }
        guard frame.kind == kind else { throw UnexpectedFrame(frame: frame) }
        return frame
    }

    /// Takes the request and starts the process.
    @discardableResult
    mutating func start() throws -> ProcessRequest {
        let frame = try expect(.request)
        guard let request = ProcessRequest(frame.payload) else { throw UnexpectedFrame(frame: frame) }
        try send(Frame(.accepted, session: 1))
        try expect(.go)
        try send(Frame(.started, session: 1))
        return request
    }

    mutating func exit(_ code: UInt8, signaled: Bool = false) throws {
        var report = ExitReport()
        report.code = code
        report.wasSignaled = signaled
        try send(Frame(.exited, session: 1, payload: report.payload))
    }

    /// Sends bytes as a process's output within the credit that comes.
    /// Also takes note of signals that come meanwhile.
    mutating func output(_ bytes: [UInt8], _ stream: StreamKind) throws {
        var window = SendWindow()
        var position = 0
        while position < bytes.count {
            while window.available == 0 {
                let credit = try next()
                if credit.kind == .signal, let message = NumberMessage(payload: credit.payload) {
                    signals.append(message.number)
                    continue
                }
                if credit.kind == .end { continue }
                guard credit.kind == .credit, credit.stream == stream else { throw UnexpectedFrame(frame: credit) }
                window.extend(to: credit.header.offset)
            }
            let count = min(window.available, bytes.count - position, 40_000)
            let piece = Array(bytes[position..<(position + count)])
            try send(Frame(.data, session: 1, stream: stream, offset: window.send(count), payload: piece))
            position += count
        }
        try send(Frame(.end, session: 1, stream: stream, offset: window.end()))
    }

    /// Takes the input to its end, giving credit.
    mutating func input() throws -> [UInt8] {
        var window = ReceiveWindow()
        var result: [UInt8] = []
        while true {
            let frame = try next()
            guard frame.stream == .input else { throw UnexpectedFrame(frame: frame) }
            switch frame.kind {
            case .data:
                guard window.receive(frame.payload.count, at: frame.header.offset) else {
                    throw UnexpectedFrame(frame: frame)
                }
                result += frame.payload
                if let limit = window.consume(frame.payload.count) {
                    try send(Frame(.credit, session: 1, stream: .input, offset: limit))
                }
            case .end:
                guard window.end(at: frame.header.offset) else { throw UnexpectedFrame(frame: frame) }
                return result
            default: throw UnexpectedFrame(frame: frame)
            }
        }
    }
}
