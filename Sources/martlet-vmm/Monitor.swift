// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Machine
internal import MachineAPI
internal import Platform
internal import Wire

/// The monitor's exit statuses.
enum ExitStatus {
    static let ended: Int32 = 0
    static let failed: Int32 = 1
    static let badConfiguration: Int32 = 152
    static let badArguments: Int32 = 153
}

@main
enum Monitor {
    static func main() {
        let start = monotonicNanoseconds()
        clinux_single_malloc_arena()
        ignoreBrokenPipes()
        let arguments: Arguments
        do throws(Arguments.Problem) { arguments = try Arguments(CommandLine.arguments) } catch {
            fail(error.text, ExitStatus.badArguments)
        }
        if arguments.showsHelp {
            print(Arguments.help, terminator: "")
        } else if arguments.showsVersion {
            print("martlet-vmm \(monitorVersion)")
        } else {
            exit(run(arguments, start: start))
        }
    }

    static func fail(_ text: String, _ status: Int32) -> Never {
        let descriptor = Descriptor(owning: STDERR_FILENO)
        try? descriptor.writeAll(Array("martlet-vmm: \(text)\n".utf8))
        exit(status)
    }

    private static func run(_ arguments: Arguments, start: UInt64) -> Int32 {
        let configuration = readConfiguration(arguments)
        let status = StatusReport(adopt(arguments.statusDescriptor, "--status-fd"))
        let lifeline = adopt(arguments.lifelineDescriptor, "--lifeline-fd")
        let log = openLog(arguments, configuration.logger)
        do throws(MachineError) {
            let signals = try signalQueue()
            var observer = MachineObserver()
            observer.log = { log.write($0, $1) }
            observer.firstInstruction = { status.write("first-instruction") }
            if arguments.measuresBoot {
                observer.bootTimer = { value in
                    guard value == 123 else { return }
                    let time = (monotonicNanoseconds() - start) / 1000
                    log.announce("Guest-boot-time = \(time) us")
                    status.write("boot-timer", [("boot_us", .number(time))])
                }
            }
            let machine = try Machine(configuration, observer: observer)
            status.write("started", [("pid", .number(getpid())), ("version", .string(monitorVersion))])
            let exit = try machine.run { () throws(SystemError) in
                try wait(for: machine, signals, lifeline)
            }
            status.write(exit)
            log.write(.info, "the machine ended: \(exit.reason)\(exit.detail.map { " (\($0))" } ?? "")")
            guard case .internalError(let text) = exit else { return ExitStatus.ended }
            fail(text, ExitStatus.failed)
        } catch {
            switch error {
            case .configuration: fail("\(error)", ExitStatus.badConfiguration)
            default: fail("\(error)", ExitStatus.failed)
            }
        }
    }

    /// Waits until the machine has ended (nil), or somebody on the host wants it to end.
    private static func wait(
        for machine: Machine, _ signals: borrowing SignalQueue, _ lifeline: borrowing Descriptor?
    ) throws(SystemError) -> MachineExit? {
        let epoll = try Epoll()
        try epoll.add(machine.ended.descriptor.raw, .readable, token: 0)
        try epoll.add(signals.descriptor.raw, .readable, token: 1)
        if let raw = rawDescriptor(lifeline) { try epoll.add(raw, [.readable, .peerClosed], token: 2) }
        var events = EpollEvents(capacity: 4)
        while true {
            for index in 0..<(try epoll.wait(&events)) {
                switch events[index].token {
                case 0: return nil
                case 1:
                    guard let signal = signals.next() else { continue }
                    limitEnd()
                    return .killed("signal \(signal)")
                default:
                    guard let raw = rawDescriptor(lifeline), hasEnded(raw) else { continue }
                    limitEnd()
                    return .killed("the lifeline was closed")
                }
            }
        }
    }

    private static func rawDescriptor(_ descriptor: borrowing Descriptor?) -> Int32? {
        switch descriptor {
        case .some(let descriptor): descriptor.raw
        case .none: nil
        }
    }

    /// Whoever wants the machine to end does not wait for ever for a disk that does not answer.
    private static func limitEnd() {
        _ = alarm(3)
    }

    /// Whether nobody holds a pipe's or socket's other side any more. Bytes that came are thrown away.
    private static func hasEnded(_ raw: Int32) -> Bool {
        var space: UInt64 = 0
        return unsafe read(raw, &space, 8) <= 0
    }

    // MARK: - Preparations

    private static func readConfiguration(_ arguments: Arguments) -> MachineConfiguration {
        guard let path = arguments.configurationPath else {
            fail("--config-file is missing", ExitStatus.badArguments)
        }
        let bytes: [UInt8]
        do throws(SystemError) {
            bytes = try Files.read(path, limit: MachineConfiguration.sizeLimitInBytes)
        } catch {
            fail("--config-file: cannot read \(path): \(error.reason)", ExitStatus.badConfiguration)
        }
        do throws(ConfigurationError) {
            return try MachineConfiguration(parsing: bytes)
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

    private static func openLog(_ arguments: Arguments, _ settings: Logger) -> MessageLog {
        let level = arguments.level ?? settings.level
        guard let path = arguments.logPath ?? settings.path else {
            let copy = clinux_fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)
            guard copy >= 0 else { fail("standard error is closed", ExitStatus.failed) }
            return MessageLog(Descriptor(owning: copy), level: level, identifier: arguments.identifier)
        }
        do throws(SystemError) {
            return MessageLog(
                try Descriptor.open(path, .append), level: level, identifier: arguments.identifier)
        } catch {
            fail("the log \(path) cannot be opened: \(error.reason)", ExitStatus.badConfiguration)
        }
    }

    private static func signalQueue() throws(MachineError) -> SignalQueue {
        do throws(SystemError) {
            return try SignalQueue([SIGTERM, SIGINT, SIGHUP])
        } catch {
            throw .system("the signals", error)
        }
    }
}
