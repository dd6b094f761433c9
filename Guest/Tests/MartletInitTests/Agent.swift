// SPDX-License-Identifier: Apache-2.0

import Foundation
import GuestProtocol
import Testing
import Wire

/// A martlet-init that serves over a socket, and this end of the connection. The program is the one that runs in
/// machines: Embedded Swift with musl.
final class Agent {
    private let process = Process()
    private let socket: Int32
    private var decoder = FrameDecoder()
    /// Frames that came while another was waited for.
    private var passed: [Frame] = []

    /// The program, built once.
    static let program: Result<String, BuildFailure> = {
        let package = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let build = Process()
        build.executableURL = package.appending(path: "build")
        build.standardOutput = FileHandle.nullDevice
        do { try build.run() } catch { return .failure(BuildFailure(status: -1)) }
        build.waitUntilExit()
        guard build.terminationStatus == 0 else { return .failure(BuildFailure(status: build.terminationStatus)) }
        return .success(package.appending(path: ".build/martlet/martlet-init").path)
    }()

    struct BuildFailure: Error { let status: Int32 }
    struct ConnectionClosed: Error {}
    struct TooLate: Error {}

    /// - Parameter greets: Says hello and takes the agent's.
    init(greets: Bool = true) throws {
        var ends: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0 else { throw ConnectionClosed() }
        socket = ends[0]
        _ = fcntl(socket, F_SETFD, FD_CLOEXEC)
        // A guard for a broken agent, far beyond what any test takes.
        var limit = timeval(tv_sec: 20, tv_usec: 0)
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        process.executableURL = URL(filePath: try Agent.program.get())
        process.arguments = ["--serve-fd", "0"]
        process.standardInput = FileHandle(fileDescriptor: ends[1], closeOnDealloc: false)
        process.standardError = FileHandle.nullDevice
        // This process's own copy of the agent's end would keep the connection open.
        defer { close(ends[1]) }
        try process.run()
        if greets {
            send(Frame(.hello, payload: Hello().payload))
            let hello = try next()
            #expect(hello.kind == .hello)
            #expect(Hello(hello.payload)?.major == ProtocolVersion.major)
        }
    }

    deinit {
        close(socket)
        process.waitUntilExit()
    }

    var identifier: Int32 { process.processIdentifier }

    /// Ends this side, and gives the agent's exit status, or the signal that ended it as a negative number.
    func finish() -> Int32 {
        shutdown(socket, Int32(SHUT_RDWR))
        process.waitUntilExit()
        return process.terminationReason == .exit ? process.terminationStatus : -process.terminationStatus
    }

    // MARK: Frames

    func send(_ frame: Frame) {
        var bytes: [UInt8] = []
        frame.write(to: &bytes)
        send(bytes)
    }

    /// Sends what may be no frame at all. That the agent has gone meanwhile shows when frames are read.
    func send(_ bytes: [UInt8]) {
        var sent = 0
        while sent < bytes.count {
            let count = bytes[sent...].withUnsafeBytes {
                Foundation.send(socket, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            if count <= 0 { return }
            sent += count
        }
    }

    /// The next frame, those apart that say how many processes there are.
    func next() throws -> Frame {
        if !passed.isEmpty { return passed.removeFirst() }
        while true {
            let frame = try read()
            if frame.kind != .activity { return frame }
        }
    }

    /// The next frame of a session; others stay for later.
    func next(of session: UInt32) throws -> Frame {
        if let index = passed.firstIndex(where: { $0.header.session == session }) { return passed.remove(at: index) }
        while true {
            let frame = try read()
            if frame.kind == .activity { continue }
            if frame.header.session == session { return frame }
            passed.append(frame)
        }
    }

    func read() throws -> Frame {
        while true {
            if let frame = decoder.next() { return frame }
            var buffer = [UInt8](repeating: 0, count: 65_536)
            let count = recv(socket, &buffer, buffer.count, 0)
            if count == 0 || count < 0 && errno == ECONNRESET { throw ConnectionClosed() }
            guard count > 0 else { throw TooLate() }
            buffer[..<count].withUnsafeBytes { decoder.append($0) }
        }
    }
}

/// What came of a process.
struct Outcome {
    var output: [UInt8] = []
    var errors: [UInt8] = []
    var refusal: Refusal?
    var report: ExitReport?
    /// All frames of the session, in order.
    var kinds: [FrameKind?] = []

    var outputText: String { String(decoding: output, as: UTF8.self) }
    var errorText: String { String(decoding: errors, as: UTF8.self) }
    var refusalText: String? { refusal.map { String(decoding: $0.message, as: UTF8.self) } }
}

extension Agent {
    static func request(
        _ arguments: [String], environment: [String] = ["PATH=/usr/bin:/bin"], directory: String = "",
        user: String = "",
        hasInput: Bool = false
    ) -> ProcessRequest {
        var request = ProcessRequest()
        request.arguments = arguments.map { Array($0.utf8) }
        request.environment = environment.map { Array($0.utf8) }
        request.directory = Array(directory.utf8)
        request.user = Array(user.utf8)
        request.hasInput = hasInput
        return request
    }

    /// Runs a process to its end with the host's side of the state machine, giving credit for what it has read.
    ///
    /// - Parameters:
    ///   - started: Called once the process runs.
    ///   - inputSent: Called once all input is sent, and its end.
    func run(
        _ request: ProcessRequest, session: UInt32 = 1, input: [UInt8] = [], started: () -> Void = {},
        inputSent: () -> Void = {}
    ) throws -> Outcome {
        var machine = SessionStateMachine(
            .host, hasInput: request.hasInput, startsAtOnce: request.startsAtOnce)
        var outcome = Outcome()
        var rest = input[...]
        send(Frame(.request, session: session, payload: request.payload))
        while machine.phase != .ended {
            let frame = try next(of: session)
            #expect(machine.receive(frame.header) == .taken, "\(frame.header)")
            outcome.kinds.append(frame.kind)
            switch frame.kind {
            case .accepted:
                machine.send(.go)
                send(Frame(.go, session: session))
            case .started: started()
            case .data:
                if frame.stream == .output { outcome.output += frame.payload } else { outcome.errors += frame.payload }
                if let stream = frame.stream, let offset = machine.consume(frame.payload.count, of: stream) {
                    send(Frame(.credit, session: session, stream: stream, offset: offset))
                }
            case .refused: outcome.refusal = Refusal(frame.payload)
            case .exited: outcome.report = ExitReport(frame.payload)
            default: break
            }
            guard request.hasInput, machine.maySend(.end) else { continue }
            while !rest.isEmpty, machine.available(.input) > 0 {
                let chunk = Array(rest.prefix(min(machine.available(.input), FrameHeader.payloadLimit)))
                rest = rest.dropFirst(chunk.count)
                let offset = machine.send(chunk.count, on: .input)
                send(Frame(.data, session: session, offset: offset, payload: chunk))
            }
            guard rest.isEmpty else { continue }
            send(Frame(.end, session: session, offset: machine.sendEnd(.input)))
            inputSent()
        }
        return outcome
    }

    /// Skips what comes before a process's end.
    func awaitExit() throws -> ExitReport? {
        var frame = try next()
        while frame.kind != .exited { frame = try next() }
        return ExitReport(frame.payload)
    }

    func run(_ arguments: String..., user: String = "", directory: String = "") throws -> Outcome {
        try run(Agent.request(arguments, directory: directory, user: user))
    }
}
