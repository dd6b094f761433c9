// SPDX-License-Identifier: Apache-2.0

package import Packet
package import Wire

/// Ports of a machine that are reached at ports of the host, one after another.
package struct PublishedPorts: Equatable, Hashable, Sendable {
    package enum Transport: String, CaseIterable, Sendable {
        case tcp, udp
    }

    /// Where the host listens.
    package enum HostAddress: Equatable, Hashable, Sendable {
        /// Every address that the host has, of IPv4 and of IPv6.
        case any
        case v4(IPv4Address)
        case v6(IPv6Address)
    }

    package var transport: Transport
    package var hostAddress: HostAddress
    /// The host's first port; 0 for any that is free.
    package var hostPort: UInt16
    /// The machine's first port.
    package var machinePort: UInt16
    /// How many, from 1.
    package var count: UInt16
    /// The client's address is told to the machine's server in a PROXY protocol header (version 2) before all else.
    package var tellsClientAddress = false

    package init(
        transport: Transport, hostAddress: HostAddress, hostPort: UInt16, machinePort: UInt16, count: UInt16 = 1
    ) {
        self.transport = transport
        self.hostAddress = hostAddress
        self.hostPort = hostPort
        self.machinePort = machinePort
        self.count = count
    }

    package struct Problem: Error, Equatable, Sendable, CustomStringConvertible {
        package let description: String
    }

    /// Reads what `docker run -p` takes: `[ADDRESS:][HOSTPORT[-END]:]PORT[-END][/tcp|/udp]`, an IPv6 address in
    /// brackets; `/proxy` behind that tells the client's address.
    package init(parsing text: String) throws(Problem) {
        func bad(_ reason: String) -> Problem {
            Problem(description: "'\(text)' is not [ADDRESS:][HOSTPORT:]PORT[/tcp|/udp]: \(reason)")
        }
        var words = text.split(separator: "/", omittingEmptySubsequences: false)
        let ports = words.removeFirst()
        var transport = Transport.tcp
        if let word = words.first, let known = Transport(rawValue: String(word)) {
            transport = known
            words.removeFirst()
        }
        let tellsClientAddress = words.first == "proxy"
        if tellsClientAddress { words.removeFirst() }
        if let word = words.first { throw bad("there is nothing like /\(word)") }
        guard !tellsClientAddress || transport == .tcp else { throw bad("/proxy is for TCP") }

        var rest = ports
        var parts: [Substring] = []
        var address: HostAddress = .any
        if rest.first == "[" {
            guard let end = rest.firstIndex(of: "]"), let value = IPv6Address(String(rest[..<end].dropFirst())) else {
                throw bad("no IPv6 address stands in the brackets")
            }
            address = .v6(value)
            rest = rest[rest.index(after: end)...]
            guard rest.first == ":" else { throw bad("a colon and a port are missing behind the address") }
            parts = rest.dropFirst().split(separator: ":", omittingEmptySubsequences: false)
        } else {
            parts = rest.split(separator: ":", omittingEmptySubsequences: false)
            if parts.count == 3 {
                let word = parts.removeFirst()
                guard let value = IPv4Address(String(word)) else {
                    throw bad("'\(word)' is no IPv4 address; IPv6 stands in brackets")
                }
                address = .v4(value)
            }
        }
        guard let last = parts.last, parts.count <= 2 else { throw bad("there are too many colons") }
        guard let inside = Self.range(last), inside.lowerBound > 0 else {
            throw bad("'\(last)' is no port from 1 to 65535, and no range of them")
        }
        var hostPort: UInt16 = 0
        if parts.count == 2, !parts[0].isEmpty {
            guard let outside = Self.range(parts[0]) else {
                throw bad("'\(parts[0])' is no port from 0 to 65535, and no range of them")
            }
            guard outside.count == inside.count else {
                throw bad("the ranges have \(outside.count) and \(inside.count) ports")
            }
            guard outside.lowerBound > 0 || outside.count == 1 else { throw bad("a range begins at port 1 or above") }
            hostPort = outside.lowerBound
        }
        self.init(
            transport: transport, hostAddress: address, hostPort: hostPort, machinePort: inside.lowerBound,
            count: UInt16(inside.count))
        self.tellsClientAddress = tellsClientAddress
    }

    private static func range(_ text: Substring) -> ClosedRange<UInt16>? {
        let ends = text.split(separator: "-", omittingEmptySubsequences: false)
        guard ends.count <= 2, let first = ends.first.flatMap(port), let last = ends.last.flatMap(port),
            first <= last, last - first < UInt16.max
        else { return nil }
        return first...last
    }

    private static func port(_ text: Substring) -> UInt16? {
        guard !text.isEmpty, text.utf8.count <= 5, text.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }) else {
            return nil
        }
        return UInt16(text)
    }

    // MARK: - JSON

    package var json: JSON {
        var object = JSONObject()
        object["transport"] = .string(transport.rawValue)
        switch hostAddress {
        case .any: break
        case .v4(let address): object["address"] = .string("\(address)")
        case .v6(let address): object["address"] = .string("\(address)")
        }
        object["hostPort"] = .number(hostPort)
        object["port"] = .number(machinePort)
        if count != 1 { object["count"] = .number(count) }
        if tellsClientAddress { object["proxy"] = true }
        return .object(object)
    }

    package init(_ view: JSONView) throws(JSONMismatch) {
        try view.requireMembers(among: ["transport", "address", "hostPort", "port", "count", "proxy"])
        let word = try view.required("transport").word(among: Transport.allCases.map(\.rawValue))
        var address = HostAddress.any
        if let field = try view.optional("address") {
            let text = try field.string()
            if let value = IPv4Address(text) {
                address = .v4(value)
            } else if let value = IPv6Address(text) {
                address = .v6(value)
            } else {
                throw field.mismatch("\"\(text)\" is not an IP address")
            }
        }
        let hostPort = try view.required("hostPort").unsigned(in: 0...65_535)
        let port = try view.required("port").unsigned(in: 1...65_535)
        let count = try view.optional("count")?.unsigned(in: 1...65_535) ?? 1
        guard max(hostPort, port) + count <= 65_536, hostPort > 0 || count == 1 else {
            throw view.mismatch("\(count) ports from there go beyond 65535")
        }
        self.init(
            transport: Transport(rawValue: word) ?? .tcp, hostAddress: address, hostPort: UInt16(hostPort),
            machinePort: UInt16(port), count: UInt16(count))
        tellsClientAddress = try view.optional("proxy")?.bool() ?? false
    }
}

extension PublishedPorts: CustomStringConvertible {
    /// As `docker ps` shows it: `0.0.0.0:8080->80/tcp`.
    package var description: String {
        let address =
            switch hostAddress {
            case .any: "0.0.0.0"
            case .v4(let address): "\(address)"
            case .v6(let address): "[\(address)]"
            }
        func range(_ first: UInt16) -> String {
            count == 1 ? "\(first)" : "\(first)-\(UInt32(first) + UInt32(count) - 1)"
        }
        return "\(address):\(range(hostPort))->\(range(machinePort))/\(transport.rawValue)"
    }
}
