// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import FabricAPI
internal import Launch
internal import Networks
internal import Platform

extension Network {
    /// `martlet network policy`
    struct Policy: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show or replace what the containers of a network may reach outside.",
            discussion: """
                Without options the rules are printed, one a line. New rules hold at once, for containers that run too: \
                connections that they do not allow are ended. A container's own rules (run --egress) hold beside them.

                martlet network policy back --egress allow=10.0.0.0/8 --egress name=*.example.org:443
                martlet network policy back --clear
                """)

        @OptionGroup var egress: EgressOptions
        @Flag(help: "Take all rules away.")
        var clear = false
        @Argument(help: "The network.")
        var network: String

        func validate() throws {
            guard !clear || egress.isEmpty else { throw ValidationError("--clear and --egress exclude each other") }
            guard !egress.egressAudit || !egress.egress.isEmpty else {
                throw ValidationError("--egress-audit means nothing without --egress")
            }
        }

        func run() throws {
            let rules = try egress.rules()
            let store = try Network.store()
            if network == NetworkDefinition.defaultName { _ = try store.defaultNetwork() }
            guard clear || !rules.isEmpty else {
                let definition = try store.load(network)
                if definition.isEgressAudited { print("# only counted, nothing is denied") }
                for rule in definition.egress { print(rule) }
                return
            }
            let changed = try store.change(network) { definition in
                definition.egress = rules
                definition.isEgressAudited = egress.egressAudit
            }
            // The file first: a fabric that starts from now on has the rules by that.
            if var connection = try FabricConnection(toRunning: network, of: store) {
                _ = try connection.ask(.setPolicy(changed.egress, isAudited: changed.isEgressAudited))
            }
        }
    }
}

/// Rules of what may be reached outside, for the networks' commands.
struct EgressOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "What containers may reach outside: allow=CIDR[:PORT], deny=CIDR[:PORT], name=*.example.org.",
            valueName: "rule"))
    var egress: [String] = []
    @Flag(help: "Only count what the egress rules would deny.")
    var egressAudit = false

    var isEmpty: Bool { egress.isEmpty && !egressAudit }

    func rules() throws -> [EgressRule] { try NetworkChoice.egressRules(egress) }
}
