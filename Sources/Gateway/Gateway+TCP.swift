// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Fabric
internal import Glibc
internal import Packet
internal import Platform
internal import TCP

extension Gateway {
    func receiveTCP(_ arrival: Arrival, _ base: FlowKey, _ record: UnsafeRawBufferPointer, _ now: Microseconds) {
        let bytes = unsafe record.bytes
        guard let view = TCPView(bytes.slice(arrival.start, arrival.end - arrival.start)) else {
            return dropMalformed()
        }
        var key = base
        key.insidePort = view.sourcePort
        key.outsidePort = view.destinationPort
        let segment = Segment(view)
        if let slot = flows[key], case .tcp(let flow) = slots[Int(slot)] {
            let payload = arrival.start + view.headerLength
            unsafe receive(
                segment, flow, UnsafeRawBufferPointer(rebasing: record[payload..<payload + segment.payloadCount]),
                now)
            return
        }
        guard segment.flags == .syn, key.insidePort != 0, key.outsidePort != 0 else {
            // Nobody here knows of it: after a restart of ours, a machine's connections end by this.
            counters.unknownConnection += 1
            answerReset(segment, key, arrival.machine)
            return
        }
        open(arrival, key, segment, now)
    }

    private func answerReset(_ segment: Segment, _ key: FlowKey, _ machine: Machine) {
        guard let reset = OutgoingSegment.reset(answering: segment), link.hasRoom(for: key.endpoint) else { return }
        let none = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        unsafe send(reset, key, machine, payload: none, none)
    }

    /// The endpoint's settings for a machine's link.
    func tcpConfiguration(_ endpoint: EndpointID, isIPv4: Bool) -> Configuration {
        let capabilities = link.capabilities(of: endpoint)
        var configuration = configuration.tcp
        let headers = isIPv4 ? 40 : 60
        configuration.segmentSize = UInt16(clamping: max(536, capabilities.mtu - headers))
        let takesSegments = isIPv4 ? capabilities.takesSegmentsV4 : capabilities.takesSegmentsV6
        // IP's length counts all headers, options included.
        configuration.largeSegmentLimit = takesSegments ? 65535 - 100 : configuration.segmentSize
        return configuration
    }

    /// A machine calls the outside.
    private func open(_ arrival: Arrival, _ key: FlowKey, _ syn: Segment, _ now: Microseconds) {
        let machine = arrival.machine
        guard makeRoomForConnection(machine) else {
            counters.overQuota += 1
            return answerReset(syn, key, machine)
        }
        let socket: Descriptor
        var isConnected = false
        if arrival.packet.isForGateway && key.outside == machine.gatewayAddress(isIPv4: key.isIPv4) {
            guard let service = services[key.outsidePort], let pair = try? UnixSocket.pair(nonBlocking: true) else {
                return answerReset(syn, key, machine)
            }
            socket = pair.first
            service(key.endpoint, pair.second)
            isConnected = true
        } else {
            guard let address = destination(arrival, key, quoting: syn.sequence.value, now) else { return }
            do {
                socket = try InternetSocket.make(.stream, ipv4: key.isIPv4 || address.mappedIPv4 != nil)
            } catch {
                // The machine asks again; by then there may be descriptors.
                counters.outOfDescriptors += 1
                return
            }
            InternetSocket.tune(socket, keepaliveInSeconds: configuration.keepaliveInSeconds)
            do throws(SystemError) {
                isConnected =
                    try InternetSocket.connect(socket, to: SocketAddress(address, port: key.outsidePort)) == .done
            } catch {
                return refuse(syn, key, machine, error.code)
            }
        }
        let endpoint = TCP.Endpoint(
            accepting: syn, tcpConfiguration(key.endpoint, isIPv4: key.isIPv4),
            initialSequence: initialSequence(key, now), timestampOffset: initialSequence(key, 0).value, now: now)
        let flow = add(key, machine, .connecting, endpoint, syn.sequence.value)
        flow.names = machine.settings.policy.names(of: key.outside, now: now)
        flow.adopt(socket)
        guard watch(flow) else { return abandon(flow, now) }
        counters.connectionsOpened += 1
        if isConnected {
            flow.phase = .open
            flow.hostIsWritable = true
            mark(flow)
            return
        }
        schedule(flow, now + configuration.connectTimeout)
        machine.connecting.append(token(flow.slot))
        if machine.connecting.count > machine.settings.quotas.connecting { evictConnecting(machine, now) }
    }

    func add(
        _ key: FlowKey, _ machine: Machine, _ phase: TCPFlow.Phase, _ endpoint: TCP.Endpoint, _ firstSequence: UInt32
    ) -> TCPFlow {
        let slot = take()
        let flow = TCPFlow(
            key, machine, slot: slot, phase: phase, endpoint: endpoint, firstSequence: firstSequence,
            bufferLimit: configuration.bufferLimit)
        slots[Int(slot)] = .tcp(flow)
        flows[key] = slot
        machine.connections += 1
        return flow
    }

    func watch(_ flow: TCPFlow) -> Bool {
        let readiness: Readiness = [.readable, .writable, .peerClosed, .edgeTriggered]
        do throws(SystemError) {
            try epoll.add(flow.raw, readiness, token: token(flow.slot))
            return true
        } catch {
            return false
        }
    }

    /// The oldest of those that still wait makes room; they are settled mostly in the order they came.
    private func evictConnecting(_ machine: Machine, _ now: Microseconds) {
        machine.connecting.keep { connectingFlow($0) != nil }
        guard machine.connecting.count > machine.settings.quotas.connecting,
            let flow = connectingFlow(machine.connecting.removeFirst())
        else { return }
        counters.evicted += 1
        remove(flow)
    }

    /// The flow of a token, if its connect is still under way.
    func connectingFlow(_ token: UInt64) -> TCPFlow? {
        let slot = Int(UInt32(truncatingIfNeeded: token))
        guard generations[slot] == UInt32(token >> 32), case .tcp(let flow) = slots[slot], flow.phase == .connecting
        else { return nil }
        return flow
    }

    /// Tells a machine why the host could not connect.
    private func refuse(_ syn: Segment, _ key: FlowKey, _ machine: Machine, _ code: Int32) {
        counters.connectionsRefusedByHost += 1
        switch code {
        case ENETUNREACH, ENETDOWN, EAFNOSUPPORT, EADDRNOTAVAIL:
            sendUnreachable(machine, key, .network, quoting: syn.sequence.value)
        case EHOSTUNREACH, EHOSTDOWN, ETIMEDOUT:
            sendUnreachable(machine, key, .host, quoting: syn.sequence.value)
        case EACCES, EPERM, EINVAL: sendUnreachable(machine, key, .prohibited, quoting: syn.sequence.value)
        default: answerReset(syn, key, machine)
        }
    }

    /// A segment of a connection that is known.
    private func receive(
        _ segment: Segment, _ flow: TCPFlow, _ payload: UnsafeRawBufferPointer, _ now: Microseconds
    ) {
        if flow.phase == .connecting {
            // Nothing has been answered yet: the machine may only repeat itself, or give up.
            guard segment.flags.contains(.rst) || segment.flags == .syn else { return }
            if flow.endpoint.receive(segment, now: now).signals.contains(.reset) { abandon(flow, now) }
            return
        }
        let needsBuffer = flow.endpoint.hasHoles || !flow.toHost.isEmpty
        let room = flow.toHost.room - flow.bytesInPieces
        let reception = flow.endpoint.receive(segment, room: room, now: now)
        if reception.acknowledged > 0 { flow.toMachine.drop(reception.acknowledged) }
        if reception.taken > 0 {
            let bytes = unsafe UnsafeRawBufferPointer(
                rebasing: payload[reception.skipped..<reception.skipped + reception.taken])
            counters.bytesOut += UInt64(reception.taken)
            if !needsBuffer && reception.placement == 0 {
                unsafe append(bytes, flow)
            } else {
                // What came before has to be in the buffer first.
                guard keepPieces(flow, now), unsafe flow.toHost.place(bytes, at: reception.placement) else {
                    return abandon(flow, now)
                }
                flow.toHost.extend(by: reception.delivered)
            }
        }
        if !reception.signals.isEmpty && !handle(reception.signals, flow, segment, now) { return }
        mark(flow)
    }

    /// - Returns: false when the flow has ended.
    private func handle(_ signals: Signals, _ flow: TCPFlow, _ segment: Segment, _ now: Microseconds) -> Bool {
        if signals.contains(.restarts) {
            // The same ports once more: what is left of the old connection makes way.
            let machine = flow.machine
            let key = flow.key
            remove(flow)
            open(
                Arrival(
                    machine: machine,
                    packet: OutsidePacket(
                        endpoint: key.endpoint, offset: 0, isIPv6: !key.isIPv4, protocolNumber: IPProtocol.tcp,
                        transportOffset: 0, isForGateway: key.outside == machine.gatewayAddress(isIPv4: key.isIPv4)),
                    start: 0, end: 0, mayFragment: false), key, segment, now)
            return false
        }
        if signals.contains(.connected) && flow.phase == .dialing { flow.phase = .open }
        if signals.contains(.peerFinished) { flow.machineHasFinished = true }
        if !signals.isDisjoint(with: [.reset, .timedOut]) {
            if flow.phase == .dialing { counters.publishedRefused += 1 }
            writeLastWords(of: flow, now)
            flow.resetSocket()
            abandon(flow, now)
            return false
        }
        return true
    }

    /// The host's socket has something to say.
    func ready(_ flow: TCPFlow, _ readiness: Readiness, _ now: Microseconds) {
        if flow.phase == .connecting {
            guard !readiness.isDisjoint(with: [.writable, .failed, .hungUp]) else { return }
            var code: Int32 = 0
            if unsafe clinux_get_option(flow.raw, CLINUX_SOL_SOCKET, CLINUX_SO_ERROR, &code) != 0 { code = EIO }
            if code != 0 {
                let syn = Segment(sequence: SequenceNumber(flow.firstSequence), flags: .syn)
                refuse(syn, flow.key, flow.machine, code)
                return remove(flow)
            }
            flow.phase = .open
            schedule(flow, .max)
        }
        if !readiness.isDisjoint(with: [.readable, .peerClosed, .hungUp, .failed]) { flow.hostIsReadable = true }
        if !readiness.isDisjoint(with: [.peerClosed, .hungUp]) { flow.hostHasHungUp = true }
        if readiness.contains(.writable) { flow.hostIsWritable = true }
        if readiness.contains(.failed) {
            flow.hostIsWritable = true
            if flow.phase == .dialing {
                flow.endpoint.abort()
                flow.closeSocket()
            }
        }
        mark(flow)
    }

    func expire(_ flow: TCPFlow, _ now: Microseconds) {
        flow.timerAt = .max
        if flow.phase == .connecting {
            refuse(
                Segment(sequence: SequenceNumber(flow.firstSequence), flags: .syn), flow.key, flow.machine, ETIMEDOUT)
            return remove(flow)
        }
        while flow.endpoint.deadline <= now {
            if flow.endpoint.expire(now: now).contains(.timedOut) { flow.resetSocket() }
        }
        mark(flow)
    }

    func mark(_ flow: TCPFlow) {
        guard !flow.isDirty && !flow.isRemoved else { return }
        flow.isDirty = true
        dirty.append(flow)
    }

    /// Sets the flow's timer, no earlier than needed; a timer that is too early finds nothing to do.
    func schedule(_ flow: TCPFlow, _ time: UInt64) {
        guard time < flow.timerAt || time == .max && flow.timerAt != .max else { return }
        flow.timerAt = time
        timers.set(flow.slot, time)
    }

    /// Ends a flow now, the machine being told by a reset and the host's peer as well.
    func abandon(_ flow: TCPFlow, _ now: Microseconds) {
        guard !flow.isRemoved else { return }
        if flow.phase != .connecting { flow.endpoint.abort() }
        flow.resetSocket()
        let none = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        if flow.phase != .connecting, link.hasRoom(for: flow.key.endpoint),
            let reset = flow.endpoint.nextSegment(now: now)
        {
            unsafe send(reset, flow.key, flow.machine, payload: none, none)
        }
        remove(flow)
    }

    func remove(_ flow: TCPFlow) {
        guard !flow.isRemoved else { return }
        flow.isRemoved = true
        flow.closeSocket()
        flow.firstPiece = -1
        flow.bytesInPieces = 0
        flow.toMachine.drop(flow.toMachine.count)
        flow.toHost.drop(flow.toHost.count)
        flow.machine.connections -= 1
        flow.machine.waiting.remove(flow.slot)
        flows[flow.key] = nil
        release(flow.slot)
        counters.connectionsClosed += 1
    }
}
