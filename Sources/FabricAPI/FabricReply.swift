// SPDX-License-Identifier: Apache-2.0

package import Packet
package import Wire

/// What a fabric answers, one reply a request, in order.
package enum FabricReply: Equatable, Sendable {
    /// The machine is an endpoint.
    case attached(Endpoint)
    /// It is done.
    case done
    /// Ports that are published now, with the numbers that were chosen.
    case published([PublishedPorts])
    /// The table and the counters, in the form that `martlet network inspect` shows.
    case inspected(JSON)
    /// It is not done, and nothing has changed.
    case refused(Refusal, String)

    package enum Refusal: String, CaseIterable, Sendable {
        /// The request is not one.
        case malformed
        /// An address, a name or a port that something else has.
        case taken
        /// The host does not permit it, for example a port below 1024.
        case forbidden
        /// There is no such endpoint.
        case unknown
        /// The network has no free address, or the fabric no place.
        case full
        /// A call of the system failed.
        case failed
    }

    /// What a machine needs to know of itself.
    package struct Endpoint: Equatable, Sendable {
        /// Where the monitor connects its network device (Docs/NET-SOCKET.md).
        package var socketPath: String
        package var hardwareAddress: MACAddress
        package var mtu: UInt32
        package var address: IPv4Address?
        package var prefixLength: UInt8 = 0
        package var gateway: IPv4Address?
        package var address6: IPv6Address?
        package var prefixLength6: UInt8 = 0
        package var gateway6: IPv6Address?
        /// The servers of DNS, as /etc/resolv.conf has them.
        package var nameServers: [String] = []
        package var searchDomains: [String] = []
        /// With the numbers that were chosen where any was right.
        package var published: [PublishedPorts] = []

        package init(socketPath: String, hardwareAddress: MACAddress, mtu: UInt32) {
            self.socketPath = socketPath
            self.hardwareAddress = hardwareAddress
            self.mtu = mtu
        }
    }

    /// A reply's longest text, in bytes.
    package static let sizeLimit = 16 << 20

    package var json: JSON {
        var object = JSONObject()
        switch self {
        case .attached(let endpoint): object["attached"] = endpoint.json
        case .done: object["done"] = true
        case .published(let ports): object["published"] = .array(ports.map(\.json))
        case .inspected(let value): object["inspected"] = value
        case .refused(let refusal, let reason):
            object["refused"] = .string(refusal.rawValue)
            object["reason"] = .string(reason)
        }
        return .object(object)
    }

    package init(_ json: JSON) throws(JSONMismatch) {
        let view = JSONView(json)
        if let field = try view.optional("attached") {
            self = .attached(try Endpoint(field))
        } else if let field = try view.optional("published") {
            var ports: [PublishedPorts] = []
            for element in try field.elements() { ports.append(try PublishedPorts(element)) }
            self = .published(ports)
        } else if let field = try view.optional("inspected") {
            self = .inspected(field.value)
        } else if let field = try view.optional("refused") {
            let refusal = Refusal(rawValue: try field.string()) ?? .failed
            self = .refused(refusal, try view.required("reason").string())
        } else {
            _ = try view.required("done").bool()
            self = .done
        }
    }
}

extension FabricReply.Endpoint {
    package var json: JSON {
        var object = JSONObject()
        object["socket"] = .string(socketPath)
        object["mac"] = .string("\(hardwareAddress)")
        object["mtu"] = .number(mtu)
        if let address {
            object["address"] = .string("\(address)")
            object["prefixLength"] = .number(prefixLength)
        }
        object["gateway"] = gateway.map { .string("\($0)") }
        if let address6 {
            object["address6"] = .string("\(address6)")
            object["prefixLength6"] = .number(prefixLength6)
        }
        object["gateway6"] = gateway6.map { .string("\($0)") }
        object["nameServers"] = .array(nameServers.map { .string($0) })
        object["searchDomains"] = .array(searchDomains.map { .string($0) })
        object["published"] = .array(published.map(\.json))
        return .object(object)
    }

    package init(_ view: JSONView) throws(JSONMismatch) {
        self.init(
            socketPath: try view.required("socket").string(),
            hardwareAddress: try view.required("mac").parsed("an Ethernet address"),
            mtu: UInt32(try view.required("mtu").unsigned(in: 576...65_535)))
        if let field = try view.optional("address") {
            address = try field.parsed("an IPv4 address")
            prefixLength = UInt8(try view.required("prefixLength").unsigned(in: 0...32))
        }
        if let field = try view.optional("gateway") { gateway = try field.parsed("an IPv4 address") }
        if let field = try view.optional("address6") {
            address6 = try field.parsed("an IPv6 address")
            prefixLength6 = UInt8(try view.required("prefixLength6").unsigned(in: 0...128))
        }
        if let field = try view.optional("gateway6") { gateway6 = try field.parsed("an IPv6 address") }
        for element in try view.optional("nameServers")?.elements() ?? [] { nameServers.append(try element.string()) }
        for element in try view.optional("searchDomains")?.elements() ?? [] {
            searchDomains.append(try element.string())
        }
        for element in try view.optional("published")?.elements() ?? [] {
            published.append(try PublishedPorts(element))
        }
    }
}
