// SPDX-License-Identifier: Apache-2.0

import TCP
import TestSupport
import Testing

private func randomConfiguration(_ random: inout SeededGenerator) -> Configuration {
    var configuration = Configuration()
    configuration.segmentSize = [100, 536, 1448, 1460, 8960].randomElement(using: &random) ?? 1460
    configuration.largeSegmentLimit = random.chance(0.3) ? 65000 : configuration.segmentSize
    configuration.receiveCapacity =
        [1000, 4096, 20_000, 65_535, 262_144, 1 << 20].randomElement(using: &random) ?? 4096
    configuration.offersSelective = random.chance(0.7)
    configuration.offersTimestamps = random.chance(0.6)
    configuration.offersWindowScaling = random.chance(0.7)
    configuration.coalescesSmallSegments = random.chance(0.3)
    configuration.acknowledgementDelay = random.chance(0.2) ? 0 : 20_000
    configuration.retransmissionLimit = 60
    configuration.handshakeLimit = 60
    configuration.maximumTimeout = 5_000_000
    configuration.keepaliveIdle = random.chance(0.2) ? 10_000_000 : 0
    return configuration
}

private func randomWeather(_ random: inout SeededGenerator) -> Weather {
    var weather = Weather()
    weather.loss = random.chance(0.3) ? 0 : Double.random(in: 0...0.2, using: &random)
    weather.duplication = random.chance(0.5) ? 0 : Double.random(in: 0...0.2, using: &random)
    weather.delay = Microseconds.random(in: 10...100_000, using: &random)
    weather.jitter = random.chance(0.5) ? 0 : Microseconds.random(in: 0...200_000, using: &random)
    weather.corruption = random.chance(0.8) ? 0 : 0.02
    return weather
}

/// One run: what went wrong, or nil.
private func transfer(seed: UInt64, largest: Int, weather given: Weather? = nil) -> String? {
    var random = SeededGenerator(seed)
    let now: Microseconds = 5_000_000_000
    let mine = randomConfiguration(&random)
    let theirs = randomConfiguration(&random)
    let weather = given ?? randomWeather(&random)
    let firstTotal = Int.random(in: 0...largest, using: &random)
    let secondTotal = random.chance(0.5) ? 0 : Int.random(in: 0...largest, using: &random)
    let firstSequence = SequenceNumber(random.chance(0.3) ? 0xffff_fff0 : .random(in: 0 ... .max, using: &random))
    let secondSequence = SequenceNumber(random.chance(0.3) ? 0x7fff_fff0 : .random(in: 0 ... .max, using: &random))
    let offset = UInt32.random(in: 0 ... .max, using: &random)
    let first = Peer(
        "first",
        Endpoint(connecting: mine, initialSequence: firstSequence, timestampOffset: offset, now: now),
        total: firstTotal, salt: 1, peerSalt: 2, limit: random.chance(0.3) ? 16 << 10 : 1 << 20)
    let makeSecond: (Endpoint) -> Peer = { Peer("second", $0, total: secondTotal, salt: 2, peerSalt: 1) }
    let simulation: Simulation
    if random.chance(0.1) {
        // Both call at the same time.
        let second = makeSecond(
            Endpoint(connecting: theirs, initialSequence: secondSequence, timestampOffset: ~offset, now: now))
        simulation = Simulation(first, second: second, weather: weather, seed: seed, now: now)
    } else {
        simulation = Simulation(first, weather: weather, seed: seed, now: now) { syn, now in
            makeSecond(
                Endpoint(
                    accepting: syn, theirs, initialSequence: secondSequence, timestampOffset: ~offset, now: now))
        }
    }
    if random.chance(0.3) {
        first.readStep = Int.random(in: 1...30_000, using: &random)
        first.readPause = Microseconds.random(in: 1...50_000, using: &random)
        if first.readStep < 1000 { first.readPause = 1 }
    }
    first.closesOnlyAfterPeer = random.chance(0.3)
    let finished = simulation.run()
    let what = "seed \(seed), \(mine), \(theirs), \(weather): "
    guard let second = simulation.second else { return what + "no second peer" }
    let ends = "\(first.endpoint.state) \(second.endpoint.state)"
    let told = "\(first.signals.rawValue) \(second.signals.rawValue)"
    let progress = "\(ends) \(told) \(first.received)/\(secondTotal) \(second.received)/\(firstTotal)"
    if let mistake = first.mistake ?? second.mistake { return what + mistake }
    guard finished else {
        return what + "no end: \(progress) after \(simulation.events)"
    }
    if second.received != firstTotal || first.received != secondTotal { return what + "bytes are missing: \(progress)" }
    for peer in [first, second] {
        if peer.endpoint.state != .closed { return what + "\(peer.name) is in \(peer.endpoint.state)" }
        if peer.endpoint.deadline != .max { return what + "\(peer.name) has a timer" }
        if !peer.signals.isSuperset(of: [.connected, .peerFinished, .finished]) {
            // The one that was closed by a lost last acknowledgement and a reset timer would show here.
            return what + "\(peer.name) was told \(peer.signals.rawValue)"
        }
        if peer.pool.usedInBytes != 0 { return what + "\(peer.name) holds \(peer.pool.usedInBytes) bytes" }
    }
    return nil
}

@Suite struct TransferTests {
    @Test("Bytes arrive in order, once, and everything ends", arguments: 0..<8)
    func random(part: Int) {
        for seed in 0..<150 {
            if let mistake = transfer(seed: UInt64(part * 1000 + seed), largest: 30_000) {
                Issue.record("\(mistake)")
                return
            }
        }
    }

    @Test("Larger streams over a bad link", arguments: 0..<4)
    func large(part: Int) {
        for seed in 0..<4 {
            if let mistake = transfer(seed: UInt64(100_000 + part * 100 + seed), largest: 600_000) {
                Issue.record("\(mistake)")
                return
            }
        }
    }

    @Test("A clean link sees no segment twice")
    func clean() {
        for seed in 0..<40 {
            var random = SeededGenerator(UInt64(seed))
            var configuration = Configuration()
            configuration.largeSegmentLimit = random.chance(0.5) ? 64000 : 1460
            configuration.receiveCapacity = 1 << 20
            let first = Peer(
                "first", Endpoint(connecting: configuration, initialSequence: SequenceNumber(7), now: 1000),
                total: 400_000, salt: 1, peerSalt: 2)
            let simulation = Simulation(first, weather: Weather(), seed: UInt64(seed), now: 1000) { syn, now in
                Peer(
                    "second",
                    Endpoint(accepting: syn, configuration, initialSequence: SequenceNumber(9), now: now),
                    total: 100_000, salt: 2, peerSalt: 1)
            }
            var sent = [0, 0]
            let largest = Int(configuration.segmentSize)
            let isCut = configuration.largeSegmentLimit > configuration.segmentSize
            simulation.observer = { fromFirst, segment in
                #expect(isCut || segment.payloadCount + segment.options.byteCount <= largest)
                sent[fromFirst ? 0 : 1] += segment.payloadCount
                return true
            }
            #expect(simulation.run())
            #expect(sent == [400_000, 100_000])
            #expect(simulation.second?.received == 400_000)
        }
    }

    @Test("One lost segment is mended without waiting for the timer", arguments: [true, false])
    func fastRetransmit(selective: Bool) {
        var configuration = Configuration()
        configuration.offersSelective = selective
        configuration.receiveCapacity = 1 << 20
        let first = Peer(
            "first", Endpoint(connecting: configuration, initialSequence: SequenceNumber(7), now: 1000),
            total: 300_000, salt: 1, peerSalt: 2)
        let simulation = Simulation(first, weather: Weather(), seed: 1, now: 1000) { syn, now in
            Peer(
                "second", Endpoint(accepting: syn, configuration, initialSequence: SequenceNumber(9), now: now),
                total: 0, salt: 2, peerSalt: 1)
        }
        var count = 0
        simulation.observer = { fromFirst, segment in
            if fromFirst && segment.payloadCount > 0 { count += 1 }
            return !(fromFirst && segment.payloadCount > 0 && (count == 30 || count == 34))
        }
        #expect(simulation.run(until: { simulation.second?.received == 300_000 }))
        #expect(simulation.now < 1000 + 100_000)
    }

    @Test("A path that loses what is long, and says nothing of it", arguments: [1460, 8960, 65_480] as [UInt16])
    func blackHole(segmentSize: UInt16) {
        var configuration = Configuration()
        configuration.segmentSize = segmentSize
        configuration.largeSegmentLimit = 65_400
        configuration.receiveCapacity = 1 << 20
        let first = Peer(
            "first", Endpoint(connecting: configuration, initialSequence: SequenceNumber(7), now: 1000),
            total: 400_000, salt: 1, peerSalt: 2)
        let simulation = Simulation(first, weather: Weather(), seed: 1, now: 1000) { syn, now in
            Peer(
                "second", Endpoint(accepting: syn, configuration, initialSequence: SequenceNumber(9), now: now),
                total: 400_000, salt: 2, peerSalt: 1)
        }
        // At first the route is another one.
        var sent = 0
        simulation.observer = { _, segment in
            sent += segment.payloadCount
            return sent < 100_000 || min(segment.payloadCount, segment.segmentSize) <= 1240
        }
        #expect(simulation.run())
        #expect(first.received == 400_000 && simulation.second?.received == 400_000)
        #expect(first.endpoint.state == .closed || first.endpoint.state == .timeWait)
    }
}
