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
        return record
    }

    /// Saves a running container, which goes on.
    /// - Parameter isKept: it is to be found whole later, and gets checksums for that.
    static func create(
        _ reference: String, tag: String?, manner: SaveOrder.Manner = .full, isKept: Bool = true
    ) throws -> SnapshotManifest {
        try check(tag: tag)
        let record = try running(reference)
        let store = try store()
        if let manifest = try SavedSnapshot.make(of: record, tag: tag, manner: manner, isKept: isKept, store) {
            return manifest
        }
        // A diff of a snapshot that is not there any more: what it would need is in the machine.
        guard let manifest = try SavedSnapshot.make(of: record, tag: tag, manner: .full, isKept: isKept, store) else {
            throw Failure("\(record.name) could not be saved whole")
        }
        return manifest
    }

    static func check(tag: String?) throws(Failure) {
        guard let tag, !MachineIdentity.isName(tag) || MachineIdentity.isID(tag) else { return }
        throw Failure("--tag: '\(tag)' is not a tag: 2 to 128 letters, digits, '_', '.', '-', a letter or digit first")
    }

    /// The supervisor has another working directory.
    private static func server(_ path: String) throws -> String {
        guard Files.exists(path) else {
            throw Failure("--memory-server: there is no socket \(path): start one with martlet serve-memory")
        }
        return absolute(path)
    }

    /// Makes a container that goes on from a snapshot.
    /// - Parameter memoryServer: the socket of the page server that its memory comes from; nil for the snapshot's file.
    static func start(
        _ manifest: SnapshotManifest, name: String?, network: NetworkChoice, isDetached: Bool, removesItself: Bool,
        runTimeout: UInt64? = nil, memoryServer: String? = nil
    ) throws -> RunningMachine {
        let snapshots = try store()
        let manifest = try SnapshotChain.whole(manifest, in: snapshots)
        if let problem = snapshots.verify(manifest) {
            throw Failure("the snapshot \(manifest.id.prefix(12)) is damaged: \(problem)")
        }
        let installation = try Installation.find()
        let networks = try network.check(inPlaceOf: manifest.machine.networks).map { try $0.prepare(installation) }
        let store = try machines()
        var generator = SystemRandomNumberGenerator()
        let id = MachineIdentity.makeID(using: &generator)
        let machine = try store.create(id: id, name: name)
        do {
            var configuration = manifest.machine.clone(as: machine, installation)
            configuration.isDetached = isDetached
            configuration.removesItself = removesItself
            configuration.runTimeout = runTimeout
            configuration.networks = networks
            configuration.snapshot = snapshots.directory(of: manifest.id)
            configuration.disk = try SnapshotTransfer.disk(of: manifest, in: snapshots)
            configuration.memoryServer = try memoryServer.map(Self.server)
            try Files.writeNew(
                configuration.json.encoded(indented: true), "\(machine.directory)/\(MachineFile.configuration)")
            return try MachineLaunch.startSupervisor(
                of: machine, installation.supervisor, store, removesItself: removesItself)
        } catch {
            store.abandon(machine)
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
        clone.memoryServer = nil
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
            throw Failure(
                "--snapshot: the container goes on as it was: only -d, --rm, --name, --timeout, --memory-server and "
                    + "those for its network are taken")
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
            manifest, name: name, network: network, isDetached: detach, removesItself: rm,
            runTimeout: try timeout.map(Quantities.milliseconds), memoryServer: memoryServer)
        throw Failure(
            silentlyWith: detach
                ? try machine.awaitStart() : try machine.attach(hasInput: false, signals: signals))
    }
}
