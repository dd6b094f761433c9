// SPDX-License-Identifier: Apache-2.0

internal import FabricAPI
internal import GuestProtocol
internal import MachineAPI
internal import Networks
internal import Packet
internal import Wire

/// A machine's place in its network: held by the connection to the fabric, and given up by letting go of it.
package final class NetworkLease {
    private var connection: FabricConnection
    let wish: NetworkWish
    /// What the fabric gave the machine.
    let endpoint: FabricReply.Endpoint

    /// Takes the place that a machine was to have; nil where it was to have none.
    package init?(_ configuration: ContainerConfiguration) throws {
        guard let wish = configuration.network else { return nil }
        self.wish = wish
        let store = NetworkStore(definitions: wish.definitions, running: wish.running)
        connection = try FabricConnection(to: wish.network, of: store, program: wish.program)
        var attachment = FabricRequest.Attachment(id: configuration.id, name: configuration.name)
        attachment.hardwareAddress = wish.hardwareAddress
        attachment.address = wish.address
        attachment.address6 = wish.address6
        attachment.aliases = wish.aliases
        if configuration.process.hostname != configuration.name {
            attachment.aliases.append(configuration.process.hostname)
        }
        attachment.published = wish.published
        attachment.egress = wish.egress
        attachment.isEgressAudited = wish.isEgressAudited
        guard case .attached(let endpoint) = try connection.ask(.attach(attachment)) else {
            throw NetworkError.malformed("the answer of network \(wish.network)", "it does not say what it attached")
        }
        self.endpoint = endpoint
    }

    /// The machine's interface, as its monitor has it.
    var interface: NetworkInterface {
        NetworkInterface(
            identifier: "eth0", peer: .socket(endpoint.socketPath),
            guestMAC: MachineAPI.MACAddress("\(endpoint.hardwareAddress)"), mtu: UInt16(clamping: endpoint.mtu))
    }

    /// The interface, as the guest is to set it up.
    /// - Parameter slot: where it was put after the guest's kernel had looked; nil where it was there before.
    func settings(slot: Int?) -> InterfaceSettings {
        var settings = InterfaceSettings(hardwareAddress: endpoint.hardwareAddress.bytes)
        settings.slot = slot.map { UInt8(truncatingIfNeeded: $0) }
        settings.mtu = endpoint.mtu
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
        for line in wish.hosts { text += "\(line)\n" }
        return text
    }

    /// What `inspect` shows.
    var json: JSON { endpoint.json }
}
