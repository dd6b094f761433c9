// SPDX-License-Identifier: Apache-2.0

extension Endpoint {
    /// The next segment that wants to be sent; nil when there is none.
    package mutating func nextSegment(now: Microseconds) -> OutgoingSegment? {
        if let number = strayReset {
            strayReset = nil
            return bare(.rst, sequence: number)
        }
        if owesReset {
            owesReset = false
            return bare([.rst, .ack], sequence: sendMaximum)
        }
        switch state {
        case .closed: return nil
        case .synSent, .synReceived: return nextOfHandshake(now)
        case .finWait2, .timeWait: return nextAcknowledgement(now)
        case .established, .closeWait, .finWait1, .closing, .lastAck: break
        }
        if let segment = nextRetransmission(now) { return segment }
        if let segment = nextData(now) { return segment }
        if let segment = nextSpeculation(now) { return segment }
        return nextAcknowledgement(now)
    }

    private mutating func nextOfHandshake(_ now: Microseconds) -> OutgoingSegment? {
        guard owesHandshake else { return state == .synReceived ? nextAcknowledgement(now) : nil }
        owesHandshake = false
        owedAcknowledgements = 0
        var options = SegmentOptions()
        options.maximumSegmentSize = configuration.segmentSize
        let isAnswer = state == .synReceived
        // An answer repeats only what was offered (RFC 7323 §2.5, RFC 2018 §2).
        if isAnswer ? isScaling : configuration.offersWindowScaling {
            options.windowScale = configuration.windowScale
        }
        options.allowsSelective = usesSelective
        if usesTimestamps {
            options.timestamps = Timestamps(value: clock(now), echo: isAnswer ? recentTimestamp : 0)
        }
        if !usesTimestamps && timedSequence == nil && retransmissions == 0 {
            timedSequence = initialSend
            timedSince = now
        } else if retransmissions > 0 {
            timedSequence = nil
        }
        sendNext = initialSend + 1
        sendMaximum = SequenceNumber.later(sendMaximum, sendNext)
        lastSent = now
        if retransmitAt == Endpoint.never { retransmitAt = now + timeout.current }
        if isAnswer { lastAcknowledgement = receiveNext }
        return OutgoingSegment(
            sequence: initialSend, acknowledgement: isAnswer ? receiveNext : SequenceNumber(0),
            flags: isAnswer ? [.syn, .ack] : .syn, window: UInt16(clamping: receiveCapacity), options: options,
            payloadOffset: 0, payloadCount: 0, segmentSize: segmentSize)
    }

    /// Bytes that acknowledgements say are lost (RFC 6675 §5 step 3 and 4.3, NextSeg rule 1; RFC 6582 §3.2).
    private mutating func nextRetransmission(_ now: Microseconds) -> OutgoingSegment? {
        guard recovery == .fast, unacknowledged < sendMaximum else { return nil }
        if owesFirstRetransmission {
            owesFirstRetransmission = false
            let options = dataOptions(now)
            return retransmit(from: unacknowledged, limit: segmentSize - options.byteCount, options, now)
        }
        guard usesSelective else { return nil }
        return retransmitHole(below: lostEdge(), now)
    }

    /// Bytes that may be lost: rule 3 of NextSeg, then rule 4, when there is nothing better to send.
    private mutating func nextSpeculation(_ now: Microseconds) -> OutgoingSegment? {
        guard recovery == .fast, usesSelective, let highest = scoreboard.highestEnd else { return nil }
        if let segment = retransmitHole(below: highest, now) { return segment }
        guard !hasRescued, congestionRoom() >= segmentSize, highest < sendMaximum else { return nil }
        hasRescued = true
        let before = highestRetransmitted
        let options = dataOptions(now)
        let size = segmentSize - options.byteCount
        let segment = retransmit(
            from: SequenceNumber.later(highest, sendMaximum - size), limit: size, options, now)
        highestRetransmitted = before
        return segment
    }

    private mutating func retransmitHole(below edge: SequenceNumber, _ now: Microseconds) -> OutgoingSegment? {
        var start = SequenceNumber.later(highestRetransmitted, unacknowledged)
        while let known = scoreboard.range(containing: start) { start = known.end }
        guard start < edge else { return nil }
        let room = congestionRoom()
        guard room >= segmentSize else { return nil }
        return retransmit(from: start, limit: room, dataOptions(now), now)
    }

    private mutating func retransmit(
        from start: SequenceNumber, limit: Int, _ options: SegmentOptions, _ now: Microseconds
    ) -> OutgoingSegment? {
        var end = SequenceNumber.earlier(sendMaximum, writtenEnd)
        if let known = scoreboard.nextStart(after: start) { end = SequenceNumber.earlier(end, known) }
        let size = segmentSize - options.byteCount
        var count = min(end - start, min(limit, largeLimit(size)))
        if count > size && count < end - start { count -= count % size }
        let finishes = start + max(0, count) == writtenEnd && sendMaximum > writtenEnd
        guard count > 0 || finishes else { return nil }
        highestRetransmitted = SequenceNumber.later(highestRetransmitted, start + count + (finishes ? 1 : 0))
        timedSequence = nil
        return dataSegment(start, max(0, count), finishes: finishes, options, now)
    }

    /// The most payload of a segment, where one on the wire may have `size`: more only where the link cuts segments up.
    private func largeLimit(_ size: Int) -> Int {
        let limit = configuration.largeSegmentLimit
        return limit > configuration.segmentSize ? max(size, Int(limit)) : size
    }

    /// What has not been sent, or after a timeout what is to be sent again.
    private mutating func nextData(_ now: Microseconds) -> OutgoingSegment? {
        while sendNext < sendMaximum, let known = scoreboard.range(containing: sendNext) { sendNext = known.end }
        let pending = writtenEnd - sendNext
        guard pending > 0 || pending == 0 && finishes else { return nil }
        let isRepeating = sendNext < sendMaximum
        if sendMaximum == unacknowledged && now - lastSent > timeout.current {
            congestion.restartAfterIdle(initial: segmentSize * Int(configuration.initialWindow))
        }
        let options = dataOptions(now)
        let size = segmentSize - options.byteCount
        let windowRoom = (unacknowledged + sendWindow) - sendNext
        let congestionRoom = congestionRoom()
        let flight = sendMaximum - unacknowledged
        // Nothing is on its way, or nothing since a timeout: else the timer of that is the one that counts.
        let isIdle = sendNext == unacknowledged
        var available = pending
        if isRepeating, let known = scoreboard.nextStart(after: sendNext) {
            available = min(available, known - sendNext)
        }

        if pending == 0 {
            // A FIN of its own takes a place in the window as any byte does.
            if windowRoom >= 1 { return sendData(0, finishes: true, options, now) }
            if isIdle { startPersisting(now) }
            return nil
        }
        if windowRoom <= 0 {
            if isIdle { startPersisting(now) }
            return nil
        }
        if congestionRoom < min(size, available) {
            congestion.isLimiting = true
            return nil
        }
        var count = min(min(available, windowRoom), min(congestionRoom, largeLimit(size)))
        if count > size && count < available {
            count -= count % size
        } else if count > size && configuration.coalescesSmallSegments && !finishes {
            count -= count % size
        }
        if count < size && count < available {
            // Cut short by the window: worth sending when it is a good part of all the peer ever took (§3.8.6.2.1).
            // Or when it has waited for long enough.
            guard count >= largestSendWindow / 2 || sendsAnyway else {
                if isIdle { startPersisting(now) }
                return nil
            }
        } else if count < size && configuration.coalescesSmallSegments && !finishes && flight > 0 && !isRepeating {
            return nil
        }
        let includesFinish = finishes && count == pending && windowRoom > count
        if congestionRoom - count < size { congestion.isLimiting = true }
        return sendData(count, finishes: includesFinish, options, now)
    }

    private mutating func startPersisting(_ now: Microseconds) {
        retransmitAt = Endpoint.never
        guard persistAt == Endpoint.never, !owesProbe else { return }
        let wait = UInt64(configuration.minimumTimeout) << UInt64(min(probeBackoff, 10))
        persistAt = now + min(UInt64(configuration.maximumTimeout), max(wait, timeout.current))
    }

    private mutating func sendData(
        _ count: Int, finishes: Bool, _ options: SegmentOptions, _ now: Microseconds
    ) -> OutgoingSegment {
        let start = sendNext
        if start < sendMaximum {
            timedSequence = nil
        } else if !usesTimestamps && timedSequence == nil {
            timedSequence = start
            timedSince = now
        }
        sendNext += count + (finishes ? 1 : 0)
        sendMaximum = SequenceNumber.later(sendMaximum, sendNext)
        persistAt = Endpoint.never
        sendsAnyway = false
        owesProbe = false
        return dataSegment(start, count, finishes: finishes, options, now)
    }

    private mutating func dataSegment(
        _ start: SequenceNumber, _ count: Int, finishes: Bool, _ options: SegmentOptions, _ now: Microseconds
    ) -> OutgoingSegment {
        var flags: Flags = .ack
        if finishes { flags.insert(.fin) }
        if count > 0 && start + count == writtenEnd { flags.insert(.psh) }
        lastSent = now
        if retransmitAt == Endpoint.never { retransmitAt = now + timeout.current }
        let window = acknowledging()
        return OutgoingSegment(
            sequence: start, acknowledgement: receiveNext, flags: flags, window: window, options: options,
            payloadOffset: start - dataStart, payloadCount: count, segmentSize: segmentSize - options.byteCount)
    }

    private mutating func nextAcknowledgement(_ now: Microseconds) -> OutgoingSegment? {
        if owesProbe {
            owesProbe = false
            // Nothing new, from before what the peer expects: it has to answer (RFC 9293 §3.8.4).
            return bare(.ack, sequence: unacknowledged - 1, options: dataOptions(now))
        }
        guard owedAcknowledgements > 0 else { return nil }
        let others = owedAcknowledgements - 1
        // Where the peer's window has shrunk, it takes nothing from beyond it, not even an acknowledgement.
        let sequence = SequenceNumber.earlier(sendMaximum, unacknowledged + sendWindow)
        let segment = bare(.ack, sequence: sequence, options: dataOptions(now))
        owedAcknowledgements = others
        return segment
    }

    private mutating func bare(
        _ flags: Flags, sequence: SequenceNumber, options: SegmentOptions = SegmentOptions()
    ) -> OutgoingSegment {
        let acknowledges = flags.contains(.ack)
        let window = acknowledges ? acknowledging() : 0
        return OutgoingSegment(
            sequence: sequence, acknowledgement: acknowledges ? receiveNext : SequenceNumber(0), flags: flags,
            window: window, options: options, payloadOffset: 0, payloadCount: 0, segmentSize: segmentSize)
    }

    private func dataOptions(_ now: Microseconds) -> SegmentOptions {
        var options = SegmentOptions()
        if usesTimestamps { options.timestamps = Timestamps(value: clock(now), echo: recentTimestamp) }
        guard usesSelective, !reassembly.isEmpty else { return options }
        let limit = usesTimestamps ? 3 : 4
        for index in 0..<recentCount where options.selective.count < limit {
            guard let block = reassembly.range(containing: recentStretches[index]) else { continue }
            if !options.selective.contains(block) { options.selective.append(block) }
        }
        for index in 0..<reassembly.count where options.selective.count < limit {
            if !options.selective.contains(reassembly[index]) { options.selective.append(reassembly[index]) }
        }
        return options
    }

    /// What goes out acknowledges all that has come: the window to tell with it.
    private mutating func acknowledging() -> UInt16 {
        owedAcknowledgements = 0
        unacknowledgedBytes = 0
        acknowledgeAt = Endpoint.never
        lastAcknowledgement = receiveNext
        let wanted = receiveNext + max(0, receiveCapacity - unread)
        let edge = wanted - advertisedEdge >= windowStep ? wanted : advertisedEdge
        let told = min(65535, max(0, edge - receiveNext) >> Int(receiveScale))
        advertisedEdge = SequenceNumber.later(advertisedEdge, receiveNext + told << Int(receiveScale))
        return UInt16(truncatingIfNeeded: told)
    }
}
