// SPDX-License-Identifier: Apache-2.0

import GuestProtocol
import TestSupport
import Testing

@testable import Sessions

private func request(hasInput: Bool = true, startsAtOnce: Bool = false) -> [UInt8] {
    var request = ProcessRequest()
    request.startsAtOnce = startsAtOnce
    request.arguments = [Array("x".utf8)]
    request.hasInput = hasInput
    return request.payload
}

extension SessionRelay {
    fileprivate static func greeted(_ clients: Client...) -> SessionRelay {
        var relay = SessionRelay(identity: "build")
        for client in clients {
            relay.clientConnected(client)
            _ = relay.receive(Frame(.hello, payload: Hello().payload), from: client)
        }
        return relay
    }
}

@Suite struct RelayTests {
    @Test func helloTellsTheBuild() {
        var relay = SessionRelay(identity: "build")
        relay.clientConnected(20)
        let actions = relay.receive(Frame(.hello, payload: Hello().payload), from: 20)
        guard case .toClient(20, let frame) = actions.first else { Issue.record("\(actions)"); return }
        #expect(Hello(frame.payload)?.program == Array("build".utf8))
    }

    @Test func numbersAreEachClientsOwn() {
        var relay = SessionRelay.greeted(20, 21)
        #expect(
            relay.receive(Frame(.request, session: 1, payload: request()), from: 20)
                == [.toGuest(Frame(.request, session: 1, payload: request()))])
        #expect(
            relay.receive(Frame(.request, session: 1, payload: request()), from: 21)
                == [.toGuest(Frame(.request, session: 2, payload: request()))])
        #expect(relay.receiveFromGuest(Frame(.accepted, session: 2)) == [.toClient(21, Frame(.accepted, session: 1))])
        #expect(relay.receive(Frame(.go, session: 1), from: 21) == [.toGuest(Frame(.go, session: 2))])
        #expect(relay.sessionCount == 2)
    }

    @Test func onlyWhatStartsAtOnceStartsUnasked() {
        var relay = SessionRelay.greeted(20)
        _ = relay.receive(Frame(.request, session: 1, payload: request(startsAtOnce: true)), from: 20)
        #expect(relay.receiveFromGuest(Frame(.started, session: 1)) == [.toClient(20, Frame(.started, session: 1))])
        _ = relay.receive(Frame(.request, session: 2, payload: request()), from: 20)
        guard case .guestFailed = relay.receiveFromGuest(Frame(.started, session: 2)).first else {
            Issue.record("a process that did not wait")
            return
        }
    }

    @Test func lostClientHangsUpAndItsOutputIsTaken() {
        var relay = SessionRelay.greeted(20)
        _ = relay.receive(Frame(.request, session: 9, payload: request()), from: 20)
        _ = relay.receiveFromGuest(Frame(.accepted, session: 1))
        _ = relay.receive(Frame(.go, session: 9), from: 20)
        _ = relay.receiveFromGuest(Frame(.started, session: 1))
        let actions = relay.clientGone(20)
        #expect(actions.first == .toGuest(Frame(.hangUp, session: 1)))
        let late = Frame(.data, session: 1, stream: .output, payload: [1, 2, 3])
        #expect(
            relay.receiveFromGuest(late)
                == [.toGuest(Frame(.credit, session: 1, stream: .output, offset: 3 + 262_144))])
        #expect(!relay.isIdle)
        #expect(relay.receiveFromGuest(Frame(.exited, session: 1, payload: ExitReport().payload)) == [])
        #expect(relay.isIdle)
    }

    @Test func lingeringProcessesKeepItBusy() {
        var relay = SessionRelay(identity: "")
        _ = relay.receiveFromGuest(Frame(.activity, payload: NumberMessage(1).payload))
        #expect(!relay.isIdle)
        _ = relay.receiveFromGuest(Frame(.activity, payload: NumberMessage(0).payload))
        #expect(relay.isIdle)
    }

    @Test(arguments: [
        Frame(.data, session: 1, stream: .output, payload: [1]),
        Frame(.data, session: 1, stream: .input, offset: 5, payload: [1]),
        Frame(.credit, session: 1, stream: .output, offset: 262_145),
        Frame(.credit, session: 1, stream: .input, offset: 1),
        Frame(.go, session: 1),
        Frame(.signal, session: 1, payload: NumberMessage(65).payload),
        Frame(.request, session: 1, payload: request()),
        Frame(.request, session: 2, payload: []),
        Frame(.configure),
        Frame(.exited, session: 1),
    ])
    func clientThatBreaksTheProtocolIsCutOff(frame: Frame) {
        var relay = SessionRelay.greeted(20)
        _ = relay.receive(Frame(.request, session: 1, payload: request()), from: 20)
        guard case .cutOff(20, _) = relay.receive(frame, from: 20).first else {
            Issue.record("was let through")
            return
        }
    }

    @Test func nothingBeforeHello() {
        var relay = SessionRelay(identity: "")
        relay.clientConnected(20)
        guard case .cutOff(20, _) = relay.receive(Frame(.shutDown), from: 20).first else {
            Issue.record("was let through")
            return
        }
    }

    @Test func tooManySessionsAreRefused() {
        var relay = SessionRelay.greeted(20)
        for number in 0..<UInt32(SessionRelay.sessionLimit) {
            _ = relay.receive(Frame(.request, session: number, payload: request()), from: 20)
        }
        let actions = relay.receive(Frame(.request, session: 999, payload: request()), from: 20)
        guard case .toClient(20, let frame) = actions.first else { Issue.record("\(actions)"); return }
        #expect(frame.kind == .refused)
    }
}

@Suite struct RelayFuzz {
    /// Hostile clients and a hostile guest at once. No trap; what a client gets stays within its windows; frames reach
    /// only the client whose session it is; and what goes to the guest is what a guest that keeps the protocol accepts.
    @Test(arguments: 0..<6 as Range<UInt64>)
    func relay(seed: UInt64) {
        var random = SeededGenerator(seed + 1)
        for _ in 0..<60 {
            var relay = SessionRelay.greeted(20, 21, 22)
            var alive: Set<UInt64> = [20, 21, 22]
            var unread: [UInt64: Int] = [:]
            var actions: [SessionRelay.Action] = []
            for _ in 0..<250 {
                let kind = FrameKind(rawValue: UInt16.random(in: 0...20, using: &random)) ?? .data
                let count = Int.random(in: 0...3, using: &random) * 20_000
                let offset: UInt64 =
                    switch Int.random(in: 0...3, using: &random) {
                    case 0: 0
                    case 1: UInt64.random(in: 0 ... .max, using: &random)
                    default: UInt64.random(in: 0...13, using: &random) * 20_000
                    }
                let payload: [UInt8] =
                    switch kind {
                    case .request: request(hasInput: Bool.random(using: &random))
                    case .signal, .activity: NumberMessage(UInt64.random(in: 0...70, using: &random)).payload
                    case .exited: ExitReport().payload
                    default: [UInt8](repeating: 3, count: count)
                    }
                var frame = Frame(
                    kind, session: UInt32.random(in: 0...4, using: &random), offset: offset, payload: payload)
                frame.header.stream = UInt16.random(in: 0...3, using: &random)
                switch Int.random(in: 0...9, using: &random) {
                case 0...4:
                    guard let client = alive.randomElement(using: &random) else { break }
                    actions = relay.receive(frame, from: client)
                case 5...8: actions = relay.receiveFromGuest(frame)
                default:
                    guard Int.random(in: 0...9, using: &random) == 0, let client = alive.popFirst() else { break }
                    actions = relay.clientGone(client)
                }
                for action in actions {
                    switch action {
                    case .toClient(let client, let frame):
                        #expect(alive.contains(client))
                        if frame.kind == .data { unread[client, default: 0] += frame.payload.count }
                    case .toGuest(let frame):
                        #expect([.request, .go, .data, .end, .credit, .signal, .hangUp].contains(frame.kind))
                    case .cutOff(let client, _):
                        alive.remove(client)
                        _ = relay.clientGone(client)
                    case .shutDown, .guestFailed: break
                    }
                }
                actions = []
            }
            #expect(relay.clientCount == alive.count)
            for client in alive { _ = relay.clientGone(client) }
            #expect(relay.clientCount == 0)
        }
    }
}
