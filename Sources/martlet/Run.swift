// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Glibc
internal import ImageStore
internal import Platform
internal import Worker

/// `martlet run`
struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run a container of an image.",
        usage: "martlet run [OPTIONS] IMAGE [COMMAND] [ARGUMENT...]",
        discussion: """
            Options end at the image: what follows it is the command's. Standard output and standard error stay apart; \
            with -i standard input goes to the process. SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 go to \
            the process.

            The exit status is the process's (128 and more: ended by that signal); 125: martlet itself failed; 126: \
            the command cannot be executed; 127: there is no such command; 124: the time limit was reached.

            martlet run --rm docker.io/library/alpine:3.20 echo hello
            echo data | martlet run --rm -i oci:images/busybox:latest cat
            martlet run -d --name web -m 1g --cpus 2 docker-archive:web.tar
            """)

    @Flag(help: "Remove the container when it has ended.")
    var rm = false
    @Flag(name: [.customShort("i"), .long], help: "Connect standard input.")
    var interactive = false
    @Flag(name: [.customShort("d"), .long], help: "Do not stay attached: print the id once the process runs.")
    var detach = false
    @Option(help: "Name the container.")
    var name: String?
    @Option(
        name: [.customShort("e"), .long],
        help: ArgumentHelp("Set a variable; a name alone takes its value from here.", valueName: "name=value"))
    var env: [String] = []
    @Option(help: "Set the variables that a file lists.", completion: .file())
    var envFile: [String] = []
    @Option(name: [.customShort("w"), .long], help: ArgumentHelp("Start in this directory.", valueName: "directory"))
    var workdir: String?
    @Option(
        name: [.customShort("u"), .long],
        help: ArgumentHelp("Run as this user, by name or number.", valueName: "user[:group]"))
    var user: String?
    @Option(help: ArgumentHelp("Replace the image's entrypoint; empty takes it away.", valueName: "program"))
    var entrypoint: String?
    @Option(help: ArgumentHelp("Processors of the machine, 1 to 32.", valueName: "number"))
    var cpus = "1"
    @Option(
        name: [.customShort("m"), .long],
        help: ArgumentHelp("Memory of the machine, for example 512m or 2g; at least 64m.", valueName: "size"))
    var memory = "512m"
    @Option(
        name: [.customShort("h"), .long],
        help: ArgumentHelp("The container's host name (default: the id).", valueName: "name"))
    var hostname: String?
    @Flag(help: "Make the root file system read-only.")
    var readOnly = false
    @Option(
        help: ArgumentHelp("Boot this kernel: an ELF vmlinux or a bzImage.", valueName: "file"), completion: .file())
    var kernel: String?
    @Option(
        help: ArgumentHelp(
            "Stop the process when it has run for so long: seconds, or a number with ms, s, m, h or d.",
            valueName: "time"))
    var timeout: String?
    @Option(help: ArgumentHelp("Pull the image: always, missing or never.", valueName: "when"))
    var pull = PullPolicy.missing
    @Flag(help: "Take HTTP, and certificates that are not valid, from the registry.")
    var insecureRegistry = false
    @Option(help: ArgumentHelp("Time from a stop until force (default: 10s).", valueName: "time"))
    var stopTimeout: String?
    @Option(
        help: ArgumentHelp("The signal that stops the process (default: the image's, or TERM).", valueName: "signal"))
    var stopSignal: String?
    /// What the user called the image, where another command found it already.
    @Option(help: .hidden)
    var imageName: String?

    @Argument(
        help: "A registry's image, oci:DIRECTORY[:TAG], docker-archive:FILE, dir:DIRECTORY, or the id of a stored one.")
    var image: String
    @Argument(help: "The command and its arguments (default: the image's).")
    var command: [String] = []

    func run() throws {
        ignoreBrokenPipes()
        // Before any thread; a detached run is not connected to anything that signals could go to.
        let signals = detach ? nil : try SignalQueue(forwardedSignals())
        // Everything that can be wrong is looked at before anything is fetched.
        let options = try containerOptions()
        let size = try machineSize()
        let installation = try Installation.find(kernel: kernel)
        let placement = try Placement.decide()
        if let name, !MachineIdentity.isName(name) {
            throw Failure(
                "--name: '\(name)' is not a name: 2 to 128 letters, digits, '_', '.', '-', a letter or digit first")
        }
        if placement == .here { try size.check() }
        let image = try PreparedImage.resolve(
            self.image, name: imageName, pull: pull, insecure: insecureRegistry, signals: signals)
        switch placement {
        case .here:
            let launch = MachineLaunch(
                installation: installation, image: image, options: options, size: size, name: name,
                hasInput: interactive, isReadOnly: readOnly, isDetached: detach, removesItself: rm,
                stopTimeout: try stopTimeout.map(Quantities.milliseconds) ?? 10_000,
                runTimeout: try timeout.map(Quantities.milliseconds))
            throw Failure(silentlyWith: try launch.run(signals: signals))
        case .emulatedHost:
            throw Failure(silentlyWith: try runInEmulatedHost(image, options, installation, signals: signals))
        }
    }
}

extension Run {
    func containerOptions() throws -> ContainerOptions {
        var options = ContainerOptions()
        options.command = command
        options.entrypoint = entrypoint
        for path in envFile {
            let bytes: [UInt8]
            do throws(SystemError) { bytes = try Files.read(path, limit: 4 << 20) } catch {
                throw Failure("--env-file: \(error)")
            }
            options.environment += try EnvironmentSetting.parse(
                file: bytes, named: path, lookUp: { environmentVariable($0) })
        }
        for text in env {
            options.environment.append(try EnvironmentSetting(text, lookUp: { environmentVariable($0) }))
        }
        options.workingDirectory = workdir
        options.user = user
        options.hostname = hostname
        options.stopSignal = stopSignal
        // A wrong one is told of before the image is fetched, with the image's own left out of it.
        var dummy = ImageDefaults()
        dummy.command = ["true"]
        _ = try ContainerSpecification(image: dummy, options: options, defaultHostname: "host")
        if let timeout, try Quantities.milliseconds(timeout) == 0 {
            throw Failure("--timeout: 0 leaves no time to run")
        }
        if let stopTimeout { _ = try Quantities.milliseconds(stopTimeout) }
        return options
    }

    func machineSize() throws -> MachineSize {
        guard let processors = Int(cpus), (1...32).contains(processors) else {
            throw Failure("--cpus: '\(cpus)' is not a number of processors: a machine has 1 to 32, whole ones")
        }
        let bytes: UInt64
        do { bytes = try Quantities.bytes(memory) } catch { throw Failure("--memory: \(error)") }
        guard bytes >= 64 << 20 else {
            throw Failure("--memory: \(memory) is too little: a machine needs 64m at least")
        }
        return MachineSize(processors: processors, memoryInMiB: Int(clamping: (bytes - 1) >> 20) + 1)
    }

    /// Those that go to the process. One that this process was told to ignore (nohup) it goes on ignoring.
    private func forwardedSignals() -> [Int32] {
        [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2].filter { number in
            var action = sigaction()
            guard sigaction(number, nil, &action) == 0 else { return true }
            return unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self) != 1
        }
    }
}

/// What a machine is to have.
struct MachineSize {
    var processors: Int
    var memoryInMiB: Int

    /// Refuses more than this host has.
    func check() throws(Failure) {
        guard let total = HostMemory.total(), UInt64(memoryInMiB) << 20 > total else { return }
        throw Failure(
            "--memory: \(Quantities.describe(bytes: UInt64(memoryInMiB) << 20)) is more than this host's "
                + Quantities.describe(bytes: total))
    }
}
