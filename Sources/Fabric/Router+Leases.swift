// SPDX-License-Identifier: Apache-2.0

internal import Packet

/// DHCP for guests that are not told their addresses otherwise. The answer is a function of the table: a machine has one
/// address for as long as it exists, so there is nothing to remember, and a client that asks for another is refused.
extension Router {
    static var leaseTimeInSeconds: UInt32 { 86_400 }

    mutating func lease(
        _ packet: borrowing IPv4View, _ arrival: Arrival, _ reply: inout MutableRawSpan
    ) -> Decision {
        guard !packet.isFragment, packet.checksumIsValid, let datagram = UDPView(packet.payload),
            arrival.header.isPartial || datagram.checksum == 0 || packet.payloadChecksumIsValid,
            let message = DHCPv4View(datagram.payload), message.isRequest, let kind = message.kind
        else { return .verdict(.drop(.malformedDHCP)) }
        let sender = arrival.sender
        guard message.clientMAC == sender.mac else { return .verdict(.drop(.spoofedMAC)) }
        guard sender.ipv4 != .any else { return .verdict(.drop(.noAddress)) }
        guard ports[arrival.port].errors.take(now: arrival.now) else { return .verdict(.drop(.errorLimit)) }

        let server = message.address(DHCPv4OptionCode.server)
        var answer = DHCPv4Reply(
            kind: DHCPv4Kind.acknowledge, transaction: message.transaction, wantsBroadcast: message.wantsBroadcast,
            yourAddress: sender.ipv4, server: arrival.link.gateway, clientMAC: sender.mac)
        answer.leaseTime = Router.leaseTimeInSeconds
        switch kind {
        case DHCPv4Kind.discover: answer.kind = DHCPv4Kind.offer
        case DHCPv4Kind.request:
            if let server, server != arrival.link.gateway { return .verdict(.drop(.notForUs)) }
            let asked = message.address(DHCPv4OptionCode.requestedAddress) ?? message.clientAddress
            if asked != sender.ipv4 {
                answer.kind = DHCPv4Kind.refuse
                answer.yourAddress = .any
                answer.leaseTime = nil
            } else {
                answer.clientAddress = message.clientAddress
            }
        case DHCPv4Kind.inform:
            guard message.clientAddress == sender.ipv4 else { return .verdict(.drop(.spoofedIPv4)) }
            answer.clientAddress = sender.ipv4
            answer.yourAddress = .any
            answer.leaseTime = nil
        default: return .verdict(.drop(.announcement))
        }
        let isRefusal = answer.kind == DHCPv4Kind.refuse
        if !isRefusal { describe(arrival, &answer) }

        let start = FrameLayout.packet + IPv4Header.length + UDPHeader.length
        var cursor = OutputCursor(from: start, to: start + 1200)
        answer.write(to: &reply, at: &cursor)
        guard !cursor.overflowed else { return .verdict(.drop(.noAddress)) }
        let length = cursor.position - start
        UDPHeader(sourcePort: 67, destinationPort: 68, payloadLength: length).write(
            to: &reply, at: start - UDPHeader.length)
        // RFC 2131 §4.1: to the address that the client has, else to all, or to the one that it will have.
        let isBroadcast = isRefusal || message.clientAddress == .any && message.wantsBroadcast
        let destination: IPv4Address =
            isBroadcast ? .broadcast : message.clientAddress != .any ? message.clientAddress : sender.ipv4
        return finish(
            IPProtocol.udp, UDPHeader.length + length, arrival, &reply, destination: destination,
            mac: isBroadcast ? .broadcast : sender.mac)
    }

    private func describe(_ arrival: Arrival, _ answer: inout DHCPv4Reply) {
        let network = table.networks[arrival.sender.network]
        answer.subnet = network.subnet
        answer.router = network.isInternal ? nil : network.gateway
        answer.nameServers = [network.gateway]
        answer.searchDomains = [network.domain]
        answer.hostName = Array(table.endpoints[arrival.endpoint].name.utf8)
        answer.mtu = UInt16(clamping: network.mtu)
    }

    mutating func lease(
        _ packet: borrowing IPv6View, _ upper: IPv6Upper, _ arrival: Arrival, _ reply: inout MutableRawSpan
    ) -> Decision {
        guard upper.protocolNumber == IPProtocol.udp, !upper.isFragment,
            arrival.header.isPartial || packet.checksumIsValid(upper),
            let datagram = UDPView(packet.bytes.dropping(upper.offset)), datagram.destinationPort == 547,
            let message = DHCPv6View(datagram.payload), let client = message.option(DHCPv6OptionCode.client),
            client.byteCount <= 130
        else { return .verdict(.drop(.malformedDHCP)) }
        guard ports[arrival.port].errors.take(now: arrival.now) else { return .verdict(.drop(.errorLimit)) }
        if let server = message.option(DHCPv6OptionCode.server),
            server.array != DHCPv6Reply.serverIdentifier(Network.gatewayMAC)
        {
            return .verdict(.drop(.notForUs))
        }
        var answer = DHCPv6Reply(
            kind: DHCPv6Kind.reply, transaction: message.transaction, client: client.array,
            serverMAC: Network.gatewayMAC)
        let address = arrival.sender.ipv6 == .any ? nil : arrival.sender.ipv6
        switch message.kind {
        case DHCPv6Kind.solicit:
            answer.isRapid = message.option(DHCPv6OptionCode.rapidCommit) != nil
            answer.kind = answer.isRapid ? DHCPv6Kind.reply : DHCPv6Kind.advertise
            answer.association = message.association
            answer.address = address
        case DHCPv6Kind.request, DHCPv6Kind.renew, DHCPv6Kind.rebind:
            answer.association = message.association
            answer.address = address
        case DHCPv6Kind.confirm:
            // Not on this link (RFC 8415 §18.3.3).
            answer.status = message.associationAddress == address ? 0 : 4
        case DHCPv6Kind.informationRequest: break
        case DHCPv6Kind.release, DHCPv6Kind.decline: answer.status = 0
        default: return .verdict(.drop(.malformedDHCP))
        }
        answer.nameServers = [arrival.link.gateway6]
        answer.searchDomains = [table.networks[arrival.sender.network].domain]

        let start = FrameLayout.packet + IPv6Header.length + UDPHeader.length
        var cursor = OutputCursor(from: start, to: start + 1200)
        answer.write(to: &reply, at: &cursor)
        guard !cursor.overflowed else { return .verdict(.drop(.noAddress)) }
        let length = cursor.position - start
        UDPHeader(sourcePort: 547, destinationPort: 546, payloadLength: length).write(
            to: &reply, at: start - UDPHeader.length)
        return finish(
            IPProtocol.udp, UDPHeader.length + length, arrival, &reply, source: Network.gatewayLinkLocal,
            destination: packet.source)
    }
}
