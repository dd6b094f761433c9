// SPDX-License-Identifier: Apache-2.0

package import FabricAPI
package import Packet
internal import Platform
package import Wire

/// The host that this one is a machine of, where it lets this one publish ports: what an emulated host finds in its
/// runtime directory. Published ports are then those of that host, where their user is.
package struct OuterHost: Equatable, Sendable {
    /// This host's address in the network between the two, and its gateway there, which is asked.
    package var address: IPv4Address
    package var gateway: IPv4Address
    package var port: UInt16 = FabricRequest.insidePort
    /// By which the gateway knows this host from the machines in it.
    package var token: String
    /// Where its loopback is reached from here.
    package var loopback: IPv4Address

    package init(address: IPv4Address, gateway: IPv4Address, token: String, loopback: IPv4Address) {
        self.address = address
        self.gateway = gateway
        self.token = token
        self.loopback = loopback
    }

    package var json: JSON {
        var object = JSONObject()
        object["address"] = .string("\(address)")
        object["gateway"] = .string("\(gateway)")
        object["port"] = .number(port)
        object["token"] = .string(token)
        object["loopback"] = .string("\(loopback)")
        return .object(object)
    }

    package init(_ json: JSON) throws(JSONMismatch) {
        let view = JSONView(json)
        address = try view.required("address").parsed("an IPv4 address")
        gateway = try view.required("gateway").parsed("an IPv4 address")
        port = UInt16(try view.required("port").unsigned(in: 1...65_535))
        token = try view.required("token").string()
        loopback = try view.required("loopback").parsed("an IPv4 address")
    }

    /// Its file's name, in the user's runtime directory.
    package static let fileName = "outer-host"

    /// Ports of this host's own for ports that the outer host publishes: the same ones as far as that goes, else others
    /// from where an ordinary user may listen and the system gives none to those who only connect.
    /// - Parameter attempt: 0 for the first; the others draw from `random`.
    package func inside(_ ports: PublishedPorts, attempt: Int, random: UInt64) -> PublishedPorts {
        var result = ports
        result.hostAddress = .v4(address)
        result.tellsClientAddress = false
        if attempt == 0, ports.hostPort >= 1024 { return result }
        let most = 65_536 - UInt64(ports.count)
        let least: UInt64 = most > 1024 ? 1024 : 1
        let end = ports.count < 10_000 ? min(most, 32_768 - UInt64(ports.count)) : most
        result.hostPort = UInt16(least + random % max(1, end - least + 1))
        return result
    }
}

extension NetworkStore {
    /// The host that this one is a machine of; nil where it is none, or may publish nothing.
    package var outerHost: OuterHost? {
        let path = "\(splitPath(running).directory)/\(OuterHost.fileName)"
        guard let bytes = try? Files.read(path, limit: 4096), let json = try? JSON(parsing: bytes) else { return nil }
        return try? OuterHost(json)
    }
}
