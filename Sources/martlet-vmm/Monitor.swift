// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Machine
internal import MachineAPI
internal import Platform
internal import Wire

/// The monitor's exit statuses, which are Firecracker's.
enum ExitStatus {
    static let ended: Int32 = 0
    static let failed: Int32 = 1
    static let badConfiguration: Int32 = 152
    static let badArguments: Int32 = 153
    static let hangup: Int32 = 156
}

@main
enum Monitor {
    static func main() {
        let start = monotonicNanoseconds()
        clinux_single_malloc_arena()
        ignoreBrokenPipes()
        endOnCrashes()
        let arguments: Arguments
        do throws(Arguments.Problem) { arguments = try Arguments(CommandLine.arguments) } catch {
            fail(error.text, ExitStatus.badArguments)
        }
        if arguments.showsHelp {
            print(Arguments.help, terminator: "")
        } else if arguments.showsVersion {
            // Clients read the version of the API they can speak from the first line.
            print("Firecracker v\(apiVersion)\nmartlet-vmm v\(monitorVersion), which speaks that version's API")
        } else if arguments.showsSnapshotVersion {
            print("v\(SnapshotVersion.current).0.0")
        } else if let path = arguments.describedSnapshot {
            do throws(MachineError) { print("v\(try SnapshotVersion.of(path)).0.0") } catch {
                fail("--describe-snapshot: \(error)", ExitStatus.failed)
            }
        } else {
            exit(run(arguments, start: start))
        }
    }

    static func fail(_ text: String, _ status: Int32) -> Never {
        let descriptor = Descriptor(owning: STDERR_FILENO)
        try? descriptor.writeAll(Array("martlet-vmm: \(text)\n".utf8))
        exit(status)
    }

    /// Ends the process while threads of it wait for what never comes: nothing is waited for, and nothing tidied up.
    static func endAtOnce(_ text: String) -> Never {
        let line = Array("martlet-vmm: \(text)\n".utf8)
        _ = unsafe line.withUnsafeBytes { unsafe Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
        _exit(ExitStatus.failed)
    }

    private static func run(_ arguments: Arguments, start: UInt64) -> Int32 {
        var arguments = arguments
        let description = arguments.configurationPath.map(readDescription)
        let status = StatusReport(adopt(arguments.statusDescriptor, "--status-fd"))
        let lifeline = adopt(arguments.lifelineDescriptor, "--lifeline-fd")
        let log = openLog(arguments, description?.logger)
        let settings = arguments.metricsPath.map { MetricsSettings(path: $0) } ?? description?.metrics
        let metrics = openMetrics(settings, arguments)
        arguments.metricsPath = settings?.path
        let socket = arguments.socketPath.map { path in SocketHolder(listen(path), path) }
        do throws(MachineError) {
            let supervision = try makeSupervision(arguments, log, status, metrics)
            return try supervision.run(description, socket: socket, lifeline: lifeline, start: start)
        } catch {
            socket?.remove()
            // Standard error is told anyway.
            if arguments.logger.path ?? description?.logger.path != nil { log.write(.error, "\(error)") }
            switch error {
            case .configuration: fail("\(error)", ExitStatus.badConfiguration)
            default: fail("\(error)", ExitStatus.failed)
            }
        }
    }

    // MARK: - Preparations

    private static func makeSupervision(
        _ arguments: Arguments, _ log: MessageLog, _ status: StatusReport, _ metrics: MetricsWriter
    ) throws(MachineError) -> Supervision {
        do throws(SystemError) {
            return try Supervision(arguments, log: log, status: status, metrics: metrics)
        } catch {
            throw .system("the monitor", error)
        }
    }

    private static func readDescription(_ path: String) -> StartDescription {
        let bytes: [UInt8]
        do throws(SystemError) {
            bytes = try Files.read(path, limit: MachineConfiguration.sizeLimitInBytes)
        } catch {
            fail("--config-file: cannot read \(path): \(error.reason)", ExitStatus.badConfiguration)
        }
        do throws(ConfigurationError) {
            return try StartDescription(parsing: bytes)
        } catch {
            fail("\(path): \(error)", ExitStatus.badConfiguration)
        }
    }

    /// Takes over a descriptor that was inherited.
    private static func adopt(_ raw: Int32?, _ argument: String) -> Descriptor? {
        guard let raw else { return nil }
        guard clinux_fcntl(raw, F_GETFD, 0) >= 0 else {
            fail("\(argument) \(raw): no such descriptor is open", ExitStatus.badArguments)
        }
        let descriptor = Descriptor(owning: raw)
        try? descriptor.setInherited(false)
        return descriptor
    }

    /// The command line's word counts before the file's.
    private static func openLog(_ arguments: Arguments, _ settings: Logger?) -> MessageLog {
        let copy = clinux_fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)
        guard copy >= 0 else { fail("standard error is closed", ExitStatus.failed) }
        let log = MessageLog(
            Descriptor(owning: copy), level: arguments.configurationPath == nil ? .info : .warning,
            identifier: arguments.identifier)
        var logger = arguments.logger
        logger.path = logger.path ?? settings?.path
        logger.level = logger.level ?? settings?.level
        logger.showsLevel = logger.showsLevel ?? settings?.showsLevel
        logger.showsOrigin = logger.showsOrigin ?? settings?.showsOrigin
        logger.module = logger.module ?? settings?.module
        do throws(SystemError) {
            try log.configure(logger)
        } catch {
            fail("the log \(logger.path ?? "") cannot be opened: \(error.reason)", ExitStatus.badConfiguration)
        }
        log.write(.info, "Running martlet-vmm v\(monitorVersion)")
        return log
    }

    private static func openMetrics(_ settings: MetricsSettings?, _ arguments: Arguments) -> MetricsWriter {
        let metrics = MetricsWriter(identifier: arguments.identifier)
        guard let settings else { return metrics }
        do throws(SystemError) {
            try metrics.open(settings)
        } catch {
            let (field, status) =
                arguments.metricsPath == nil
                ? ("metrics.metrics_path", ExitStatus.badConfiguration) : ("--metrics-path", ExitStatus.failed)
            fail("\(field): cannot open \(settings.path): \(error.reason)", status)
        }
        return metrics
    }

    private static func listen(_ path: String) -> Descriptor {
        do throws(SystemError) {
            return try UnixSocket.listen(at: path)
        } catch {
            guard error.code == EADDRINUSE else {
                fail("--api-sock: cannot listen at \(path): \(error.reason)", ExitStatus.failed)
            }
            fail(
                "Failed to open the API socket at: \(path). Check that it is not already used, or remove what one that "
                    + "was killed left", ExitStatus.failed)
        }
    }

    // MARK: - Crashes

    /// A fault of the monitor's own ends it with a status that says which.
    private static func endOnCrashes() {
        for number in [SIGSYS, SIGBUS, SIGSEGV, SIGXFSZ, SIGXCPU, SIGILL] { _ = signal(number, endByCrash) }
    }
}

/// In a signal handler only what signal-safety(7) allows.
private func endByCrash(_ number: Int32) {
    let status: Int32
    let text: StaticString
    switch number {
    case SIGSYS: (status, text) = (148, "martlet-vmm: ended by a system call that is not allowed\n")
    case SIGBUS: (status, text) = (149, "martlet-vmm: ended by SIGBUS\n")
    case SIGSEGV: (status, text) = (150, "martlet-vmm: ended by SIGSEGV\n")
    case SIGXFSZ: (status, text) = (151, "martlet-vmm: ended by SIGXFSZ: a file would be larger than allowed\n")
    case SIGXCPU: (status, text) = (154, "martlet-vmm: ended by SIGXCPU: it used more processor time than allowed\n")
    default: (status, text) = (157, "martlet-vmm: ended by SIGILL\n")
    }
    _ = unsafe Glibc.write(STDERR_FILENO, text.utf8Start, text.utf8CodeUnitCount)
    _exit(status)
}

/// The API's socket and its name, which goes with the monitor.
final class SocketHolder {
    private var descriptor: Descriptor?
    let path: String

    init(_ descriptor: consuming Descriptor, _ path: String) {
        self.descriptor = consume descriptor
        self.path = path
    }

    /// The listening socket, once.
    func take() -> Descriptor? { descriptor.take() }

    func remove() { Files.remove(path) }
}
