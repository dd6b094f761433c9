// SPDX-License-Identifier: Apache-2.0

import TCP
import TestSupport

extension SeededGenerator {
    mutating func chance(_ probability: Double) -> Bool { Double.random(in: 0..<1, using: &self) < probability }
}

/// What a link does to segments.
struct Weather {
    var loss = 0.0
    var duplication = 0.0
    var delay: Microseconds = 1000
    /// Added to the delay, at random: what reorders.
    var jitter: Microseconds = 0
    /// A window field that says something else, and an acknowledgement of something that was never sent.
    var corruption = 0.0
}

/// The byte at a position of a stream.
func pattern(_ position: Int, _ salt: UInt8) -> UInt8 {
    UInt8(truncatingIfNeeded: (UInt32(truncatingIfNeeded: position) &* 0x9E37_79B1) >> 24) ^ salt
}

/// An endpoint with its buffers and an application that sends so much, reads in its own time, and closes.
final class Peer {
    let name: String
    var endpoint: Endpoint
    let pool = BufferPool(limitInBytes: 64 << 20)
    var outgoing: StreamBuffer
    var incoming: StreamBuffer
    let salt: UInt8
    let peerSalt: UInt8
    var leftToWrite: Int
    var written = 0
    var received = 0
    var closesWhenDone = true
    var closesOnlyAfterPeer = false
    /// The application reads at most so many bytes each time it wakes.
    var readStep = Int.max
    var readPause: Microseconds = 0
    var nextRead: Microseconds = 0
    var signals: Signals = []
    var mistake: String?
    var sent = 0

    init(_ name: String, _ endpoint: Endpoint, total: Int, salt: UInt8, peerSalt: UInt8, limit: Int = 1 << 20) {
        self.name = name
        self.endpoint = endpoint
        outgoing = StreamBuffer(pool: pool, limitInBytes: limit)
        incoming = StreamBuffer(pool: pool, limitInBytes: 1 << 20)
        leftToWrite = total
        self.salt = salt
        self.peerSalt = peerSalt
    }

    func work(_ now: Microseconds) {
        while leftToWrite > 0 && endpoint.canWrite {
            let spaces = outgoing.space(leftToWrite)
            let count = spaces.0.count + spaces.1.count
            guard count > 0 else { break }
            for index in 0..<spaces.0.count { spaces.0[index] = pattern(written + index, salt) }
            for index in 0..<spaces.1.count { spaces.1[index] = pattern(written + spaces.0.count + index, salt) }
            outgoing.extend(by: count)
            endpoint.write(count)
            written += count
            leftToWrite -= count
        }
        if incoming.count > 0 && nextRead <= now {
            let count = min(readStep, incoming.count)
            let pieces = incoming.pieces(from: 0, count: count)
            for piece in [pieces.0, pieces.1] {
                for byte in piece {
                    if byte != pattern(received, peerSalt) { mistake = mistake ?? "\(name): byte \(received) is wrong" }
                    received += 1
                }
            }
            incoming.drop(count, keepsMemory: endpoint.hasHoles)
            endpoint.consume(count)
            nextRead = now + readPause
        }
        if leftToWrite == 0 && closesWhenDone && endpoint.canWrite
            && (!closesOnlyAfterPeer || signals.contains(.peerFinished))
        {
            endpoint.close()
        }
    }

    func take(_ segment: Segment, _ payload: [UInt8], _ now: Microseconds) {
        let reception = endpoint.receive(segment, room: incoming.room, now: now)
        signals.formUnion(reception.signals)
        if reception.acknowledged > 0 { outgoing.drop(reception.acknowledged) }
        if reception.taken > 0 {
            let stored = payload.withUnsafeBytes {
                incoming.place(
                    UnsafeRawBufferPointer(rebasing: $0[reception.skipped..<reception.skipped + reception.taken]),
                    at: reception.placement)
            }
            if !stored { mistake = mistake ?? "\(name): no room for what was taken" }
            incoming.extend(by: reception.delivered)
        }
    }

    func nextSegment(_ now: Microseconds) -> (OutgoingSegment, [UInt8])? {
        guard let segment = endpoint.nextSegment(now: now) else { return nil }
        sent += 1
        guard segment.payloadCount > 0 else { return (segment, []) }
        let pieces = outgoing.pieces(from: segment.payloadOffset, count: segment.payloadCount)
        return (segment, Array(pieces.0) + Array(pieces.1))
    }

    var nextWake: Microseconds {
        min(endpoint.deadline, incoming.count > 0 ? nextRead : .max)
    }
}

/// Two peers and a link, in a time of their own.
final class Simulation {
    struct Flying {
        var arrival: Microseconds
        var order: Int
        var toSecond: Bool
        var segment: Segment
        var payload: [UInt8]
    }

    let first: Peer
    var second: Peer?
    /// Makes the second peer when the first SYN comes; nil when it exists from the start.
    let accept: ((Segment, Microseconds) -> Peer)?
    var weather: Weather
    var random: SeededGenerator
    var now: Microseconds
    private var flying: [Flying] = []
    private var order = 0
    var events = 0
    /// Sees every segment as it is sent; false loses it.
    var observer: ((_ fromFirst: Bool, OutgoingSegment) -> Bool)?

    init(
        _ first: Peer, second: Peer? = nil, weather: Weather, seed: UInt64, now: Microseconds,
        accept: ((Segment, Microseconds) -> Peer)? = nil
    ) {
        self.first = first
        self.second = second
        self.accept = accept
        self.weather = weather
        self.now = now
        random = SeededGenerator(seed)
    }

    private func launch(_ segment: OutgoingSegment, _ payload: [UInt8], toSecond: Bool) {
        if let observer, !observer(toSecond, segment) { return }
        var incoming = segment.asIncoming
        if random.chance(weather.corruption) {
            incoming.window = UInt16.random(in: 0...UInt16.max, using: &random)
            // One of something that is on its way would end in a hole that nobody can fill.
            if random.chance(0.5) {
                let far = Int.random(in: 2_000_000...1_000_000_000, using: &random)
                incoming.acknowledgement += random.chance(0.5) ? far : -far
            }
            incoming.payloadCount = 0
            incoming.flags.remove(.fin)
            incoming.flags.remove(.syn)
        }
        for _ in 0..<(random.chance(weather.duplication) ? 2 : 1) where !random.chance(weather.loss) {
            order += 1
            let jitter = weather.jitter == 0 ? 0 : Microseconds.random(in: 0...weather.jitter, using: &random)
            flying.append(
                Flying(
                    arrival: now + weather.delay + jitter, order: order, toSecond: toSecond, segment: incoming,
                    payload: incoming.payloadCount == 0 ? [] : payload))
        }
    }

    private func pump(_ peer: Peer) {
        peer.work(now)
        while let (segment, payload) = peer.nextSegment(now) {
            launch(segment, payload, toSecond: peer === first)
        }
    }

    /// Runs until nothing happens any more, or until `done`; false when it takes too long.
    func run(limit: Microseconds = 100_000_000_000, events maximum: Int = 200_000, until done: () -> Bool = { false })
        -> Bool
    {
        let end = now + limit
        while true {
            pump(first)
            if let second { pump(second) }
            if done() { return true }
            var next = min(first.nextWake, second?.nextWake ?? .max)
            var chosen: Int?
            for (index, flight) in flying.enumerated() where flight.arrival <= next {
                if let chosen, flying[chosen].arrival == flight.arrival, flying[chosen].order < flight.order {
                    continue
                }
                chosen = index
                next = flight.arrival
            }
            if next == .max { return true }
            guard next <= end, events < maximum else { return false }
            events += 1
            now = max(now, next)
            guard let chosen else {
                first.signals.formUnion(first.endpoint.expire(now: now))
                if let second { second.signals.formUnion(second.endpoint.expire(now: now)) }
                continue
            }
            let flight = flying.remove(at: chosen)
            if flight.toSecond {
                if second == nil, let accept {
                    if flight.segment.flags == .syn { second = accept(flight.segment, now) }
                } else {
                    second?.take(flight.segment, flight.payload, now)
                }
            } else {
                first.take(flight.segment, flight.payload, now)
            }
        }
    }
}
