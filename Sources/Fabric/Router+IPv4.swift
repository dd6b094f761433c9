// SPDX-License-Identifier: Apache-2.0

internal import Packet

extension Router {
    mutating func receiveIPv4(
        _ ethernet: borrowing EthernetView, _ arrival: Arrival, _ reply: inout MutableRawSpan
    ) -> Decision {
        guard let packet = IPv4View(ethernet.payload) else { return .verdict(.drop(.malformedIPv4)) }
        guard
            Router.isSound(
                arrival, ethernet.bytes, packet.protocolNumber, at: packet.headerLength, isFragment: packet.isFragment,
                isIPv6: false)
        else { return .verdict(.drop(.malformedOffload)) }
        let sender = arrival.sender
        let destination = ethernet.destination
        guard packet.source == sender.ipv4, packet.source != .any else {
            // A machine that asks for its address has none yet.
            if packet.source == .any, isLeaseRequest(packet) { return lease(packet, arrival, &reply) }
            return .verdict(.drop(.spoofedIPv4))
        }
        if packet.headerLength > IPv4Header.length, packet.hasSourceRoute { return .verdict(.drop(.sourceRoute)) }
        if packet.bytes.byteCount > arrival.link.mtu, !arrival.header.isSegmented {
            return error(
                packet, arrival, ICMPType.unreachable, ICMPUnreachable.fragmentationNeeded, .tooLarge,
                parameter: UInt32(arrival.link.mtu), &reply)
        }
        if destination == Network.gatewayMAC { return receiveAtGateway(packet, arrival, &reply) }
        if destination.isMulticast {
            if isLeaseRequest(packet) { return lease(packet, arrival, &reply) }
            return flood(packet, arrival)
        }
        guard let peer = table.endpoint(destination, in: sender.network) else { return .verdict(.drop(.unknownMAC)) }
        guard table.facts[peer].ipv4 == packet.destination else { return .verdict(.drop(.misdirected)) }
        if isLeaseAnswer(packet) { return .verdict(.drop(.rogueServer)) }
        return .deliver(to: peer)
    }

    private mutating func flood(_ packet: borrowing IPv4View, _ arrival: Arrival) -> Decision {
        let destination = packet.destination
        guard destination.isMulticast || destination == .broadcast || destination == arrival.link.subnet.broadcast
        else { return .verdict(.drop(.misdirected)) }
        if isLeaseAnswer(packet) { return .verdict(.drop(.rogueServer)) }
        // IGMP: whoever listens or not, the fabric floods.
        if packet.protocolNumber == 2 { return .verdict(.drop(.membershipReport)) }
        guard ports[arrival.port].floods.take(now: arrival.now) else { return .verdict(.drop(.multicastLimit)) }
        return .verdict(.flood(network: arrival.sender.network))
    }

    /// Whether a packet is from a DHCP client to a server, by its ports.
    private func isLeaseRequest(_ packet: borrowing IPv4View) -> Bool {
        guard packet.protocolNumber == IPProtocol.udp, packet.fragmentOffset == 0, packet.payload.byteCount >= 8 else {
            return false
        }
        return packet.payload.u16(2) == 67
    }

    /// Whether a packet is for a DHCP client: where it says that it comes from is of no matter to some of them.
    private func isLeaseAnswer(_ packet: borrowing IPv4View) -> Bool {
        guard packet.protocolNumber == IPProtocol.udp, packet.fragmentOffset == 0, packet.payload.byteCount >= 8 else {
            return false
        }
        return packet.payload.u16(2) == 68
    }

    /// To the gateway's Ethernet address: for the gateway itself, for a sibling by way of it, or for the outside.
    private mutating func receiveAtGateway(
        _ packet: borrowing IPv4View, _ arrival: Arrival, _ reply: inout MutableRawSpan
    ) -> Decision {
        guard packet.checksumIsValid else { return .verdict(.drop(.badChecksum)) }
        let destination = packet.destination
        if destination == arrival.link.gateway { return receiveForGateway(packet, arrival, &reply) }
        if arrival.link.subnet.contains(destination) {
            guard let peer = table.endpoint(destination, in: arrival.sender.network) else {
                return error(
                    packet, arrival, ICMPType.unreachable, ICMPUnreachable.host, .noSuchNeighbor, &reply)
            }
            guard packet.timeToLive > 1 else {
                return error(packet, arrival, ICMPType.timeExceeded, 0, .timeExceeded, &reply)
            }
            if isLeaseAnswer(packet) { return .verdict(.drop(.rogueServer)) }
            return .route(to: peer)
        }
        guard destination.isUsableSource else { return .verdict(.drop(.noRoute)) }
        guard !arrival.link.isInternal else {
            return error(
                packet, arrival, ICMPType.unreachable, ICMPUnreachable.prohibited, .networkIsInternal, &reply)
        }
        guard packet.timeToLive > 1 else {
            return error(packet, arrival, ICMPType.timeExceeded, 0, .timeExceeded, &reply)
        }
        return outside(packet, arrival, isForGateway: false, &reply)
    }

    private mutating func receiveForGateway(
        _ packet: borrowing IPv4View, _ arrival: Arrival, _ reply: inout MutableRawSpan
    ) -> Decision {
        guard !packet.isFragment else { return outside(packet, arrival, isForGateway: true, &reply) }
        switch packet.protocolNumber {
        case IPProtocol.icmp:
            guard let message = ICMPView(packet.payload), message.checksumIsValid else {
                return .verdict(.drop(.badChecksum))
            }
            // What it says of published connections, which the gateway calls, is the gateway's.
            if message.type == ICMPType.unreachable { break }
            guard message.type == ICMPType.echoRequest else { return .verdict(.drop(.notForUs)) }
            return echo(packet, arrival, &reply)
        case IPProtocol.udp:
            guard let datagram = UDPView(packet.payload) else { return .verdict(.drop(.malformedIPv4)) }
            if datagram.destinationPort == 67 { return lease(packet, arrival, &reply) }
            guard datagram.destinationPort == 53 else { break }
            guard arrival.header.isPartial || datagram.checksum == 0 || packet.payloadChecksumIsValid else {
                return .verdict(.drop(.badChecksum))
            }
            guard ports[arrival.port].queries.take(now: arrival.now) else { return .verdict(.drop(.queryLimit)) }
            return .verdict(
                .query(
                    NameQuery(
                        endpoint: arrival.sender.id, network: arrival.sender.network,
                        offset: FrameLayout.packet + packet.headerLength + UDPHeader.length,
                        length: datagram.payload.byteCount, isIPv6: false, clientPort: datagram.sourcePort)))
        case IPProtocol.tcp: break
        default:
            return error(
                packet, arrival, ICMPType.unreachable, ICMPUnreachable.protocolNumber, .notForUs, &reply)
        }
        return outside(packet, arrival, isForGateway: true, &reply)
    }

    private mutating func outside(
        _ packet: borrowing IPv4View, _ arrival: Arrival, isForGateway: Bool, _ reply: inout MutableRawSpan
    ) -> Decision {
        var result = OutsidePacket(
            endpoint: arrival.sender.id, offset: FrameLayout.packet, isIPv6: false,
            protocolNumber: packet.protocolNumber, transportOffset: FrameLayout.packet + packet.headerLength,
            isForGateway: isForGateway)
        guard packet.isFragment else { return .verdict(.outside(result)) }
        switch reassembler.add(
            packet, owner: arrival.sender.id.value, now: arrival.now, to: &reply, at: FrameLayout.packet)
        {
        case .incomplete: return .verdict(.drop(.fragmentWaits))
        case .dropped(let failure): return .verdict(.drop(DropReason(failure)))
        case .complete(let length):
            finishReassembled(length, EtherType.ipv4, arrival, &reply)
            result.transportOffset = FrameLayout.packet + Int(reply.bytes.byte(FrameLayout.packet) & 15) * 4
            return .verdict(.outsideReassembled(result))
        }
    }

    /// Puts headers before a packet that was put together of fragments.
    func finishReassembled(_ length: Int, _ type: UInt16, _ arrival: Arrival, _ reply: inout MutableRawSpan) {
        VirtioNetHeader().write(to: &reply, at: 0)
        EthernetHeader(destination: Network.gatewayMAC, source: arrival.sender.mac, type: type).write(
            to: &reply, at: FrameLayout.frame)
    }

    // MARK: - Answers of the gateway's own

    /// Sends an echo back; the packet is known to be whole.
    private mutating func echo(
        _ packet: borrowing IPv4View, _ arrival: Arrival, _ reply: inout MutableRawSpan
    ) -> Decision {
        let payload = packet.payload
        reply.put(payload, at: FrameLayout.packet + IPv4Header.length)
        reply.put(ICMPType.echoReply, at: FrameLayout.packet + IPv4Header.length)
        ICMPMessage.fillChecksum(&reply, at: FrameLayout.packet + IPv4Header.length, length: payload.byteCount)
        return finish(
            IPProtocol.icmp, payload.byteCount, arrival, &reply, destination: packet.source)
    }

    /// Writes the headers of an answer from the gateway whose payload is in place.
    func finish(
        _ protocolNumber: UInt8, _ payloadLength: Int, _ arrival: Arrival, _ reply: inout MutableRawSpan,
        destination: IPv4Address, mac: MACAddress? = nil
    ) -> Decision {
        VirtioNetHeader().write(to: &reply, at: 0)
        EthernetHeader(destination: mac ?? arrival.sender.mac, source: Network.gatewayMAC, type: EtherType.ipv4).write(
            to: &reply, at: FrameLayout.frame)
        var header = IPv4Header(
            protocolNumber: protocolNumber, source: arrival.link.gateway, destination: destination,
            payloadLength: payloadLength)
        header.dontFragment = false
        header.write(to: &reply, at: FrameLayout.packet)
        if protocolNumber == IPProtocol.udp {
            Transport.fillChecksum(
                &reply, at: FrameLayout.packet + IPv4Header.length, length: payloadLength,
                protocolNumber: protocolNumber, source: arrival.link.gateway, destination: destination)
        }
        return .verdict(.reply(FrameLayout.packet + IPv4Header.length + payloadLength))
    }

    /// Tells the sender why its packet goes nowhere, where that is to be told (RFC 1122 §3.2.2), and counts it.
    mutating func error(
        _ packet: borrowing IPv4View, _ arrival: Arrival, _ type: UInt8, _ code: UInt8, _ reason: DropReason,
        parameter: UInt32 = 0, _ reply: inout MutableRawSpan
    ) -> Decision {
        if packet.protocolNumber == IPProtocol.icmp {
            guard packet.payload.byteCount > 0, !ICMPMessage.isError(packet.payload.byte(0)) else {
                return .verdict(.drop(reason))
            }
        }
        guard packet.fragmentOffset == 0, ports[arrival.port].errors.take(now: arrival.now) else {
            return .verdict(.drop(reason))
        }
        ports[arrival.port].counters[reason] &+= 1
        // As much as a datagram of 576 bytes has room for (RFC 1812 §4.3.2.3).
        let quoted = packet.bytes.slice(0, min(packet.bytes.byteCount, 548))
        let start = FrameLayout.packet + IPv4Header.length
        ICMPMessage(type: type, code: code, parameter: parameter).write(to: &reply, at: start)
        reply.put(quoted, at: start + ICMPMessage.headerLength)
        let length = ICMPMessage.headerLength + quoted.byteCount
        ICMPMessage.fillChecksum(&reply, at: start, length: length)
        return finish(IPProtocol.icmp, length, arrival, &reply, destination: packet.source)
    }
}

extension DropReason {
    init(_ failure: Reassembler.Failure) {
        switch failure {
        case .malformed: self = .malformedIPv4
        case .overlap: self = .fragmentOverlap
        case .tooLong: self = .fragmentLength
        case .tooMany, .tooManyPieces: self = .fragmentLimit
        }
    }
}
