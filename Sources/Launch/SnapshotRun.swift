// SPDX-License-Identifier: Apache-2.0

internal import Glibc
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

    package init(_ reference: String) { self.reference = reference }

    /// nil for a run of an image, and for what is ArgumentParser's to judge and to complain about.
    package init?(_ syntax: RunSyntax) {
        guard syntax.image == nil, syntax.command.isEmpty, let options = syntax.plainOptions else { return nil }
        self.init("")
        for (name, value) in options {
            let isTaken = if let value { take(name, value) } else { take(flag: name) }
            guard isTaken else { return nil }
        }
        if reference.isEmpty { return nil }
    }

    private mutating func take(flag name: String) -> Bool {
        switch name {
        case "detach": isDetached = true
        case "rm": removesItself = true
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
        default: return network.take(name, value)
        }
        return true
    }

    /// Where containers run: here, or in the emulated host.
    /// - Parameter prepare: makes a snapshot ready for a container.
    package func run(_ prepare: (SnapshotManifest, SnapshotStore) throws -> ReadySnapshot) throws {
        ignoreBrokenPipes()
        // A detached run is not connected to anything that signals could go to.
        let passed = isDetached ? [] : [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2]
        if try Placement.decide() == .emulatedHost { try EmulatedHosting.forwardThisCommand(passing: passed) }
        let signals = isDetached ? nil : try SignalQueue(passed)
        let store = try SnapshotLaunch.store()
        let machine = try SnapshotLaunch.start(
            try prepare(try store.find(reference), store), name: name, network: network, isDetached: isDetached,
            removesItself: removesItself, runTimeout: try timeout.map(Quantities.milliseconds),
            memoryServer: memoryServer)
        throw Failure(
            silentlyWith: isDetached
                ? try machine.awaitStart() : try machine.attach(hasInput: false, signals: signals))
    }
}
