// SPDX-License-Identifier: Apache-2.0

package import FabricAPI
package import Packet
package import Wire

/// What was asked for a container's network, and how that network is reached.
package struct NetworkWish: Equatable, Sendable {
    /// The network's name.
    package var network: String
    /// The name that the machine's monitor has for the interface: `eth0` and so on.
    package var interfaceName = "eth0"
    /// Nothing leaves the network.
    package var isInternal = false
    /// Its machine's, chosen when it is made: the monitor's configuration has it too.
    package var hardwareAddress: MACAddress
    /// In a clone: what the interface has from the machine that was saved.
    package var formerHardwareAddress: MACAddress?
    package var address: IPv4Address?
    package var address6: IPv6Address?
    package var aliases: [String] = []
    package var published: [PublishedPorts] = []
    package var egress: [EgressRule] = []
    package var isEgressAudited = false
    /// It may reach the host's own loopback.
    package var hasHostAccess = false
    /// Instead of the network's own; addresses.
    package var nameServers: [String] = []
    package var searchDomains: [String] = []
    /// Lines for /etc/hosts.
    package var hosts: [String] = []
    /// Where networks are defined, where their fabrics run, and the fabric's program.
    package var definitions = ""
    package var running = ""
    package var program = ""
    /// The network's, in bytes.
    package var mtu: UInt32 = 1500
    /// Where it is not one of ours, but the host's.
    package var host: HostNetworkMode?
    /// Of the addresses above, and the ways out, where a TAP device's network is described by whoever has it.
    package var prefixLength: UInt8?
    package var prefixLength6: UInt8?
    package var gateway: IPv4Address?
    package var gateway6: IPv6Address?
    /// In a clone of a bridged machine: what its guest has, and keeps, in a network namespace of its own.
    package var kept: KeptPlace?

    /// Those that a machine's interfaces can have.
    package static let interfaceNames = (0..<8).map { "eth\($0)" }

    package init(network: String, hardwareAddress: MACAddress) {
        self.network = network
        self.hardwareAddress = hardwareAddress
    }

    package var json: JSON {
        var object = JSONObject()
        object["network"] = .string(network)
        object["interface"] = .string(interfaceName)
        object["internal"] = .bool(isInternal)
        object["mac"] = .string("\(hardwareAddress)")
        object["formerMac"] = formerHardwareAddress.map { .string("\($0)") }
        object["address"] = address.map { .string("\($0)") }
        object["address6"] = address6.map { .string("\($0)") }
        object["aliases"] = .strings(aliases)
        object["published"] = .array(published.map(\.json))
        object["egress"] = .array(egress.map(\.json))
        object["egressAudit"] = .bool(isEgressAudited)
        object["hostAccess"] = .bool(hasHostAccess)
        object["nameServers"] = .strings(nameServers)
        object["searchDomains"] = .strings(searchDomains)
        object["hosts"] = .strings(hosts)
        object["definitions"] = .string(definitions)
        object["running"] = .string(running)
        object["program"] = .string(program)
        object["mtu"] = .number(mtu)
        object["host"] = host.map { .string($0.text) }
        object["prefixLength"] = prefixLength.map { .number($0) }
        object["prefixLength6"] = prefixLength6.map { .number($0) }
        object["gateway"] = gateway.map { .string("\($0)") }
        object["gateway6"] = gateway6.map { .string("\($0)") }
        object["kept"] = kept?.json
        return .object(object)
    }

    package init(_ view: JSONView) throws(JSONMismatch) {
        self.init(
            network: try view.required("network").string(),
            hardwareAddress: try view.required("mac").parsed("an Ethernet address"))
        if let field = try view.optional("interface") {
            let name = try field.string()
            guard Self.interfaceNames.contains(name) else { throw field.mismatch("that is no interface's name") }
            interfaceName = name
        }
        isInternal = try view.optional("internal")?.bool() ?? false
        if let field = try view.optional("formerMac") {
            formerHardwareAddress = try field.parsed("an Ethernet address")
        }
        if let field = try view.optional("address") { address = try field.parsed("an IPv4 address") }
        if let field = try view.optional("address6") { address6 = try field.parsed("an IPv6 address") }
        aliases = try view.required("aliases").strings()
        for element in try view.required("published").elements() { published.append(try PublishedPorts(element)) }
        for element in try view.required("egress").elements() { egress.append(try EgressRule(element)) }
        isEgressAudited = try view.required("egressAudit").bool()
        hasHostAccess = try view.optional("hostAccess")?.bool() ?? false
        nameServers = try view.required("nameServers").strings()
        searchDomains = try view.required("searchDomains").strings()
        hosts = try view.required("hosts").strings()
        definitions = try view.required("definitions").string()
        running = try view.required("running").string()
        program = try view.required("program").string()
        mtu = UInt32(try view.required("mtu").unsigned(in: 1280...65_535))
        if let field = try view.optional("host") {
            guard let mode = HostNetworkMode(try field.string()) else {
                throw field.mismatch("this is none of bridged, routed and tap=NAME")
            }
            host = mode
        }
        prefixLength = try view.optional("prefixLength").map { field throws(JSONMismatch) in
            UInt8(try field.unsigned(in: 0...32))
        }
        prefixLength6 = try view.optional("prefixLength6").map { field throws(JSONMismatch) in
            UInt8(try field.unsigned(in: 0...128))
        }
        if let field = try view.optional("gateway") { gateway = try field.parsed("an IPv4 address") }
        if let field = try view.optional("gateway6") { gateway6 = try field.parsed("an IPv6 address") }
        if let field = try view.optional("kept") { kept = try KeptPlace(field) }
    }
}
