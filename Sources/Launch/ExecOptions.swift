// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import GuestProtocol
internal import Platform
internal import Sessions
package import Worker

/// What `martlet exec` was asked for: `Exec` says what each member means. Read here where the arguments are plain, as
/// `RunOptions` are.
package struct ExecOptions {
    package var interactive = false
    package var env: [String] = []
    package var envFile: [String] = []
    package var workdir: String?
    package var user: String?
    package var container: String
    package var command: [String] = []

    package init(container: String) { self.container = container }

    /// nil for what is ArgumentParser's to judge and to complain about.
    package init?(_ syntax: RunSyntax) {
        guard let container = syntax.image, !syntax.command.isEmpty, let options = syntax.plainOptions else {
            return nil
        }
        self.init(container: container)
        command = syntax.command
        for (name, value) in options {
            guard let value else {
                guard name == "interactive" else { return nil }
                interactive = true
                continue
            }
            guard take(name, value) else { return nil }
        }
    }

    mutating func take(_ name: String, _ value: String) -> Bool {
        switch name {
        case "env": env.append(value)
        case "env-file": envFile.append(value)
        case "workdir": workdir = value
        case "user": user = value
        default: return false
        }
        return true
    }

    /// Anything beside the command.
    var hasSettings: Bool { interactive || !env.isEmpty || !envFile.isEmpty || workdir != nil || user != nil }

    /// The variables, with those that are taken from here; all that can be wrong out here is found.
    func check() throws -> [EnvironmentSetting] {
        let settings = try EnvironmentSetting.read(files: envFile, settings: env)
        if let workdir, !workdir.hasPrefix("/") {
            throw Failure("the working directory '\(workdir)' is not an absolute path")
        }
        return settings
    }

    package func run() throws {
        ignoreBrokenPipes()
        let signals = try SignalQueue([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2])
        let settings = try check()
        if try Placement.decide() == .emulatedHost {
            throw Failure(silentlyWith: try runInEmulatedHost(settings, signals: signals))
        }
        let record = try MachineStore.ofUser { environmentVariable($0) }.find(container)
        guard record.condition == .running else { throw Failure("\(record.name) is not running") }
        throw Failure(silentlyWith: try run(in: record, settings, signals: signals))
    }

    func run(
        in record: MachineRecord, _ settings: [EnvironmentSetting], signals: borrowing SignalQueue
    ) throws -> Int32 {
        let process = record.configuration.process
        var request = ProcessRequest()
        request.arguments = command.map { Array($0.utf8) }
        request.environment = process.environment(with: settings).map { Array($0.utf8) }
        request.directory = Array((workdir ?? process.workingDirectory).utf8)
        request.user = Array((user ?? process.user).utf8)
        request.hasInput = interactive
        request.startsAtOnce = true
        var streams = SessionStreams.standard
        if !interactive { streams.input = nil }
        let result: SessionResult
        do throws(SessionError) {
            let socket: Descriptor
            do throws(SystemError) {
                socket = try UnixSocket.connect(to: "\(record.directory)/\(MachineFile.control)")
            } catch {
                throw .connectionLost
            }
            var client = try SessionClient(socket: socket)
            client.helloAhead()
            // Not the main process's number, whose end is told to every client.
            result = try client.run(request, session: 2, streams: streams, signals: signals)
        } catch {
            switch error {
            case .connectionLost: throw Failure("\(record.name) ended before the command did", exitCode: 137)
            default: throw Failure("\(error)")
            }
        }
        return try result.commandStatus()
    }

    private func runInEmulatedHost(
        _ settings: [EnvironmentSetting], signals: borrowing SignalQueue
    ) throws -> Int32 {
        try EmulatedHosting.execute(
            [try Installation.find().command, "exec"] + arguments(settings) + ["--", container] + command,
            hasInput: interactive, signals: signals)
    }

    /// The options again, for the same command in the emulated host. The variables are looked up out here, where the
    /// user's are.
    func arguments(_ settings: [EnvironmentSetting]) -> [String] {
        var arguments = interactive ? ["--interactive"] : []
        for setting in settings {
            switch setting {
            case .set(let text): arguments.append("--env=\(text)")
            case .unset(let name): arguments.append("--env=\(name)")
            }
        }
        if let workdir { arguments.append("--workdir=\(workdir)") }
        if let user { arguments += ["--user", user] }
        return arguments
    }
}
