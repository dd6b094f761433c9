// SPDX-License-Identifier: Apache-2.0

package import FabricAPI
internal import GuestProtocol
internal import Packet
internal import Wire

/// A machine's place in its network: what was asked, and what the fabric gave.
package struct NetworkPlace: Sendable {
    let wish: NetworkWish
    package let endpoint: FabricReply.Endpoint
    /// The host's device, where it is in the host's own network.
    var device: String?

    /// The interface, as the guest is to set it up.
    /// - Parameter slot: where it was put after the guest's kernel had looked; nil where it was there before.
    func settings(slot: Int?) -> InterfaceSettings {
        var settings = InterfaceSettings(hardwareAddress: endpoint.hardwareAddress.bytes)
        settings.slot = slot.map { UInt8(truncatingIfNeeded: $0) }
        settings.mtu = min(endpoint.mtu, wish.mtu)
        settings.formerAddress = wish.formerHardwareAddress?.bytes
        if let address = endpoint.address,
            let own = InterfaceSettings.Address(bytes: address.bytes, prefixLength: endpoint.prefixLength)
        {
            settings.addresses.append(own)
        }
        if let address = endpoint.address6,
            let own = InterfaceSettings.Address(bytes: address.bytes, prefixLength: endpoint.prefixLength6)
        {
            settings.addresses.append(own)
        }
        if let gateway = endpoint.gateway { settings.gateways.append(gateway.bytes) }
        if let gateway = endpoint.gateway6 { settings.gateways.append(gateway.bytes) }
        return settings
    }

    /// What the container finds in /etc/resolv.conf.
    var resolvConf: [UInt8] {
        var text = ""
        let search = wish.searchDomains + endpoint.searchDomains
        if !search.isEmpty { text += "search \(search.joined(separator: " "))\n" }
        for server in wish.nameServers.isEmpty ? endpoint.nameServers : wish.nameServers {
            text += "nameserver \(server)\n"
        }
        return Array(text.utf8)
    }

    /// Lines for /etc/hosts beside those of loopback.
    func hosts(hostname: String) -> String {
        var text = ""
        if let address = endpoint.address {
            text += "\(address)\t\(hostname)\n"
        } else if let address = endpoint.address6 {
            text += "\(address)\t\(hostname)\n"
        }
        if wish.hasHostAccess { text += "198.19.255.254\thost.martlet.internal\n" }
        for line in wish.hosts { text += "\(line)\n" }
        return text
    }

    /// What `inspect` shows.
    var json: JSON {
        guard let device, let known = endpoint.json.objectValue else { return endpoint.json }
        var object = JSONObject()
        object["device"] = .string(device)
        for (name, value) in zip(known.names, known.values) where name != "socket" { object[name] = value }
        return .object(object)
    }
}
