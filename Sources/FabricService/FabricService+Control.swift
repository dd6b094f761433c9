// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Fabric
internal import FabricAPI
internal import Gateway
internal import Glibc
internal import Packet
internal import Platform
internal import Wire

extension FabricService {
    static var clientLimit: Int { 4096 }
    static var captureLimit: Int { 64 }

    func acceptClients() {
        while true {
            guard let connection = accept(on: control, .control) else { return }
            guard isOfOwner(connection) else { continue }
            add(ControlClient(connection))
        }
    }

    /// Whether the other end of a connection is this user, or root.
    func isOfOwner(_ connection: borrowing Descriptor) -> Bool {
        var user: uid_t = 0
        guard unsafe clinux_peer_user(connection.raw, &user) == 0 else { return false }
        if user == geteuid() || user == 0 { return true }
        // In a user namespace of our own root has no number; others do not get past the directory's permissions.
        return confinement?.namespaces.hasOwnUsers == true && user == OwnNamespaces.unknownUser
    }

    func add(_ client: ControlClient) {
        let index = clients.firstIndex { $0 == nil } ?? clients.count
        guard index < FabricService.clientLimit,
            (try? epoll.add(client.socket.raw, .readable, token: Token.client(index).value)) != nil
        else { return }
        if index == clients.count { clients.append(client) } else { clients[index] = client }
    }

    func serve(client index: Int, _ readiness: Readiness) {
        guard clients.indices.contains(index), let client = clients[index] else { return }
        if readiness.contains(.writable), !client.flush() { return end(client: index) }
        if !readiness.isDisjoint(with: [.readable, .hungUp, .failed]) {
            switch client.read() {
            case .ended: return end(client: index)
            case .tooLong:
                _ = client.write(FabricReply.refused(.malformed, "the request is too long").json.encoded())
                return end(client: index)
            case .lines(let lines):
                for line in lines {
                    guard client.write(reply(to: line, of: index, client).json.encoded()) else {
                        return end(client: index)
                    }
                }
            }
        }
        try? epoll.modify(
            client.socket.raw, client.isBlocked ? [.readable, .writable] : .readable,
            token: Token.client(index).value)
    }

    /// The lease has ended, and with it all that was had by it.
    private func end(client index: Int) {
        guard let client = clients[index] else { return }
        for port in client.attached { removePort(port) }
        for (number, capture) in captures.enumerated() where capture?.client == index { endCapture(number) }
        if let machine = client.machine { gateway.withdraw(client.listeners, of: machine) }
        try? epoll.remove(client.socket.raw)
        clients[index] = nil
    }

    private func reply(to line: [UInt8], of index: Int, _ client: ControlClient) -> FabricReply {
        let request: FabricRequest
        do {
            var limits = JSONLimits()
            limits.sizeInBytes = FabricRequest.sizeLimit
            request = try FabricRequest(JSON(parsing: line, limits: limits))
        } catch {
            return .refused(.malformed, "\(error)")
        }
        if let machine = client.machine { return reply(to: request, of: machine, client) }
        switch request {
        case .attach(let attachment): return attach(attachment, client)
        case .detach(let id):
            guard let port = own(id, client) else { return FabricService.unknown(id) }
            client.attached.removeAll { $0 == port.id.index }
            removePort(port.id.index)
            return .done
        case .publish(let id, let ports):
            guard let port = own(id, client) else { return FabricService.unknown(id) }
            return publish(ports, port)
        case .setEgress(let id, let rules, let isAudited):
            guard let port = own(id, client) else { return FabricService.unknown(id) }
            port.egress = EgressPolicy.Rules(rules, auditsOnly: isAudited)
            applyRules(to: port)
            return .done
        case .setOthers(let id, let others):
            guard let port = own(id, client) else { return FabricService.unknown(id) }
            port.elsewhere = others.map(NamesElsewhere.init)
            return .done
        case .setPolicy(let rules, let isAudited):
            definition.egress = rules
            definition.isEgressAudited = isAudited
            for case let port? in ports { applyRules(to: port) }
            return .done
        case .present: return .refused(.forbidden, "only a machine shows a token, to its gateway")
        case .end:
            guard state.table.endpoints.isEmpty else { return .refused(.taken, "the network has machines") }
            isEnding = true
            return .done
        case .inspect: return .inspected(inspection())
        case .capture(let id): return beginCapture(id, index, client)
        }
    }

    private func applyRules(to port: MachinePort) {
        gateway.setRules(own: port.egress, network: networkRules, of: port.endpoint, now: microseconds())
    }

    private static func unknown(_ id: String) -> FabricReply {
        .refused(.unknown, "no machine \(id) was attached by this connection")
    }

    private func own(_ id: String, _ client: ControlClient) -> MachinePort? {
        for index in client.attached { if let port = ports[index], port.machine == id { return port } }
        return nil
    }

    // MARK: - Attaching

    private func attach(_ attachment: FabricRequest.Attachment, _ client: ControlClient) -> FabricReply {
        guard !ports.contains(where: { $0?.machine == attachment.id }) else {
            return .refused(.taken, "the machine \(attachment.id) is attached already")
        }
        var request = EndpointRequest(name: attachment.name, network: configuration.definition.name)
        request.aliases = attachment.aliases
        request.mac = attachment.hardwareAddress
        request.ipv4 = attachment.address
        request.ipv6 = attachment.address6
        var changed = state
        let path = "\(configuration.ownDirectory)/ports/\(attachment.id)"
        do throws(FabricError) {
            let endpoint = try changed.add(request)
            let index = ports.firstIndex { $0 == nil } ?? ports.count
            try changed.attach(endpoint.id, to: PortID(index))
            let port = try MachinePort(
                id: PortID(index), endpoint: endpoint.id, machine: attachment.id, path: path,
                listener: listen(at: path, index))
            if index == ports.count { ports.append(port) } else { ports[index] = port }
            router.open(port.id)
            state = changed
            tableChanged()
            client.attached.append(index)
            port.egress = EgressPolicy.Rules(attachment.egress, auditsOnly: attachment.isEgressAudited)
            port.hasHostAccess = attachment.hasHostAccess
            port.token = attachment.token
            port.elsewhere = attachment.others.map(NamesElsewhere.init)
            addToGateway(endpoint, port)
            if case .refused(let refusal, let reason) = publish(attachment.published, port) {
                client.attached.removeLast()
                removePort(index)
                return .refused(refusal, reason)
            }
            welcome(endpoint, at: port)
            return .attached(description(of: endpoint, port))
        } catch {
            return .refused(FabricService.refusal(error), "\(error)")
        }
    }

    private func listen(at path: String, _ index: Int) throws(FabricError) -> Descriptor {
        do throws(SystemError) {
            Files.remove(path)
            let listener = try UnixSocket.listen(at: path, kind: .records)
            try epoll.add(listener.raw, .readable, token: Token.listener(index).value)
            return listener
        } catch {
            throw .system(error)
        }
    }

    private static func refusal(_ error: FabricError) -> FabricReply.Refusal {
        switch error {
        case .nameTaken, .addressTaken, .macTaken: .taken
        case .subnetIsFull, .tooMany: .full
        case .unknownMachine, .unknownNetwork: .unknown
        case .system(let error): error.code == EACCES || error.code == EPERM ? .forbidden : .failed
        case .badName, .badSubnet, .badGateway, .addressOutside, .badMAC, .networkIsUsed, .badMTU: .malformed
        }
    }

    private func description(of endpoint: Endpoint, _ port: MachinePort) -> FabricReply.Endpoint {
        let network = state.table.networks[endpoint.network]
        var result = FabricReply.Endpoint(
            socketPath: "\(configuration.directory)/ports/\(port.machine)", hardwareAddress: endpoint.mac,
            mtu: UInt32(network.mtu))
        if let subnet = network.subnet {
            result.address = endpoint.ipv4
            result.prefixLength = UInt8(subnet.length)
            result.gateway = network.gateway
            result.nameServers.append("\(network.gateway)")
        }
        if let prefix = network.prefix, let gateway = network.gateway6 {
            result.address6 = endpoint.ipv6
            result.prefixLength6 = UInt8(prefix.length)
            result.gateway6 = gateway
            result.nameServers.append("\(gateway)")
        }
        result.searchDomains = [network.name]
        result.published = port.published
        return result
    }

    private func publish(_ wanted: [PublishedPorts], _ port: MachinePort) -> FabricReply {
        do throws(PublishProblem) {
            port.published += try gateway.publish(wanted, for: port.endpoint).ports
            return .published(port.published)
        } catch {
            return .refused(FabricService.refusal(error), "\(error)")
        }
    }

    static func refusal(_ problem: PublishProblem) -> FabricReply.Refusal {
        switch problem {
        case .taken: .taken
        case .forbidden: .forbidden
        case .noDescriptors: .full
        case .unknownMachine: .unknown
        case .noSuchAddress, .system: .failed
        }
    }

    // MARK: - Looking

    private func beginCapture(_ id: String?, _ index: Int, _ client: ControlClient) -> FabricReply {
        guard let descriptor = client.takeDescriptor() else {
            return .refused(.malformed, "a descriptor to write to must come with the request")
        }
        let output = consume descriptor
        var port: PortID?
        if let id {
            guard let found = ports.first(where: { $0?.machine == id }) ?? nil else {
                return .refused(.unknown, "there is no machine \(id)")
            }
            port = found.id
        }
        let place = captures.firstIndex { $0 == nil } ?? captures.count
        guard place < FabricService.captureLimit else { return .refused(.full, "there are too many captures") }
        guard (try? output.setNonBlocking()) != nil else {
            return .refused(.failed, "the descriptor is none to write to")
        }
        let capture = Capture(output: output, port: port, client: index)
        if place == captures.count { captures.append(capture) } else { captures[place] = capture }
        isCapturing = true
        writeCapture(place)
        return .done
    }

    private func inspection() -> JSON {
        var object = JSONObject()
        object["network"] = definition.json
        var list: [JSON] = []
        for case let port? in ports {
            guard let endpoint = state.table.endpoints.first(where: { $0.id == port.endpoint }) else { continue }
            var entry = JSONObject()
            entry["id"] = .string(port.machine)
            entry["name"] = .string(endpoint.name)
            entry["aliases"] = .array(endpoint.aliases.map { .string($0) })
            entry["mac"] = .string("\(endpoint.mac)")
            entry["address"] = endpoint.ipv4.map { .string("\($0)") }
            entry["address6"] = endpoint.ipv6.map { .string("\($0)") }
            entry["connected"] = .bool(port.isConnected)
            entry["published"] = .array(published(of: port).map(\.json))
            entry["queuedBytes"] = .number(port.leaving.reduce(port.queue.bytes) { $0 + $1.count })
            write(router.counters(of: port.id), to: &entry)
            if let usage = gateway.usage(of: port.endpoint) { entry["outside"] = json(usage) }
            let audited = gateway.audited(of: port.endpoint).entries
            if !audited.isEmpty { entry["audited"] = .array(audited.map { json($0) }) }
            list.append(.object(entry))
        }
        object["machines"] = .array(list)
        var gone = JSONObject()
        write(router.retired, to: &gone)
        object["gone"] = .object(gone)
        var resolver = JSONObject()
        resolver["servers"] = .array(names.servers.map { .string("\($0)") })
        resolver["answeredFromMemory"] = .number(names.hits)
        resolver["asked"] = .number(names.misses)
        resolver["otherNetworks"] = .number(foreignNames.count)
        object["names"] = .object(resolver)
        object["gateway"] = json(gateway.counters)
        object["confinement"] = confinement?.json
        object["captures"] = .array(
            captures.compactMap { capture in
                guard let capture else { return nil }
                var entry = JSONObject()
                entry["id"] = capture.port.flatMap { ports[$0.index] }.map { .string($0.machine) }
                entry["lost"] = .number(capture.lost)
                return .object(entry)
            })
        object["outOfDescriptors"] = .number(outOfDescriptors)
        return .object(object)
    }

    private func json(_ usage: GatewayUsage) -> JSON {
        var object = JSONObject()
        object["connections"] = .number(usage.connections)
        object["connecting"] = .number(usage.connecting)
        object["datagramFlows"] = .number(usage.datagramFlows)
        object["bufferedBytes"] = .number(usage.bufferInBytes)
        return .object(object)
    }

    private func json(_ audited: AuditTrail.Entry) -> JSON {
        var object = JSONObject()
        switch audited.target {
        case .name(let name): object["name"] = .string(name)
        case .address(let address, let port, let number):
            object["address"] = .string(address.mappedIPv4.map { "\($0)" } ?? "\(address)")
            switch number {
            case IPProtocol.tcp: object["transport"] = "tcp"
            case IPProtocol.udp: object["transport"] = "udp"
            default: object["transport"] = "icmp"
            }
            if port != 0 { object["port"] = .number(UInt64(port)) }
        }
        object["times"] = .number(audited.count)
        return .object(object)
    }

    private func json(_ counters: GatewayCounters) -> JSON {
        var object = JSONObject()
        for (name, value) in counters.named { object[name] = .number(value) }
        return .object(object)
    }

    private func write(_ counters: PortCounters, to object: inout JSONObject) {
        object["framesFromMachine"] = .number(counters.framesFromMachine)
        object["bytesFromMachine"] = .number(counters.bytesFromMachine)
        object["framesToMachine"] = .number(counters.framesToMachine)
        object["bytesToMachine"] = .number(counters.bytesToMachine)
        var drops = JSONObject()
        for reason in DropReason.allCases { drops[reason.name] = .number(counters[reason]) }
        object["dropped"] = .object(drops)
    }
}
