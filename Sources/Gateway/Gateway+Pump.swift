// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Fabric
internal import Glibc
internal import Platform
internal import TCP

extension Gateway {
    /// Notes bytes of the present batch for the host's socket.
    func append(_ bytes: UnsafeRawBufferPointer, _ flow: TCPFlow) {
        guard let start = bytes.baseAddress else { return }
        let index = Int32(pieces.count)
        unsafe pieces.append(Piece(start: start, count: bytes.count, next: -1))
        if flow.firstPiece < 0 {
            flow.firstPiece = index
        } else {
            pieces[Int(flow.lastPiece)].next = index
        }
        flow.lastPiece = index
        flow.bytesInPieces += bytes.count
    }

    /// Moves what is left of a flow's pieces into its buffer, which is empty then.
    /// - Returns: false when there is no memory.
    func keepPieces(_ flow: TCPFlow, _ now: Microseconds) -> Bool {
        while flow.firstPiece >= 0 {
            let piece = pieces[Int(flow.firstPiece)]
            guard unsafe flow.toHost.place(UnsafeRawBufferPointer(start: piece.start, count: piece.count), at: 0)
            else { return false }
            flow.toHost.extend(by: piece.count)
            flow.firstPiece = piece.next
        }
        flow.bytesInPieces = 0
        return true
    }

    /// Lets a flow go on: bytes to the host, bytes from the host, segments to the machine.
    func pump(_ flow: TCPFlow, _ now: Microseconds) {
        guard !flow.isRemoved else { return }
        if flow.phase == .open && flow.raw >= 0 {
            writeToHost(flow, now)
            guard keepPieces(flow, now) else { return abandon(flow, now) }
            readFromHost(flow, now)
        }
        flow.isFed = false
        emit(flow, now)
        settle(flow, now)
    }

    /// What the machine has said before it gave up, perhaps why, is the host's peer's to read.
    func writeLastWords(of flow: TCPFlow, _ now: Microseconds) {
        guard flow.phase == .open && flow.raw >= 0 else { return }
        flow.hostIsWritable = true
        writeToHost(flow, now)
    }

    private func writeToHost(_ flow: TCPFlow, _ now: Microseconds) {
        while flow.hostIsWritable && flow.bytesInPieces > 0 {
            let sent = unsafe withUnsafeTemporaryAllocation(of: iovec.self, capacity: 32) { vectors in
                var count = 0
                var index = flow.firstPiece
                while index >= 0 && count < 32 {
                    let piece = pieces[Int(index)]
                    unsafe vectors[count] = iovec(
                        iov_base: UnsafeMutableRawPointer(mutating: piece.start), iov_len: piece.count)
                    count += 1
                    index = piece.next
                }
                return unsafe clinux_send_vectors(flow.raw, vectors.baseAddress, count)
            }
            guard account(sent, flow, now) else { return }
            flow.bytesInPieces -= sent
            var left = sent
            while left > 0 {
                let index = Int(flow.firstPiece)
                if pieces[index].count > left {
                    unsafe pieces[index].start += left
                    pieces[index].count -= left
                    break
                }
                left -= pieces[index].count
                flow.firstPiece = pieces[index].next
            }
        }
        while flow.hostIsWritable && flow.toHost.count > 0 {
            let (first, second) = unsafe flow.toHost.pieces(from: 0, count: flow.toHost.count)
            let sent = unsafe withUnsafeTemporaryAllocation(of: iovec.self, capacity: 2) { vectors in
                unsafe vectors[0] = iovec(
                    iov_base: UnsafeMutableRawPointer(mutating: first.baseAddress), iov_len: first.count)
                unsafe vectors[1] = iovec(
                    iov_base: UnsafeMutableRawPointer(mutating: second.baseAddress), iov_len: second.count)
                return unsafe clinux_send_vectors(flow.raw, vectors.baseAddress, second.count > 0 ? 2 : 1)
            }
            guard account(sent, flow, now) else { return }
            flow.toHost.drop(sent, keepsMemory: flow.endpoint.hasHoles)
        }
        if flow.machineHasFinished && !flow.hostIsFinished && flow.toHost.isEmpty && flow.bytesInPieces == 0 {
            flow.hostIsFinished = true
            _ = shutdown(flow.raw, Int32(SHUT_WR))
        }
    }

    /// - Returns: whether bytes were sent.
    private func account(_ sent: Int, _ flow: TCPFlow, _ now: Microseconds) -> Bool {
        if sent > 0 {
            flow.endpoint.consume(sent)
            return true
        }
        if sent < 0 && clinux_errno() == EAGAIN {
            flow.hostIsWritable = false
        } else if sent < 0 && clinux_errno() != EINTR {
            // What the peer had said before, such as why it wants no more, is there still.
            flow.hostIsWritable = false
            flow.hostIsReadable = true
            readFromHost(flow, now, isBroken: true)
            breakOff(flow, now)
        }
        return false
    }

    /// The host's side is broken: so is the machine's, once it has been sent what came before.
    private func breakOff(_ flow: TCPFlow, _ now: Microseconds) {
        emit(flow, now)
        // The flow, and with it what has just been sent, may be gone before the link is flushed.
        link.flush()
        flow.hostIsWritable = false
        flow.hostIsReadable = false
        flow.endpoint.abort()
        flow.resetSocket()
    }

    private func readFromHost(_ flow: TCPFlow, _ now: Microseconds, isBroken: Bool = false) {
        var rounds = 0
        while flow.hostIsReadable && !flow.hostHasEnded && flow.endpoint.canWrite && flow.raw >= 0 {
            let limit = min(configuration.bufferLimit, flow.endpoint.sendTarget)
            let wanted = min(limit - flow.toMachine.count, flow.readSize)
            // What the machine does not take is not read; a little at a time is not worth a call.
            guard wanted >= min(4096, flow.readSize), rounds < 4 else {
                if rounds >= 4 { mark(flow) }
                break
            }
            guard let share = memoryShare(of: flow, wanted) else { break }
            rounds += 1
            let (first, second) = unsafe flow.toMachine.space(share)
            guard first.count > 0 else {
                wait(flow)
                break
            }
            let got = unsafe withUnsafeTemporaryAllocation(of: iovec.self, capacity: 2) { vectors in
                unsafe vectors[0] = iovec(iov_base: first.baseAddress, iov_len: first.count)
                unsafe vectors[1] = iovec(iov_base: second.baseAddress, iov_len: second.count)
                return unsafe clinux_receive_vectors(flow.raw, vectors.baseAddress, second.count > 0 ? 2 : 1)
            }
            let room = first.count + second.count
            if got > 0 {
                flow.toMachine.extend(by: got)
                flow.endpoint.write(got)
                if got < room && !flow.hostHasHungUp { flow.hostIsReadable = false }
                if got == flow.readSize {
                    flow.readSize = min(flow.readSize * 4, 256 << 10)
                } else if got < flow.readSize / 8 {
                    flow.readSize = max(16 << 10, flow.readSize / 4)
                }
            } else if isBroken {
                break
            } else if got == 0 {
                flow.hostHasEnded = true
                flow.endpoint.close()
            } else if clinux_errno() == EAGAIN {
                flow.hostIsReadable = false
            } else if clinux_errno() != EINTR {
                breakOff(flow, now)
            }
        }
        flow.toMachine.trim()
    }

    private func emit(_ flow: TCPFlow, _ now: Microseconds) {
        while true {
            guard link.hasRoom(for: flow.key.endpoint) else {
                flow.machine.waiting.insert(flow.slot)
                return
            }
            guard let segment = flow.endpoint.nextSegment(now: now) else { return }
            let (first, second) = unsafe flow.toMachine.pieces(
                from: segment.payloadCount == 0 ? 0 : segment.payloadOffset, count: segment.payloadCount)
            unsafe send(segment, flow.key, flow.machine, payload: first, second)
        }
    }

    /// Sets the timer, and ends what has ended.
    private func settle(_ flow: TCPFlow, _ now: Microseconds) {
        let state = flow.endpoint.state
        if state == .closed || state == .timeWait {
            // What the machine has sent goes out still; its reset, or the host's, has thrown the rest away already.
            if flow.raw >= 0 && flow.hostHasEnded && flow.hostIsFinished { flow.closeSocket() }
            // Where the link is full, the reset that it may owe is not waited for: whatever the machine sends next is
            // answered by one.
            if state == .closed && flow.raw < 0 { return remove(flow) }
            if state == .timeWait { rest(flow) }
        }
        schedule(flow, flow.endpoint.deadline)
    }
}
