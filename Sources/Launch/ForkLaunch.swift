// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import GuestProtocol
internal import Platform
internal import Wire
internal import Worker

/// Forking running containers. For each new one a supervisor is started, which waits; then the running one's is told to
/// fork its machine into them. Everything here happens where containers run.
enum ForkLaunch {
    /// Makes a container for each name, and prints the ids of those that run. One that comes to nothing does not keep
    /// the others from running.
    /// - Parameter network: what is asked for in place of the running one's.
    static func fork(_ reference: String, names: [String], _ network: NetworkChoice = NetworkChoice()) throws {
        let parent = try SnapshotLaunch.running(reference)
        if parent.configuration.networks.isEmpty, !network.arguments.isEmpty {
            throw Failure(
                "\(parent.name) is in no network, and a fork of it cannot be: restore a snapshot of it instead")
        }
        // Each new machine's lock, log and connection.
        raiseDescriptorLimit()
        var children: [Child] = []
        // Whatever ends this early: what has not started is nothing.
        defer { for child in children { child.machine.take()?.abandon() } }
        for name in names { children.append(Child(try start(name, parent, network, count: names.count))) }
        for child in children { try child.machine?.awaitReadiness() }
        var control = try Control(parent)
        let outcome = try control.fork(into: children.map(\.id))
        guard outcome.report.failure.isEmpty else {
            throw Failure("\(parent.name) could not be forked: \(printable(outcome.report.failure))")
        }
        var failures: [UInt64: [UInt8]] = [:]
        for failure in outcome.failures { failures[failure.index] = failure.reason }
        var samples = DrawnSamples()
        var hasFailed = false
        for (index, child) in children.enumerated() {
            guard let machine = child.machine.take() else { continue }
            do {
                if let reason = failures[UInt64(index)] {
                    machine.abandon()
                    throw Failure(printable(reason))
                }
                func problem(_ state: MachineState) -> String? {
                    samples.note(state.randomSample, of: names[index]).map { other in
                        "its random numbers are those of \(other), which was forked with it: it was ended"
                    }
                }
                // That they are not the running one's its supervisor has seen to.
                _ = try machine.awaitStart(unless: names.count > 1 ? problem : nil)
            } catch let failure as Failure {
                for line in failure.lines { complain("\(names[index]): \(line)") }
                hasFailed = true
            } catch {
                complain("\(names[index]): \(error)")
                hasFailed = true
            }
        }
        if hasFailed { throw Failure(silentlyWith: 1) }
    }

    /// A machine that is to be.
    private final class Child {
        let id: String
        var machine: RunningMachine?

        init(_ machine: consuming RunningMachine) {
            id = machine.id
            self.machine = consume machine
        }
    }

    private static func start(
        _ name: String, _ parent: MachineRecord, _ network: NetworkChoice, count: Int
    ) throws -> RunningMachine {
        let installation = try Installation.find()
        let networks = try network.check(inPlaceOf: parent.networksToKeep).map { try $0.prepare(installation) }
        return try SnapshotLaunch.start(parent.configuration, name: name, installation) { configuration in
            configuration.forkOf = parent.id
            configuration.forkCount = count
            configuration.originalSample = parent.state.randomSample
            configuration.networks = networks
            configuration.isDetached = true
            configuration.removesItself = false
            configuration.runTimeout = nil
        }
    }
}
