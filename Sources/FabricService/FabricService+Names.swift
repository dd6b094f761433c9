// SPDX-License-Identifier: Apache-2.0

internal import Fabric
internal import FabricAPI
internal import Gateway
internal import Packet
internal import Platform

extension FabricService {
    /// Answers a machine's question, or passes it on.
    func ask(_ query: NameQuery, _ record: UnsafeRawBufferPointer, from port: MachinePort, now: UInt64) {
        guard query.offset + query.length <= record.count else { return }
        let message = unsafe UnsafeRawBufferPointer(rebasing: record[query.offset..<(query.offset + query.length)])
        var reply = unsafe answer.slot(0).mutableBytes
        let place = DatagramReply.payloadOffset(isIPv6: query.isIPv6)
        names.turn &+= 1
        switch NameServer.answer(
            unsafe message.bytes, network: query.network, table: state.table, elsewhere: port.elsewhere,
            foreign: foreignNames, denied: &port.deniedNames, now: now, turn: names.turn, overTCP: false, to: &reply,
            at: place)
        {
        case .answered(let length): sendAnswer(length, isIPv6: query.isIPv6, port: query.clientPort, to: port)
        case .ignored: router.countDrop(.notForUs, at: port.id)
        case .forward:
            guard mayAsk(unsafe message.bytes, port) else {
                guard let length = NameServer.deny(unsafe message.bytes, to: &reply, at: place) else { return }
                return sendAnswer(length, isIPv6: query.isIPv6, port: query.clientPort, to: port)
            }
            let client = NameClient(
                endpoint: port.endpoint, way: .datagram(isIPv6: query.isIPv6, port: query.clientPort))
            perform(names.ask(unsafe Array(message), from: client, now: now))
        }
    }

    /// What is asked of nobody, as machines of this network are not to know it.
    var foreignNames: ForeignNames { others?.names ?? ForeignNames() }

    /// Whether a machine's rules let it ask the outside for a name; counted where they do not.
    func mayAsk(_ message: RawSpan, _ port: MachinePort) -> Bool {
        var audited: String?
        for rules in [port.egress, networkRules] where !rules.list.isEmpty {
            guard let view = DNSView(message) else { continue }
            let name = view.question.name.text
            if rules.list.permitAsking(for: name) { continue }
            guard rules.auditsOnly else {
                router.countDrop(.nameDenied, at: port.id)
                return false
            }
            audited = name
        }
        if let audited { gateway.noteAudited(audited, for: port.endpoint) }
        return true
    }

    /// Does what the forwarder wants.
    func perform(_ actions: [NameAction]) {
        var rest = actions[...]
        while let action = rest.popFirst() {
            switch action {
            case .ask(let exchange, let upstream, let message, let overTCP):
                let opened = names.open(exchange, upstream, message, overTCP: overTCP)
                if let opened, let entry = names.exchanges[opened],
                    (try? epoll.add(
                        entry.socket, overTCP ? [.readable, .writable, .edgeTriggered] : .readable,
                        token: Token.exchange(opened).value)) != nil
                {
                    continue
                }
                if let opened { names.close(opened) }
                rest += names.fail(exchange, now: monotonicNanoseconds())
            case .end(let exchange):
                if let index = names.index(of: exchange) { names.close(index) }
            case .answer(let client, let message): deliver(message, to: client)
            }
        }
    }

    private func deliver(_ message: [UInt8], to client: NameClient) {
        pin(message, for: client.endpoint)
        if case .stream(let number) = client.way { return deliver(message, toStream: number) }
        guard case .datagram(let isIPv6, let clientPort) = client.way,
            let target = router.port(of: client.endpoint), let port = ports[target.index],
            port.endpoint == client.endpoint
        else { return }
        let place = DatagramReply.payloadOffset(isIPv6: isIPv6)
        guard message.count <= FrameLayout.longest - place else { return router.countDrop(.tooLarge, at: target) }
        var reply = unsafe answer.slot(0).mutableBytes
        reply.put(message, at: place)
        sendAnswer(message.count, isIPv6: isIPv6, port: clientPort, to: port)
    }

    /// Where a machine's rules are about the name that it asked for, its connections to what the answer says are let
    /// through from now on.
    private func pin(_ message: [UInt8], for endpoint: EndpointID) {
        let span = message.span
        guard let view = unsafe DNSView(span.bytes) else { return }
        let name = view.question.name.description.lowercased()
        guard gateway.concerns(name, for: endpoint) else { return }
        let now = microseconds()
        var records = view.records
        var record = DNSRecord()
        while records.next(&record) {
            guard record.section == .answer else { continue }
            let address: IPv6Address
            switch (record.type, record.dataLength) {
            case (DNSType.a, 4): address = IPv6Address(mapping: view.bytes.ipv4(record.dataOffset))
            case (DNSType.aaaa, 16): address = view.bytes.ipv6(record.dataOffset)
            default: continue
            }
            // A second, for the answer's way through the machine.
            _ = gateway.pin(
                address, name: name, for: endpoint, until: now + (UInt64(record.timeToLive) + 1) * 1_000_000, now: now)
        }
    }

    /// Sends the message in the answer's slot as a datagram from the gateway's port 53.
    private func sendAnswer(_ length: Int, isIPv6: Bool, port clientPort: UInt16, to port: MachinePort) {
        var reply = unsafe answer.slot(0).mutableBytes
        guard
            let total = DatagramReply.finish(
                &reply, length: length, isIPv6: isIPv6, to: port.endpoint, clientPort: clientPort, table: state.table)
        else { return router.countDrop(.noAddress, at: port.id) }
        unsafe send(answer.slot(0, count: total), to: port.id, from: port.id)
        flushOutbox()
    }
}
