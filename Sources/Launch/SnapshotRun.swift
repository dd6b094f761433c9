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
        guard syntax.image == nil, syntax.command.isEmpty else { return nil }
        self.init("")
        for option in syntax.options {
            guard option.hasPrefix("--") else { return nil }
            let body = option.dropFirst(2)
            guard let equals = body.utf8.firstIndex(of: UInt8(ascii: "=")) else {
                guard take(flag: String(body)) else { return nil }
                continue
            }
            guard take(String(body[..<equals]), String(body[body.utf8.index(after: equals)...])) else { return nil }
        }
        if reference.isEmpty { return nil }
    }

    private mutating func take(flag name: String) -> Bool {
        switch name {
        case "detach": isDetached = true
        case "rm": removesItself = true
        case "egress-audit": network.isEgressAudited = true
        case "host-access": network.hasHostAccess = true
        default: return false
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
        let signals = isDetached ? nil : try SignalQueue([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2])
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
