// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import GuestProtocol
internal import Platform
package import Worker

/// What `martlet run --snapshot` was asked for: `Run` says what each member means. Read here where the arguments are
/// plain, as `ExecOptions` are.
package struct SnapshotRun {
    package var reference: String
    package var name: String?
    package var isDetached = false
    package var removesItself = false
    package var timeout: String?
    package var memoryServer: String?
    package var network = NetworkChoice()
    /// What is to run in the container beside what goes on there; no words for nothing.
    package var exec = ExecOptions(container: "")

    package init(_ reference: String) { self.reference = reference }

    /// nil for a run of an image, and for what is ArgumentParser's to judge and to complain about.
    package init?(_ syntax: RunSyntax) {
        guard let options = syntax.plainOptions else { return nil }
        self.init("")
        exec.command = (syntax.image.map { [$0] } ?? []) + syntax.command
        for (name, value) in options {
            let isTaken = if let value { take(name, value) } else { take(flag: name) }
            guard isTaken else { return nil }
        }
        if reference.isEmpty || exec.command.isEmpty && exec.hasSettings { return nil }
    }

    private mutating func take(flag name: String) -> Bool {
        switch name {
        case "detach": isDetached = true
        case "rm": removesItself = true
        case "interactive": exec.interactive = true
        default: return network.take(flag: name)
        }
        return true
    }

    private mutating func take(_ name: String, _ value: String) -> Bool {
        switch name {
        case "snapshot": reference = value
        case "name": self.name = value
        case "timeout": timeout = value
        case "memory-server": memoryServer = value
        case "env", "env-file", "workdir", "user": return exec.take(name, value)
        default: return network.take(name, value)
        }
        return true
    }

    /// Where containers run: here, or in the emulated host.
    /// - Parameter prepare: makes a snapshot ready for a container.
    package func run(_ prepare: (SnapshotManifest, SnapshotStore) throws -> ReadySnapshot) throws {
        ignoreBrokenPipes()
        if !exec.command.isEmpty { throw Failure(silentlyWith: try runCommand(prepare)) }
        // A detached run is not connected to anything that signals could go to.
        let passed = isDetached ? [] : [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2]
        if try Placement.decide() == .emulatedHost { try EmulatedHosting.forwardThisCommand(passing: passed) }
        let signals = isDetached ? nil : try SignalQueue(passed)
        let machine = try start(prepare)
        throw Failure(
            silentlyWith: isDetached
                ? try machine.awaitStart() : try machine.attach(hasInput: false, signals: signals))
    }

    private func start(_ prepare: (SnapshotManifest, SnapshotStore) throws -> ReadySnapshot) throws -> RunningMachine {
        let store = try SnapshotLaunch.store()
        return try SnapshotLaunch.start(
            try prepare(try store.find(reference), store), name: name, network: network,
            isDetached: isDetached || !exec.command.isEmpty, endsWithCommand: !exec.command.isEmpty,
            removesItself: removesItself, runTimeout: try timeout.map(Quantities.milliseconds),
            memoryServer: memoryServer)
    }
}

// MARK: - A command in it

extension SnapshotRun {
    /// The container goes on, its output in its log; the command's output and status are those of the run, and its end is
    /// the container's.
    private func runCommand(
        _ prepare: (SnapshotManifest, SnapshotStore) throws -> ReadySnapshot
    ) throws -> Int32 {
        guard !isDetached else {
            throw Failure("--snapshot: -d goes with no command: leave it out, and run it with martlet exec")
        }
        let signals = try SignalQueue([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2])
        let settings = try exec.check()
        if try Placement.decide() == .emulatedHost {
            return try EmulatedHosting.execute(
                try arguments + exec.arguments(settings) + ["--"] + exec.command, hasInput: exec.interactive,
                signals: signals)
        }
        var machine = try start(prepare)
        try machine.awaitProcess()
        let result: Result<Int32, any Error>
        do {
            guard let record = try machine.store.record(machine.id) else { throw Failure("the container is gone") }
            result = .success(try exec.run(in: record, settings, signals: signals))
        } catch {
            result = .failure(error)
        }
        // Where the container ended first, it says why.
        if let reason = try machine.stop(), case .failure = result {
            throw Failure(printable(reason.message), exitCode: Int32(reason.exitCode))
        }
        return try result.get()
    }

    /// The options again, for the same command in the emulated host.
    private var arguments: [String] {
        get throws {
            let valued = [
                ("snapshot", reference), ("name", name), ("timeout", timeout), ("memory-server", memoryServer),
            ]
            return [try Installation.find().command, "run"] + (removesItself ? ["--rm"] : [])
                + valued.compactMap { name, value in value.map { "--\(name)=\($0)" } } + network.arguments
        }
    }
}
