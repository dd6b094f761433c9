// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

@testable import TCP

/// Segments of a peer that means harm, and calls of the owner in between, against every state.
@Suite struct HostileTests {
    private static func near(_ number: SequenceNumber, _ random: inout SeededGenerator) -> SequenceNumber {
        switch Int.random(in: 0..<6, using: &random) {
        case 0: number
        case 1: number + Int.random(in: -3...3, using: &random)
        case 2: number + Int.random(in: -70_000...70_000, using: &random)
        case 3: number + (1 << 31)
        default: SequenceNumber(.random(in: 0 ... .max, using: &random))
        }
    }

    private static func segment(_ endpoint: Endpoint, _ random: inout SeededGenerator) -> Segment {
        var options = SegmentOptions()
        if random.chance(0.3) { options.maximumSegmentSize = .random(in: 0 ... .max, using: &random) }
        if random.chance(0.3) { options.windowScale = .random(in: 0 ... .max, using: &random) }
        options.allowsSelective = random.chance(0.3)
        if random.chance(0.5) {
            options.timestamps = Timestamps(
                value: endpoint.recentTimestamp &+ .random(in: 0...(random.chance(0.5) ? 5 : .max), using: &random),
                echo: .random(in: 0 ... .max, using: &random))
        }
        for _ in 0..<Int.random(in: 0...5, using: &random) {
            let first = near(endpoint.unacknowledged, &random)
            let count = Int.random(in: -10...5000, using: &random)
            options.selective.append(SequenceRange(start: first, end: first + count))
        }
        let common: [Flags] = [
            .ack, .ack, .ack, [.ack, .psh], [.fin, .ack], .syn, [.syn, .ack], .rst, [.rst, .ack],
        ]
        return Segment(
            sequence: near(endpoint.receiveNext, &random), acknowledgement: near(endpoint.sendNext, &random),
            flags: random.chance(0.8)
                ? common.randomElement(using: &random) ?? .ack : Flags(rawValue: .random(in: 0...63, using: &random)),
            window: random.chance(0.2) ? 0 : .random(in: 0 ... .max, using: &random), options: options,
            payloadCount: random.chance(0.5) ? 0 : .random(in: 0...65_535, using: &random))
    }

    /// What has to hold whatever has come.
    private static func check(_ endpoint: Endpoint) -> String? {
        if endpoint.unacknowledged > endpoint.sendNext || endpoint.sendNext > endpoint.sendMaximum {
            return "what is sent is out of order"
        }
        if endpoint.unread < 0 || endpoint.unread > 1 << 20 { return "\(endpoint.unread) bytes are unread" }
        if endpoint.reassembly.count > 16 || endpoint.scoreboard.count > 16 { return "a set is too large" }
        for index in 0..<endpoint.reassembly.count where endpoint.reassembly[index].start <= endpoint.receiveNext {
            return "bytes in order are kept as if they were not"
        }
        if endpoint.state == .closed && endpoint.deadline != .max { return "a closed endpoint has a timer" }
        if endpoint.congestion.window < 1 { return "the congestion window is empty" }
        return nil
    }

    private static func run(_ seed: UInt64) -> String? {
        var random = SeededGenerator(seed)
        var configuration = Configuration()
        configuration.largeSegmentLimit = random.chance(0.5) ? 65_000 : 1460
        configuration.keepaliveIdle = random.chance(0.3) ? 1_000_000 : 0
        configuration.receiveCapacity = [100, 65_536, 1 << 20].randomElement(using: &random) ?? 100
        var now: Microseconds = 1_000_000_000
        let number = SequenceNumber(.random(in: 0 ... .max, using: &random))
        var endpoint: Endpoint
        if random.chance(0.5) {
            endpoint = Endpoint(connecting: configuration, initialSequence: number, now: now)
        } else {
            var syn = Segment(sequence: SequenceNumber(.random(in: 0 ... .max, using: &random)), flags: .syn)
            syn.options.maximumSegmentSize = .random(in: 0 ... .max, using: &random)
            syn.options.windowScale = .random(in: 0 ... .max, using: &random)
            syn.options.timestamps = random.chance(0.5) ? Timestamps(value: 7, echo: 0) : nil
            syn.options.allowsSelective = random.chance(0.5)
            endpoint = Endpoint(accepting: syn, configuration, initialSequence: number, now: now)
        }
        // The rest goes quicker when the handshake has been.
        if random.chance(0.7) {
            while endpoint.nextSegment(now: now) != nil {}
            let sequence = endpoint.state == .synSent ? SequenceNumber(9) : endpoint.receiveNext
            let flags: Flags = endpoint.state == .synSent ? [.syn, .ack] : .ack
            _ = endpoint.receive(
                Segment(sequence: sequence, acknowledgement: number + 1, flags: flags, window: 60_000), now: now)
        }
        var held = 0
        for _ in 0..<60 {
            switch Int.random(in: 0..<10, using: &random) {
            case 0 where endpoint.canWrite:
                let count = Int.random(in: 0...100_000, using: &random)
                if held + count < 1 << 20 {
                    endpoint.write(count)
                    held += count
                }
            case 1: endpoint.consume(Int.random(in: 0...endpoint.unread, using: &random))
            case 2:
                now += Microseconds.random(in: 0...2_000_000, using: &random)
                _ = endpoint.expire(now: now)
            case 3 where random.chance(0.2): endpoint.close()
            case 4 where random.chance(0.05): endpoint.abort()
            default:
                let room = Int.random(in: 0...200_000, using: &random)
                let segment = segment(endpoint, &random)
                let reception = endpoint.receive(segment, room: room, now: now)
                held -= reception.acknowledged
                if held < 0 { return "more is acknowledged than was written" }
                if reception.skipped + reception.taken > segment.payloadCount { return "bytes are made up" }
                if reception.taken > 0 && reception.placement + reception.taken > room { return "no room" }
                if reception.placement == 0 && reception.delivered < reception.taken { return "bytes are lost" }
            }
            var count = 0
            while random.chance(0.95), let segment = endpoint.nextSegment(now: now) {
                count += 1
                if count > 2000 { return "no end of segments" }
                if segment.payloadCount > 0
                    && (segment.payloadOffset < 0 || segment.payloadOffset + segment.payloadCount > held)
                {
                    return "bytes are sent that are not there"
                }
                if segment.options.byteCount > 40 { return "the options are too long" }
            }
            if let mistake = check(endpoint) { return mistake }
        }
        return nil
    }

    @Test("Nothing traps, nothing is made up, all is bounded", arguments: 0..<4)
    func anything(part: Int) {
        for seed in 0..<600 {
            if let mistake = Self.run(UInt64(part * 100_000 + seed)) {
                Issue.record("seed \(part * 100_000 + seed): \(mistake)")
                return
            }
        }
    }
}

@Suite struct RangeTests {
    @Test func setsOfStretchesAgreeWithSetsOfNumbers() {
        var random = SeededGenerator(3)
        for round in 0..<300 {
            let base = SequenceNumber(random.chance(0.5) ? 0xFFFF_FFC0 : 100)
            var ranges = SequenceRanges()
            var model = Set<Int>()
            for _ in 0..<40 {
                let first = Int.random(in: 0..<200, using: &random)
                let count = Int.random(in: 1..<12, using: &random)
                if random.chance(0.15) {
                    ranges.removeBelow(base + first)
                    model = model.filter { $0 >= first }
                } else if ranges.insert(SequenceRange(start: base + first, end: base + first + count)) {
                    model.formUnion(first..<first + count)
                } else {
                    #expect(ranges.count == SequenceRanges.capacity)
                }
                #expect(ranges.total == model.count, "round \(round)")
                for index in 1..<max(1, ranges.count) { #expect(ranges[index - 1].end < ranges[index].start) }
                let probe = Int.random(in: 0..<220, using: &random)
                #expect((ranges.range(containing: base + probe) != nil) == model.contains(probe))
            }
        }
    }

    @Test func buffersKeepWhatIsPlacedInAnyOrder() {
        var random = SeededGenerator(5)
        let pool = BufferPool(limitInBytes: 4 << 20)
        for _ in 0..<50 {
            var buffer = StreamBuffer(pool: pool, limitInBytes: 1 << 20)
            var produced = 0
            var consumed = 0
            while produced < 200_000 {
                let count = Int.random(in: 1...30_000, using: &random)
                let split = Int.random(in: 0...count, using: &random)
                let bytes = (0..<count).map { pattern(produced + $0, 0) }
                // The second half first.
                bytes.withUnsafeBytes { all in
                    let second = buffer.place(UnsafeRawBufferPointer(rebasing: all[split...]), at: split)
                    let first = buffer.place(UnsafeRawBufferPointer(rebasing: all[..<split]), at: 0)
                    #expect(first && second)
                }
                buffer.extend(by: count)
                produced += count
                let take = Int.random(in: 0...buffer.count, using: &random)
                let (first, second) = buffer.pieces(from: 0, count: take)
                let got = Array(first) + Array(second)
                #expect(got.indices.allSatisfy { got[$0] == pattern(consumed + $0, 0) })
                consumed += take
                buffer.drop(take)
            }
        }
        #expect(pool.usedInBytes == 0)
    }
}
