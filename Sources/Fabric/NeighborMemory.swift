// SPDX-License-Identifier: Apache-2.0

package import Packet

/// That an address is another station's now, said to all who may remember the one before: a gratuitous ARP
/// (RFC 5227 §3) or an unsolicited neighbour advertisement (RFC 4861 §7.2.6), on behalf of the new owner.
package struct Announcement: Equatable, Sendable {
    package let address: IPAddress
    package let mac: MACAddress

    /// Writes the record and gives its length.
    package func write(to record: inout MutableRawSpan) -> Int {
        VirtioNetHeader().write(to: &record, at: 0)
        switch address {
        case .v4(let address):
            EthernetHeader(destination: .broadcast, source: mac, type: EtherType.arp).write(
                to: &record, at: FrameLayout.frame)
            ARPPacket(
                operation: ARPPacket.request, senderMAC: mac, senderAddress: address, targetMAC: .zero,
                targetAddress: address
            ).write(to: &record, at: FrameLayout.packet)
            return FrameLayout.packet + ARPPacket.length
        case .v6(let address):
            EthernetHeader(
                destination: MACAddress(multicast: .allNodes), source: mac, type: EtherType.ipv6
            ).write(to: &record, at: FrameLayout.frame)
            var header = IPv6Header(
                nextHeader: IPProtocol.icmpv6, source: address, destination: .allNodes,
                payloadLength: NeighborAdvertisement.length)
            header.hopLimit = 255
            header.write(to: &record, at: FrameLayout.packet)
            let start = FrameLayout.packet + IPv6Header.length
            var message = NeighborAdvertisement(target: address, mac: mac)
            message.isSolicited = false
            message.write(to: &record, at: start)
            Transport.fillChecksum(
                &record, at: start, length: NeighborAdvertisement.length, protocolNumber: IPProtocol.icmpv6,
                source: address, destination: .allNodes)
            return start + NeighborAdvertisement.length
        }
    }
}

/// Which station each address was last said to be at, beyond the time that the address is anybody's: what neighbours
/// may have in their caches. A value, without clocks; as long as two full tables.
package struct NeighborMemory: Equatable, Sendable {
    private struct Place: Hashable {
        /// By its name: numbers of networks change.
        let network: String
        let address: IPAddress
    }

    private var stations: [Place: MACAddress] = [:]
    static let limit = 2 * EndpointTable.endpointLimit

    package init() {}

    /// An endpoint of the table's has come.
    /// - Returns: what its neighbours have to be told: of each address of its that was another station's before.
    package mutating func welcome(_ endpoint: Endpoint, in table: EndpointTable) -> [Announcement] {
        var addresses: [IPAddress] = []
        if let address = endpoint.ipv4 { addresses.append(.v4(address)) }
        if let address = endpoint.ipv6 { addresses.append(.v6(address)) }
        if stations.count + addresses.count > Self.limit { forgetAllBut(table) }
        let network = table.networks[endpoint.network].name
        return addresses.compactMap { address in
            let before = stations.updateValue(endpoint.mac, forKey: Place(network: network, address: address))
            return before == nil || before == endpoint.mac ? nil : Announcement(address: address, mac: endpoint.mac)
        }
    }

    /// Keeps what is in the table, and no more.
    private mutating func forgetAllBut(_ table: EndpointTable) {
        stations.removeAll(keepingCapacity: true)
        for endpoint in table.endpoints {
            let network = table.networks[endpoint.network].name
            if let address = endpoint.ipv4 { stations[Place(network: network, address: .v4(address))] = endpoint.mac }
            if let address = endpoint.ipv6 { stations[Place(network: network, address: .v6(address))] = endpoint.mac }
        }
    }
}
