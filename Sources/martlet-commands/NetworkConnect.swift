// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import FabricAPI
internal import GuestProtocol
internal import Launch
internal import Networks
internal import Platform
internal import Worker

extension Network {
    /// `martlet network connect`
    struct Connect: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Connect a running container to one more network.",
            discussion: """
                It gets another interface, with an address and a name there; other containers of that network find it, and \
                it finds them, as in the networks that it is in already. The way outside stays that of the first of its \
                networks that has one.

                martlet network connect --alias db back web
                """)

        @OptionGroup var addresses: AddressOptions
        @Option(help: ArgumentHelp("Give it another name in that network.", valueName: "name"))
        var alias: [String] = []
        @Argument(help: "The network.")
        var network: String
        @Argument(help: "The container's name or id.", completion: machineNames)
        var container: String

        func run() throws {
            var choice = NetworkChoice()
            choice.networks = [network]
            addresses.apply(to: &choice)
            choice.aliases = alias
            guard network != NetworkChoice.noNetwork, try !NetworkChoice.isOfHost(network) else {
                throw Failure("'\(network)' is no network that a running container can be connected to")
            }
            let store = try Network.store()
            let record = try SnapshotLaunch.running(container)
            let installation = try Installation.find()
            guard let wish = try choice.check().first?.prepare(installation) else { return }
            // Here, so that the container's supervisor does not wait for a fabric that has to be started.
            let fabric = try FabricConnection(to: network, of: store, program: installation.fabric)
            var control = try Control(record)
            let report = try control.connect(wish)
            _ = consume fabric
            guard report.failure.isEmpty else {
                throw Failure("\(record.name) cannot be connected to \(network): \(printable(report.failure))")
            }
        }
    }

    /// `martlet network disconnect`
    struct Disconnect: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Take a running container out of a network.",
            discussion: """
                The interface goes, its address is free, and ports that were published there are not any more. The way \
                outside and the name servers are then those of the networks that remain.

                martlet network disconnect back web
                """)

        @Flag(
            name: .shortAndLong, help: "Take the interface away even if the container's system does not let go of it.")
        var force = false
        @Argument(help: "The network.")
        var network: String
        @Argument(help: "The container's name or id.", completion: machineNames)
        var container: String

        func run() throws {
            _ = try Network.store()
            let record = try SnapshotLaunch.running(container)
            var control = try Control(record)
            let report = try control.disconnect(from: network, isForced: force)
            guard report.failure.isEmpty else {
                let isOut = report.steps.contains { $0.name == Array("\(Arrangement.Step.removal)".utf8) }
                let outcome = isOut ? "is out of \(network), but" : "cannot be taken out of \(network):"
                throw Failure("\(record.name) \(outcome) \(printable(report.failure))")
            }
        }
    }
}
