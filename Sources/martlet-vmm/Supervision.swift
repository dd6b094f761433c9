// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Machine
internal import MachineAPI
internal import Platform
internal import Wire

// Zone 1: the main thread, which waits for the end of the machine, for signals, for the lifeline and for the clock,
// beside the API's thread, which it starts and stops.

/// Sees a monitor through from its start to its end.
final class Supervision {
    private enum Token {
        static let signal: UInt64 = 0
        static let lifeline: UInt64 = 1
        static let machine: UInt64 = 2
        static let change: UInt64 = 3
        static let server: UInt64 = 4
        static let clock: UInt64 = 5
    }

    private static let metricsPeriodInMilliseconds: UInt64 = 60_000

    private let arguments: Arguments
    private let conductor: Conductor
    private let signals: SignalQueue
    private let epoll: Epoll
    private let clock: Timer
    /// Tells the API's thread to end.
    private let stop: SharedSignal
    /// Tells that it has.
    private let stopped: SharedSignal

    init(
        _ arguments: Arguments, log: MessageLog, status: StatusReport, metrics: MetricsWriter
    ) throws(SystemError) {
        self.arguments = arguments

        // Before any thread: all of them have these signals blocked.
        signals = try SignalQueue([SIGTERM, SIGINT, SIGHUP])
        epoll = try Epoll()
        clock = try Timer()
        stop = try SharedSignal()
        stopped = try SharedSignal()
        conductor = try Conductor(arguments, log: log, status: status, metrics: metrics)
    }

    /// Runs the machine, or waits for requests that make one, to the end.
    /// - Parameter start: when the process began, on the monotonic clock.
    /// - Returns: the exit status.
    func run(
        _ description: StartDescription?, socket: SocketHolder?, lifeline: borrowing Descriptor?, start: UInt64
    ) throws(MachineError) -> Int32 {
        switch description {
        case .machine(let configuration)?:
            try conductor.startMachine(configuration, since: start)
            conductor.didStart(configuration)
        case .snapshot(let snapshot)?: try conductor.startMachine(snapshot, since: start)
        case nil: break
        }
        return try watch(socket: socket, lifeline: lifeline)
    }

    /// Sees a machine through that was forked from another's.
    func begin(_ fork: ForkedChild, _ state: APIState) throws(MachineError) {
        try conductor.startMachine(fork, state)
    }

    /// Serves requests and watches over the machine, to the end; gives the exit status.
    func watch(socket: SocketHolder?, lifeline: borrowing Descriptor?) throws(MachineError) -> Int32 {
        var thread: Platform.Thread?
        var status = ExitStatus.failed
        var failure: SystemError?
        do throws(SystemError) {
            if let socket { thread = try serve(socket) }
            status = try wait(lifeline)
        } catch {
            failure = error
        }
        let exit = conductor.machine?.finish()
        stop.counter.signal()
        if let thread = thread.take() { thread.join() }
        socket?.remove()
        try? conductor.writeMetrics()
        if let exit {
            conductor.status.write(exit)
            conductor.log.write(.info, "the machine ended: \(exit.reason)\(exit.detail.map { " (\($0))" } ?? "")")
        }
        if let failure { throw .system("waiting for the machine's end", failure) }
        if case .internalError(let text)? = exit { Monitor.fail(text, ExitStatus.failed) }
        return status
    }

    /// Starts the thread that answers requests.
    private func serve(_ socket: SocketHolder) throws(SystemError) -> Platform.Thread? {
        guard let listener = socket.take() else { return nil }
        let conductor = conductor
        let server = ServerBox(
            try APIServer(listener: listener, stop: stop, bodyLimit: arguments.bodyLimit, log: conductor.log) {
                conductor.serve($0)
            })
        conductor.log.write(.info, "Listening on API socket (\(socket.path.debugDescription)).")
        try epoll.add(stopped.counter.descriptor.raw, .readable, token: Token.server)
        let stopped = stopped
        let thread = try Platform.Thread(name: "api", stackSizeInBytes: 512 << 10) {
            do throws(SystemError) { try server.server.run() } catch {
                conductor.log.write(.error, "the API ended: \(error)")
            }
            stopped.counter.signal()
        }
        conductor.log.write(.info, "API server started.")
        reportStart()
        return thread
    }

    /// How long it took to be ready for requests, for those who gave the time of the beginning.
    private func reportStart() {
        if let start = arguments.startTime {
            conductor.metrics.set("api_server", "process_startup_time_us", monotonicNanoseconds() / 1000 &- start)
        }
        if let start = arguments.startProcessorTime {
            let time = processorTimeInMicroseconds() &- start &+ (arguments.parentProcessorTime ?? 0)
            conductor.metrics.set("api_server", "process_startup_time_cpu_us", time)
        }
        // While a machine starts, what it needs of the program stays at hand.
        if conductor.machine == nil { dropProgramPages() }
        conductor.status.write("api-ready")
    }

    /// Waits until the machine has ended or is to end; gives the exit status.
    private func wait(_ lifeline: borrowing Descriptor?) throws(SystemError) -> Int32 {
        try epoll.add(signals.descriptor.raw, .readable, token: Token.signal)
        try epoll.add(conductor.changed.counter.descriptor.raw, .readable, token: Token.change)
        try epoll.add(clock.descriptor.raw, .readable, token: Token.clock)
        if let raw = Self.rawDescriptor(lifeline) {
            try epoll.add(raw, [.readable, .peerClosed], token: Token.lifeline)
        }
        var events = EpollEvents(capacity: 8)
        // A machine has been made, and its first moments are not over.
        var isSettling = false
        while true {
            for index in 0..<(try epoll.wait(&events)) {
                switch events[index].token {
                case Token.machine: return ExitStatus.ended
                case Token.server: return ExitStatus.failed
                case Token.change:
                    conductor.changed.counter.drain()
                    guard let machine = conductor.machine else { continue }
                    try epoll.add(machine.ended.descriptor.raw, .readable, token: Token.machine)
                    writeMetrics()
                    isSettling = true
                    try clock.arm(afterMilliseconds: Machine.settlingTimeInMilliseconds)
                case Token.clock:
                    guard clock.drain() else { continue }
                    if isSettling {
                        conductor.machine?.noteForkWorkingSet()
                        conductor.machine?.gatherPages()
                    } else {
                        writeMetrics()
                    }
                    isSettling = false
                    // What made the machine is not needed again, or what served the requests of the last minute.
                    dropProgramPages()
                    try clock.arm(afterMilliseconds: Self.metricsPeriodInMilliseconds)
                case Token.signal:
                    guard let signal = signals.next() else { continue }
                    if signal == SIGHUP { conductor.metrics.count("signals", "sighup") }
                    return end("signal \(signal)", signal == SIGHUP ? ExitStatus.hangup : ExitStatus.ended)
                default:
                    guard let raw = Self.rawDescriptor(lifeline), Self.hasEnded(raw) else { continue }
                    return end("the lifeline was closed", ExitStatus.ended)
                }
            }
        }
    }

    /// Whoever wants the machine to end does not wait for ever for a disk that does not answer.
    private func end(_ reason: String, _ status: Int32) -> Int32 {
        _ = alarm(3)
        conductor.machine?.end(.killed(reason))
        return status
    }

    /// Figures that cannot be written are counted, and written with the next that can.
    private func writeMetrics() {
        do throws(SystemError) { try conductor.writeMetricsUnlessForking() } catch {
            conductor.log.write(.error, "Failed to write metrics: \(error.reason)")
        }
    }

    private static func rawDescriptor(_ descriptor: borrowing Descriptor?) -> Int32? {
        switch descriptor {
        case .some(let descriptor): descriptor.raw
        case .none: nil
        }
    }

    /// Whether nobody holds a pipe's or socket's other side any more. Bytes that came are thrown away.
    private static func hasEnded(_ raw: Int32) -> Bool {
        var space: UInt64 = 0
        return unsafe read(raw, &space, 8) <= 0
    }
}

/// Takes the server to its thread.
///
/// `@unchecked Sendable`: it is made on one thread and from then on used on another only.
private final class ServerBox: @unchecked Sendable {
    let server: APIServer
    init(_ server: APIServer) { self.server = server }
}
