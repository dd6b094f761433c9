// SPDX-License-Identifier: Apache-2.0

internal import Packet

/// ARP never crosses the fabric: who has an address is known, and said on behalf of its owner. So no machine can say it
/// of another.
extension Router {
    mutating func receiveARP(
        _ ethernet: borrowing EthernetView, _ arrival: Arrival, _ reply: inout MutableRawSpan
    ) -> Decision {
        guard let packet = ARPView(ethernet.payload) else { return .verdict(.drop(.malformedARP)) }
        let sender = arrival.sender
        guard packet.senderMAC == sender.mac, packet.senderAddress == sender.ipv4 || packet.senderAddress == .any else {
            return .verdict(.drop(.spoofedARP))
        }
        guard packet.operation == ARPPacket.request else { return .verdict(.drop(.announcement)) }
        let target = packet.targetAddress
        // About itself: whether anybody else has the address (RFC 5227), or that it has it now.
        guard target != sender.ipv4 else { return .verdict(.drop(.announcement)) }
        let owner: MACAddress
        if target == arrival.link.gateway {
            owner = Network.gatewayMAC
        } else if let peer = table.endpoint(target, in: sender.network) {
            owner = table.facts[peer].mac
        } else if packet.senderAddress == .any {
            // It is about to take an address that it was not given: say that it is in use.
            ports[arrival.port].counters[.spoofedARP] &+= 1
            owner = Network.gatewayMAC
        } else {
            return .verdict(.drop(.noSuchNeighbor))
        }
        VirtioNetHeader().write(to: &reply, at: 0)
        EthernetHeader(destination: sender.mac, source: owner, type: EtherType.arp).write(
            to: &reply, at: FrameLayout.frame)
        ARPPacket(
            operation: ARPPacket.reply, senderMAC: owner, senderAddress: target, targetMAC: sender.mac,
            targetAddress: packet.senderAddress
        ).write(to: &reply, at: FrameLayout.packet)
        return .verdict(.reply(FrameLayout.packet + ARPPacket.length))
    }
}
