// SPDX-License-Identifier: Apache-2.0

package import FabricAPI
internal import GuestProtocol
internal import Packet
internal import Wire

/// A machine's place in its network: what was asked, and what the fabric gave.
package struct NetworkPlace: Sendable {
    package internal(set) var wish: NetworkWish
    package let endpoint: FabricReply.Endpoint
    /// The host's device, where it is in the host's own network.
    var device: String?
    /// What stands for its addresses on the host's bridge, where it has a namespace of its own.
    var outside: IPv4Address?
    var outside6: IPv6Address?

    /// The interface, as the guest is to set it up.
    /// - Parameter slot: where it was put after the guest's kernel had looked; nil where it was there before.
    /// - Parameter leads: its gateways are the way to all other networks.
    func settings(slot: Int?, leads: Bool) -> InterfaceSettings {
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
        guard leads else { return settings }
        if let gateway = endpoint.gateway { settings.gateways.append(gateway.bytes) }
        if let gateway = endpoint.gateway6 { settings.gateways.append(gateway.bytes) }
        return settings
    }

    /// What `inspect` shows.
    var json: JSON {
        var object = JSONObject()
        object["name"] = .string(wish.network)
        object["interface"] = .string(wish.interfaceName)
        object["device"] = device.map { .string($0) }
        object["outsideAddress"] = outside.map { .string("\($0)") }
        object["outsideAddress6"] = outside6.map { .string("\($0)") }
        guard let known = endpoint.json.objectValue else { return .object(object) }
        for (name, value) in zip(known.names, known.values) where device == nil || name != "socket" {
            object[name] = value
        }
        return .object(object)
    }
}
