// SPDX-License-Identifier: Apache-2.0

package import Packet
package import Wire

/// What a client asks of a fabric (Docs/FABRIC-CONTROL.md).
package enum FabricRequest: Equatable, Sendable {
    /// Makes a machine an endpoint of the network, for as long as this connection lasts.
    case attach(Attachment)
    /// Ends an endpoint that this connection attached, by its machine's id.
    case detach(id: String)
    /// Adds to what reaches a machine from the host.
    case publish(id: String, [PublishedPorts])
    /// Replaces the egress rules of an endpoint.
    case setEgress(id: String, [EgressRule], isAudited: Bool)
    /// Says in which other networks an endpoint's machine is; nil for none.
    case setOthers(id: String, OtherNetworks?)
    /// Replaces the egress rules that hold for every endpoint of the network, beside its own.
    case setPolicy([EgressRule], isAudited: Bool)
    /// Said first on a machine's own connection to its gateway (`FabricRequest.insidePort`): it is who was attached with
    /// this token. From then on it may publish ports of its own, for as long as that connection lasts.
    case present(token: String)
    /// Ends the fabric, if it has no endpoint.
    case end
    /// Asks for the table and the counters.
    case inspect
    /// Has frames written, as pcapng, to the descriptor that comes with the request, until its reader goes.
    /// - Parameter id: a machine's; nil for the whole network.
    case capture(id: String?)

    /// A request's longest text, in bytes.
    package static let sizeLimit = 65_536
    /// The port of the gateway's address where a machine that has a token is served.
    package static let insidePort: UInt16 = 791

    /// A machine that is to be an endpoint.
    package struct Attachment: Equatable, Sendable {
        /// The machine's; an endpoint that has it already is replaced if its connection is gone.
        package var id: String
        /// What its neighbours call it.
        package var name: String
        package var aliases: [String] = []
        /// Addresses that were asked for; the fabric chooses where they are nil.
        package var hardwareAddress: MACAddress?
        package var address: IPv4Address?
        package var address6: IPv6Address?
        package var published: [PublishedPorts] = []
        package var egress: [EgressRule] = []
        /// Egress rules are only counted and told of, nothing is denied.
        package var isEgressAudited = false
        /// It may reach the host's own loopback.
        package var hasHostAccess = false
        /// It may publish ports of its own by this, 32 to 128 letters and digits; nil where it may not.
        package var token: String?
        /// The other networks in which it is; nil for none.
        package var others: OtherNetworks?

        package static let listLimit = 256

        package init(id: String, name: String) {
            self.id = id
            self.name = name
        }
    }

    // MARK: - JSON

    package var json: JSON {
        var object = JSONObject()
        switch self {
        case .attach(let attachment):
            object["do"] = "attach"
            attachment.write(to: &object)
        case .detach(let id):
            object["do"] = "detach"
            object["id"] = .string(id)
        case .publish(let id, let ports):
            object["do"] = "publish"
            object["id"] = .string(id)
            object["published"] = .array(ports.map(\.json))
        case .setEgress(let id, let rules, let isAudited):
            object["do"] = "set-egress"
            object["id"] = .string(id)
            object["egress"] = .array(rules.map(\.json))
            object["egressAudit"] = .bool(isAudited)
        case .setOthers(let id, let others):
            object["do"] = "set-others"
            object["id"] = .string(id)
            object["others"] = others?.json
        case .setPolicy(let rules, let isAudited):
            object["do"] = "set-policy"
            object["egress"] = .array(rules.map(\.json))
            object["egressAudit"] = .bool(isAudited)
        case .present(let token):
            object["do"] = "present"
            object["token"] = .string(token)
        case .end: object["do"] = "end"
        case .inspect: object["do"] = "inspect"
        case .capture(let id):
            object["do"] = "capture"
            object["id"] = id.map { .string($0) }
        }
        return .object(object)
    }

    package init(_ json: JSON) throws(JSONMismatch) {
        let view = JSONView(json)
        let verb = try view.required("do")
        switch try verb.string() {
        case "attach": self = .attach(try Attachment(view))
        case "detach":
            try view.requireMembers(among: ["do", "id"])
            self = .detach(id: try view.identifier())
        case "publish":
            try view.requireMembers(among: ["do", "id", "published"])
            self = .publish(id: try view.identifier(), try view.required("published").published())
        case "set-egress":
            try view.requireMembers(among: ["do", "id", "egress", "egressAudit"])
            self = .setEgress(
                id: try view.identifier(), try view.required("egress").egress(),
                isAudited: try view.optional("egressAudit")?.bool() ?? false)
        case "set-others":
            try view.requireMembers(among: ["do", "id", "others"])
            self = .setOthers(id: try view.identifier(), try view.others())
        case "set-policy":
            try view.requireMembers(among: ["do", "egress", "egressAudit"])
            self = .setPolicy(
                try view.required("egress").egress(), isAudited: try view.optional("egressAudit")?.bool() ?? false)
        case "present":
            try view.requireMembers(among: ["do", "token"])
            self = .present(token: try view.required("token").token())
        case "end":
            try view.requireMembers(among: ["do"])
            self = .end
        case "inspect":
            try view.requireMembers(among: ["do"])
            self = .inspect
        case "capture":
            try view.requireMembers(among: ["do", "id"])
            self = .capture(id: try view.optional("id") == nil ? nil : try view.identifier())
        case let other:
            throw verb.mismatch(
                "\"\(other)\" is none of attach, detach, publish, set-egress, set-others, set-policy, inspect, capture, "
                    + "present, end")
        }
    }
}

extension FabricRequest.Attachment {
    fileprivate func write(to object: inout JSONObject) {
        object["id"] = .string(id)
        object["name"] = .string(name)
        if !aliases.isEmpty { object["aliases"] = .array(aliases.map { .string($0) }) }
        object["mac"] = hardwareAddress.map { .string("\($0)") }
        object["address"] = address.map { .string("\($0)") }
        object["address6"] = address6.map { .string("\($0)") }
        if !published.isEmpty { object["published"] = .array(published.map(\.json)) }
        if !egress.isEmpty { object["egress"] = .array(egress.map(\.json)) }
        if isEgressAudited { object["egressAudit"] = true }
        if hasHostAccess { object["hostAccess"] = true }
        object["token"] = token.map { .string($0) }
        object["others"] = others?.json
    }

    fileprivate init(_ view: JSONView) throws(JSONMismatch) {
        try view.requireMembers(among: [
            "do", "id", "name", "aliases", "mac", "address", "address6", "published", "egress", "egressAudit",
            "hostAccess", "token", "others",
        ])
        self.init(id: try view.identifier(), name: try view.required("name").hostName())
        if let field = try view.optional("aliases") {
            let elements = try field.elements()
            guard elements.count <= Self.listLimit else { throw field.mismatch("\(Self.listLimit) are the most") }
            for element in elements { aliases.append(try element.hostName()) }
        }
        if let field = try view.optional("mac") {
            let address: MACAddress = try field.parsed("an Ethernet address such as 02:00:5e:00:53:01")
            guard !address.isMulticast else { throw field.mismatch("\(address) is a group's address") }
            hardwareAddress = address
        }
        if let field = try view.optional("address") { address = try field.parsed("an IPv4 address") }
        if let field = try view.optional("address6") { address6 = try field.parsed("an IPv6 address") }
        if let field = try view.optional("published") { published = try field.published() }
        if let field = try view.optional("egress") { egress = try field.egress() }
        isEgressAudited = try view.optional("egressAudit")?.bool() ?? false
        hasHostAccess = try view.optional("hostAccess")?.bool() ?? false
        if let field = try view.optional("token") { token = try field.token() }
        others = try view.others()
    }
}

extension JSONView {
    fileprivate func others() throws(JSONMismatch) -> OtherNetworks? {
        guard let field = try optional("others") else { return nil }
        return try OtherNetworks(field)
    }

    /// What a machine shows to be let publish: 32 to 128 letters and digits.
    fileprivate func token() throws(JSONMismatch) -> String {
        let text = try string()
        let isGood = text.utf8.allSatisfy { byte in
            byte >= 0x30 && byte <= 0x39 || byte | 0x20 >= 0x61 && byte | 0x20 <= 0x7A
        }
        guard isGood, (32...128).contains(text.utf8.count) else { throw mismatch("that is no token") }
        return text
    }

    /// A machine's id: 1 to 64 letters, digits and '-'.
    fileprivate func identifier() throws(JSONMismatch) -> String {
        let field = try required("id")
        let text = try field.string()
        let isGood = text.utf8.allSatisfy { byte in
            byte >= 0x30 && byte <= 0x39 || byte | 0x20 >= 0x61 && byte | 0x20 <= 0x7A || byte == 0x2D
        }
        guard isGood, (1...64).contains(text.utf8.count) else { throw field.mismatch("\"\(text)\" is no machine's id") }
        return text
    }

    /// A name that a machine has in its network: at most 128 letters, digits, '_', '.', '-'.
    fileprivate func hostName() throws(JSONMismatch) -> String {
        let text = try string()
        let isGood = text.utf8.allSatisfy { byte in
            byte >= 0x30 && byte <= 0x39 || byte | 0x20 >= 0x61 && byte | 0x20 <= 0x7A
                || [0x2D, 0x2E, 0x5F].contains(byte)
        }
        guard isGood, (1...128).contains(text.utf8.count) else { throw mismatch("\"\(text)\" is no name of a machine") }
        return text
    }

    fileprivate func published() throws(JSONMismatch) -> [PublishedPorts] {
        let elements = try elements()
        guard elements.count <= FabricRequest.Attachment.listLimit else {
            throw mismatch("\(FabricRequest.Attachment.listLimit) are the most")
        }
        var result: [PublishedPorts] = []
        for element in elements { result.append(try PublishedPorts(element)) }
        return result
    }

    func egress() throws(JSONMismatch) -> [EgressRule] {
        let elements = try elements()
        guard elements.count <= FabricRequest.Attachment.listLimit else {
            throw mismatch("\(FabricRequest.Attachment.listLimit) are the most")
        }
        var result: [EgressRule] = []
        for element in elements { result.append(try EgressRule(element)) }
        return result
    }
}
