// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import TCP

private let start: Microseconds = 1_000_000_000
private let mine = SequenceNumber(1000)
private let theirs = SequenceNumber(5000)

/// An endpoint whose peer is written out by hand: its numbers are 1000 and 5000.
private struct Bench {
    var endpoint: Endpoint
    var now = start

    init(_ configuration: Configuration, answering: Bool = false, options: SegmentOptions = SegmentOptions()) {
        if answering {
            let syn = Segment(sequence: theirs, flags: .syn, window: 10_000, options: options)
            endpoint = Endpoint(accepting: syn, configuration, initialSequence: mine, now: now)
        } else {
            endpoint = Endpoint(connecting: configuration, initialSequence: mine, now: now)
        }
    }

    /// After the handshake, without options unless said otherwise.
    static func established(
        _ configuration: Configuration = Configuration(), options: SegmentOptions = SegmentOptions(),
        window: UInt16 = 10_000
    ) -> Bench {
        var bench = Bench(configuration)
        #expect(bench.sent().map(\.flags) == [.syn])
        let answer = bench.take([.syn, .ack], at: theirs, acknowledging: mine + 1, window: window, options: options)
        #expect(answer.signals == .connected)
        #expect(bench.sent().map(\.flags) == [.ack])
        return bench
    }

    mutating func take(
        _ flags: Flags, at sequence: SequenceNumber, acknowledging: SequenceNumber = SequenceNumber(0),
        window: UInt16 = 10_000, options: SegmentOptions = SegmentOptions(), payload: Int = 0, room: Int = .max
    ) -> Reception {
        endpoint.receive(
            Segment(
                sequence: sequence, acknowledgement: acknowledging, flags: flags, window: window, options: options,
                payloadCount: payload), room: room, now: now)
    }

    mutating func sent() -> [OutgoingSegment] {
        var all: [OutgoingSegment] = []
        while let segment = endpoint.nextSegment(now: now), all.count < 1000 { all.append(segment) }
        return all
    }

    /// Goes on to the next timer; what it brought.
    mutating func wait() -> Signals {
        #expect(endpoint.deadline != .max)
        now = max(now, endpoint.deadline)
        return endpoint.expire(now: now)
    }
}

private func options(size: UInt16? = 1460, scale: UInt8? = nil, selective: Bool = false, clock: UInt32? = nil)
    -> SegmentOptions
{
    var options = SegmentOptions()
    options.maximumSegmentSize = size
    options.windowScale = scale
    options.allowsSelective = selective
    if let clock { options.timestamps = Timestamps(value: clock, echo: 0) }
    return options
}

@Suite struct HandshakeTests {
    @Test func refusal() {
        var bench = Bench(Configuration())
        _ = bench.sent()
        // Not for us, or not sure to be: RFC 9293 §3.10.7.3.
        #expect(bench.take(.rst, at: theirs).signals.isEmpty)
        #expect(bench.take([.rst, .ack], at: theirs, acknowledging: mine + 2).signals.isEmpty)
        #expect(bench.take([.rst, .ack], at: theirs, acknowledging: mine + 1).signals == .reset)
        #expect(bench.endpoint.state == .closed && bench.endpoint.deadline == .max && bench.sent().isEmpty)
    }

    @Test func answerToAnotherConnectionIsReset() {
        var bench = Bench(Configuration())
        _ = bench.sent()
        _ = bench.take([.syn, .ack], at: theirs, acknowledging: mine + 77)
        let answer = bench.sent()
        #expect(answer.map(\.flags) == [.rst] && answer[0].sequence == mine + 77)
        #expect(bench.endpoint.state == .synSent)
        // What the peer had left is gone then, and the next SYN does not wait for the timer of a lost one.
        let before = bench.now
        #expect(bench.wait().isEmpty && bench.now - before < 10_000)
        #expect(bench.sent().map(\.flags) == [.syn])
    }

    @Test(arguments: [false, true]) func silenceIsGivenUp(answering: Bool) {
        var configuration = Configuration()
        configuration.handshakeLimit = 4
        var bench = Bench(configuration, answering: answering)
        var count = bench.sent().count
        var waits: [Microseconds] = []
        while true {
            let before = bench.now
            let signals = bench.wait()
            waits.append(bench.now - before)
            if signals == .timedOut { break }
            count += bench.sent().count
        }
        #expect(count == 5)
        #expect(waits == [1, 2, 4, 8, 16].map { $0 * 1_000_000 })
        #expect(bench.sent().map(\.flags) == (answering ? [[.rst, .ack]] : []))
        #expect(bench.endpoint.state == .closed && bench.endpoint.deadline == .max)
    }

    @Test func answersRepeatOnlyWhatWasOffered() {
        var plain = Bench(Configuration(), answering: true)
        let bare = plain.sent()[0].options
        #expect(bare.windowScale == nil && bare.timestamps == nil && !bare.allowsSelective)
        #expect(bare.maximumSegmentSize == 1460)
        var rich = Bench(
            Configuration(), answering: true, options: options(scale: 7, selective: true, clock: 99))
        let full = rich.sent()[0].options
        #expect(full.windowScale != nil && full.timestamps?.echo == 99 && full.allowsSelective)
    }

    @Test func aRepeatedSynIsAnsweredAgain() {
        var bench = Bench(Configuration(), answering: true)
        #expect(bench.sent().count == 1)
        _ = bench.take(.syn, at: theirs)
        #expect(bench.sent().map(\.flags) == [[.syn, .ack]])
        #expect(bench.take(.ack, at: theirs + 1, acknowledging: mine + 9).signals.isEmpty)
        #expect(bench.sent().map(\.flags) == [.rst])
        #expect(bench.take(.ack, at: theirs + 1, acknowledging: mine + 1).signals == .connected)
    }

    @Test func resetsAnswerStrangers() {
        let syn = Segment(sequence: theirs, flags: .syn, payloadCount: 5)
        #expect(OutgoingSegment.reset(answering: syn)?.acknowledgement == theirs + 6)
        let other = Segment(sequence: theirs, acknowledgement: mine, flags: .ack)
        #expect(OutgoingSegment.reset(answering: other)?.sequence == mine)
        #expect(OutgoingSegment.reset(answering: Segment(sequence: theirs, flags: .rst)) == nil)
    }
}

@Suite struct BlindAttackTests {
    /// RFC 5961 §3.2: only the very next number resets.
    @Test func resets() {
        var bench = Bench.established()
        #expect(bench.take(.rst, at: theirs + 2).signals.isEmpty)
        #expect(bench.sent().map(\.flags) == [.ack])
        #expect(bench.take(.rst, at: theirs + 500_000).signals.isEmpty)
        #expect(bench.sent().isEmpty)
        #expect(bench.endpoint.state == .established)
        #expect(bench.take(.rst, at: theirs + 1).signals == .reset)
        #expect(bench.endpoint.state == .closed)
    }

    @Test func synsAndFalseAcknowledgements() {
        var bench = Bench.established()
        _ = bench.take(.syn, at: theirs + 1)
        #expect(bench.sent().map(\.flags) == [.ack])
        #expect(bench.take(.ack, at: theirs + 1, acknowledging: mine + 400, payload: 10).taken == 0)
        #expect(bench.sent().map(\.flags) == [.ack])
        #expect(bench.take(.ack, at: theirs + 1, acknowledging: mine - 60_000, payload: 10).taken == 0)
        #expect(bench.endpoint.state == .established)
    }

    @Test func answersAreFewInASecond() {
        var bench = Bench.established()
        var count = 0
        for _ in 0..<100 {
            _ = bench.take(.syn, at: theirs + 1)
            count += bench.sent().count
        }
        #expect(count == 10)
        bench.now += 1_000_000
        _ = bench.take(.syn, at: theirs + 1)
        #expect(bench.sent().count == 1)
    }

    /// PAWS (RFC 7323 §5).
    @Test func oldTimestamps() {
        var bench = Bench.established(options: options(clock: 1000))
        var old = SegmentOptions()
        old.timestamps = Timestamps(value: 900, echo: 0)
        #expect(bench.take(.ack, at: theirs + 1, acknowledging: mine + 1, options: old, payload: 10).taken == 0)
        #expect(bench.sent().map(\.flags) == [.ack])
        old.timestamps = Timestamps(value: 1001, echo: 0)
        #expect(bench.take(.ack, at: theirs + 1, acknowledging: mine + 1, options: old, payload: 10).taken == 10)
    }
}

@Suite struct ReceivingTests {
    @Test func bytesBeyondTheWindowAndTheRoomAreLost() {
        var configuration = Configuration()
        configuration.receiveCapacity = 1000
        var bench = Bench.established(configuration)
        let cut = bench.take(.ack, at: theirs + 1, acknowledging: mine + 1, payload: 1500)
        #expect(cut.taken == 1000 && cut.delivered == 1000)
        #expect(bench.sent().last?.window == 0)
        #expect(bench.take(.ack, at: theirs + 1001, acknowledging: mine + 1, payload: 1).taken == 0)
        bench.endpoint.consume(1000)
        #expect(bench.sent().last?.window == 1000)
        #expect(bench.take(.ack, at: theirs + 1001, acknowledging: mine + 1, payload: 100, room: 7).taken == 7)
    }

    @Test func overlapsAreTakenOnce() {
        var bench = Bench.established()
        #expect(bench.take(.ack, at: theirs + 1, acknowledging: mine + 1, payload: 100).delivered == 100)
        let second = bench.take(.ack, at: theirs + 51, acknowledging: mine + 1, payload: 100)
        #expect(second.skipped == 50 && second.taken == 50 && second.delivered == 50)
        let third = bench.take(.ack, at: theirs + 201, acknowledging: mine + 1, payload: 100)
        #expect(third.placement == 50 && third.delivered == 0)
        #expect(bench.take(.ack, at: theirs + 151, acknowledging: mine + 1, payload: 60).delivered == 150)
    }

    @Test func selectiveBlocksTellTheLatestFirst() {
        var bench = Bench.established(options: options(selective: true))
        for offset in [2001, 4001, 6001, 4501] {
            _ = bench.take(.ack, at: theirs + offset, acknowledging: mine + 1, payload: 500)
        }
        let blocks = bench.sent().last?.options.selective
        #expect(blocks?.count == 3)
        #expect(blocks?[0] == SequenceRange(start: theirs + 4001, end: theirs + 5001))
    }

    @Test func holesAreBounded() {
        var configuration = Configuration()
        configuration.receiveCapacity = 60_000
        var bench = Bench.established(configuration)
        var taken = 0
        for hole in 1...100 {
            taken += bench.take(.ack, at: theirs + hole * 100, acknowledging: mine + 1, payload: 10).taken
        }
        #expect(taken == 160)
    }

    @Test func aFinishWaitsForWhatIsMissing() {
        var bench = Bench.established()
        #expect(bench.take([.fin, .ack], at: theirs + 11, acknowledging: mine + 1, payload: 5).signals.isEmpty)
        // Nothing can come after it.
        #expect(bench.take(.ack, at: theirs + 16, acknowledging: mine + 1, payload: 5).taken == 0)
        let last = bench.take(.ack, at: theirs + 1, acknowledging: mine + 1, payload: 10)
        #expect(last.signals == .peerFinished && last.delivered == 15)
        #expect(bench.endpoint.state == .closeWait && bench.sent().last?.acknowledgement == theirs + 17)
    }

    @Test func acknowledgementsWaitForCompanyButNotLong() {
        var bench = Bench.established()
        _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 1, payload: 10)
        #expect(bench.sent().isEmpty)
        #expect(bench.endpoint.deadline == bench.now + 20_000)
        #expect(bench.wait().isEmpty)
        #expect(bench.sent().map(\.acknowledgement) == [theirs + 11])
        _ = bench.take(.ack, at: theirs + 11, acknowledging: mine + 1, payload: 2920)
        #expect(bench.sent().count == 1)
    }
}

@Suite struct SendingTests {
    @Test func sizesAndTheInitialWindow() {
        var configuration = Configuration()
        configuration.largeSegmentLimit = 65_000
        var bench = Bench.established(configuration, options: options(size: 1000, clock: 5), window: 60_000)
        bench.endpoint.write(50_000)
        let sent = bench.sent()
        // Ten segments, twelve bytes of each being the timestamps' (RFC 9293 §3.7.1, RFC 6928).
        #expect(sent.map(\.segmentSize).allSatisfy { $0 == 988 })
        #expect(sent.dropLast().allSatisfy { $0.payloadCount % 988 == 0 })
        #expect(sent.map(\.payloadCount).reduce(0, +) <= 10_000)
        #expect(sent[0].payloadCount > 988)
    }

    @Test func aTinySegmentSizeIsNotBelieved() {
        var bench = Bench.established(options: options(size: 1))
        bench.endpoint.write(1000)
        #expect(bench.sent()[0].payloadCount == 88)
    }

    @Test func smallSegmentsAreHeldBackWhereAsked() {
        var configuration = Configuration()
        configuration.coalescesSmallSegments = true
        var bench = Bench.established(configuration, options: options())
        bench.endpoint.write(10)
        #expect(bench.sent().map(\.payloadCount) == [10])
        bench.endpoint.write(20)
        #expect(bench.sent().isEmpty)
        _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 11)
        #expect(bench.sent().map(\.payloadCount) == [20])
    }

    @Test func aClosedWindowIsAskedAfterForAsLongAsThePeerAnswers() {
        var configuration = Configuration()
        configuration.retransmissionLimit = 4
        var bench = Bench.established(configuration, window: 0)
        bench.endpoint.write(100)
        #expect(bench.sent().isEmpty)
        for _ in 0..<20 {
            #expect(bench.wait().isEmpty)
            #expect(bench.sent().map(\.sequence) == [mine])
            _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 1, window: 0)
            #expect(bench.sent().isEmpty)
        }
        _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 1, window: 50)
        #expect(bench.sent().map(\.payloadCount) == [50])
        _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 51, window: 0)
        #expect(bench.sent().isEmpty)
        var rounds = 0
        while bench.wait() != .timedOut {
            _ = bench.sent()
            rounds += 1
            #expect(rounds < 10)
            if rounds >= 10 { return }
        }
        #expect(bench.sent().map(\.flags) == [[.rst, .ack]])
    }

    /// A peer whose buffer has become small for good (RFC 1122 §4.2.3.4's override).
    @Test func aWindowThatStaysSmallIsUsed() {
        var bench = Bench.established(options: options(), window: 60_000)
        _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 1, window: 500)
        bench.endpoint.write(1500)
        var sent = 0
        for _ in 0..<2 {
            #expect(bench.sent().isEmpty)
            #expect(bench.wait().isEmpty)
            sent += bench.sent().map(\.payloadCount).reduce(0, +)
            _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 1 + sent, window: 500)
        }
        // What is left fits, and needs no wait.
        sent += bench.sent().map(\.payloadCount).reduce(0, +)
        #expect(sent == 1500)
    }

    /// RFC 1191 §6.5: what is too long for the path goes out again at once, in smaller pieces, and the window stays.
    @Test func aPathThatTakesLess() {
        var bench = Bench.established(options: options(size: 1460), window: 60_000)
        bench.endpoint.write(10_000)
        let before = bench.sent()
        #expect(before.map(\.payloadCount) == [1460, 1460, 1460, 1460, 1460, 1460, 1240])
        #expect(bench.endpoint.isUnderWay(before[3].sequence) && !bench.endpoint.isUnderWay(mine + 10_001))
        // The first got through; the others did not.
        _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 1461)
        bench.endpoint.limitSegmentSize(1000)
        let again = bench.sent()
        #expect(again.first?.sequence == mine + 1461 && again.first?.payloadOffset == 0)
        #expect(again.allSatisfy { $0.payloadCount <= 1000 })
        #expect(again.reduce(0) { $0 + $1.payloadCount } == 10_000 - 1460)
        // Larger again it does not become.
        bench.endpoint.limitSegmentSize(1200)
        #expect(bench.sent().isEmpty)
        _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 10_001)
        bench.endpoint.write(3000)
        #expect(bench.sent().map(\.payloadCount) == [1000, 1000, 1000])
    }

    /// What is long goes unanswered: after three times it is cut to what every path takes; when that goes unanswered as
    /// well it was not that; and ten minutes later the path may be another.
    @Test func aPathThatLosesWhatIsLong() {
        var bench = Bench.established(options: options(size: 1460), window: 60_000)
        bench.endpoint.write(4000)
        _ = bench.sent()
        var sizes: [Int] = []
        for _ in 0..<6 {
            #expect(bench.wait().isEmpty)
            sizes.append(bench.sent().first?.payloadCount ?? 0)
        }
        #expect(sizes == [1460, 1460, 1220, 1220, 1220, 1460])
        for _ in 0..<3 {
            #expect(bench.wait().isEmpty)
            sizes = bench.sent().map(\.payloadCount)
        }
        #expect(sizes == [1220])
        _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 1221, window: 60_000)
        #expect(bench.sent().map(\.payloadCount) == [1220, 1220])
        // The route says itself that it takes less than before, which the later attempt keeps to.
        bench.endpoint.limitSegmentSize(1400)
        _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 4001, window: 60_000)
        bench.endpoint.write(2440)
        #expect(bench.sent().map(\.payloadCount) == [1220, 1220])
        bench.now += 600_000_000
        _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 6441, window: 60_000)
        bench.endpoint.write(2800)
        #expect(bench.sent().map(\.payloadCount) == [1400, 1400])
    }

    /// What was sent before a window shrank may be lost; and an acknowledgement from beyond the window is not seen.
    @Test func aWindowThatShrinks() {
        var bench = Bench.established(options: options(), window: 60_000)
        bench.endpoint.write(5000)
        #expect(bench.sent().map(\.payloadCount).reduce(0, +) == 5000)
        _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 1, window: 1460, payload: 3000)
        #expect(bench.sent().map(\.sequence) == [mine + 1461])
        #expect(bench.wait().isEmpty)
        #expect(bench.sent().map(\.payloadCount) == [1460])
        // Lost again: it is sent again, not only asked after.
        #expect(bench.wait().isEmpty)
        #expect(bench.sent().map(\.payloadCount) == [1460])
    }

    /// Twice around the sequence space, both ways.
    @Test func moreThanTheSequenceSpaceHolds() {
        var configuration = Configuration()
        configuration.largeSegmentLimit = 65_000
        configuration.receiveCapacity = 1 << 20
        var bench = Bench.established(configuration, options: options(scale: 8), window: 60_000)
        var (written, received) = (0, 0)
        while written < 9 << 30 {
            bench.endpoint.write(1 << 20)
            written += 1 << 20
            var acknowledged = 0
            while acknowledged < 1 << 20 {
                var offset = 0
                for segment in bench.sent() where segment.payloadCount > 0 {
                    if segment.payloadOffset != offset { return #expect(Bool(false), "after \(written) bytes") }
                    offset += segment.payloadCount
                }
                let answer = bench.take(
                    .ack, at: theirs + 1 + received,
                    acknowledging: mine + 1 + (written - (1 << 20)) + acknowledged + offset,
                    window: 60_000, payload: 500_000)
                if answer.acknowledged != offset || answer.delivered != 500_000 || offset == 0 {
                    return #expect(Bool(false), "after \(written) bytes")
                }
                acknowledged += answer.acknowledged
                received += answer.delivered
                bench.endpoint.consume(answer.delivered)
            }
        }
        #expect(received > 4 << 30)
    }

    @Test func timeoutsDoubleAndEndInAReset() {
        var configuration = Configuration()
        configuration.retransmissionLimit = 3
        var bench = Bench.established(configuration)
        bench.endpoint.write(100)
        #expect(bench.sent().count == 1)
        var waits: [Microseconds] = []
        while true {
            let before = bench.now
            let signals = bench.wait()
            waits.append(bench.now - before)
            if signals == .timedOut || waits.count > 10 { break }
            #expect(bench.sent().map(\.payloadCount) == [100])
        }
        #expect(waits.count == 4 && waits[1] == 2 * waits[0] && waits[2] == 4 * waits[0])
        #expect(bench.sent().map(\.flags) == [[.rst, .ack]])
        #expect(bench.endpoint.deadline == .max)
    }

    @Test func aSilentPeerIsNoticed() {
        var configuration = Configuration()
        configuration.keepaliveIdle = 60_000_000
        configuration.keepaliveInterval = 10_000_000
        configuration.keepaliveLimit = 3
        var bench = Bench.established(configuration)
        #expect(bench.wait().isEmpty)
        #expect(bench.sent().map(\.sequence) == [mine])
        _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 1)
        var probes = 0
        while bench.wait() != .timedOut && probes < 10 { probes += bench.sent().count }
        #expect(probes == 3)
    }

    @Test func aPeerThatForgetsWhatItHadIsNotTrusted() {
        var bench = Bench.established(options: options(selective: true), window: 30_000)
        bench.endpoint.write(5 * 1460)
        #expect(bench.sent().count == 5)
        var blocks = SegmentOptions()
        blocks.selective.append(SequenceRange(start: mine + 1 + 1460, end: mine + 1 + 5 * 1460))
        _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 1, window: 30_000, options: blocks)
        #expect(bench.sent().map(\.sequence) == [mine + 1])
        // The hole is filled, and yet the rest is gone: the timer finds out (RFC 2018 §8).
        _ = bench.take(.ack, at: theirs + 1, acknowledging: mine + 1461, window: 30_000)
        var seen = Set<UInt32>()
        for _ in 0..<10 where bench.endpoint.deadline != .max {
            _ = bench.wait()
            for segment in bench.sent() where segment.payloadCount > 0 { seen.insert(segment.sequence.value) }
        }
        #expect(seen.contains((mine + 1461).value))
    }
}

@Suite struct EndTests {
    @Test func bothCloseAtOnce() {
        var bench = Bench.established()
        bench.endpoint.close()
        #expect(bench.sent().map(\.flags) == [[.fin, .ack]])
        #expect(bench.take([.fin, .ack], at: theirs + 1, acknowledging: mine + 1).signals == .peerFinished)
        #expect(bench.endpoint.state == .closing)
        #expect(bench.take(.ack, at: theirs + 2, acknowledging: mine + 2).signals == .finished)
        #expect(bench.endpoint.state == .timeWait)
    }

    @Test func halfClosed() {
        var bench = Bench.established()
        bench.endpoint.write(5)
        bench.endpoint.close()
        let sent = bench.sent()
        #expect(sent.map(\.flags) == [[.fin, .ack, .psh]] && sent[0].payloadCount == 5)
        let answer = bench.take(.ack, at: theirs + 1, acknowledging: mine + 7, payload: 100)
        #expect(answer.acknowledged == 5 && answer.delivered == 100)
        #expect(bench.endpoint.state == .finWait2)
        #expect(
            bench.take([.fin, .ack], at: theirs + 101, acknowledging: mine + 7).signals == [.peerFinished, .finished])
    }

    /// Most often both come together; where ours does not come soon, the acknowledgement does not wait for it.
    @Test(arguments: [true, false]) func thePeersEndIsAcknowledgedWithOurs(closes: Bool) {
        var bench = Bench.established()
        #expect(bench.take([.fin, .ack], at: theirs + 1, acknowledging: mine + 1).signals == .peerFinished)
        #expect(bench.endpoint.state == .closeWait && bench.sent().isEmpty)
        if closes { bench.endpoint.close() } else { _ = bench.wait() }
        let sent = bench.sent()
        #expect(sent.map(\.flags) == [closes ? [.fin, .ack] : .ack] && sent[0].acknowledgement == theirs + 2)
        #expect(closes == (bench.endpoint.state == .lastAck))
    }

    @Test func timeWait() {
        var bench = Bench.established()
        bench.endpoint.close()
        _ = bench.sent()
        _ = bench.take([.fin, .ack], at: theirs + 1, acknowledging: mine + 2)
        #expect(bench.endpoint.state == .timeWait)
        #expect(bench.sent().count == 1)
        // RFC 1337: a stray reset does not end it; the peer's repeated FIN is answered and starts the wait anew.
        _ = bench.take(.rst, at: theirs + 2)
        bench.now += 30_000_000
        _ = bench.take([.fin, .ack], at: theirs + 1, acknowledging: mine + 2)
        #expect(bench.sent().map(\.acknowledgement) == [theirs + 2])
        #expect(bench.take(.syn, at: theirs - 10).signals.isEmpty)
        #expect(bench.take(.syn, at: theirs + 1000).signals == .restarts)
        _ = bench.wait()
        #expect(bench.endpoint.state == .closed && bench.endpoint.deadline == .max)
    }

    @Test func abortsTellThePeer() {
        var bench = Bench.established()
        bench.endpoint.write(10)
        _ = bench.sent()
        bench.endpoint.abort()
        let sent = bench.sent()
        #expect(sent.map(\.flags) == [[.rst, .ack]] && sent[0].sequence == mine + 11)
        #expect(bench.endpoint.state == .closed)
    }
}
