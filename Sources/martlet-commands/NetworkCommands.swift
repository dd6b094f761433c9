// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import FabricAPI
internal import Launch
internal import Networks
internal import Packet
internal import Platform
internal import Wire
internal import Worker

/// `martlet network`
struct Network: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Networks of machines.",
        discussion: """
            Machines of one network reach each other by address and by name; those of different networks do not. A machine \
            for which no network is named is in "default", which is made when it is first wanted.
            """,
        subcommands: [
            Create.self, List.self, Inspect.self, Remove.self, Connect.self, Disconnect.self, Policy.self,
            Capture.self,
        ])

    /// The user's networks. Where they are those of the emulated host, the whole command runs there instead, and this
    /// does not return.
    static func store() throws -> NetworkStore {
        if try Placement.decide() == .emulatedHost { try EmulatedHosting.forwardThisCommand() }
        return try NetworkStore.ofUser { environmentVariable($0) }
    }
}

extension Network {
    /// `martlet network create`
    struct Create: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make a network.",
            discussion: """
                Names that end in a dot and the network's name are from then on its own, for all of your containers: one \
                that is called like a top-level domain, such as dev, hides what the Internet has there.

                martlet network create --subnet 10.20.0.0/24 --ipv6 back
                """)

        @Option(help: ArgumentHelp("Its IPv4 addresses (default: some that no other network has).", valueName: "cidr"))
        var subnet: [String] = []
        @Option(help: ArgumentHelp("The network's own address (default: the subnet's first).", valueName: "address"))
        var gateway: [String] = []
        @Flag(name: .customLong("ipv6"), help: "Give it IPv6 addresses too.")
        var hasIPv6 = false
        @Flag(name: .customLong("internal"), help: "Let nothing out: no way to the outside and none of its names.")
        var isInternal = false
        @Flag(help: "Let its containers reach this machine's own loopback, at 198.19.255.254.")
        var hostAccess = false
        @OptionGroup var egress: EgressOptions
        @Option(help: ArgumentHelp("The longest packet, 1280 to 65520 bytes.", valueName: "bytes"))
        var mtu: UInt32 = 65_520
        @Argument(help: "The network's name.")
        var name: String

        func run() throws {
            var wish = NetworkDefinition(name: name)
            for text in subnet {
                if let prefix = IPv4Prefix(text), text.contains("/") {
                    wish.subnet = prefix
                } else if let prefix = IPv6Prefix(text), text.contains("/") {
                    wish.subnet6 = prefix
                } else {
                    throw Failure("--subnet: '\(text)' is not a subnet such as 10.20.0.0/24 or fd00:1::/64")
                }
            }
            for text in gateway {
                if let address = IPv4Address(text) {
                    wish.gateway = address
                } else if let address = IPv6Address(text) {
                    wish.gateway6 = address
                } else {
                    throw Failure("--gateway: '\(text)' is not an address")
                }
            }
            guard (1280...65_520).contains(mtu) else { throw Failure("--mtu: \(mtu) is not between 1280 and 65520") }
            wish.isInternal = isInternal
            wish.allowsHostAccess = hostAccess
            wish.egress = try egress.rules()
            wish.isEgressAudited = egress.egressAudit
            wish.mtu = mtu
            wish.createdAt = wallClockNanoseconds()
            var generator = SystemRandomNumberGenerator()
            print(try Network.store().create(wish, choosesIPv6: hasIPv6, random: generator.next()).name)
        }
    }

    /// `martlet network ls`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(commandName: "ls", abstract: "List networks.")

        @Flag(name: .shortAndLong, help: "Print names only.")
        var quiet = false
        @Option(help: "table, or json: one object a line.")
        var format = OutputFormat.table

        func run() throws {
            let store = try Network.store()
            if quiet {
                for name in store.names() { print(name) }
                return
            }
            var table = Table(["NAME", "SUBNET", "GATEWAY", "SUBNET6", "INTERNAL"])
            for name in store.names() {
                let network = try store.load(name)
                if format == .json {
                    print(network.json)
                } else {
                    table.rows.append([
                        name, network.subnet.map { "\($0)" } ?? "–", network.gateway.map { "\($0)" } ?? "–",
                        network.subnet6.map { "\($0)" } ?? "–", network.isInternal ? "yes" : "no",
                    ])
                }
            }
            if format == .table { print(table.text, terminator: "") }
        }
    }

    /// `martlet network inspect`
    struct Inspect: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print everything about networks, as JSON.",
            discussion: "Of one that has machines: its endpoints too, and what was dropped and why.")

        @Argument(help: "Names.")
        var networks: [String]

        func run() throws {
            let store = try Network.store()
            try forEach(networks) { name in
                var object = JSONObject()
                object["definition"] = try store.load(name).json
                switch try FabricConnection(toRunning: name, of: store) {
                case .some(var connection):
                    guard case .inspected(let table) = try connection.ask(.inspect) else {
                        throw Failure("the fabric of network \(name) does not say what it has")
                    }
                    object["fabric"] = table
                case .none: object["fabric"] = .null
                }
                print(String(decoding: JSON.object(object).encoded(indented: true), as: UTF8.self))
            }
        }
    }

    /// `martlet network rm`
    struct Remove: ParsableCommand {
        static let configuration = CommandConfiguration(commandName: "rm", abstract: "Remove networks.")

        @Argument(help: "Names.")
        var networks: [String]

        func run() throws {
            let store = try Network.store()
            try forEach(networks) { name in
                try store.remove(name)
                print(name)
            }
        }
    }
}
