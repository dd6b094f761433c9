// SPDX-License-Identifier: Apache-2.0

/// One end of a TCP connection (RFC 9293) as a state machine: it knows numbers and times, never bytes, sockets, clocks.
///
/// The owner keeps the bytes: a send buffer, whose first byte is the oldest not acknowledged, and a receive buffer. It
/// tells the endpoint what happens (`receive`, `write`, `consume`, `close`, `abort`, `expire`) and then takes segments
/// from `nextSegment` until there are none, or until the link is full: what is not taken is not lost, and is made from
/// the state at the time it is taken, so that one acknowledgement answers a whole batch. Nothing here allocates, unless
/// something is lost or overtaken.
///
/// States are those of RFC 9293 §3.3.2, without LISTEN: who listens makes an endpoint for a SYN it likes. Input that
/// does not fit the state is answered as the RFC says, and never traps:
/// - segments outside of the window, SYNs, resets with a wrong number, acknowledgements of what was never sent: an
///   acknowledgement at most (RFC 5961), ten in a second;
/// - bytes beyond the window, beyond a FIN, or beyond what `room` allows: as if they were lost on the way;
/// - urgent data: ordinary data.
///
/// With it: window scaling, timestamps and PAWS (RFC 7323), selective acknowledgements (RFC 2018), loss recovery by them
/// (RFC 6675) or without (RFC 6582), RFC 6298, RFC 5681, silly-window avoidance, zero-window probes, keepalive.
package struct Endpoint: Sendable {
    package enum State: UInt8, Sendable {
        case closed, synSent, synReceived, established, finWait1, finWait2, closeWait, closing, lastAck, timeWait
    }

    enum Recovery: UInt8, Sendable { case none, fast, loss }

    static let never = Microseconds.max
    /// What the least packet has room for that every path takes (RFC 8200 §5), and how long a path is not tried that
    /// lost more than that.
    static let safeSegmentSize = 1220
    static let blackHolePause: Microseconds = 600_000_000
    /// From a reset of what a peer has left of another connection to the next SYN.
    static let afterStrayReset: Microseconds = 4_000

    package internal(set) var state: State
    let configuration: Configuration

    // What we send (RFC 9293 §3.3.1): ISS, SND.UNA, SND.NXT and the furthest that SND.NXT has been.
    let initialSend: SequenceNumber
    var unacknowledged: SequenceNumber
    var sendNext: SequenceNumber
    var sendMaximum: SequenceNumber
    /// After the last byte of the application; a FIN has this number.
    var writtenEnd: SequenceNumber
    var finishes = false
    // SND.WND, its largest value so far, SND.WL1, SND.WL2.
    var sendWindow = 0
    var largestSendWindow = 0
    var windowSequence = SequenceNumber(0)
    var windowAcknowledgement = SequenceNumber(0)
    var sendScale: UInt8 = 0
    /// The peer has offered window scaling, and so have we.
    var isScaling = false
    /// Of what we send, without options; the lesser of the link's and the peer's.
    var segmentSize: Int
    /// What it was before the path was found to lose what is long, and when that is tried again; 0 for never found.
    var longSegmentSize = 0
    var longSegmentsAt = Endpoint.never

    var congestion: CongestionWindow
    var timeout: RetransmissionTimeout
    var retransmissions: UInt8 = 0
    var recovery = Recovery.none
    var recoveryPoint: SequenceNumber
    /// HighRxt of RFC 6675.
    var highestRetransmitted: SequenceNumber
    var owesFirstRetransmission = false
    var hasRescued = false
    var duplicates = 0
    var scoreboard = SequenceRanges()
    /// Without timestamps, one segment at a time is timed (Karn's algorithm).
    var timedSequence: SequenceNumber?
    var timedSince: Microseconds = 0
    var lastSent: Microseconds = 0

    // What we receive: IRS, RCV.NXT, and the right edge of the window as told.
    var initialReceive = SequenceNumber(0)
    var receiveNext = SequenceNumber(0)
    var advertisedEdge = SequenceNumber(0)
    var receiveScale: UInt8 = 0
    /// Bytes in order that the application has not consumed.
    package internal(set) var unread = 0
    package internal(set) var receiveCapacity: Int
    var reassembly = SequenceRanges()
    /// A number in each of the stretches that were last told of, the latest first (RFC 2018 §4).
    var recentStretches = InlineArray<3, SequenceNumber>(repeating: SequenceNumber(0))
    var recentCount = 0
    var finishAt: SequenceNumber?
    var lastReceived: Microseconds

    var usesSelective: Bool
    var usesTimestamps: Bool
    var timestampOffset: UInt32
    /// TS.Recent and its age, Last.ACK.sent.
    var recentTimestamp: UInt32 = 0
    var recentTimestampAt: Microseconds = 0
    var lastAcknowledgement = SequenceNumber(0)

    // What is to be sent as soon as it is asked for.
    var owesHandshake: Bool
    var owesReset = false
    var owesProbe = false
    /// A window that is open, if only a little, is used.
    var sendsAnyway = false
    var owedAcknowledgements: UInt8 = 0
    var unacknowledgedBytes = 0
    var strayReset: SequenceNumber?

    var challenges: UInt8 = 0
    var challengesSince: Microseconds = 0
    var keepaliveProbes: UInt8 = 0
    var probeBackoff: UInt8 = 0

    // Timers.
    var retransmitAt = Endpoint.never
    var persistAt = Endpoint.never
    var acknowledgeAt = Endpoint.never
    var keepaliveAt = Endpoint.never
    var timeWaitEnd = Endpoint.never

    private init(
        _ state: State, _ configuration: Configuration, initialSequence: SequenceNumber, timestampOffset: UInt32,
        now: Microseconds
    ) {
        self.state = state
        self.configuration = configuration
        initialSend = initialSequence
        unacknowledged = initialSequence
        sendNext = initialSequence
        sendMaximum = initialSequence
        writtenEnd = initialSequence + 1
        segmentSize = Int(configuration.segmentSize)
        congestion = CongestionWindow(
            segmentSize: Int(configuration.segmentSize), initialWindow: Int(configuration.initialWindow))
        timeout = RetransmissionTimeout(configuration)
        recoveryPoint = initialSequence
        highestRetransmitted = initialSequence
        receiveCapacity = Int(configuration.receiveCapacity)
        lastReceived = now
        usesSelective = configuration.offersSelective
        usesTimestamps = configuration.offersTimestamps
        self.timestampOffset = timestampOffset
        owesHandshake = true
    }

    /// Calls the peer.
    /// - Parameters:
    ///   - initialSequence: not to be guessed by others (RFC 6528).
    ///   - timestampOffset: likewise; added to the clock that is told.
    package init(
        connecting configuration: Configuration, initialSequence: SequenceNumber, timestampOffset: UInt32 = 0,
        now: Microseconds
    ) {
        self.init(
            .synSent, configuration, initialSequence: initialSequence, timestampOffset: timestampOffset, now: now)
    }

    /// Answers a peer that calls.
    /// - Parameter syn: its segment: SYN and not ACK, RST or FIN.
    package init(
        accepting syn: Segment, _ configuration: Configuration, initialSequence: SequenceNumber,
        timestampOffset: UInt32 = 0, now: Microseconds
    ) {
        self.init(
            .synReceived, configuration, initialSequence: initialSequence, timestampOffset: timestampOffset, now: now)
        adopt(syn, now: now)
    }

    /// Takes what a peer's SYN says.
    mutating func adopt(_ syn: Segment, now: Microseconds) {
        initialReceive = syn.sequence
        receiveNext = syn.sequence + 1
        lastAcknowledgement = receiveNext
        let options = syn.options
        // 536 where nothing is said (RFC 9293 §3.7.1); no less than what leaves room for options.
        let peerSize = max(88, Int(options.maximumSegmentSize ?? 536))
        segmentSize = min(segmentSize, peerSize)
        congestion = CongestionWindow(segmentSize: segmentSize, initialWindow: Int(configuration.initialWindow))
        usesSelective = usesSelective && options.allowsSelective
        usesTimestamps = usesTimestamps && options.timestamps != nil
        if let timestamps = options.timestamps, usesTimestamps {
            recentTimestamp = timestamps.value
            recentTimestampAt = now
        }
        if let scale = options.windowScale, configuration.offersWindowScaling {
            isScaling = true
            sendScale = min(14, scale)
            receiveScale = configuration.windowScale
        }
        advertisedEdge = receiveNext + min(65535, receiveCapacity)
        setSendWindow(Int(syn.window), segment: syn)
    }

    mutating func setSendWindow(_ window: Int, segment: Segment) {
        sendWindow = window
        largestSendWindow = max(largestSendWindow, window)
        windowSequence = segment.sequence
        windowAcknowledgement = segment.acknowledgement
    }
}

extension Endpoint {
    /// When `expire` has to be called next; `Microseconds.max` for never.
    package var deadline: Microseconds {
        min(min(retransmitAt, persistAt), min(acknowledgeAt, keepaliveAt), timeWaitEnd)
    }

    /// Whether the application may still send.
    package var canWrite: Bool {
        switch state {
        case .synSent, .synReceived, .established, .closeWait: !finishes
        default: false
        }
    }

    /// Whether the peer may still send.
    package var canReceive: Bool {
        switch state {
        case .synSent, .synReceived, .established, .finWait1, .finWait2: true
        default: false
        }
    }

    /// Bytes in the send buffer: written and not acknowledged.
    package var buffered: Int { max(0, writtenEnd - dataStart) }

    /// Bytes have been placed beyond a hole, and wait in the receive buffer.
    package var hasHoles: Bool { !reassembly.isEmpty }

    /// Of the peer's view of the world: the round trip in microseconds, smoothed; 0 before it is known.
    package var roundTrip: UInt32 { timeout.roundTrip }

    /// The number of the oldest byte in the send buffer.
    var dataStart: SequenceNumber {
        // By the state, not by comparison: after 2 GiB the first number lies ahead again.
        state == .synSent || state == .synReceived ? initialSend + 1 : unacknowledged
    }

    var isSynchronized: Bool { state.rawValue >= State.established.rawValue }

    /// The application has put bytes at the end of the send buffer.
    package mutating func write(_ count: Int) {
        precondition(canWrite && count >= 0)
        writtenEnd += count
    }

    /// The application has taken bytes from the receive buffer.
    package mutating func consume(_ count: Int) {
        precondition(count >= 0 && count <= unread)
        unread -= count
        guard canReceive, isSynchronized else { return }
        // RFC 9293 §3.8.6.2.2: the window opens by a good piece, or not at all.
        let opening = (receiveNext + max(0, receiveCapacity - unread)) - advertisedEdge
        if opening >= windowStep { owedAcknowledgements = max(1, owedAcknowledgements) }
    }

    /// How much the window opens at least.
    var windowStep: Int { max(1, min(receiveCapacity / 4, 64 << 10)) }

    /// Sets how much may be unread. What the peer has been promised stays promised.
    package mutating func setReceiveCapacity(_ bytes: Int) {
        receiveCapacity = max(0, min(bytes, 65535 << Int(receiveScale)))
    }

    /// Whether a number is of something on its way: only then is what ICMP says of it believed (RFC 5927 §4).
    package func isUnderWay(_ number: SequenceNumber) -> Bool { number >= unacknowledged && number < sendMaximum }

    /// A route that takes less (RFC 1191, RFC 8201): segments become smaller, and what has not been acknowledged is
    /// sent once more. Nothing was lost by congestion, and nothing is concluded from it.
    package mutating func limitSegmentSize(_ bytes: Int) {
        longSegmentSize = min(longSegmentSize, max(88, bytes))
        guard bytes < segmentSize else { return }
        segmentSize = max(88, bytes)
        guard isSynchronized, state != .timeWait, unacknowledged < sendMaximum else { return }
        recovery = .loss
        recoveryPoint = sendMaximum
        sendNext = unacknowledged
        duplicates = 0
        owesFirstRetransmission = false
        timedSequence = nil
    }

    /// The application will write no more; what it wrote is sent, then a FIN.
    package mutating func close() {
        switch state {
        case .synSent, .synReceived: finishes = true
        case .established:
            finishes = true
            state = .finWait1
        case .closeWait:
            finishes = true
            state = .lastAck
        default: break
        }
    }

    /// Ends the connection now; the peer is told with a reset.
    package mutating func abort() {
        switch state {
        case .closed, .synSent, .closing, .lastAck, .timeWait: break
        default: owesReset = true
        }
        end()
    }

    /// To CLOSED, with no timer running.
    mutating func end() {
        state = .closed
        stopTimers()
        owesHandshake = false
        owesProbe = false
        owedAcknowledgements = 0
    }

    mutating func enterTimeWait(_ now: Microseconds) {
        state = .timeWait
        stopTimers()
        timeWaitEnd = now + UInt64(configuration.timeWait)
    }

    private mutating func stopTimers() {
        retransmitAt = Endpoint.never
        persistAt = Endpoint.never
        acknowledgeAt = Endpoint.never
        keepaliveAt = Endpoint.never
        timeWaitEnd = Endpoint.never
    }
}

extension Endpoint {
    /// How many bytes are worth having in the send buffer: what may be on its way, and as much again.
    package var sendTarget: Int { max(64 << 10, 2 * min(congestion.window, max(sendWindow, largestSendWindow))) }
}
