// SPDX-License-Identifier: Apache-2.0

internal import Packet

/// Neighbour discovery never crosses the fabric either: what machines ask is answered, what they claim is checked.
extension Router {
    /// What ICMPv6 has for the link itself; nil for what travels (echoes and errors).
    mutating func receiveControl(
        _ packet: borrowing IPv6View, _ upper: IPv6Upper, _ arrival: Arrival, _ reply: inout MutableRawSpan
    ) -> Decision? {
        let bytes = packet.bytes.dropping(upper.offset)
        guard bytes.byteCount >= 4 else { return .verdict(.drop(.malformedIPv6)) }
        switch bytes.byte(0) {
        case 130, 131, 132, 143:
            // Multicast listeners: the fabric floods whoever listens.
            return .verdict(.drop(.membershipReport))
        case ICMPv6Type.routerSolicitation...ICMPv6Type.redirect: break
        default: return nil
        }
        // RFC 4861 §6.1, §7.1; RFC 6980 forbids fragments.
        guard packet.hopLimit == 255, upper.fragmentHeader == nil, let message = NDPView(bytes),
            arrival.header.isPartial || packet.checksumIsValid(upper)
        else { return .verdict(.drop(.malformedNDP)) }
        let source = packet.source
        guard source.isUnspecified || source == arrival.sender.ipv6 || owns(source, arrival) else {
            return .verdict(.drop(.spoofedNDP))
        }
        if let mac = message.mac(NDPOptionKind.sourceMAC) {
            guard mac == arrival.sender.mac, !source.isUnspecified else { return .verdict(.drop(.spoofedNDP)) }
        }
        switch message.type {
        case ICMPv6Type.routerSolicitation: return advertise(source, arrival, &reply)
        case ICMPv6Type.neighborSolicitation:
            guard let target = message.target, !target.isMulticast else { return .verdict(.drop(.malformedNDP)) }
            return source.isUnspecified
                ? claim(target, arrival, &reply) : resolve(target, for: source, arrival, &reply)
        case ICMPv6Type.neighborAdvertisement:
            guard let target = message.target, target == arrival.sender.ipv6 || owns(target, arrival) else {
                return .verdict(.drop(.spoofedNDP))
            }
            return .verdict(.drop(.announcement))
        case ICMPv6Type.routerAdvertisement: return .verdict(.drop(.rogueRouter))
        default: return .verdict(.drop(.redirect))
        }
    }

    /// The endpoint that has an address, those on the link that machines chose themselves included.
    private func owner(of address: IPv6Address, _ arrival: Arrival) -> Int? {
        if let peer = table.endpoint(address, in: arrival.sender.network) { return peer }
        guard address.isLinkLocal else { return nil }
        for index in table.members[arrival.sender.network] {
            let port = table.facts[index].port
            if port < ports.count, ports[port].linkLocal == address { return index }
        }
        return nil
    }

    private func isGateway(_ address: IPv6Address, _ arrival: Arrival) -> Bool {
        address == Network.gatewayLinkLocal || address == arrival.link.gateway6
    }

    /// A machine asks whether an address is free (RFC 4862 §5.4), which it then would take. It is, when it is the one
    /// that it was given, or one on the link that nobody else has; every other one is said to be in use, so that the
    /// machine does not send from an address that is refused.
    private mutating func claim(
        _ target: IPv6Address, _ arrival: Arrival, _ reply: inout MutableRawSpan
    ) -> Decision {
        if target == arrival.sender.ipv6 || owns(target, arrival) { return .verdict(.drop(.probe)) }
        let owner = owner(of: target, arrival)
        if target.isLinkLocal, owner == nil, !isGateway(target, arrival) {
            ports[arrival.port].linkLocal = target
            return .verdict(.drop(.probe))
        }
        ports[arrival.port].counters[.spoofedNDP] &+= 1
        var answer = NeighborAdvertisement(
            target: target, mac: owner.map { table.facts[$0].mac } ?? Network.gatewayMAC)
        answer.isSolicited = false
        return send(answer, to: .allNodes, arrival, &reply)
    }

    /// A machine asks for a neighbour's Ethernet address.
    private mutating func resolve(
        _ target: IPv6Address, for source: IPv6Address, _ arrival: Arrival, _ reply: inout MutableRawSpan
    ) -> Decision {
        if isGateway(target, arrival) {
            var answer = NeighborAdvertisement(target: target, mac: Network.gatewayMAC)
            answer.isRouter = true
            return send(answer, to: source, arrival, &reply)
        }
        guard let peer = owner(of: target, arrival) else { return .verdict(.drop(.noSuchNeighbor)) }
        guard peer != arrival.endpoint else { return .verdict(.drop(.probe)) }
        return send(NeighborAdvertisement(target: target, mac: table.facts[peer].mac), to: source, arrival, &reply)
    }

    private func send(
        _ answer: NeighborAdvertisement, to destination: IPv6Address, _ arrival: Arrival,
        _ reply: inout MutableRawSpan
    ) -> Decision {
        answer.write(to: &reply, at: FrameLayout.packet + IPv6Header.length)
        return finish(
            IPProtocol.icmpv6, NeighborAdvertisement.length, arrival, &reply, source: answer.target,
            destination: destination, from: answer.mac)
    }

    /// Tells a machine about its link (RFC 4861 §6.2.6): each its own, as what it is to do for an address depends on it.
    private mutating func advertise(
        _ source: IPv6Address, _ arrival: Arrival, _ reply: inout MutableRawSpan
    ) -> Decision {
        guard let prefix = arrival.link.prefix else { return .verdict(.drop(.noAddress)) }
        let network = table.networks[arrival.sender.network]
        var message = RouterAdvertisement(mac: Network.gatewayMAC)
        message.isManaged = true
        message.hasOther = true
        message.lifetime = network.isInternal ? 0 : 1800
        message.mtu = UInt32(network.mtu)
        message.prefix = prefix
        message.isAutonomous = arrival.sender.isAutonomous
        message.nameServers = [arrival.link.gateway6]
        message.searchDomains = [network.domain]
        let start = FrameLayout.packet + IPv6Header.length
        var cursor = OutputCursor(from: start, to: start + 1240)
        message.write(to: &reply, at: &cursor)
        guard !cursor.overflowed else { return .verdict(.drop(.noAddress)) }
        return finish(
            IPProtocol.icmpv6, cursor.position - start, arrival, &reply, source: Network.gatewayLinkLocal,
            destination: source.isUnspecified ? .allNodes : source)
    }
}
