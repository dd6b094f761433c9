// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform
internal import Virtio

extension VsockDevice {
    // MARK: - From the guest

    /// Takes the guest's packets.
    func takePackets() {
        do {
            var budget = 2 * Int(Self.queueSize)
            repeat {
                queues[Queue.transmit].suppressNotifications()
                while budget > 0, resets.count - firstReset < Self.resetLimit {
                    guard try queues[Queue.transmit].pop(into: transmitChain) else { break }
                    budget -= 1
                    takePacket()
                    queues[Queue.transmit].push(head: transmitChain.head, written: 0)
                }
                interruptIfNeeded(Queue.transmit)
                transmitIsHeldUp = resets.count - firstReset >= Self.resetLimit
                if budget == 0 { notifiers[Queue.transmit].event.signal() }
            } while try budget > 0 && !transmitIsHeldUp && queues[Queue.transmit].requestNotifications()
        } catch {
            return fail("\(error)")
        }
        deliver()
    }

    private func takePacket() {
        var bytes = InlineArray<44, UInt8>(repeating: 0)
        var span = bytes.mutableSpan
        let header = unsafe span.withUnsafeMutableBytes { space -> VsockHeader? in
            guard unsafe transmitChain.readable.copy(into: space) == VsockHeader.size else { return nil }
            return unsafe VsockHeader(UnsafeRawBufferPointer(space))
        }
        // Addresses that are not ours and the guest's have nobody to answer to.
        guard let header, header.sourceCID == guestCID, header.destinationCID == VsockHeader.hostCID else { return }
        let key = VsockKey(hostPort: header.destinationPort, guestPort: header.sourcePort)
        let carries = header.operation == VsockHeader.Operation.data ? Int(header.count) : 0
        counters.packetsFromGuest &+= 1
        counters.bytesFromGuest &+= UInt64(carries)
        guard header.type == VsockHeader.streamType, carries <= transmitChain.readable.byteCount else {
            if header.operation != VsockHeader.Operation.reset { resets.append(key) }
            return
        }
        guard let stream = streams[key] else { return takeStranger(header, key) }
        transmitChain.readable.limit(to: carries)
        switch stream.connection.receive(header) {
        case .none: noteWork(stream)
        case .deliver: forward(&transmitChain.readable, stream)
        case .established:
            greet(stream)
            noteWork(stream)
        case .shutdown: guestShutDown(stream)
        case .reset: forget(stream)
        case .breach: reset(stream)
        }
    }

    /// A packet of no stream: the beginning of one, or nothing that we know.
    private func takeStranger(_ header: VsockHeader, _ key: VsockKey) {
        if header.operation == VsockHeader.Operation.reset { return }
        guard header.operation == VsockHeader.Operation.request, let stream = connectToHost(key) else {
            resets.append(key)
            return
        }
        stream.connection = VsockConnection(accepting: header)
        noteWork(stream)
    }

    // MARK: - To the guest

    private var hasWork: Bool { !ready.isEmpty || firstReset < resets.count }

    /// Fills the guest's buffers for as long as there are some, and something to put there.
    func deliver() {
        guard isRunning else { return }
        do {
            var budget = 2 * Int(Self.queueSize)
            var staged: UInt16 = 0
            while hasWork {
                guard budget > 0 else {
                    // Others first; the notification brings us back.
                    notifiers[Queue.receive].event.signal()
                    break
                }
                budget -= 1
                guard try queues[Queue.receive].pop(into: receiveChain) else {
                    publish(&staged)
                    // None left: the guest tells when it has given some, unless it just has.
                    if try queues[Queue.receive].requestNotifications() { continue }
                    break
                }
                if let written = try fillBuffer() {
                    counters.packetsToGuest &+= 1
                    counters.bytesToGuest &+= UInt64(max(0, written - VsockHeader.size))
                    queues[Queue.receive].stage(head: receiveChain.head, written: written, at: staged)
                    staged += 1
                    if staged == Self.queueSize / 4 { publish(&staged) }
                } else {
                    queues[Queue.receive].unpop()
                }
            }
            publish(&staged)
        } catch {
            return fail("\(error)")
        }
        if transmitIsHeldUp, resets.count - firstReset < Self.resetLimit {
            transmitIsHeldUp = false
            notifiers[Queue.transmit].event.signal()
        }
    }

    private func publish(_ staged: inout UInt16) {
        guard staged > 0 else { return }
        queues[Queue.receive].publish(staged)
        staged = 0
        interruptIfNeeded(Queue.receive)
    }

    /// Puts the next packet into the buffer at hand; nil when there was none after all.
    private func fillBuffer() throws(VirtioError) -> Int? {
        guard receiveChain.writable.byteCount >= VsockHeader.size else { throw .badChain(.tooLong) }
        if firstReset < resets.count {
            let key = resets[firstReset]
            firstReset += 1
            if firstReset == resets.count {
                resets.removeAll(keepingCapacity: true)
                firstReset = 0
            }
            var header = VsockHeader()
            header.operation = VsockHeader.Operation.reset
            return put(header, key)
        }
        guard let stream = ready.popFirst(), stream.phase == .open else { return nil }
        defer { noteWork(stream) }
        return fillBuffer(from: stream)
    }

    private func fillBuffer(from stream: VsockStream) -> Int? {
        if let header = stream.connection.nextControl() { return put(header, stream.key) }
        guard stream.isReadable else { return nil }
        if stream.connection.isOutOfCredit {
            // Asked once; whatever the guest says next brings the stream back.
            guard let header = stream.connection.creditRequest() else { return nil }
            return put(header, stream.key)
        }
        return read(stream)
    }

    /// Reads from the socket into the guest's buffer, behind the header's place.
    private func read(_ stream: VsockStream) -> Int? {
        let limit = min(stream.connection.credit, receiveChain.writable.byteCount - VsockHeader.size)
        guard limit > 0 else { return nil }
        let fd = stream.socket.raw
        let first = unsafe receiveChain.writable.vectors[0]
        guard unsafe first.iov_len >= VsockHeader.size else { return readThroughCopy(stream, limit) }
        receiveChain.writable.dropFirst(VsockHeader.size)
        let count = unsafe receiveChain.writable.withPrefix(limit) { vectors in
            retryingInterrupts { unsafe readv(fd, vectors.baseAddress, Int32(vectors.count)) }
        }
        guard let header = received(count, stream) else { return nil }
        unsafe header.store(into: UnsafeMutableRawBufferPointer(start: first.iov_base, count: VsockHeader.size))
        return VsockHeader.size + Int(header.count)
    }

    /// The same for a driver that cuts the header's place into pieces.
    private func readThroughCopy(_ stream: VsockStream, _ limit: Int) -> Int? {
        let fd = stream.socket.raw
        var bytes = InlineArray<4096, UInt8>(repeating: 0)
        var span = bytes.mutableSpan
        let count = unsafe span.withUnsafeMutableBytes { space in
            retryingInterrupts { unsafe Glibc.read(fd, space.baseAddress, min(limit, space.count)) }
        }
        guard let header = received(count, stream) else { return nil }
        guard let start = put(header: header) else { return nil }
        let copied = unsafe bytes.span.withUnsafeBytes { space in
            unsafe receiveChain.writable.copy(
                from: UnsafeRawBufferPointer(rebasing: space[..<Int(header.count)]))
        }
        return start + copied
    }

    /// What a read from a socket came to: a packet, or nil for nothing.
    private func received(_ count: Int, _ stream: VsockStream) -> VsockHeader? {
        var header: VsockHeader
        if count > 0 {
            header = stream.connection.data(count)
        } else if count < 0, clinux_errno() == EAGAIN {
            stream.isReadable = false
            return nil
        } else {
            stream.isReadable = false
            // An error of the socket's ends both directions, its end only the one.
            stream.connection.hostEnded(sending: true, receiving: count < 0)
            guard let shutdown = stream.connection.nextControl() else { return nil }
            header = shutdown
        }
        address(&header, stream.key)
        return header
    }

    private func address(_ header: inout VsockHeader, _ key: VsockKey) {
        header.sourceCID = VsockHeader.hostCID
        header.destinationCID = guestCID
        header.sourcePort = key.hostPort
        header.destinationPort = key.guestPort
    }

    private func put(_ header: VsockHeader, _ key: VsockKey) -> Int? {
        var header = header
        address(&header, key)
        return put(header: header)
    }

    private func put(header: VsockHeader) -> Int? {
        var bytes = InlineArray<44, UInt8>(repeating: 0)
        var span = bytes.mutableSpan
        return unsafe span.withUnsafeMutableBytes { space in
            unsafe header.store(into: space)
            return unsafe receiveChain.writable.copy(from: UnsafeRawBufferPointer(space))
        }
    }
}
