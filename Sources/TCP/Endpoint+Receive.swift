// SPDX-License-Identifier: Apache-2.0

/// What a segment or a timer has brought about.
@usableFromInline package struct Signals: OptionSet, Sendable {
    @usableFromInline package let rawValue: UInt8
    @inlinable package init(rawValue: UInt8) { self.rawValue = rawValue }
    /// The handshake is complete.
    @inlinable package static var connected: Signals { Signals(rawValue: 1) }
    /// The peer has sent all it has, and all of it has been delivered.
    @inlinable package static var peerFinished: Signals { Signals(rawValue: 2) }
    /// The peer has reset the connection, or refused it.
    @inlinable package static var reset: Signals { Signals(rawValue: 4) }
    /// The peer has not answered for too long.
    @inlinable package static var timedOut: Signals { Signals(rawValue: 8) }
    /// Both directions have ended in order. What is left, if anything, is TIME-WAIT.
    @inlinable package static var finished: Signals { Signals(rawValue: 16) }
    /// A SYN has come in TIME-WAIT that may begin a new connection at once: the owner makes a new endpoint for it.
    @inlinable package static var restarts: Signals { Signals(rawValue: 32) }
}

/// What becomes of a segment. Its bytes from `skipped` on, `taken` of them, belong into the receive buffer, `placement`
/// bytes after its in-order end; then that end moves by `delivered`.
package struct Reception: Sendable {
    package internal(set) var signals: Signals = []
    package internal(set) var skipped = 0
    package internal(set) var taken = 0
    /// 0 for bytes in order, more where bytes before them are still missing.
    package internal(set) var placement = 0
    package internal(set) var delivered = 0
    /// Bytes to be dropped from the front of the send buffer.
    package internal(set) var acknowledged = 0
}

extension Endpoint {
    /// A segment has come from the peer (RFC 9293 §3.10.7).
    /// - Parameter room: how many bytes can be stored after the in-order end of the receive buffer. What is beyond is
    ///   taken for lost, whatever the window says.
    package mutating func receive(_ segment: Segment, room: Int = .max, now: Microseconds) -> Reception {
        var reception = Reception()
        switch state {
        case .closed: break
        case .synSent: receiveBeforeSynchronized(segment, now, &reception)
        default: receiveSynchronized(segment, max(0, room), now, &reception)
        }
        return reception
    }

    /// §3.10.7.3
    private mutating func receiveBeforeSynchronized(
        _ segment: Segment, _ now: Microseconds, _ reception: inout Reception
    ) {
        let acknowledges = segment.flags.contains(.ack)
        if acknowledges && (segment.acknowledgement <= initialSend || segment.acknowledgement > sendMaximum) {
            if !segment.flags.contains(.rst) {
                strayReset = segment.acknowledgement
                // The peer has an old connection of these ports, and the reset ends it: the next SYN is for a new one, and
                // need not wait for the timer of a lost one.
                retransmitAt = min(retransmitAt, now + Endpoint.afterStrayReset)
            }
            return
        }
        if segment.flags.contains(.rst) {
            guard acknowledges else { return }
            end()
            reception.signals.insert(.reset)
            return
        }
        guard segment.flags.contains(.syn) else { return }
        adopt(segment, now: now)
        lastReceived = now
        if acknowledges {
            sampleRoundTrip(segment, now)
            unacknowledged = segment.acknowledgement
            finishHandshake(now, &reception)
            owedAcknowledgements = 1
        } else {
            state = .synReceived
            owesHandshake = true
            sendNext = initialSend
        }
    }

    private mutating func finishHandshake(_ now: Microseconds, _ reception: inout Reception) {
        state = .established
        reception.signals.insert(.connected)
        retransmitAt = Endpoint.never
        retransmissions = 0
        timeout.resetBackoff()
        sendNext = SequenceNumber.later(sendNext, unacknowledged)
        highestRetransmitted = unacknowledged
        recoveryPoint = unacknowledged
        owesHandshake = false
        if configuration.keepaliveIdle > 0 { keepaliveAt = now + UInt64(configuration.keepaliveIdle) }
        if finishes { state = .finWait1 }
    }

    /// §3.10.7.4, its checks in its order.
    private mutating func receiveSynchronized(
        _ segment: Segment, _ room: Int, _ now: Microseconds, _ reception: inout Reception
    ) {
        let flags = segment.flags
        if flags.contains(.syn) && !flags.contains(.ack) && !flags.contains(.rst) {
            if state == .timeWait && mayRestart(segment) {
                reception.signals.insert(.restarts)
                return
            }
            if state == .synReceived && segment.sequence == initialReceive {
                owesHandshake = true
                return
            }
        }
        if usesTimestamps, let timestamps = segment.options.timestamps, !flags.contains(.rst),
            isOld(timestamps.value, now)
        {
            challenge(now)
            return
        }
        guard isAcceptable(segment) else {
            if !flags.contains(.rst) { challenge(now) }
            return
        }
        if flags.contains(.rst) {
            // RFC 5961 §3.2; and RFC 1337: nothing ends TIME-WAIT but its timer.
            if state == .timeWait { return }
            if segment.sequence == receiveNext {
                end()
                reception.signals.insert(.reset)
            } else {
                challenge(now)
            }
            return
        }
        if flags.contains(.syn) {
            challenge(now)
            return
        }
        guard flags.contains(.ack) else { return }
        if let timestamps = segment.options.timestamps, usesTimestamps, segment.sequence <= lastAcknowledgement,
            timestamps.value &- recentTimestamp < 1 << 31
        {
            recentTimestamp = timestamps.value
            recentTimestampAt = now
        }
        if state == .synReceived {
            guard segment.acknowledgement > initialSend && segment.acknowledgement <= sendMaximum else {
                strayReset = segment.acknowledgement
                return
            }
            sampleRoundTrip(segment, now)
            unacknowledged = initialSend + 1
            setSendWindow(Int(segment.window) << Int(sendScale), segment: segment)
            finishHandshake(now, &reception)
        }
        lastReceived = now
        keepaliveProbes = 0
        guard acknowledge(segment, now, &reception) else { return }
        if state == .closed { return }
        takePayload(segment, room, now, &reception)
    }

    /// A SYN that cannot be an old one (RFC 9293 §3.10.7.4, RFC 6191).
    private func mayRestart(_ segment: Segment) -> Bool {
        if usesTimestamps, let timestamps = segment.options.timestamps, timestamps.value != recentTimestamp {
            return timestamps.value &- recentTimestamp < 1 << 31
        }
        return segment.sequence > receiveNext
    }

    /// PAWS (RFC 7323 §5). After 24 days without a segment the clock may have gone round.
    private func isOld(_ timestamp: UInt32, _ now: Microseconds) -> Bool {
        timestamp &- recentTimestamp >= 1 << 31 && now - recentTimestampAt < 24 * 86_400_000_000
    }

    /// §3.4: part of the segment lies in the window. One that begins where a closed window does is let through for its
    /// acknowledgement and its reset; its bytes find no room later.
    private func isAcceptable(_ segment: Segment) -> Bool {
        let count = segment.sequenceCount
        let offset = segment.sequence - receiveNext
        let window = advertisedEdge - receiveNext
        if offset == 0 { return true }
        if offset > 0 { return offset < window }
        return count > 0 && offset + count > 0
    }

    /// An acknowledgement that shows a peer where we are; ten in a second (RFC 5961 §7).
    mutating func challenge(_ now: Microseconds) {
        if now - challengesSince >= 1_000_000 {
            challengesSince = now
            challenges = 0
        }
        guard challenges < 10 else { return }
        challenges += 1
        owedAcknowledgements = max(1, owedAcknowledgements)
    }

    private mutating func takePayload(
        _ segment: Segment, _ room: Int, _ now: Microseconds, _ reception: inout Reception
    ) {
        guard segment.payloadCount > 0 || segment.flags.contains(.fin) else { return }
        guard state == .established || state == .finWait1 || state == .finWait2 else {
            // The peer has finished; what it sends again has to be acknowledged again.
            challenge(now)
            if state == .timeWait { timeWaitEnd = now + UInt64(configuration.timeWait) }
            return
        }
        let segmentEnd = segment.sequence + segment.payloadCount
        var start = segment.sequence
        var count = segment.payloadCount
        var isWhole = true
        if start < receiveNext {
            reception.skipped = min(count, receiveNext - start)
            start = receiveNext
            count -= reception.skipped
            if count == 0 { isWhole = false }
        }
        var edge = SequenceNumber.earlier(advertisedEdge, receiveNext + min(room, 1 << 30))
        if let finishAt { edge = SequenceNumber.earlier(edge, finishAt) }
        if start + count > edge {
            count = max(0, edge - start)
            isWhole = false
        }
        if segment.flags.contains(.fin) && segmentEnd >= receiveNext && segmentEnd - receiveNext <= 1 << 30
            && start + count == segmentEnd && segmentEnd >= (reassembly.highestEnd ?? receiveNext)
        {
            finishAt = finishAt ?? segmentEnd
        }
        if count > 0 { place(start, count, now, &reception) }
        if !isWhole { owedAcknowledgements = max(1, owedAcknowledgements) }
        if finishAt == receiveNext { takeFinish(now, &reception) }
    }

    private mutating func place(
        _ start: SequenceNumber, _ count: Int, _ now: Microseconds, _ reception: inout Reception
    ) {
        if start == receiveNext {
            let before = receiveNext
            receiveNext += count
            if let joined = reassembly.range(containing: receiveNext) { receiveNext = joined.end }
            if !reassembly.isEmpty {
                reassembly.removeBelow(receiveNext)
                // RFC 5681 §4.2: at once, while a hole is being filled.
                owedAcknowledgements = max(1, owedAcknowledgements)
            }
            reception.taken = count
            reception.delivered = receiveNext - before
            unread += reception.delivered
            unacknowledgedBytes += reception.delivered
            if unacknowledgedBytes >= 2 * Int(configuration.segmentSize) {
                owedAcknowledgements = max(1, owedAcknowledgements)
            } else {
                acknowledgeSoon(now)
            }
            return
        }
        // Each segment beyond a hole is answered by an acknowledgement of its own: the peer counts them.
        owedAcknowledgements = min(8, owedAcknowledgements + 1)
        guard reassembly.insert(SequenceRange(start: start, end: start + count)) else { return }
        reception.taken = count
        reception.placement = start - receiveNext
        if recentCount == 0
            || reassembly.range(containing: recentStretches[0])?.start
                != reassembly.range(containing: start)?.start
        {
            recentStretches[2] = recentStretches[1]
            recentStretches[1] = recentStretches[0]
            recentCount = min(3, recentCount + 1)
        }
        recentStretches[0] = start
    }

    /// With what is sent next, or when the delay is over.
    private mutating func acknowledgeSoon(_ now: Microseconds) {
        if configuration.acknowledgementDelay == 0 {
            owedAcknowledgements = max(1, owedAcknowledgements)
        } else if acknowledgeAt == Endpoint.never {
            acknowledgeAt = now + UInt64(configuration.acknowledgementDelay)
        }
    }

    private mutating func takeFinish(_ now: Microseconds, _ reception: inout Reception) {
        finishAt = nil
        receiveNext += 1
        reception.signals.insert(.peerFinished)
        switch state {
        case .established:
            state = .closeWait
            // The application's answer to the peer's end is most often its own, which acknowledges the peer's.
            return acknowledgeSoon(now)
        case .finWait1: state = .closing
        default:
            enterTimeWait(now)
            reception.signals.insert(.finished)
        }
        owedAcknowledgements = max(1, owedAcknowledgements)
    }
}
