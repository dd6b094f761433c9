// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import ImageStore
internal import Launch
internal import Platform
internal import Worker

/// What `martlet run` was asked for: `Run` says what each member means. Its arguments are read here where they are
/// plain: ArgumentParser, which knows all of them, takes longer to say so than a machine takes to start.
struct RunOptions {
    var rm = false
    var interactive = false
    var detach = false
    var name: String?
    var env: [String] = []
    var envFile: [String] = []
    var workdir: String?
    var user: String?
    var entrypoint: String?
    var cpus = "1"
    var memory = "512m"
    var hostname: String?
    var readOnly = false
    var kernel: String?
    var timeout: String?
    var noTemplate = false
    var snapshot: String?
    var memoryServer: String?
    var pull = PullPolicy.missing
    var insecureRegistry = false
    var stopTimeout: String?
    var stopSignal: String?
    var imageName: String?
    var network = NetworkChoice()
    var image: String
    var command: [String] = []

    init(image: String) { self.image = image }

    /// Reads arguments whose options are all known and of a simple form; nil for all others, which are ArgumentParser's
    /// to judge and to complain about.
    init?(_ syntax: RunSyntax) {
        let isFromSnapshot = syntax.options.contains { $0.hasPrefix("--snapshot") }
        guard let image = syntax.image ?? (isFromSnapshot ? "" : nil), let options = syntax.plainOptions else {
            return nil
        }
        self.init(image: image)
        command = syntax.command
        for (name, value) in options {
            let isTaken = if let value { take(name, value) } else { take(flag: name) }
            guard isTaken else { return nil }
        }
    }

    private mutating func take(flag name: String) -> Bool {
        switch name {
        case "rm": rm = true
        case "interactive": interactive = true
        case "detach": detach = true
        case "read-only": readOnly = true
        case "no-template": noTemplate = true
        case "insecure-registry": insecureRegistry = true
        default: return network.take(flag: name)
        }
        return true
    }

    private mutating func take(_ name: String, _ value: String) -> Bool {
        switch name {
        case "name": self.name = value
        case "env": env.append(value)
        case "env-file": envFile.append(value)
        case "workdir": workdir = value
        case "user": user = value
        case "entrypoint": entrypoint = value
        case "cpus": cpus = value
        case "memory": memory = value
        case "hostname": hostname = value
        case "kernel": kernel = value
        case "timeout": timeout = value
        case "stop-timeout": stopTimeout = value
        case "stop-signal": stopSignal = value
        case "image-name": imageName = value
        case "snapshot": snapshot = value
        case "memory-server": memoryServer = value
        case "pull":
            guard let policy = PullPolicy(rawValue: value) else { return false }
            pull = policy
        default: return network.take(name, value)
        }
        return true
    }

    func run() throws {
        ignoreBrokenPipes()
        if let snapshot { return try runSnapshot(snapshot) }
        guard memoryServer == nil else { throw Failure("--memory-server: it serves a snapshot: add --snapshot") }
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
        let networks = try network.check()
        if placement == .here { try size.check() }
        let image = try PreparedImage.resolve(
            self.image, name: imageName, pull: pull, insecure: insecureRegistry, signals: signals)
        switch placement {
        case .here:
            let launch = MachineLaunch(
                installation: installation, image: image, options: options, size: size, name: name,
                hasInput: interactive, isReadOnly: readOnly, isDetached: detach, removesItself: rm,
                stopTimeout: try stopTimeout.map(Quantities.milliseconds) ?? 10_000,
                runTimeout: try timeout.map(Quantities.milliseconds), templates: templates(),
                networks: try networks.map { try $0.prepare(installation) })
            throw Failure(silentlyWith: try launch.run(signals: signals))
        case .emulatedHost:
            throw Failure(silentlyWith: try runInEmulatedHost(image, options, installation, signals: signals))
        }
    }
}

extension RunOptions {
    func containerOptions() throws -> ContainerOptions {
        var options = ContainerOptions()
        options.command = command
        options.entrypoint = entrypoint
        options.environment = try EnvironmentSetting.read(files: envFile, settings: env)
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

    /// Where templates are; nil where none is wanted.
    private func templates() -> String? {
        if noTemplate || environmentVariable("MARTLET_TEMPLATES") == "off" { return nil }
        return TemplateStore.rootOfUser { environmentVariable($0) }
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
