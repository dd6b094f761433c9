// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Fabric
internal import Gateway
internal import Glibc
internal import Packet
internal import Platform

extension FabricService {
    // MARK: - Coming and going

    /// Takes the connection of a machine's monitor. One that comes while another is there takes its place: the monitor
    /// has started anew, and the kernel has not told us yet that the old one is gone.
    func acceptMachine(_ index: Int) {
        guard let port = ports[index] else { return }
        while true {
            guard let connection = accept(on: port.listener, .listener(index)) else { return }
            guard isOfOwner(connection) else { continue }
            disconnect(port)
            guard
                (try? epoll.add(connection.raw, [.readable, .peerClosed], token: Token.port(index).value)) != nil
            else { continue }
            port.adopt(connection)
            gateway.resume(port.endpoint, now: microseconds())
        }
    }

    /// The machine's monitor has gone; the endpoint stays for as long as its lease.
    func disconnect(_ port: MachinePort) {
        guard let connection = port.connection.take() else { return }
        try? epoll.remove(connection.raw)
        connection.close()
        for _ in 0..<port.removeQueued() { router.countDrop(.receiverGone, at: port.id) }
        // What waits for room goes on into the void, so that its timers run. Not here: the gateway may be at work.
        relieved.append(port.endpoint)
        router.setOffloads(Offloads(), of: port.id)
    }

    /// Ends a port and its endpoint.
    func removePort(_ index: Int) {
        guard ports.indices.contains(index), let port = ports[index] else { return }
        gateway.remove(port.endpoint, now: microseconds())
        try? epoll.remove(port.listener.raw)
        // First, so that whoever sees the connection end does not find the name any more.
        Files.remove(port.path)
        disconnect(port)
        router.close(port.id)
        try? state.remove(port.endpoint)
        ports[index] = nil
        endStreams(of: port.endpoint)
        for (number, capture) in captures.enumerated() {
            // The port's number will be another machine's.
            if capture?.port == port.id { endCapture(number) } else { capture?.forget(port.id) }
        }
        tableChanged()
    }

    /// Tells the machines of a network of addresses that are another machine's now, before that one has said a word.
    func welcome(_ endpoint: Endpoint, at port: MachinePort) {
        for announcement in neighbors.welcome(endpoint, in: state.table) {
            flushOutbox()
            var space = unsafe answer.slot(0).mutableBytes
            let record = unsafe answer.slot(0, count: announcement.write(to: &space))
            router.forEachMember(of: endpoint.network, except: port.id) { target in
                if ports[target.index]?.isConnected == true { unsafe send(record, to: target, from: target) }
            }
            flushOutbox()
        }
    }

    // MARK: - From machines

    /// Takes one batch: epoll says again that there is more when the others have had their turn.
    func receive(from index: Int) {
        guard let port = ports[index], port.isConnected else { return }
        guard let count = batch.receive(from: port.socket, into: received) else { return disconnect(port) }
        let now = monotonicNanoseconds()
        hasUnfinishedBatch = true
        for number in 0..<count {
            let length = batch.length(number)
            // A record of nothing is the end of the connection.
            guard length > 0 else { return disconnect(port) }
            if length < VirtioNetHeader.length + EthernetHeader.length {
                unsafe take(message: UnsafeRawBufferPointer(received.slot(number, count: length)), from: port)
            } else if length > FrameLayout.longest {
                router.countDrop(.malformedFrame, at: port.id)
            } else {
                unsafe take(record: received.slot(number, count: length), from: port, now: now)
            }
        }
    }

    /// Sends what the last batch has brought about; its records are not read any more afterwards.
    func finishBatch() {
        guard hasUnfinishedBatch else { return }
        hasUnfinishedBatch = false
        gateway.flush(now: microseconds())
        flushOutbox()
    }

    private func take(message: UnsafeRawBufferPointer, from port: MachinePort) {
        guard let guest = unsafe GuestMessage(message.bytes) else { return }
        router.setOffloads(Offloads(features: guest.driverRuns ? guest.features : 0), of: port.id)
    }

    private func take(record: UnsafeMutableRawBufferPointer, from port: MachinePort, now: UInt64) {
        var space = unsafe record.mutableBytes
        var reply = unsafe answer.slot(0).mutableBytes
        let verdict = router.receive(&space, from: port.id, now: now, reply: &reply)
        if isCapturing { unsafe capture(UnsafeRawBufferPointer(record), at: port, .inbound, verdict) }
        switch verdict {
        case .forward(let target): unsafe send(record, to: target, from: port.id)
        case .flood(let network):
            router.forEachMember(of: network, except: port.id) { unsafe send(record, to: $0, from: port.id) }
        case .reply(let length):
            flushOutbox()
            unsafe send(answer.slot(0, count: length), to: port.id, from: port.id)
            flushOutbox()
        case .query(let query):
            flushOutbox()
            unsafe ask(query, UnsafeRawBufferPointer(record), from: port, now: now)
        case .outside(let packet):
            unsafe gateway.receive(packet, record: UnsafeRawBufferPointer(record), now: now / 1000)
        case .outsideReassembled(let packet):
            unsafe gateway.receive(
                packet, record: UnsafeRawBufferPointer(answer.slot(0)), wasInPieces: true, now: now / 1000)
            // The next fragments may be put together where this packet is.
            gateway.flush(now: now / 1000)
        case .drop: break
        }
    }

    // MARK: - To machines

    /// Puts a record into the outbox, in the shape that its receiver takes. The record stays where it is until the
    /// outbox is flushed.
    func send(_ record: UnsafeMutableRawBufferPointer, to target: PortID, from source: PortID) {
        guard let port = ports[target.index], port.isConnected else {
            return router.countDrop(.receiverGone, at: source)
        }
        var space = unsafe record.mutableBytes
        switch router.shape(&space, for: target) {
        case .whole: unsafe add(UnsafeRawBufferPointer(record), to: port, from: source)
        case .drop(let reason): router.countDrop(reason, at: source)
        case .segments(let plan):
            for index in 0..<plan.count {
                if madeCount == FrameArena.slotCount { flushOutbox() }
                let slot = unsafe made.slot(madeCount)
                madeCount += 1
                var output = unsafe slot.mutableBytes
                VirtioNetHeader().write(to: &output, at: 0)
                let frame = unsafe UnsafeRawBufferPointer(rebasing: record[FrameLayout.frame...])
                let length = unsafe plan.write(index, of: frame.bytes, to: &output, at: FrameLayout.frame)
                unsafe add(
                    UnsafeRawBufferPointer(rebasing: slot[..<(FrameLayout.frame + length)]), to: port,
                    from: source)
            }
        }
    }

    private func add(_ record: UnsafeRawBufferPointer, to port: MachinePort, from source: PortID) {
        add(unsafe Outgoing(port: port.id.index, source: source.index, record: record))
    }

    func add(_ record: Outgoing) {
        if isCapturing, let port = ports[record.port] {
            let bytes = record.bytes
            unsafe bytes.withUnsafeBytes { unsafe capture($0, at: port, .outbound, nil) }
        }
        outbox.append(record)
        unsentBytes += record.count
        if outbox.count == RecordBatch.limit { flushOutbox() }
    }

    /// Sends what is in the outbox: as many records with one call as go to the same port one after another.
    func flushOutbox() {
        var start = 0
        while start < outbox.count {
            var end = start + 1
            while end < outbox.count, outbox[end].port == outbox[start].port { end += 1 }
            flush(start..<end)
            start = end
        }
        outbox.removeAll(keepingCapacity: true)
        madeCount = 0
        headCount = 0
        unsentBytes = 0
    }

    private func flush(_ range: Range<Int>) {
        guard let port = ports[outbox[range.lowerBound].port], port.isConnected else {
            return drop(range, .receiverGone)
        }
        var sent = range.lowerBound
        if !port.isBacklogged {
            for (number, index) in range.enumerated() {
                unsafe sending.set(number, outbox[index].record, outbox[index].second, outbox[index].third)
            }
            guard let count = sending.send(0..<range.count, to: port.socket) else {
                drop(range, .receiverGone)
                return disconnect(port)
            }
            for index in range.prefix(count) { router.countSent(outbox[index].count, to: port.id) }
            sent += count
        }
        guard sent < range.upperBound else { return }
        let wasBacklogged = port.isBacklogged
        for index in sent..<range.upperBound {
            let record = outbox[index]
            guard port.queue.hasRoom(for: record.count, from: record.source) else {
                drop(index..<(index + 1), .queueFull)
                continue
            }
            _ = port.queue.push(QueuedRecord(record), bytes: record.count, from: record.source)
        }
        if !wasBacklogged { watch(port) }
    }

    /// Counts records of the outbox that cannot be passed on: at their sender, or, where that is the gateway, at whom
    /// they are for.
    private func drop(_ range: Range<Int>, _ reason: DropReason) {
        for index in range {
            let source = outbox[index].source
            router.countDrop(
                reason, at: PortID(source == FabricService.gatewaySource ? outbox[index].port : source))
        }
    }

    /// Asks to be told when the port's socket has room, for as long as something waits for it.
    private func watch(_ port: MachinePort) {
        let readiness: Readiness = port.isBacklogged ? [.readable, .peerClosed, .writable] : [.readable, .peerClosed]
        try? epoll.modify(port.socket, readiness, token: Token.port(port.id.index).value)
    }

    /// The port's socket has room again.
    func drain(_ index: Int) {
        guard let port = ports[index], port.isConnected else { return }
        while true {
            var bytes = port.leaving.reduce(0) { $0 + $1.count }
            while port.leaving.count < RecordBatch.limit, bytes < port.burstInBytes, let record = port.queue.front() {
                port.queue.removeFront()
                port.leaving.append(record)
                bytes += record.count
            }
            guard !port.leaving.isEmpty else { break }
            for (number, record) in port.leaving.enumerated() { unsafe sending.set(number, record.bytes) }
            guard let count = sending.send(0..<port.leaving.count, to: port.socket) else { return disconnect(port) }
            for record in port.leaving.prefix(count) { router.countSent(record.count, to: port.id) }
            port.leaving.removeFirst(count)
            guard port.leaving.isEmpty else { break }
        }
        watch(port)
        if GatewayLink.hasRoom(in: port) { gateway.resume(port.endpoint, now: microseconds()) }
    }

    // MARK: - Captures

    private func capture(
        _ record: UnsafeRawBufferPointer, at port: MachinePort, _ direction: PCAPNG.Direction, _ verdict: Verdict?
    ) {
        var comment: String?
        if case .drop(let reason) = verdict { comment = "dropped: \(reason.name)" }
        guard record.count > FrameLayout.frame else { return }
        let frame = unsafe UnsafeRawBufferPointer(rebasing: record[FrameLayout.frame...])
        for (index, capture) in captures.enumerated() {
            guard let capture, capture.port == nil || capture.port == port.id else { continue }
            capture.add(
                unsafe frame.bytes, at: port.id, name: port.machine, direction: direction, comment: comment)
            if !capture.isBlocked || !capture.isWatched { writeCapture(index) }
        }
    }

    func writeCapture(_ index: Int) {
        guard captures.indices.contains(index), let capture = captures[index] else { return }
        guard capture.write() else { return endCapture(index) }
        let token = Token.capture(index).value
        if capture.isBlocked, !capture.isWatched {
            // Regular files are never blocked, and epoll does not take them.
            capture.isWatched = (try? epoll.add(capture.output.raw, .writable, token: token)) != nil
        } else if !capture.isBlocked, capture.isWatched {
            try? epoll.remove(capture.output.raw)
            capture.isWatched = false
        }
    }

    func endCapture(_ index: Int) {
        guard let capture = captures[index] else { return }
        if capture.isWatched { try? epoll.remove(capture.output.raw) }
        captures[index] = nil
        isCapturing = captures.contains { $0 != nil }
        if emptySince != nil { emptySince = monotonicNanoseconds() }
    }
}
