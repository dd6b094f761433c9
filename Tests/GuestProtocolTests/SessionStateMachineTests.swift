// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

@testable import GuestProtocol

private typealias Machine = SessionStateMachine

private let allKinds = (1...18).compactMap { FrameKind(rawValue: UInt16($0)) }
private let allStreams: [StreamKind] = [.input, .output, .errors]

@Suite struct SessionStateMachineTests {
    /// A machine in a phase, reached by the shortest way.
    private static func machine(
        _ end: SessionEnd, in phase: Machine.Phase, hasInput: Bool, startsAtOnce: Bool = false
    ) -> Machine {
        var machine = Machine(end, hasInput: hasInput, startsAtOnce: startsAtOnce)
        let way: [(FrameKind, SessionEnd)]
        switch phase {
        case .requested: way = []
        case .accepted: way = [(.accepted, .guest)]
        case .starting: way = [(.accepted, .guest), (.go, .host)]
        case .running: way = [(.accepted, .guest), (.go, .host), (.started, .guest)]
        case .ended: way = [(.refused, .guest)]
        }
        for (kind, sender) in way {
            if sender == end { machine.send(kind) } else { #expect(machine.receive(FrameHeader(kind)) == .taken) }
        }
        #expect(machine.phase == phase)
        return machine
    }

    /// The table of the specification, written once more: in which phases the peer may send what.
    private static func isLegal(
        _ kind: FrameKind, _ stream: StreamKind, from sender: SessionEnd, in phase: Machine.Phase, hasInput: Bool,
        startsAtOnce: Bool
    ) -> Bool {
        if phase == .ended { return false }
        let isInput = stream == .input
        switch sender {
        case .host:
            switch kind {
            case .go: return phase == .accepted
            case .signal, .hangUp: return true
            case .data, .end: return isInput && hasInput
            case .credit: return !isInput
            default: return false
            }
        case .guest:
            switch kind {
            case .accepted: return phase == .requested
            case .refused: return phase == .requested || phase == .accepted || phase == .starting
            case .started: return phase == .starting || startsAtOnce && phase == .requested
            case .data, .end: return !isInput && phase == .running
            case .credit: return isInput && hasInput
            case .exited: return false  // only after both ends, see below
            default: return false
            }
        }
    }

    /// Every kind and stream, in every phase, at both ends, with and without an input.
    @Test(arguments: [SessionEnd.host, .guest], [(true, false), (false, false), (true, true), (false, true)])
    func everyFrameInEveryPhase(end: SessionEnd, request: (hasInput: Bool, startsAtOnce: Bool)) {
        let (hasInput, startsAtOnce) = request
        let peer: SessionEnd = end == .host ? .guest : .host
        for phase: Machine.Phase in [.requested, .accepted, .starting, .running, .ended] {
            for kind in allKinds {
                for stream in allStreams {
                    let fresh = Self.machine(end, in: phase, hasInput: hasInput, startsAtOnce: startsAtOnce)
                    var receiving = fresh
                    let verdict = receiving.receive(FrameHeader(kind, session: 1, stream: stream))
                    let isLate =
                        phase == .ended && end == .guest
                        && [.go, .data, .end, .credit, .signal, .hangUp].contains(kind)
                    let expected: Machine.Verdict =
                        Self.isLegal(
                            kind, stream, from: peer, in: phase, hasInput: hasInput, startsAtOnce: startsAtOnce)
                        ? .taken : isLate ? .late : .illegal
                    #expect(verdict == expected, "\(kind) \(stream) in \(phase) at \(end)")
                    #expect(
                        fresh.maySend(kind, stream)
                            == Self.isLegal(
                                kind, stream, from: end, in: phase, hasInput: hasInput, startsAtOnce: startsAtOnce),
                        "\(end) sends \(kind) \(stream) in \(phase)")
                }
            }
        }
    }

    @Test func exitedComesLast() {
        var guest = Self.machine(.guest, in: .running, hasInput: false)
        #expect(!guest.maySend(.exited))
        _ = guest.sendEnd(.output)
        #expect(!guest.maySend(.exited))
        _ = guest.sendEnd(.errors)
        #expect(guest.maySend(.exited))
        #expect(!guest.maySend(.end, .errors), "a stream ends once")

        var host = Self.machine(.host, in: .running, hasInput: false)
        #expect(host.receive(FrameHeader(.exited)) == .illegal)
        host.send(.hangUp)
        #expect(host.receive(FrameHeader(.exited)) == .taken, "after a hang-up nobody asks for output")
        #expect(host.phase == .ended)
    }

    @Test func unknownKindsChangeNothing() {
        var machine = Machine(.guest, hasInput: false)
        var header = FrameHeader(.data, session: 1)
        header.kind = 999
        #expect(machine.receive(header) == .taken)
        header.kind = FrameKind.credit.rawValue
        header.stream = 3
        #expect(machine.receive(header) == .illegal, "a stream that is none")
    }

    /// Two ends that do whatever they may, over a link that delays at will: neither ever finds the other illegal, and
    /// they end together.
    @Test(arguments: 0..<300 as Range<UInt64>) func legalSendersAgree(seed: UInt64) {
        var generator = SeededGenerator(seed)
        let hasInput = seed % 2 == 0
        let startsAtOnce = seed % 3 == 0
        var host = Machine(.host, hasInput: hasInput, startsAtOnce: startsAtOnce)
        var guest = Machine(.guest, hasInput: hasInput, startsAtOnce: startsAtOnce)
        var toGuest: [FrameHeader] = []
        var toHost: [FrameHeader] = []

        func step(_ machine: inout Machine, _ queue: inout [FrameHeader], _ generator: inout SeededGenerator) {
            // Hang-ups and refusals are rare, so that most sessions get on.
            let kind = allKinds[generator.number(0...allKinds.count - 1)]
            let stream = allStreams[generator.number(0...2)]
            if kind == .hangUp || kind == .refused, generator.number(0...19) > 0 { return }
            guard machine.maySend(kind, stream) else { return }
            var header = FrameHeader(kind, session: 1, stream: stream)
            switch kind {
            case .data:
                header.payloadLength = UInt32(min(machine.available(stream), generator.number(1...65_536)))
                header.offset = machine.send(Int(header.payloadLength), on: stream)
            case .end: header.offset = machine.sendEnd(stream)
            case .credit: return  // follows from consuming
            default: machine.send(kind)
            }
            queue.append(header)
        }

        func deliver(_ queue: inout [FrameHeader], to machine: inout Machine, answers: inout [FrameHeader]) {
            guard !queue.isEmpty else { return }
            let header = queue.removeFirst()
            let verdict = machine.receive(header)
            #expect(verdict != .illegal, "\(header) at \(machine.end) in \(machine.phase)")
            guard verdict == .taken, header.kind == FrameKind.data.rawValue,
                let stream = StreamKind(rawValue: header.stream),
                let offset = machine.consume(Int(header.payloadLength), of: stream)
            else { return }
            answers.append(FrameHeader(.credit, session: 1, stream: stream, offset: offset))
        }

        for _ in 0..<2_000 {
            switch generator.number(0...3) {
            case 0: step(&host, &toGuest, &generator)
            case 1: step(&guest, &toHost, &generator)
            case 2: deliver(&toGuest, to: &guest, answers: &toHost)
            default: deliver(&toHost, to: &host, answers: &toGuest)
            }
            // The guest that ended says nothing more; what it said is delivered in order.
            if guest.phase == .ended && toHost.isEmpty { break }
        }
        while !toHost.isEmpty { deliver(&toHost, to: &host, answers: &toGuest) }
        #expect((host.phase == .ended) == (guest.phase == .ended))
        while !toGuest.isEmpty { deliver(&toGuest, to: &guest, answers: &toHost) }
    }

    /// Every sequence of six frames that a peer could send, legal or not: no trap, and an ended session stays so.
    @Test(arguments: [SessionEnd.host, .guest]) func everyShortSequence(end: SessionEnd) {
        let alphabet: [FrameHeader] = [
            FrameHeader(.accepted), FrameHeader(.go), FrameHeader(.started), FrameHeader(.refused),
            FrameHeader(.exited), FrameHeader(.hangUp), FrameHeader(.data, stream: .output, payloadLength: 1),
            FrameHeader(.end, stream: .output), FrameHeader(.end, stream: .errors),
            FrameHeader(.end, stream: .input),
        ]
        var taken = 0
        func explore(_ machine: Machine, depth: Int) {
            for header in alphabet {
                var next = machine
                let verdict = next.receive(header)
                if machine.phase == .ended { #expect(next.phase == .ended && verdict != .taken) }
                guard verdict == .taken else { continue }
                taken += 1
                // The own part of the way, so that all phases are reached.
                if end == .host, next.phase == .accepted { next.send(.go) }
                if end == .guest, next.phase == .requested { next.send(.accepted) }
                if end == .guest, next.phase == .starting { next.send(.started) }
                if depth > 1 { explore(next, depth: depth - 1) }
            }
        }
        explore(Machine(end, hasInput: true), depth: 6)
        #expect(taken > 10)
    }
}
