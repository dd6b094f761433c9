// SPDX-License-Identifier: Apache-2.0

extension Endpoint {
    /// Acts on the timers that have run out. Calls that come early are harmless.
    package mutating func expire(now: Microseconds) -> Signals {
        if timeWaitEnd <= now {
            end()
            return []
        }
        if acknowledgeAt <= now {
            acknowledgeAt = Endpoint.never
            owedAcknowledgements = max(1, owedAcknowledgements)
        }
        if retransmitAt <= now {
            retransmitAt = Endpoint.never
            return retransmissionDue(now)
        }
        if persistAt <= now {
            persistAt = Endpoint.never
            probeBackoff = min(16, probeBackoff + 1)
            return probeDue()
        }
        if keepaliveAt <= now { return keepaliveDue(now) }
        return []
    }

    /// RFC 6298 §5.4 to §5.7, RFC 5681 §3.1.
    private mutating func retransmissionDue(_ now: Microseconds) -> Signals {
        let isHandshake = state == .synSent || state == .synReceived
        retransmissions += 1
        if retransmissions > (isHandshake ? configuration.handshakeLimit : configuration.retransmissionLimit) {
            return giveUp()
        }
        timeout.backOff()
        if isHandshake {
            owesHandshake = true
            return []
        }
        if retransmissions.isMultiple(of: 3) { suspectBlackHole(now) }
        // What the peer said it has, it may have thrown away (RFC 2018 §8): seen when it lacks what it claimed, and
        // to be feared when the first attempt to mend has failed.
        if retransmissions > 1 || scoreboard.range(containing: unacknowledged) != nil { scoreboard.removeAll() }
        congestion.collapse(
            flight: sendMaximum - unacknowledged, segmentSize: segmentSize, isRepeated: retransmissions > 1)
        recovery = .loss
        recoveryPoint = sendMaximum
        sendNext = unacknowledged
        duplicates = 0
        owesFirstRetransmission = false
        timedSequence = nil
        return []
    }

    /// A path that loses what is long and says nothing of it (RFC 2923 §2.1) has passed nothing for a while: what every
    /// path takes goes through, and from then on nothing longer is sent, for ten minutes (RFC 4821 §7.7). If that is not
    /// acknowledged either, length is not what is wrong.
    private mutating func suspectBlackHole(_ now: Microseconds) {
        if longSegmentSize > 0 {
            leaveBlackHole()
        } else if segmentSize > Endpoint.safeSegmentSize, sendMaximum - unacknowledged > Endpoint.safeSegmentSize {
            longSegmentSize = segmentSize
            longSegmentsAt = now + Endpoint.blackHolePause
            segmentSize = Endpoint.safeSegmentSize
        }
    }

    /// Long segments are tried again.
    mutating func leaveBlackHole() {
        segmentSize = max(segmentSize, longSegmentSize)
        longSegmentSize = 0
        longSegmentsAt = Endpoint.never
    }

    /// RFC 9293 §3.8.6.1: a closed window is asked after for as long as the peer answers.
    private mutating func probeDue() -> Signals {
        retransmissions += 1
        if retransmissions > configuration.retransmissionLimit { return giveUp() }
        owesProbe = true
        sendsAnyway = true
        return []
    }

    private mutating func keepaliveDue(_ now: Microseconds) -> Signals {
        let quiet = now - lastReceived
        let idle = UInt64(configuration.keepaliveIdle)
        if quiet < idle {
            keepaliveAt = lastReceived + idle
            return []
        }
        if keepaliveProbes >= configuration.keepaliveLimit { return giveUp() }
        keepaliveProbes += 1
        owesProbe = true
        keepaliveAt = now + UInt64(configuration.keepaliveInterval)
        return []
    }

    private mutating func giveUp() -> Signals {
        abort()
        return .timedOut
    }
}
