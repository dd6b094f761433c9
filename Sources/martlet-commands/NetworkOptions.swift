// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Launch

/// The options of `run` that are about the container's network. NetworkChoice says what they come to.
struct NetworkOptions: ParsableArguments {
    @Option(
        name: [.customLong("network"), .customLong("net")],
        help: ArgumentHelp(
            """
            Connect the container to this network (default: the network default), also to several, or to none; bridged, \
            routed or tap=DEVICE: the host's. host-access=on: as --host-access.
            """,
            valueName: "name"))
    var network: [String] = []
    @Option(
        name: [.customShort("p"), .long],
        help: ArgumentHelp("Publish ports: [ADDRESS:][HOSTPORT:]PORT[/tcp|/udp], also ranges.", valueName: "ports"))
    var publish: [String] = []
    @OptionGroup var addresses: AddressOptions
    @Option(help: ArgumentHelp("Ask this server for names instead of the network's.", valueName: "address"))
    var dns: [String] = []
    @Option(help: ArgumentHelp("Look for names in this domain too, after the network's own.", valueName: "domain"))
    var dnsSearch: [String] = []
    @Option(help: ArgumentHelp("Add a line to /etc/hosts.", valueName: "host:address"))
    var addHost: [String] = []
    @Option(help: ArgumentHelp("Give it another name in its network.", valueName: "name"))
    var networkAlias: [String] = []
    @Option(
        help: ArgumentHelp(
            "What it may reach outside: allow=CIDR[:PORT], deny=CIDR[:PORT], name=*.example.org.", valueName: "rule"))
    var egress: [String] = []
    @Flag(help: "Only count what the egress rules would deny.")
    var egressAudit = false
    @Flag(help: "Let it reach this machine's own loopback, at 198.19.255.254.")
    var hostAccess = false

    var choice: NetworkChoice {
        var choice = NetworkChoice()
        choice.hasHostAccess = hostAccess
        for value in network { choice.take(network: value) }
        choice.published = publish
        addresses.apply(to: &choice)
        choice.nameServers = dns
        choice.searchDomains = dnsSearch
        choice.hosts = addHost
        choice.aliases = networkAlias
        choice.egress = egress
        choice.isEgressAudited = egressAudit
        return choice
    }
}

/// Those about the addresses that a container has in a network.
struct AddressOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Give it this IPv4 address.", valueName: "address"))
    var ip: String?
    @Option(help: ArgumentHelp("Give it this IPv6 address.", valueName: "address"))
    var ip6: String?
    @Option(
        name: [.customLong("mac"), .customLong("mac-address")],
        help: ArgumentHelp("Give it this Ethernet address.", valueName: "address"))
    var mac: String?

    func apply(to choice: inout NetworkChoice) {
        choice.address = ip
        choice.address6 = ip6
        choice.hardwareAddress = mac
    }
}
