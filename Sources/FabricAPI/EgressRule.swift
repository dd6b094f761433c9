// SPDX-License-Identifier: Apache-2.0

package import Packet
package import Wire

/// One rule of what a machine may reach outside of its network. The first that fits decides; where there is a rule that
/// allows, what fits none is denied, else it is allowed.
package struct EgressRule: Equatable, Sendable {
    package enum Target: Equatable, Sendable {
        case everything
        case v4(IPv4Prefix)
        case v6(IPv6Prefix)
        /// The addresses that DNS gave for a name, for as long as it said they hold. `*.example.org` is every name below
        /// `example.org`, not itself. In small letters.
        case name(String)
    }

    package var allows: Bool
    package var target: Target
    /// TCP's and UDP's; nil for all.
    package var port: UInt16?

    package init(allows: Bool, target: Target, port: UInt16? = nil) {
        self.allows = allows
        self.target = target
        self.port = port
    }

    package struct Problem: Error, Equatable, Sendable, CustomStringConvertible {
        package let description: String
    }

    /// Reads one of `allow=TARGET[:PORT]`, `deny=TARGET[:PORT]` and `name=NAME[:PORT]`, which allows; a target is a
    /// CIDR, an address (IPv6 with a port stands in brackets), a name or `all`.
    package init(parsing text: String) throws(Problem) {
        let halves = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        guard halves.count == 2, ["allow", "deny", "name"].contains(halves[0]) else {
            throw Problem(description: "'\(text)' is not allow=…, deny=… or name=…")
        }
        allows = halves[0] != "deny"
        var target = String(halves[1])
        port = nil
        if target.hasPrefix("[") {
            guard let end = target.firstIndex(of: "]") else { throw Problem(description: "'\(text)': ] is missing") }
            let behind = target[target.index(after: end)...]
            if !behind.isEmpty {
                guard behind.hasPrefix(":"), let number = UInt16(behind.dropFirst()), number > 0 else {
                    throw Problem(description: "'\(text)': '\(behind)' is not :PORT")
                }
                port = number
            }
            target = String(target[..<end].dropFirst())
        } else if let colon = target.lastIndex(of: ":"), target.firstIndex(of: ":") == colon {
            guard let number = UInt16(target[target.index(after: colon)...]), number > 0 else {
                throw Problem(description: "'\(text)': '\(target[colon...])' is not :PORT")
            }
            port = number
            target = String(target[..<colon])
        }
        if halves[0] != "name" {
            if target == "all" {
                self.target = .everything
                return
            }
            if let prefix = IPv4Prefix(target) {
                self.target = .v4(prefix)
                return
            }
            if let prefix = IPv6Prefix(target) {
                self.target = .v6(prefix)
                return
            }
        }
        guard let name = Self.name(target) else {
            throw Problem(description: "'\(text)': '\(target)' is not a CIDR, an address, a name or all")
        }
        self.target = .name(name)
    }

    /// The name in small letters; nil for what is none.
    private static func name(_ text: String) -> String? {
        let lower = text.lowercased()
        let plain = lower.hasPrefix("*.") ? lower.dropFirst(2) : Substring(lower)
        let labels = plain.split(separator: ".", omittingEmptySubsequences: false)
        let isGood = labels.allSatisfy { label in
            (1...63).contains(label.utf8.count)
                && label.utf8.allSatisfy {
                    $0 >= 0x61 && $0 <= 0x7A || $0 >= 0x30 && $0 <= 0x39 || $0 == 0x2D || $0 == 0x5F
                }
        }
        // What ends in a number is a mistyped address rather than a name.
        guard isGood, plain.utf8.count <= 253, UInt64(labels.last ?? "") == nil else { return nil }
        return lower
    }

    package var json: JSON {
        var object = JSONObject()
        object["allow"] = .bool(allows)
        switch target {
        case .everything: object["target"] = "all"
        case .v4(let prefix): object["target"] = .string("\(prefix)")
        case .v6(let prefix): object["target"] = .string("\(prefix)")
        case .name(let name): object["name"] = .string(name)
        }
        object["port"] = port.map { .number($0) }
        return .object(object)
    }

    package init(_ view: JSONView) throws(JSONMismatch) {
        try view.requireMembers(among: ["allow", "target", "name", "port"])
        allows = try view.required("allow").bool()
        if let field = try view.optional("port") { port = UInt16(try field.unsigned(in: 1...65_535)) }
        if let field = try view.optional("name") {
            guard let name = Self.name(try field.string()) else { throw field.mismatch("this is no name of DNS") }
            target = .name(name)
            return
        }
        let field = try view.required("target")
        let text = try field.string()
        if text == "all" {
            target = .everything
        } else if let prefix = IPv4Prefix(text) {
            target = .v4(prefix)
        } else if let prefix = IPv6Prefix(text) {
            target = .v6(prefix)
        } else {
            throw field.mismatch("\"\(text)\" is not a CIDR, an address or all")
        }
    }
}

extension EgressRule: CustomStringConvertible {
    /// As `init(parsing:)` reads it.
    package var description: String {
        let verb = allows ? "allow" : "deny"
        let place =
            switch target {
            case .everything: "all"
            case .v4(let prefix): "\(prefix)"
            case .v6(let prefix): port == nil ? "\(prefix)" : "[\(prefix)]"
            case .name(let name): name
            }
        return "\(verb)=\(place)\(port.map { ":\($0)" } ?? "")"
    }
}
