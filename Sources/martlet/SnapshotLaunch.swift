// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import GuestProtocol
internal import Platform
internal import Sessions
internal import Wire
internal import Worker

/// Making snapshots of running containers, and containers of snapshots. Everything here happens where containers run.
enum SnapshotLaunch {
    static func store() throws -> SnapshotStore { try SnapshotStore.ofUser { environmentVariable($0) } }
    static func machines() throws -> MachineStore { try MachineStore.ofUser { environmentVariable($0) } }

    /// A running container that others can be made of.
    static func running(_ reference: String) throws -> MachineRecord {
        let record = try machines().find(reference)
        guard record.condition == .running else { throw Failure("\(record.name) is not running") }
        // Its clones would have its addresses.
        guard record.configuration.network == nil else {
            throw Failure("\(record.name) is in a network, and its clones would have its addresses: run it without one")
        }
        return record
    }

    /// Saves a running container, which goes on.
    static func create(_ reference: String, tag: String?) throws -> SnapshotManifest {
        if let tag, !MachineIdentity.isName(tag) || MachineIdentity.isID(tag) {
            throw Failure(
                "--tag: '\(tag)' is not a tag: 2 to 128 letters, digits, '_', '.', '-', a letter or digit first")
        }
        let record = try running(reference)
        var control = try Control(record)
        var generator = SystemRandomNumberGenerator()
        let store = try store()
        let new = try store.begin(id: MachineIdentity.makeID(using: &generator))
        do {
            let report = try control.save(into: new.directory)
            guard report.failure.isEmpty else {
                throw Failure("\(record.name) could not be saved: \(printable(report.failure))")
            }
            var manifest = SnapshotManifest(
                id: new.id, tag: tag, createdAt: wallClockNanoseconds(), machine: record.configuration)
            manifest.steps = report.steps.map { (printable($0.name, limit: 40), $0.nanoseconds / 1000) }
            try store.finish(new, manifest)
            return manifest
        } catch {
            store.abandon(new)
            throw error
        }
    }

    /// Makes a container that goes on from a snapshot.
    static func start(
        _ manifest: SnapshotManifest, name: String?, isDetached: Bool, removesItself: Bool, runTimeout: UInt64? = nil
    ) throws -> RunningMachine {
        let snapshots = try store()
        if let problem = snapshots.verify(manifest) {
            throw Failure("the snapshot \(manifest.id.prefix(12)) is damaged: \(problem)")
        }
        let installation = try Installation.find()
        let store = try machines()
        var generator = SystemRandomNumberGenerator()
        let id = MachineIdentity.makeID(using: &generator)
        let machine = try store.create(id: id, name: name)
        do {
            var configuration = manifest.machine.clone(as: machine, installation)
            configuration.isDetached = isDetached
            configuration.removesItself = removesItself
            configuration.runTimeout = runTimeout
            configuration.snapshot = snapshots.directory(of: manifest.id)
            try Files.writeNew(
                configuration.json.encoded(indented: true), "\(machine.directory)/\(MachineFile.configuration)")
            return try MachineLaunch.startSupervisor(
                of: machine, installation.supervisor, store, removesItself: removesItself)
        } catch {
            try? store.removeOwn(id)
            throw error
        }
    }
}

extension ContainerConfiguration {
    /// That of a machine which goes on from the one that this belongs to.
    func clone(as machine: borrowing NewMachine, _ installation: Installation) -> ContainerConfiguration {
        var clone = self
        let isOwnHostname = process.hostname.hasPrefix(id.prefix(MachineIdentity.shortIDLength))
        clone.id = machine.id
        clone.name = machine.name
        clone.createdAt = wallClockNanoseconds()
        if isOwnHostname { clone.process.hostname = String(machine.id.prefix(MachineIdentity.shortIDLength)) }
        clone.templates = nil
        clone.snapshot = nil
        clone.forkOf = nil
        clone.monitor = installation.monitor
        clone.commandStartedAt = Entry.startedAt
        return clone
    }
}

extension RunOptions {
    /// `run --snapshot`: no image, and nothing that only a beginning can be given.
    func runSnapshot(_ reference: String) throws {
        guard image.isEmpty else {
            throw Failure("--snapshot: the container has its image and command already; leave out '\(image)'")
        }
        guard env.isEmpty, envFile.isEmpty, workdir == nil, user == nil, entrypoint == nil, hostname == nil,
            kernel == nil, !readOnly, !interactive
        else {
            throw Failure("--snapshot: the container goes on as it was: only -d, --rm, --name and --timeout are taken")
        }
        let signals = detach ? nil : try SignalQueue([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2])
        if try Placement.decide() == .emulatedHost {
            let arguments = [try Installation.find().command] + Array(CommandLine.arguments.dropFirst())
            switch signals {
            case .some(let signals):
                throw Failure(
                    silentlyWith: try EmulatedHosting.execute(arguments, hasInput: false, signals: signals))
            case .none:
                throw Failure(
                    silentlyWith: try EmulatedHosting.execute(
                        arguments, hasInput: false, signals: try SignalQueue([])))
            }
        }
        let manifest = try SnapshotLaunch.store().find(reference)
        let machine = try SnapshotLaunch.start(
            manifest, name: name, isDetached: detach, removesItself: rm,
            runTimeout: try timeout.map(Quantities.milliseconds))
        throw Failure(
            silentlyWith: detach
                ? try machine.awaitStart() : try machine.attach(hasInput: false, signals: signals))
    }
}
