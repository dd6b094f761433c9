// SPDX-License-Identifier: Apache-2.0

package import Fabric
package import FabricAPI
internal import Glibc
internal import Packet
internal import Platform
internal import TCP

extension Gateway {
    /// Makes a machine's ports reachable at ports of the host, all of them or none.
    /// - Returns: the same, with the ports that were chosen where any was right, and what `withdraw` takes them back by.
    package func publish(
        _ wanted: [PublishedPorts], for endpoint: EndpointID
    ) throws(PublishProblem) -> (ports: [PublishedPorts], listeners: [UInt32]) {
        guard let machine = machines[endpoint] else { throw .unknownMachine }
        let before = listeners[endpoint, default: []].count
        var result: [PublishedPorts] = []
        do throws(PublishProblem) {
            for ports in wanted { result.append(try publish(ports, machine)) }
            return (result, Array(listeners[endpoint, default: []][before...]))
        } catch {
            closeListeners(of: endpoint, from: before)
            throw error
        }
    }

    private func publish(_ ports: PublishedPorts, _ machine: Machine) throws(PublishProblem) -> PublishedPorts {
        let endpoint = machine.settings.endpoint
        let before = listeners[endpoint, default: []].count
        var result = ports
        var attempts = 0
        while true {
            do throws(PublishProblem) {
                for index in 0..<ports.count {
                    let chosen = try listen(ports, index, at: result.hostPort, machine)
                    if ports.hostPort == 0 { result.hostPort = chosen }
                }
                return result
            } catch {
                closeListeners(of: endpoint, from: before)
                // A port that was free for one family of addresses and not for the other.
                guard case .taken = error, ports.hostPort == 0, attempts < 16 else { throw error }
                attempts += 1
                result.hostPort = 0
            }
        }
    }

    private func closeListeners(of endpoint: EndpointID, from first: Int) {
        guard let slots = listeners[endpoint] else { return }
        close(slots[first...])
        listeners[endpoint] = Array(slots[..<first])
    }

    /// Withdraws all that is published for a machine. Connections that there are go on.
    package func withdraw(_ endpoint: EndpointID) {
        close(listeners.removeValue(forKey: endpoint)?[...] ?? [])
    }

    /// Withdraws some of what is published for a machine. Connections that there are go on.
    package func withdraw(_ some: [UInt32], of endpoint: EndpointID) {
        let known = listeners[endpoint, default: []].filter { some.contains($0) }
        listeners[endpoint]?.removeAll { known.contains($0) }
        close(known[...])
    }

    private func close(_ closing: ArraySlice<UInt32>) {
        for slot in closing {
            if case .datagramListener(let listener) = slots[Int(slot)] {
                for flow in listener.flows.values {
                    if case .datagram(let flow) = slots[Int(flow)] { remove(flow) }
                }
            }
            release(slot)
        }
    }

    /// Listens at one port of a range, at each of its addresses.
    /// - Returns: the port.
    private func listen(
        _ ports: PublishedPorts, _ index: UInt16, at first: UInt16, _ machine: Machine
    ) throws(PublishProblem) -> UInt16 {
        var port = first == 0 ? 0 : first &+ index
        let machinePort = ports.machinePort &+ index
        switch ports.hostAddress {
        case .v4(let address):
            return try listen(ports, SocketAddress(ipv4: address.value, port: port), machinePort, machine)
        case .v6(let address):
            return try listen(
                ports, SocketAddress(ipv6High: address.high, low: address.low, port: port), machinePort, machine)
        case .any:
            port = try listen(ports, SocketAddress(ipv4: 0, port: port), machinePort, machine)
            do throws(PublishProblem) {
                return try listen(ports, SocketAddress(ipv6High: 0, low: 0, port: port), machinePort, machine)
            } catch {
                // A host without IPv6.
                if case .noSuchAddress = error { return port }
                throw error
            }
        }
    }

    private func listen(
        _ ports: PublishedPorts, _ address: SocketAddress, _ machinePort: UInt16, _ machine: Machine
    ) throws(PublishProblem) -> UInt16 {
        do throws(SystemError) {
            let socket =
                switch ports.transport {
                case .tcp: try listeningSocket(at: address)
                case .udp: try InternetSocket.bound(to: address)
                }
            let port = try InternetSocket.localAddress(socket).port
            let raw = socket.release()
            // On all addresses: an answer has to come from the one that was asked.
            if ports.transport == .udp, ports.hostAddress == .any {
                InternetSocket.tellLocalAddress(raw, ipv4: address.isIPv4)
            }
            let entry: Slot =
                switch ports.transport {
                case .tcp:
                    .listener(
                        Listener(
                            machine, machinePort, tellsClientAddress: ports.tellsClientAddress,
                            socket: Descriptor(owning: raw)))
                case .udp: .datagramListener(DatagramListener(machine, machinePort, socket: Descriptor(owning: raw)))
                }
            let slot = take(for: entry)
            listeners[machine.settings.endpoint, default: []].append(slot)
            try epoll.add(raw, .readable, token: token(slot))
            return port
        } catch {
            let host =
                address.isIPv4 ? "\(IPv4Address(UInt32(truncatingIfNeeded: address.low)))" : "[\(address.address)]"
            switch error.code {
            case EADDRINUSE: throw .taken("\(host):\(address.port)", ports.transport)
            case EACCES, EPERM: throw .forbidden("\(host):\(address.port)", ports.transport)
            case EADDRNOTAVAIL, EAFNOSUPPORT: throw .noSuchAddress(host)
            case EMFILE, ENFILE: throw .noDescriptors
            default: throw .system(error)
            }
        }
    }

    /// What it is set to, those have that it accepts.
    private func listeningSocket(at address: SocketAddress) throws(SystemError) -> Descriptor {
        let socket = try InternetSocket.listen(at: address, backlog: 4096)
        InternetSocket.tune(socket, keepaliveInSeconds: configuration.keepaliveInSeconds)
        return socket
    }

    // MARK: - Connections

    /// Calls the machine for those who have connected; the rest has its turn at the next event.
    func accept(_ listener: Listener, _ slot: UInt32, _ now: Microseconds) {
        for _ in 0..<64 {
            var peer = SocketAddress(ipv4: 0, port: 0)
            let accepted: Descriptor?
            do throws(SystemError) {
                accepted = try InternetSocket.accept(on: listener.socket, peer: &peer)
            } catch {
                // No descriptors: the listener would be ready for ever. Clients wait in its backlog.
                counters.outOfDescriptors += 1
                try? epoll.remove(listener.socket.raw)
                listener.rests = true
                return timers.set(slot, now + 100_000)
            }
            guard let socket = accepted else { return }
            dial(listener, socket, from: peer, now)
        }
    }

    /// A listener that has rested is watched again.
    func listenAgain(_ listener: Listener, _ slot: UInt32) {
        guard listener.rests else { return }
        listener.rests = false
        try? epoll.add(listener.socket.raw, .readable, token: token(slot))
    }

    private func dial(
        _ listener: Listener, _ socket: consuming Descriptor, from peer: SocketAddress, _ now: Microseconds
    ) {
        let machine = listener.machine
        guard makeRoomForConnection(machine),
            let key = publishedKey(machine, IPProtocol.tcp, listener.machinePort, from: peer)
        else {
            counters.overQuota += 1
            InternetSocket.resetOnClose(socket)
            return
        }
        var header: [UInt8] = []
        if listener.tellsClientAddress, let local = try? InternetSocket.localAddress(socket) {
            header = ProxyHeader.bytes(from: peer, to: local)
        }
        let endpoint = TCP.Endpoint(
            connecting: tcpConfiguration(key.endpoint, isIPv4: key.isIPv4), initialSequence: initialSequence(key, now),
            timestampOffset: initialSequence(key, 0).value, now: now)
        let flow = add(key, machine, .dialing, endpoint, 0)
        flow.adopt(socket)
        if !header.isEmpty {
            guard unsafe header.withUnsafeBytes({ unsafe flow.toMachine.place($0, at: 0) }) else {
                return abandon(flow, now)
            }
            flow.toMachine.extend(by: header.count)
            flow.endpoint.write(header.count)
        }
        guard watch(flow) else { return abandon(flow, now) }
        counters.connectionsPublished += 1
        mark(flow)
    }

    /// A key for somebody who comes in by a published port: to the machine, it is the gateway that calls, from a port
    /// that no other flow has.
    func publishedKey(
        _ machine: Machine, _ number: UInt8, _ machinePort: UInt16, from peer: SocketAddress
    ) -> FlowKey? {
        let settings = machine.settings
        let ipv4 = settings.ipv4.flatMap { own in
            settings.gatewayIPv4.map { (IPv6Address(mapping: own), IPv6Address(mapping: $0)) }
        }
        let ipv6 = settings.ipv6.flatMap { own in settings.gatewayIPv6.map { (own, $0) } }
        guard let (inside, outside) = peer.isIPv4 ? ipv4 ?? ipv6 : ipv6 ?? ipv4 else { return nil }
        var key = FlowKey(
            endpoint: settings.endpoint, protocolNumber: number, inside: inside, outside: outside,
            insidePort: machinePort, outsidePort: nextPort)
        for _ in 0..<4096 {
            key.outsidePort = nextPort
            nextPort =
                nextPort == GatewayConfiguration.publishedPorts.upperBound
                ? GatewayConfiguration.publishedPorts.lowerBound : nextPort + 1
            if flows[key] == nil { return key }
        }
        return nil
    }

    // MARK: - Datagrams

    func receive(_ listener: DatagramListener, _ now: Microseconds) {
        for _ in 0..<4 {
            let count = datagrams.receive(from: listener.socket.raw)
            for index in 0..<count {
                guard let peer = datagrams.peer(index) else { continue }
                let way = DatagramListener.Way(peer: peer, local: datagrams.local(index))
                guard let flow = flow(listener, way, now) else { continue }
                unsafe deliver(datagrams.bytes(index), flow, now)
            }
            link.flush()
            guard count == DatagramSpace.count else { return }
        }
    }

    private func flow(
        _ listener: DatagramListener, _ way: DatagramListener.Way, _ now: Microseconds
    ) -> DatagramFlow? {
        if let slot = listener.flows[way], case .datagram(let flow) = slots[Int(slot)] { return flow }
        let machine = listener.machine
        makeRoomForDatagrams(machine)
        guard let key = publishedKey(machine, IPProtocol.udp, listener.machinePort, from: way.peer) else {
            counters.overQuota += 1
            return nil
        }
        let flow = add(machine, now) {
            DatagramFlow(key, machine, slot: $0, listener: listener, way: way, now: now)
        }
        listener.flows[way] = flow.slot
        return flow
    }

    // MARK: - Rules that have changed

    /// Ends the flows that a machine may not have any more.
    func endRefused(_ machine: Machine, _ now: Microseconds) {
        let policy = machine.settings.policy
        func isRefused(_ key: FlowKey, _ names: [String]) -> Bool {
            guard key.outside != machine.gatewayAddress(isIPv4: key.isIPv4) else { return false }
            let verdict = policy.decide(
                key.outside, key.outsidePort, key.protocolNumber, hostAddresses: hostAddresses, now: now)
            if verdict == .refuse { return true }
            return policy.judge(key.outside, key.outsidePort, key.protocolNumber, now: now, names: names) == .denied
        }
        for slot in slots {
            switch slot {
            case .tcp(let flow) where flow.machine === machine && isRefused(flow.key, flow.names): abandon(flow, now)
            case .datagram(let flow) where flow.machine === machine && isRefused(flow.key, flow.names): remove(flow)
            default: break
            }
        }
    }
}
