// SPDX-License-Identifier: Apache-2.0

extension Endpoint {
    /// Takes the acknowledgement and the window of a segment.
    /// - Returns: false when the segment is to be dropped.
    mutating func acknowledge(_ segment: Segment, _ now: Microseconds, _ reception: inout Reception) -> Bool {
        let number = segment.acknowledgement
        // RFC 5961 §5.
        if number > sendMaximum || number < unacknowledged - largestSendWindow - 1 {
            challenge(now)
            return false
        }
        if number < unacknowledged { return true }
        let hasNews = usesSelective && recordSelective(segment)
        let window = Int(segment.window) << Int(sendScale)
        if number > unacknowledged {
            advance(to: number, segment, now, &reception)
        } else if sendMaximum > unacknowledged {
            let isDuplicate = segment.sequenceCount == 0 && window == sendWindow
            if usesSelective ? hasNews : isDuplicate { countDuplicate(now) }
        }
        // A peer that answers probes is there, however long it keeps its window closed.
        if sendMaximum == unacknowledged || probeBackoff > 0 { retransmissions = 0 }
        if windowSequence < segment.sequence
            || windowSequence == segment.sequence && windowAcknowledgement <= segment.acknowledgement
        {
            setSendWindow(window, segment: segment)
            if window > 0 {
                persistAt = Endpoint.never
                probeBackoff = 0
                owesProbe = false
            }
        }
        if finishes && unacknowledged > writtenEnd { finishAcknowledged(now, &reception) }
        return true
    }

    private mutating func finishAcknowledged(_ now: Microseconds, _ reception: inout Reception) {
        switch state {
        case .finWait1: state = .finWait2
        case .closing:
            enterTimeWait(now)
            reception.signals.insert(.finished)
        case .lastAck:
            end()
            reception.signals.insert(.finished)
        default: break
        }
    }

    /// Something new is acknowledged.
    private mutating func advance(
        to number: SequenceNumber, _ segment: Segment, _ now: Microseconds, _ reception: inout Reception
    ) {
        let dataBefore = dataStart
        let acknowledged = number - unacknowledged
        sampleRoundTrip(segment, now)
        unacknowledged = number
        reception.acknowledged = max(0, SequenceNumber.earlier(number, writtenEnd) - dataBefore)
        sendNext = SequenceNumber.later(sendNext, number)
        highestRetransmitted = SequenceNumber.later(highestRetransmitted, number)
        scoreboard.removeBelow(number)
        retransmissions = 0
        if longSegmentsAt <= now { leaveBlackHole() }
        timeout.resetBackoff()
        retransmitAt = number == sendMaximum ? Endpoint.never : now + timeout.current

        switch recovery {
        case .none:
            duplicates = 0
            congestion.acknowledged(acknowledged, segmentSize: segmentSize)
            // What the peer has beyond a hole may say already that the hole is a loss.
            if usesSelective && lostEdge() > unacknowledged { enterFastRecovery(now) }
        case .loss:
            duplicates = 0
            congestion.acknowledged(acknowledged, segmentSize: segmentSize)
            if number >= recoveryPoint { recovery = .none }
        case .fast:
            if number >= recoveryPoint {
                congestion.settle(flight: sendMaximum - number, segmentSize: segmentSize)
                recovery = .none
                duplicates = 0
                owesFirstRetransmission = false
            } else if !usesSelective {
                congestion.deflate(by: acknowledged, segmentSize: segmentSize)
                owesFirstRetransmission = true
            }
        }
    }

    /// RFC 7323 §4 with timestamps, else one timed segment.
    mutating func sampleRoundTrip(_ segment: Segment, _ now: Microseconds) {
        if usesTimestamps {
            guard let timestamps = segment.options.timestamps, timestamps.echo != 0 else { return }
            let elapsed = clock(now) &- timestamps.echo
            if elapsed < 1 << 31 { timeout.sample(UInt64(elapsed) * 1000) }
        } else if let timed = timedSequence, segment.acknowledgement > timed {
            timedSequence = nil
            timeout.sample(now - timedSince)
        }
    }

    /// The clock as it is told to the peer, in milliseconds.
    func clock(_ now: Microseconds) -> UInt32 { UInt32(truncatingIfNeeded: now / 1000) &+ timestampOffset }

    /// - Returns: whether the blocks tell of bytes that were not known to have arrived.
    private mutating func recordSelective(_ segment: Segment) -> Bool {
        let before = scoreboard.total
        for index in 0..<segment.options.selective.count {
            let block = segment.options.selective[index]
            // What lies outside of what is on its way is old, or a duplicate's (RFC 2883), or a lie.
            guard block.count > 0, block.start > segment.acknowledgement, block.start >= unacknowledged,
                block.end <= sendMaximum
            else { continue }
            _ = scoreboard.insert(block)
        }
        return scoreboard.total > before
    }

    private mutating func countDuplicate(_ now: Microseconds) {
        duplicates = min(duplicates + 1, 1 << 20)
        switch recovery {
        case .none: if duplicates >= 3 || usesSelective && lostEdge() > unacknowledged { enterFastRecovery(now) }
        case .fast: if !usesSelective { congestion.inflate(by: segmentSize) }
        case .loss: break
        }
    }

    private mutating func enterFastRecovery(_ now: Microseconds) {
        recovery = .fast
        recoveryPoint = sendMaximum
        highestRetransmitted = unacknowledged
        hasRescued = false
        owesFirstRetransmission = true
        congestion.halve(flight: sendMaximum - unacknowledged, segmentSize: segmentSize)
        if !usesSelective { congestion.inflate(by: 3 * segmentSize) }
        retransmitAt = now + timeout.current
    }

    /// All that is not acknowledged below it is lost (IsLost of RFC 6675 §4): three stretches, or more than two
    /// segments' bytes, have arrived beyond.
    func lostEdge() -> SequenceNumber {
        var bytes = 0
        var index = scoreboard.count
        while index > 0 {
            index -= 1
            bytes += scoreboard[index].count
            if scoreboard.count - index >= 3 || bytes > 2 * segmentSize { return scoreboard[index].start }
        }
        return unacknowledged
    }

    /// How many bytes are thought to be in the network (SetPipe of RFC 6675 §4).
    func pipe() -> Int {
        let edge = lostEdge()
        var sum = 0
        var start = unacknowledged
        var index = 0
        while true {
            let end = index < scoreboard.count ? scoreboard[index].start : sendMaximum
            sum += max(0, end - SequenceNumber.later(start, edge))
            sum += max(0, SequenceNumber.earlier(end, highestRetransmitted) - start)
            guard index < scoreboard.count else { return sum }
            start = scoreboard[index].end
            index += 1
        }
    }

    /// How much the congestion window allows to be sent.
    func congestionRoom() -> Int {
        switch recovery {
        case .fast:
            return congestion.window - (usesSelective ? pipe() : sendNext - unacknowledged)
        case .none, .loss:
            var flight = sendNext - unacknowledged
            for index in 0..<scoreboard.count where scoreboard[index].start < sendNext {
                flight -= SequenceNumber.earlier(scoreboard[index].end, sendNext) - scoreboard[index].start
            }
            // Limited transmit (RFC 3042); selective acknowledgements give the room by themselves.
            let extra = usesSelective || recovery == .loss ? 0 : min(2, duplicates) * segmentSize
            return congestion.window + extra - flight
        }
    }
}
