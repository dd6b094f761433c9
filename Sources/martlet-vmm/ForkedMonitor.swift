// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Machine
internal import MachineAPI
internal import Platform

/// What a monitor has that those forked from it go on from.
struct ForkOrigin: Sendable {
    let arguments: Arguments
    let logger: Logger
    let state: APIState
}

/// A monitor that was forked from another one with its machine. Of that one's descriptors it has none but the standard
/// three, in whose place it puts others first of all; log, figures, events, API and watch are its own, made anew.
enum ForkedMonitor {
    /// Makes the monitor and its machine, and starts that. What it gives sees both through to the end.
    static func begin(
        _ child: ForkedChild, _ order: ForkChild, _ origin: ForkOrigin
    ) throws(MachineError) -> () -> Never {
        ForkedProcess.detach(name: "martlet-vmm")
        if let directory = order.directory {
            try attempt("directory") { () throws(SystemError) in try ForkedProcess.changeDirectory(to: directory) }
        }
        try replaceStreams(order)
        let lifeline = try connect(order)
        let witness = try duplicate(lifeline)
        do throws(MachineError) { return try make(child, order, origin, lifeline) } catch {
            // Then that is why: the child's directory may have gone with it.
            guard isLost(witness) else { throw error }
            throw .state("its supervisor was lost (\(error))")
        }
    }

    private static func make(
        _ child: ForkedChild, _ order: ForkChild, _ origin: ForkOrigin, _ lifeline: consuming Descriptor?
    ) throws(MachineError) -> () -> Never {
        var child = child
        child.handed = try takeInterfaces(order, lifeline)
        let status = StatusReport(try duplicate(lifeline))
        var arguments = origin.arguments
        arguments.identifier = order.identifier
        arguments.socketPath = order.socketPath
        arguments.metricsPath = order.metricsPath
        (arguments.startTime, arguments.startProcessorTime, arguments.parentProcessorTime) = (nil, nil, nil)
        arguments.measuresBoot = false
        let log = try openLog(order, origin.logger)
        let metrics = MetricsWriter(identifier: order.identifier)
        if let path = order.metricsPath {
            try attempt("metrics_path") { () throws(SystemError) in try metrics.open(MetricsSettings(path: path)) }
        }
        var socket: SocketHolder?
        if let path = order.socketPath {
            socket = SocketHolder(
                try attempt("api_sock") { () throws(SystemError) in try UnixSocket.listen(at: path) }, path)
        }
        do throws(MachineError) {
            let supervision = try attempt("the monitor") { () throws(SystemError) in
                try Supervision(arguments, log: log, status: status, metrics: metrics)
            }
            try supervision.begin(child, origin.state)
            return { watch(supervision, socket, lifeline) }
        } catch {
            socket?.remove()
            throw error
        }
    }

    private static func watch(
        _ supervision: Supervision, _ socket: SocketHolder?, _ lifeline: borrowing Descriptor?
    ) -> Never {
        do throws(MachineError) {
            exit(try supervision.watch(socket: socket, lifeline: lifeline))
        } catch {
            Monitor.fail("\(error)", ExitStatus.failed)
        }
    }

    // MARK: - Parts

    /// How long whoever looks after a child may take to send it each descriptor, in milliseconds: less than its parent
    /// waits for it, so that the child says what is missing.
    private static let handingLimit: Int32 = 20_000

    private static func attempt<Result: ~Copyable>(
        _ purpose: String, _ body: () throws(SystemError) -> Result
    ) throws(MachineError) -> Result {
        do throws(SystemError) { return try body() } catch { throw .system(purpose, error) }
    }

    private static func replaceStreams(_ order: ForkChild) throws(MachineError) {
        let targets = [("stdin", nil), ("stdout_path", order.outputPath), ("stderr_path", order.errorsPath)]
        for (stream, (name, path)) in targets.enumerated() {
            try attempt(name) { () throws(SystemError) in
                // A named pipe without a reader is not waited for, nor one whose reader has stopped.
                let file = try Descriptor.open(
                    path ?? "/dev/null", path == nil ? .readWrite : .appendOrPipe, permissions: 0o600)
                try ForkedProcess.replace(Int32(stream), by: file)
            }
        }
    }

    /// The connection to whoever looks after the child: its events go there, and when it ends, the child does. One who
    /// takes no connections is waited for until the parent's patience is at its end (`Machine.fork`).
    private static func connect(_ order: ForkChild) throws(MachineError) -> Descriptor? {
        guard let path = order.supervisorPath else { return nil }
        return try attempt("supervisor_sock") { () throws(SystemError) in try UnixSocket.connect(to: path) }
    }

    /// Takes the descriptors that come for network interfaces, each with a byte of its own. They stay open for as long
    /// as the process: their numbers stand in the configuration.
    private static func takeInterfaces(
        _ order: ForkChild, _ connection: borrowing Descriptor?
    ) throws(MachineError) -> [String: Int32] {
        var handed: [String: Int32] = [:]
        for interface in order.handedInterfaces {
            guard isReadable(connection, withinMilliseconds: handingLimit) else {
                throw .configuration(
                    field: "supervisor_interfaces",
                    problem: "no descriptor came for \(interface.identifier) within \(handingLimit / 1000) s")
            }
            guard let came = try receive(connection) else {
                throw .configuration(
                    field: "supervisor_interfaces", problem: "no descriptor came for \(interface.identifier)")
            }
            handed[interface.identifier] = came
        }
        return handed
    }

    private static func receive(_ connection: borrowing Descriptor?) throws(MachineError) -> Int32? {
        switch connection {
        case .some(let connection):
            do throws(SystemError) { return try connection.receiveDescriptor()?.release() } catch {
                throw .system("supervisor_interfaces", error)
            }
        case .none: return nil
        }
    }

    private static func duplicate(_ descriptor: borrowing Descriptor?) throws(MachineError) -> Descriptor? {
        switch descriptor {
        case .some(let descriptor):
            do throws(SystemError) { return try descriptor.duplicate() } catch {
                throw .system("supervisor_sock", error)
            }
        case .none: return nil
        }
    }

    /// Whether the other end of a connection is gone.
    private static func isLost(_ connection: borrowing Descriptor?) -> Bool {
        switch connection {
        case .some(let connection): poll(connection.raw, 0, withinMilliseconds: 0)
        case .none: false
        }
    }

    /// Whether something comes in time; that there is no connection, or no more of it, comes at once. Never inlined: the
    /// optimizer of Swift 6.3 fails where two looks at one optional that is borrowed meet in a loop.
    @inline(never)
    private static func isReadable(_ connection: borrowing Descriptor?, withinMilliseconds limit: Int32) -> Bool {
        switch connection {
        case .some(let connection): poll(connection.raw, Int16(POLLIN), withinMilliseconds: limit)
        case .none: true
        }
    }

    private static func poll(_ raw: Int32, _ events: Int16, withinMilliseconds limit: Int32) -> Bool {
        var entry = pollfd(fd: raw, events: events, revents: 0)
        return retryingInterrupts { unsafe Glibc.poll(&entry, 1, limit) } > 0
    }

    private static func openLog(_ order: ForkChild, _ settings: Logger) throws(MachineError) -> MessageLog {
        var settings = settings
        settings.path = order.logPath
        let raw = clinux_fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)
        guard raw >= 0 else { throw .system("stderr_path", SystemError("fcntl", "standard error")) }
        let log = MessageLog(
            Descriptor(owning: raw), level: settings.level ?? .info, identifier: order.identifier)
        try attempt("log_path") { () throws(SystemError) in try log.configure(settings) }
        return log
    }
}
