// SPDX-License-Identifier: Apache-2.0

internal import EmulatedHost
internal import Glibc
internal import GuestProtocol
internal import OCI
internal import Platform
internal import Sessions
internal import Worker

/// Carries commands into the emulated host.
enum EmulatedHosting {
    /// The subcommand that is the host's keeper.
    static let keeperCommand = "host-keeper"

    static func host(memoryInMiB: Int? = nil) throws -> EmulatedHost {
        let installation = try Installation.find()
        return EmulatedHost(
            try HostConfiguration(
                paths: HostPaths.ofThisUser(), kernel: installation.kernel, initramfs: installation.initramfs,
                programs: [
                    installation.command, installation.monitor, installation.supervisor, installation.fabric,
                    installation.pageServer,
                ],
                keeper: [installation.command, keeperCommand], fabric: installation.fabric, memoryInMiB: memoryInMiB))
    }

    /// Runs a command inside and gives its exit status.
    static func execute(_ command: [String], hasInput: Bool, signals: borrowing SignalQueue) throws -> Int32 {
        var streams = SessionStreams.standard
        if !hasInput { streams.input = nil }
        return try stand { host in try host.execute(command, streams: streams, signals: signals) }
    }

    /// Stands for what runs inside: gives its exit status, and says what went wrong with it.
    static func stand(_ body: (EmulatedHost) throws -> SessionResult) throws -> Int32 {
        let host = try host()
        let line = ProgressLine()
        // Apart from what follows, so that the line is gone before the first byte of output comes.
        try host.start(progress: { line.show($0) })
        line.clear()
        return try body(host).commandStatus()
    }

    /// Runs this very command inside, and ends with its exit status.
    static func forwardThisCommand() throws -> Never {
        ignoreBrokenPipes()
        let signals = try SignalQueue([SIGINT, SIGTERM, SIGHUP, SIGQUIT])
        let arguments = Array(CommandLine.arguments.dropFirst())
        exit(try execute([try Installation.find().command] + arguments, hasInput: false, signals: signals))
    }

    /// A file of the user's under a name that changes with its contents: the share's caches inside would go on showing
    /// the old contents of one that was changed.
    static func stableCopy(of path: String) throws -> String {
        let bytes = try Files.read(path, limit: 1 << 30)
        let directory = try cacheDirectory() + "/kernels"
        let copy = "\(directory)/\(Digest(sha256Of: bytes).hex)"
        if !Files.exists(copy) {
            try Files.makeDirectories(directory, permissions: 0o700)
            try Files.writeAtomically(bytes, to: copy)
        }
        return copy
    }

    private static func cacheDirectory() throws(Failure) -> String {
        if let base = environmentVariable("XDG_CACHE_HOME"), base.hasPrefix("/") { return "\(base)/martlet" }
        guard let home = environmentVariable("HOME"), home.hasPrefix("/") else {
            throw Failure("there is no place for a copy of the kernel: set HOME or XDG_CACHE_HOME to an absolute path")
        }
        return "\(home)/.cache/martlet"
    }
}

extension RunOptions {
    /// The image is found and converted out here, where that is fast; everything else happens inside.
    func runInEmulatedHost(
        _ image: PreparedImage, _ options: ContainerOptions, _ installation: Installation,
        signals: borrowing SignalQueue?
    ) throws -> Int32 {
        var arguments = [installation.command, "run", "--image-name=\(image.name)", "--pull=never"]
        if rm { arguments.append("--rm") }
        if interactive { arguments.append("--interactive") }
        if detach { arguments.append("--detach") }
        if readOnly { arguments.append("--read-only") }
        if noTemplate { arguments.append("--no-template") }
        for setting in options.environment {
            switch setting {
            case .set(let text): arguments.append("--env=\(text)")
            // The host's processes have no variables of the user's shell but those that were there out here.
            case .unset(let name): arguments.append("--env=\(name)")
            }
        }
        let valued: [(String, String?)] = [
            ("name", name), ("workdir", workdir), ("user", user), ("entrypoint", entrypoint), ("cpus", cpus),
            ("memory", memory), ("hostname", hostname), ("timeout", timeout), ("stop-timeout", stopTimeout),
            ("stop-signal", stopSignal), ("kernel", try kernel.map(EmulatedHosting.stableCopy)),
        ]
        for case (let name, let value?) in valued { arguments.append("--\(name)=\(value)") }
        arguments += network.arguments
        arguments.append(image.id)
        arguments += command
        switch signals {
        case .some(let signals):
            return try EmulatedHosting.execute(arguments, hasInput: interactive, signals: signals)
        case .none:
            return try EmulatedHosting.execute(arguments, hasInput: false, signals: try SignalQueue([]))
        }
    }
}
