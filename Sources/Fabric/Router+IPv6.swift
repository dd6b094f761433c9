// SPDX-License-Identifier: Apache-2.0

internal import Packet

extension Router {
    mutating func receiveIPv6(
        _ ethernet: borrowing EthernetView, _ arrival: Arrival, _ reply: inout MutableRawSpan
    ) -> Decision {
        guard let packet = IPv6View(ethernet.payload), let upper = packet.upper else {
            return .verdict(.drop(.malformedIPv6))
        }
        guard
            Router.isSound(
                arrival, ethernet.bytes, upper.protocolNumber, at: upper.offset, isFragment: upper.isFragment,
                isIPv6: true)
        else { return .verdict(.drop(.malformedOffload)) }
        let sender = arrival.sender
        let source = packet.source
        if upper.protocolNumber == IPProtocol.icmpv6, upper.fragmentOffset == 0 {
            if let decision = receiveControl(packet, upper, arrival, &reply) { return decision }
        }
        guard source == sender.ipv6 && source != .any || owns(source, arrival) else {
            return .verdict(.drop(.spoofedIPv6))
        }
        if packet.bytes.byteCount > arrival.link.mtu, !arrival.header.isSegmented {
            return error(
                packet, upper, arrival, ICMPv6Type.packetTooBig, 0, .tooLarge, parameter: UInt32(arrival.link.mtu),
                &reply)
        }
        let destination = ethernet.destination
        if destination == Network.gatewayMAC { return receiveAtGateway(packet, upper, arrival, &reply) }
        if isLeaseAnswer(packet, upper) { return .verdict(.drop(.rogueServer)) }
        if destination.isMulticast {
            guard packet.destination.isMulticast else { return .verdict(.drop(.misdirected)) }
            if packet.destination == .allDHCPServers { return lease(packet, upper, arrival, &reply) }
            guard ports[arrival.port].floods.take(now: arrival.now) else { return .verdict(.drop(.multicastLimit)) }
            return .verdict(.flood(network: sender.network))
        }
        guard let peer = table.endpoint(destination, in: sender.network) else { return .verdict(.drop(.unknownMAC)) }
        guard hasAddress(peer, packet.destination) else { return .verdict(.drop(.misdirected)) }
        return .deliver(to: peer)
    }

    /// Whether an address on the link is the sender's: made of its Ethernet address, or claimed before, and not by now
    /// that of a machine which came later.
    func owns(_ address: IPv6Address, _ arrival: Arrival) -> Bool {
        guard address.isLinkLocal else { return false }
        if address == arrival.sender.linkLocal { return true }
        return address == ports[arrival.port].linkLocal && table.endpoint(address, in: arrival.sender.network) == nil
    }

    private func hasAddress(_ peer: Int, _ address: IPv6Address) -> Bool {
        let facts = table.facts[peer]
        if facts.ipv6 == address || facts.linkLocal == address { return true }
        return facts.port >= 0 && facts.port < ports.count && address.isLinkLocal
            && ports[facts.port].linkLocal == address
    }

    /// Whether a packet is for a DHCP client, wherever it says that it comes from.
    private func isLeaseAnswer(_ packet: borrowing IPv6View, _ upper: IPv6Upper) -> Bool {
        upper.protocolNumber == IPProtocol.udp && upper.fragmentOffset == 0
            && packet.bytes.byteCount - upper.offset >= 8 && packet.bytes.u16(upper.offset + 2) == 546
    }

    /// To the gateway's Ethernet address: for the gateway itself, for a sibling by way of it, or for the outside.
    private mutating func receiveAtGateway(
        _ packet: borrowing IPv6View, _ upper: IPv6Upper, _ arrival: Arrival, _ reply: inout MutableRawSpan
    ) -> Decision {
        let destination = packet.destination
        if destination == Network.gatewayLinkLocal || destination == arrival.link.gateway6 {
            return receiveForGateway(packet, upper, arrival, &reply)
        }
        guard !destination.isMulticast, !destination.isLinkLocal, !destination.isUnspecified, !destination.isLoopback,
            !packet.source.isLinkLocal
        else { return .verdict(.drop(.noRoute)) }
        if let prefix = arrival.link.prefix, prefix.contains(destination) {
            guard let peer = table.endpoint(destination, in: arrival.sender.network) else {
                return error(
                    packet, upper, arrival, ICMPv6Type.unreachable, ICMPv6Unreachable.address, .noSuchNeighbor, &reply)
            }
            guard packet.hopLimit > 1 else {
                return error(packet, upper, arrival, ICMPv6Type.timeExceeded, 0, .timeExceeded, &reply)
            }
            if isLeaseAnswer(packet, upper) { return .verdict(.drop(.rogueServer)) }
            return .route(to: peer)
        }
        guard !arrival.link.isInternal else {
            return error(
                packet, upper, arrival, ICMPv6Type.unreachable, ICMPv6Unreachable.prohibited, .networkIsInternal,
                &reply)
        }
        guard packet.hopLimit > 1 else {
            return error(packet, upper, arrival, ICMPv6Type.timeExceeded, 0, .timeExceeded, &reply)
        }
        return outside(packet, upper, arrival, isForGateway: false, &reply)
    }

    private mutating func receiveForGateway(
        _ packet: borrowing IPv6View, _ upper: IPv6Upper, _ arrival: Arrival, _ reply: inout MutableRawSpan
    ) -> Decision {
        guard !upper.isFragment else { return outside(packet, upper, arrival, isForGateway: true, &reply) }
        let rest = packet.bytes.dropping(upper.offset)
        switch upper.protocolNumber {
        case IPProtocol.icmpv6:
            guard let message = ICMPView(rest), arrival.header.isPartial || packet.checksumIsValid(upper) else {
                return .verdict(.drop(.badChecksum))
            }
            // What it says of published connections, which the gateway calls, is the gateway's.
            if message.type == ICMPv6Type.unreachable || message.type == ICMPv6Type.packetTooBig { break }
            guard message.type == ICMPv6Type.echoRequest else { return .verdict(.drop(.notForUs)) }
            reply.put(rest, at: FrameLayout.packet + IPv6Header.length)
            reply.put(ICMPv6Type.echoReply, at: FrameLayout.packet + IPv6Header.length)
            return finish(
                IPProtocol.icmpv6, rest.byteCount, arrival, &reply, source: packet.destination,
                destination: packet.source)
        case IPProtocol.udp:
            guard let datagram = UDPView(rest) else { return .verdict(.drop(.malformedIPv6)) }
            if datagram.destinationPort == 547 { return lease(packet, upper, arrival, &reply) }
            guard datagram.destinationPort == 53 else { break }
            guard arrival.header.isPartial || packet.checksumIsValid(upper) else {
                return .verdict(.drop(.badChecksum))
            }
            // The answer would go to an address that the table does not have.
            guard packet.source == arrival.sender.ipv6 else { return .verdict(.drop(.noAddress)) }
            guard ports[arrival.port].queries.take(now: arrival.now) else { return .verdict(.drop(.queryLimit)) }
            return .verdict(
                .query(
                    NameQuery(
                        endpoint: arrival.sender.id, network: arrival.sender.network,
                        offset: FrameLayout.packet + upper.offset + UDPHeader.length,
                        length: datagram.payload.byteCount, isIPv6: true, clientPort: datagram.sourcePort)))
        case IPProtocol.tcp: break
        default:
            return error(packet, upper, arrival, ICMPv6Type.parameterProblem, 1, .notForUs, parameter: 6, &reply)
        }
        return outside(packet, upper, arrival, isForGateway: true, &reply)
    }

    private mutating func outside(
        _ packet: borrowing IPv6View, _ upper: IPv6Upper, _ arrival: Arrival, isForGateway: Bool,
        _ reply: inout MutableRawSpan
    ) -> Decision {
        var result = OutsidePacket(
            endpoint: arrival.sender.id, offset: FrameLayout.packet, isIPv6: true,
            protocolNumber: upper.protocolNumber, transportOffset: FrameLayout.packet + upper.offset,
            isForGateway: isForGateway)
        guard upper.isFragment else { return .verdict(.outside(result)) }
        switch reassembler.add(
            packet, upper, owner: arrival.sender.id.value, now: arrival.now, to: &reply, at: FrameLayout.packet)
        {
        case .incomplete: return .verdict(.drop(.fragmentWaits))
        case .dropped(let failure): return .verdict(.drop(DropReason(failure)))
        case .complete(let length):
            guard let end = IPv6View(reply.bytes.slice(FrameLayout.packet, length))?.upper else {
                return .verdict(.drop(.malformedIPv6))
            }
            result.protocolNumber = end.protocolNumber
            result.transportOffset = FrameLayout.packet + end.offset
            finishReassembled(length, EtherType.ipv6, arrival, &reply)
            return .verdict(.outsideReassembled(result))
        }
    }

    // MARK: - Answers of the gateway's own

    /// Writes the headers of an answer whose payload is in place, and its checksum.
    func finish(
        _ protocolNumber: UInt8, _ payloadLength: Int, _ arrival: Arrival, _ reply: inout MutableRawSpan,
        source: IPv6Address, destination: IPv6Address, from mac: MACAddress = Network.gatewayMAC
    ) -> Decision {
        VirtioNetHeader().write(to: &reply, at: 0)
        EthernetHeader(
            destination: destination.isMulticast ? MACAddress(multicast: destination) : arrival.sender.mac, source: mac,
            type: EtherType.ipv6
        ).write(to: &reply, at: FrameLayout.frame)
        var header = IPv6Header(
            nextHeader: protocolNumber, source: source, destination: destination, payloadLength: payloadLength)
        // What neighbours say must come with the highest (RFC 4861 §7.1); for the rest it does no harm.
        header.hopLimit = 255
        header.write(to: &reply, at: FrameLayout.packet)
        Transport.fillChecksum(
            &reply, at: FrameLayout.packet + IPv6Header.length, length: payloadLength, protocolNumber: protocolNumber,
            source: source, destination: destination)
        return .verdict(.reply(FrameLayout.packet + IPv6Header.length + payloadLength))
    }

    /// Tells the sender why its packet goes nowhere, where that is to be told (RFC 4443 §2.4), and counts it.
    mutating func error(
        _ packet: borrowing IPv6View, _ upper: IPv6Upper, _ arrival: Arrival, _ type: UInt8, _ code: UInt8,
        _ reason: DropReason, parameter: UInt32 = 0, _ reply: inout MutableRawSpan
    ) -> Decision {
        if upper.protocolNumber == IPProtocol.icmpv6 {
            guard upper.offset < packet.bytes.byteCount, !ICMPMessage.isErrorV6(packet.bytes.byte(upper.offset)) else {
                return .verdict(.drop(reason))
            }
        }
        guard upper.fragmentOffset == 0, ports[arrival.port].errors.take(now: arrival.now) else {
            return .verdict(.drop(reason))
        }
        ports[arrival.port].counters[reason] &+= 1
        // As much as the least MTU has room for (RFC 4443 §2.4 (c)).
        let quoted = packet.bytes.slice(0, min(packet.bytes.byteCount, 1280 - 48))
        let start = FrameLayout.packet + IPv6Header.length
        ICMPMessage(type: type, code: code, parameter: parameter).write(to: &reply, at: start)
        reply.put(quoted, at: start + ICMPMessage.headerLength)
        let gateway = packet.source.isLinkLocal ? Network.gatewayLinkLocal : arrival.link.gateway6
        return finish(
            IPProtocol.icmpv6, ICMPMessage.headerLength + quoted.byteCount, arrival, &reply, source: gateway,
            destination: packet.source)
    }
}
