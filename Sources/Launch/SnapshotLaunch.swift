// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import GuestProtocol
internal import Platform
internal import Sessions
internal import Wire
package import Worker

/// A snapshot that a container can be made of at once.
package struct ReadySnapshot {
    /// Of a whole one.
    package let manifest: SnapshotManifest
    /// Where the files of its machine's disk are; nil where its state knows.
    package let disk: [ContainerConfiguration.DiskPart]?

    package init(_ manifest: SnapshotManifest, disk: [ContainerConfiguration.DiskPart]?) {
        self.manifest = manifest
        self.disk = disk
    }

    /// One that is ready as it lies in its store; nil for a diff, and for one that was made elsewhere.
    package init?(asItIs manifest: SnapshotManifest) {
        guard manifest.parent == nil, !manifest.isImported else { return nil }
        self.init(manifest, disk: nil)
    }
}

/// Making containers of running ones and of snapshots. Everything here happens where containers run.
package enum SnapshotLaunch {
    package static func store() throws -> SnapshotStore { try SnapshotStore.ofUser { environmentVariable($0) } }
    package static func machines() throws -> MachineStore { try MachineStore.ofUser { environmentVariable($0) } }

    /// A running container that others can be made of.
    package static func running(_ reference: String) throws -> MachineRecord {
        let record = try machines().find(reference)
        guard record.condition == .running else { throw Failure("\(record.name) is not running") }
        return record
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
    package static func start(
        _ snapshot: ReadySnapshot, name: String?, network: NetworkChoice, isDetached: Bool,
        endsWithCommand: Bool = false, removesItself: Bool, runTimeout: UInt64? = nil, memoryServer: String? = nil
    ) throws -> RunningMachine {
        let snapshots = try store()
        let manifest = snapshot.manifest
        if let problem = snapshots.verify(manifest) {
            throw Failure("the snapshot \(manifest.id.prefix(12)) is damaged: \(problem)")
        }
        if manifest.isMemoryElsewhere, memoryServer == nil {
            throw Failure(
                "the memory of the snapshot \(manifest.id.prefix(12)) is elsewhere: have it served (martlet serve-memory "
                    + "\(manifest.id.prefix(12)) --from ssh://HOST), and name the socket with --memory-server")
        }
        let installation = try Installation.find()
        let networks = try network.check(inPlaceOf: manifest.machine.networks).map { try $0.prepare(installation) }
        return try start(manifest.machine, name: name, installation) { configuration in
            configuration.isDetached = isDetached
            configuration.endsWithCommand = endsWithCommand
            configuration.removesItself = removesItself
            configuration.runTimeout = runTimeout
            configuration.networks = networks
            configuration.snapshot = snapshots.directory(of: manifest.id)
            configuration.originalSample = manifest.randomSample
            configuration.disk = snapshot.disk
            configuration.memoryServer = try memoryServer.map(Self.server)
        }
    }

    /// Makes a machine that goes on from another, and starts its supervisor.
    /// - Parameter change: what is another in it.
    static func start(
        _ original: ContainerConfiguration, name: String?, _ installation: Installation,
        change: (inout ContainerConfiguration) throws -> Void
    ) throws -> RunningMachine {
        let store = try machines()
        var generator = SystemRandomNumberGenerator()
        let machine = try store.create(id: MachineIdentity.makeID(using: &generator), name: name)
        do {
            var configuration = original.clone(as: machine, installation)
            try change(&configuration)
            try Files.writeNew(
                configuration.json.encoded(indented: true), "\(machine.directory)/\(MachineFile.configuration)")
            return try RunningMachine.start(
                machine, supervisor: installation.supervisor, store,
                removesItself: configuration.removesItself)
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
        clone.forkCount = 1
        clone.originalSample = nil
        clone.endsWithCommand = false
        clone.memoryServer = nil
        clone.monitor = installation.monitor
        clone.commandStartedAt = CommandStart.moment
        return clone
    }
}
