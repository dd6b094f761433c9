// SPDX-License-Identifier: Apache-2.0

package import Packet
package import Wire

/// What a user made when making a network: the file that says so, and what its fabric starts from.
package struct NetworkDefinition: Equatable, Sendable {
    package var name: String
    /// nil where the network has no IPv4.
    package var subnet: IPv4Prefix?
    /// The fabric's own address in the subnet.
    package var gateway: IPv4Address?
    package var subnet6: IPv6Prefix?
    package var gateway6: IPv6Address?
    /// Nothing leaves it: no gateway to the outside, no names but its own.
    package var isInternal = false
    /// Its machines may reach the host's own loopback, at addresses that stand for it (Docs/FABRIC.md).
    package var allowsHostAccess = false
    /// What its machines may reach outside, each beside what it may by itself: both have to allow it.
    package var egress: [EgressRule] = []
    /// Those rules are only counted, nothing is denied.
    package var isEgressAudited = false
    /// In bytes, of the machines' interfaces.
    package var mtu: UInt32 = 65_520
    /// Nanoseconds since 1970.
    package var createdAt: UInt64 = 0

    package init(name: String) { self.name = name }

    package static let formatVersion: UInt64 = 1
    /// The network of machines for which none is named.
    package static let defaultName = "default"
    /// What `run --network` takes for something else.
    package static let reservedNames: Set<String> = ["none", "bridged", "routed"]

    /// Whether a text can name a network: 1 to 63 letters, digits, '_', '.', '-', a letter or digit first. It is also a
    /// name in DNS, so that a machine is `NAME.NETWORK`: something is between dots, and no '-' at its ends.
    package static func isName(_ text: String) -> Bool {
        let bytes = Array(text.utf8)
        guard let first = bytes.first, bytes.count <= 63, isAlphanumeric(first) else { return false }
        return DNSName.isOfHosts(text)
    }

    private static func isAlphanumeric(_ byte: UInt8) -> Bool {
        byte >= 0x30 && byte <= 0x39 || byte | 0x20 >= 0x61 && byte | 0x20 <= 0x7A
    }

    package var json: JSON {
        var object = JSONObject()
        object["version"] = .number(Self.formatVersion)
        object["name"] = .string(name)
        object["subnet"] = subnet.map { .string("\($0)") }
        object["gateway"] = gateway.map { .string("\($0)") }
        object["subnet6"] = subnet6.map { .string("\($0)") }
        object["gateway6"] = gateway6.map { .string("\($0)") }
        object["internal"] = .bool(isInternal)
        object["hostAccess"] = .bool(allowsHostAccess)
        if !egress.isEmpty { object["egress"] = .array(egress.map(\.json)) }
        if isEgressAudited { object["egressAudit"] = true }
        object["mtu"] = .number(mtu)
        object["createdAt"] = .number(createdAt)
        return .object(object)
    }

    /// Reads the file's text as JSON; every rule that a definition has to keep is checked.
    package init(_ json: JSON) throws(JSONMismatch) {
        let view = JSONView(json)
        try view.requireMembers(among: [
            "version", "name", "subnet", "gateway", "subnet6", "gateway6", "internal", "hostAccess", "egress",
            "egressAudit",
            "mtu", "createdAt",
        ])
        _ = try view.required("version").unsigned(in: Self.formatVersion...Self.formatVersion)
        let name = try view.required("name")
        self.init(name: try name.string())
        guard Self.isName(self.name) else { throw name.mismatch("\"\(self.name)\" is not a network's name") }
        if let field = try view.optional("subnet") { subnet = try field.parsed("a subnet such as 10.0.0.0/24") }
        if let field = try view.optional("gateway") { gateway = try field.parsed("an IPv4 address") }
        if let field = try view.optional("subnet6") { subnet6 = try field.parsed("a subnet such as fd00::/64") }
        if let field = try view.optional("gateway6") { gateway6 = try field.parsed("an IPv6 address") }
        isInternal = try view.optional("internal")?.bool() ?? false
        allowsHostAccess = try view.optional("hostAccess")?.bool() ?? false
        if let field = try view.optional("egress") { egress = try field.egress() }
        isEgressAudited = try view.optional("egressAudit")?.bool() ?? false
        if let field = try view.optional("mtu") { mtu = UInt32(try field.unsigned(in: 1280...65_520)) }
        createdAt = try view.optional("createdAt")?.unsigned() ?? 0
        if let problem { throw view.mismatch(problem) }
    }

    /// What is wrong with it as a whole; nil where nothing is.
    package var problem: String? {
        if subnet == nil && subnet6 == nil { return "a network needs a subnet of IPv4 or IPv6" }
        if let subnet {
            if subnet.length < 8 || subnet.length > 30 { return "the subnet \(subnet) is not between /8 and /30" }
            if !subnet.isForMachines { return "the addresses of \(subnet) are no machines'" }
            guard let gateway else { return "the subnet \(subnet) needs a gateway" }
            if !subnet.contains(gateway) || gateway == subnet.network || gateway == subnet.broadcast {
                return "the gateway \(gateway) is none of the addresses that \(subnet) has for machines"
            }
        }
        if let subnet6 {
            if subnet6.length != 64 { return "the subnet \(subnet6) is not a /64" }
            if !subnet6.isForMachines { return "the addresses of \(subnet6) are no machines'" }
            guard let gateway6 else { return "the subnet \(subnet6) needs a gateway" }
            if !subnet6.contains(gateway6) || gateway6 == subnet6.network {
                return "the gateway \(gateway6) is not in \(subnet6)"
            }
        }
        return nil
    }
}
