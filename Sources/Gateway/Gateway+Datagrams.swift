// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Fabric
internal import Glibc
internal import Packet
internal import Platform
internal import TCP

extension Gateway {
    // MARK: - To the outside

    func receiveUDP(_ arrival: Arrival, _ base: FlowKey, _ record: UnsafeRawBufferPointer, _ now: Microseconds) {
        let bytes = unsafe record.bytes
        guard let view = UDPView(bytes.slice(arrival.start, arrival.end - arrival.start)), view.sourcePort != 0,
            view.destinationPort != 0
        else { return dropMalformed() }
        var key = base
        key.insidePort = view.sourcePort
        key.outsidePort = view.destinationPort
        let start = arrival.start + UDPHeader.length
        let payload = unsafe UnsafeRawBufferPointer(rebasing: record[start..<start + view.payload.byteCount])
        let quoted = UInt32(UDPHeader.length + payload.count) << 16 | UInt32(view.checksum)
        guard let flow = datagramFlow(key, arrival, .datagram, quoting: quoted, now) else { return }
        unsafe transmit(payload, UnsafeRawBufferPointer(start: nil, count: 0), flow, arrival, quoting: quoted, now)
    }

    func receiveICMP(_ arrival: Arrival, _ base: FlowKey, _ record: UnsafeRawBufferPointer, _ now: Microseconds) {
        let bytes = unsafe record.bytes
        guard let view = ICMPView(bytes.slice(arrival.start, arrival.end - arrival.start)) else {
            return dropMalformed()
        }
        if heeds(view, base, now) { return }
        // What else machines say of packets that came from here is of no use to anybody outside.
        guard view.type == (arrival.packet.isIPv6 ? ICMPv6Type.echoRequest : ICMPType.echoRequest) else {
            counters.unknownProtocol += 1
            return
        }
        var key = base
        key.insidePort = view.identifier
        let start = arrival.start + ICMPMessage.headerLength
        let data = unsafe UnsafeRawBufferPointer(rebasing: record[start..<start + view.payload.byteCount])
        if arrival.packet.isForGateway {
            unsafe sendEchoReply(key, arrival.machine, sequence: view.sequence, data)
            return link.flush()
        }
        guard let flow = datagramFlow(key, arrival, .echo, quoting: view.parameter, now) else { return }
        // The kernel puts its own identifier and the checksum in.
        var header = [UInt8](repeating: 0, count: ICMPMessage.headerLength)
        header[0] = flow.isIPv4Outside ? ICMPType.echoRequest : ICMPv6Type.echoRequest
        header[6] = UInt8(view.sequence >> 8)
        header[7] = UInt8(truncatingIfNeeded: view.sequence)
        unsafe header.withUnsafeBytes {
            unsafe transmit($0, data, flow, arrival, quoting: view.parameter, now)
        }
    }

    private func sendEchoReply(
        _ key: FlowKey, _ machine: Machine, sequence: UInt16, _ data: UnsafeRawBufferPointer
    ) {
        let isIPv4 = key.isIPv4
        let message = ICMPMessage(
            type: isIPv4 ? ICMPType.echoReply : ICMPv6Type.echoReply, identifier: key.insidePort, sequence: sequence)
        unsafe sendDatagram(
            key, protocolNumber: isIPv4 ? IPProtocol.icmp : IPProtocol.icmpv6, from: key.outside,
            headerLength: ICMPMessage.headerLength, payload: data
        ) { message.write(to: &$0, at: $1) }
    }

    private func transmit(
        _ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer, _ flow: DatagramFlow, _ arrival: Arrival,
        quoting: UInt32, _ now: Microseconds
    ) {
        flow.lastUsed = now
        counters.bytesOut += UInt64(first.count + second.count)
        if flow.origin == nil, flow.mayFragment != arrival.mayFragment {
            flow.mayFragment = arrival.mayFragment
            InternetSocket.setDontFragment(flow.raw, ipv4: flow.isIPv4Outside, !arrival.mayFragment)
        }
        let way = flow.origin?.way
        var code = unsafe InternetSocket.send(flow.raw, first, second, to: way?.peer, from: way?.local)
        if code == ECONNREFUSED || code == EHOSTUNREACH || code == ENETUNREACH || code == EPROTO {
            // What the network has said of an earlier datagram comes out of the first try.
            if flow.origin == nil { tellFailures(flow) }
            code = unsafe InternetSocket.send(flow.raw, first, second, to: way?.peer, from: way?.local)
        }
        guard code != 0 else { return }
        counters.hostWouldNotTake += 1
        let reason: Unreachable
        switch code {
        case EMSGSIZE:
            let size = InternetSocket.pathMTU(flow.raw, ipv4: flow.isIPv4Outside) ?? 0
            // The kernel's own limit on datagrams is no router's.
            guard size >= 576, size < 65_507 else { return }
            reason = .tooBig(flow.key.isIPv4 ? size : max(size, 1280))
        case ENETUNREACH, ENETDOWN: reason = .network
        case EHOSTUNREACH, EHOSTDOWN: reason = .host
        case ECONNREFUSED: reason = .port
        case EACCES, EPERM, EINVAL: reason = .prohibited
        default: return
        }
        sendUnreachable(flow.machine, flow.key, reason, quoting: quoting)
    }

    /// The flow that a machine's datagram belongs to: the one there is, or a new one.
    /// - Returns: nil where it may not go out, or cannot; that has been told and counted.
    private func datagramFlow(
        _ key: FlowKey, _ arrival: Arrival, _ kind: InternetSocket.Kind, quoting: UInt32, _ now: Microseconds
    ) -> DatagramFlow? {
        if let slot = flows[key], case .datagram(let flow) = slots[Int(slot)] { return flow }
        let machine = arrival.machine
        guard !arrival.packet.isForGateway else {
            sendUnreachable(machine, key, .port, quoting: quoting)
            return nil
        }
        guard let address = destination(arrival, key, quoting: quoting, now) else { return nil }
        makeRoomForDatagrams(machine)
        let isIPv4 = address.mappedIPv4 != nil
        do throws(SystemError) {
            let socket = try InternetSocket.make(kind, ipv4: isIPv4)
            _ = try InternetSocket.connect(socket, to: SocketAddress(address, port: key.outsidePort))
            InternetSocket.keepFailures(socket.raw, ipv4: isIPv4)
            let flow = try add(key, machine, socket, isIPv4Outside: isIPv4, now)
            flow.names = machine.settings.policy.names(of: key.outside, now: now)
            return flow
        } catch {
            switch error.code {
            case EMFILE, ENFILE, ENOMEM, ENOBUFS: counters.outOfDescriptors += 1
            case EACCES, EPERM:
                // For echoes: net.ipv4.ping_group_range does not have us.
                if kind == .echo { counters.noPingSockets += 1 } else { counters.hostWouldNotTake += 1 }
                sendUnreachable(machine, key, .prohibited, quoting: quoting)
            case EHOSTUNREACH, EHOSTDOWN:
                counters.hostWouldNotTake += 1
                sendUnreachable(machine, key, .host, quoting: quoting)
            default:
                counters.hostWouldNotTake += 1
                sendUnreachable(machine, key, .network, quoting: quoting)
            }
            return nil
        }
    }

    private func add(
        _ key: FlowKey, _ machine: Machine, _ socket: consuming Descriptor, isIPv4Outside: Bool, _ now: Microseconds
    ) throws(SystemError) -> DatagramFlow {
        let raw = socket.release()
        let flow = add(machine, now) {
            DatagramFlow(
                key, machine, slot: $0, socket: Descriptor(owning: raw), isIPv4Outside: isIPv4Outside, now: now)
        }
        do throws(SystemError) {
            try epoll.add(raw, .readable, token: token(flow.slot))
        } catch {
            remove(flow)
            throw error
        }
        return flow
    }

    /// Enters a new flow in the tables.
    func add(_ machine: Machine, _ now: Microseconds, _ make: (UInt32) -> DatagramFlow) -> DatagramFlow {
        let slot = take()
        let flow = make(slot)
        slots[Int(slot)] = .datagram(flow)
        flows[flow.key] = slot
        machine.datagramFlows += 1
        machine.oldestFirst.append(token(slot))
        counters.datagramFlowsOpened += 1
        timers.set(slot, now + configuration.unansweredTimeout)
        return flow
    }

    /// At the quota, a flow ends that has not been used since its machine's list last came by it.
    func makeRoomForDatagrams(_ machine: Machine) {
        let quota = machine.settings.quotas.datagramFlows
        while machine.datagramFlows >= quota, machine.oldestFirst.hasMore {
            let token = machine.oldestFirst.removeFirst()
            guard let flow = datagramFlow(token) else { continue }
            if flow.lastUsed > flow.queuedAt {
                flow.queuedAt = flow.lastUsed
                machine.oldestFirst.append(token)
            } else {
                counters.evicted += 1
                remove(flow)
            }
        }
        // Tokens of flows that ended by themselves.
        if machine.oldestFirst.count > 2 * quota + 64 {
            machine.oldestFirst.keep { datagramFlow($0) != nil }
        }
    }

    private func datagramFlow(_ token: UInt64) -> DatagramFlow? {
        let slot = Int(UInt32(truncatingIfNeeded: token))
        guard slot < slots.count, generations[slot] == UInt32(token >> 32), case .datagram(let flow) = slots[slot]
        else {
            return nil
        }
        return flow
    }

    // MARK: - From the outside

    func ready(_ flow: DatagramFlow, _ readiness: Readiness, _ now: Microseconds) {
        if readiness.contains(.failed) { tellFailures(flow) }
        guard readiness.contains(.readable) else { return }
        // A few bursts; the socket says again that there is more.
        for _ in 0..<4 {
            let count = datagrams.receive(from: flow.raw)
            for index in 0..<count { unsafe deliver(datagrams.bytes(index), flow, now) }
            link.flush()
            guard count == DatagramSpace.count else { return }
        }
    }

    /// Hands what has come from the outside to the machine. The bytes are read until the link is flushed.
    func deliver(_ bytes: UnsafeRawBufferPointer, _ flow: DatagramFlow, _ now: Microseconds) {
        flow.lastUsed = now
        flow.isAnswered = true
        counters.bytesIn += UInt64(bytes.count)
        if flow.key.protocolNumber == IPProtocol.udp {
            let header = UDPHeader(
                sourcePort: flow.key.outsidePort, destinationPort: flow.key.insidePort, payloadLength: bytes.count)
            unsafe sendDatagram(
                flow.key, protocolNumber: IPProtocol.udp, from: flow.key.outside, headerLength: UDPHeader.length,
                payload: bytes, limit: flow.pathMTU
            ) { header.write(to: &$0, at: $1) }
        } else if let view = unsafe ICMPView(bytes.bytes) {
            unsafe sendEchoReply(
                flow.key, flow.machine, sequence: view.sequence,
                UnsafeRawBufferPointer(rebasing: bytes[ICMPMessage.headerLength...]))
        }
    }

    /// Tells a machine what the network has said of its datagrams.
    private func tellFailures(_ flow: DatagramFlow) {
        while let failure = InternetSocket.takeFailure(flow.raw) {
            guard let reason = Unreachable(failure, isIPv4: flow.isIPv4Outside) else { continue }
            var offender = failure.offender?.address
            // The host's loopback is another address to the machine.
            if let known = offender, EgressPolicy.isForbidden(known) || known.mappedIPv4 == nil && flow.key.isIPv4 {
                offender = flow.key.outside
            }
            sendUnreachable(flow.machine, flow.key, reason, quoting: UInt32(UDPHeader.length) << 16, from: offender)
        }
    }

    // MARK: - The end

    func expire(_ flow: DatagramFlow, _ now: Microseconds) {
        let patience = flow.isAnswered ? configuration.answeredTimeout : configuration.unansweredTimeout
        let end = flow.lastUsed + patience
        if end <= now { remove(flow) } else { timers.set(flow.slot, end) }
    }

    func remove(_ flow: DatagramFlow) {
        guard !flow.isRemoved else { return }
        flow.isRemoved = true
        flow.closeSocket()
        if let origin = flow.origin { origin.listener.flows[origin.way] = nil }
        flow.machine.datagramFlows -= 1
        flows[flow.key] = nil
        release(flow.slot)
    }
}

extension Unreachable {
    /// What an ICMP message said; nil for what is not passed on.
    init?(_ failure: NetworkFailure, isIPv4: Bool) {
        switch (isIPv4, failure.type, failure.icmpCode) {
        case (true, ICMPType.unreachable, ICMPUnreachable.fragmentationNeeded), (false, ICMPv6Type.packetTooBig, _):
            self = .tooBig(max(Int(failure.size), isIPv4 ? 576 : 1280))
        case (true, ICMPType.unreachable, ICMPUnreachable.network), (false, ICMPv6Type.unreachable, 0): self = .network
        case (true, ICMPType.unreachable, ICMPUnreachable.protocolNumber): self = .protocolUnknown
        case (true, ICMPType.unreachable, ICMPUnreachable.port), (false, ICMPv6Type.unreachable, 4): self = .port
        case (true, ICMPType.unreachable, 9), (true, ICMPType.unreachable, 10), (true, ICMPType.unreachable, 13),
            (false, ICMPv6Type.unreachable, 1), (false, ICMPv6Type.unreachable, 5):
            self = .prohibited
        case (true, ICMPType.unreachable, _), (false, ICMPv6Type.unreachable, _): self = .host
        default: return nil
        }
    }
}
