// SPDX-License-Identifier: Apache-2.0

package import Packet
package import Wire

/// The networks in which a machine is beside the one whose fabric is told this. A resolver takes the first server's
/// word that a name does not exist: so each fabric says that only of what is its own, and what nobody owns is left to one
/// of them, which has the last word.
package struct OtherNetworks: Equatable, Sendable {
    package struct Network: Equatable, Sendable {
        package var name: String
        package var subnet: IPv4Prefix?
        package var subnet6: IPv6Prefix?

        package init(name: String, subnet: IPv4Prefix?, subnet6: IPv6Prefix?) {
            self.name = name
            self.subnet = subnet
            self.subnet6 = subnet6
        }
    }

    /// Their names and addresses are asked of their own servers.
    package var networks: [Network]
    /// It answers for all that no network of the machine's owns, and passes questions on to the outside.
    package var hasLastWord: Bool

    package static let limit = 16

    package init(_ networks: [Network], hasLastWord: Bool) {
        self.networks = networks
        self.hasLastWord = hasLastWord
    }

    package var json: JSON {
        let list = networks.map { network in
            var object = JSONObject()
            object["name"] = .string(network.name)
            object["subnet"] = network.subnet.map { .string("\($0)") }
            object["subnet6"] = network.subnet6.map { .string("\($0)") }
            return JSON.object(object)
        }
        return ["networks": .array(list), "lastWord": .bool(hasLastWord)]
    }

    package init(_ view: JSONView) throws(JSONMismatch) {
        try view.requireMembers(among: ["networks", "lastWord"])
        let field = try view.required("networks")
        let elements = try field.elements()
        guard elements.count <= Self.limit else { throw field.mismatch("\(Self.limit) are the most") }
        networks = []
        for element in elements {
            try element.requireMembers(among: ["name", "subnet", "subnet6"])
            let name = try element.required("name")
            let text = try name.string()
            guard NetworkDefinition.isName(text) else { throw name.mismatch("\"\(text)\" is no network's name") }
            var network = Network(name: text, subnet: nil, subnet6: nil)
            if let field = try element.optional("subnet") {
                network.subnet = try field.parsed("a subnet such as 10.0.0.0/24")
            }
            if let field = try element.optional("subnet6") {
                network.subnet6 = try field.parsed("a subnet such as fd00::/64")
            }
            networks.append(network)
        }
        hasLastWord = try view.required("lastWord").bool()
    }
}
