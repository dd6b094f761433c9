// SPDX-License-Identifier: Apache-2.0

import GuestProtocol
import TestSupport
import Testing

@testable import Worker

private typealias Machine = SupervisorStateMachine

private func hello() -> Frame { Frame(.hello, payload: Hello().payload) }

private func output(_ text: String, at offset: UInt64, _ stream: StreamKind = .output) -> Frame {
    Frame(.data, session: 1, stream: stream, offset: offset, payload: Array(text.utf8))
}

private func exited(_ code: UInt8, signaled: Bool = false) -> Frame {
    var report = ExitReport()
    report.code = code
    report.wasSignaled = signaled
    return Frame(.exited, session: 1, payload: report.payload)
}

private func signal(_ number: UInt64) -> Frame {
    Frame(.signal, session: 1, payload: NumberMessage(number).payload)
}

private func identified() -> Frame {
    var report = StepReport()
    report.steps = [StepReport.Step(Array("entropy".utf8), nanoseconds: 5)]
    report.sample = [UInt8](repeating: 7, count: 16)
    return Frame(.identified, payload: report.payload)
}

private func running(_ change: (inout Machine.Policy) -> Void = { _ in }) -> Machine {
    var policy = Machine.Policy()
    change(&policy)
    var machine = Machine(policy: policy)
    _ = machine.handle(.guestConnected)
    for frame in [
        hello(), identified(), Frame(.configured), Frame(.accepted, session: 1), Frame(.started, session: 1),
    ] {
        _ = machine.handle(.guestFrame(frame))
    }
    #expect(machine.phase == .running)
    return machine
}

extension SupervisorStateMachine {
    fileprivate var outcome: Outcome? {
        if case .ending(let outcome) = phase { outcome } else { nil }
    }
}

@Suite struct SupervisorStateMachineTests {
    @Test func anOrdinaryLife() {
        var machine = Machine(policy: Machine.Policy())
        #expect(machine.start() == [.arm(.start, milliseconds: 180_000)])
        #expect(machine.handle(.guestConnected) == [.greetGuest])
        #expect(machine.handle(.guestFrame(hello())) == [])
        #expect(
            machine.handle(.guestFrame(identified())) == [
                .recordIdentity(StepReport(identified().payload) ?? StepReport())
            ])
        #expect(machine.handle(.guestFrame(Frame(.configured))) == [])
        let accepted = Frame(.accepted, session: 1)
        #expect(
            machine.handle(.guestFrame(accepted)) == [
                .sendToGuest(Frame(.go, session: 1)), .sendToForeground(accepted),
            ])
        let started = Frame(.started, session: 1)
        #expect(
            machine.handle(.guestFrame(started)) == [.disarm(.start), .recordStarted, .sendToForeground(started)])
        let data = output("hi", at: 0)
        #expect(machine.handle(.guestFrame(data)) == [.log(.output, Array("hi".utf8)), .sendToForeground(data)])
        let end = Frame(.end, session: 1, stream: .output, offset: 2)
        #expect(machine.handle(.guestFrame(end)) == [.sendToForeground(end)])
        #expect(machine.handle(.guestFrame(exited(7))) == [.sendToForeground(exited(7)), .endMonitor])
        // What comes now changes nothing.
        #expect(machine.handle(.guestFrame(output("x", at: 2))) == [])
        #expect(machine.handle(.guestLost("gone")) == [])
        #expect(machine.handle(.foregroundLost) == [])
        guard case .finish(let outcome) = machine.handle(.monitorEnded("killed")).first else {
            Issue.record("no end")
            return
        }
        #expect(outcome.exitCode == 7)
        #expect(outcome.reason == nil)
        #expect(machine.phase == .ended)
    }

    @Test func refusal() {
        var machine = Machine(policy: Machine.Policy())
        _ = machine.handle(.guestConnected)
        _ = machine.handle(.guestFrame(hello()))
        let refusal = Refusal(exitCode: 127, message: Array("no such program".utf8))
        let frame = Frame(.refused, session: 1, payload: refusal.payload)
        #expect(machine.handle(.guestFrame(frame)) == [.sendToForeground(frame), .endMonitor])
        #expect(machine.outcome?.exitCode == 127)
        #expect(machine.outcome?.reason == "no such program")
    }

    @Test(arguments: [
        Frame(.accepted, session: 1), Frame(.started, session: 1), exited(0), output("x", at: 0),
        Frame(.go, session: 1),
        Frame(.request, session: 1, payload: [1]),
    ])
    func framesOutOfTurn(_ frame: Frame) {
        // Before a greeting, and right after it, where only `accepted` and `refused` have their place.
        for greets in [false, true] {
            var machine = Machine(policy: Machine.Policy())
            _ = machine.handle(.guestConnected)
            if greets {
                for frame in [hello(), identified(), Frame(.configured)] { _ = machine.handle(.guestFrame(frame)) }
            }
            _ = machine.handle(.guestFrame(frame))
            if greets && frame.kind == .accepted {
                #expect(machine.phase == .starting)
            } else {
                #expect(machine.outcome?.exitCode == 125)
            }
        }
    }

    /// No process before the machine is one of its own, whatever the guest says.
    @Test(arguments: [
        [Frame(.accepted, session: 1)], [identified(), Frame(.accepted, session: 1)], [Frame(.configured)],
        [identified(), identified()], [Frame(.identified)],
        [Frame(.identified, payload: StepReport().payload)],
    ])
    func noProcessWithoutAnIdentity(_ frames: [Frame]) {
        var machine = Machine(policy: Machine.Policy())
        _ = machine.handle(.guestConnected)
        _ = machine.handle(.guestFrame(hello()))
        for frame in frames { _ = machine.handle(.guestFrame(frame)) }
        #expect(machine.outcome?.exitCode == 125)
    }

    @Test func aTemplateIsMadeBeforeTheGuestIsGreeted() {
        var policy = Machine.Policy()
        policy.origin = .bootForTemplate
        var machine = Machine(policy: policy)
        _ = machine.start()
        #expect(machine.handle(.guestConnected) == [])
        #expect(machine.handle(.guestFrame(hello())) == [.makeTemplate])
        #expect(machine.handle(.templateMade) == [.greetGuest])
        for frame in [identified(), Frame(.configured), Frame(.accepted, session: 1)] {
            _ = machine.handle(.guestFrame(frame))
        }
        #expect(machine.phase == .starting)
    }

    @Test func aDiskThatCannotBeAddedIsTheEnd() {
        var policy = Machine.Policy()
        policy.origin = .bootForTemplate
        var machine = Machine(policy: policy)
        _ = machine.handle(.guestFrame(hello()))
        #expect(machine.handle(.deviceRefused("no slot")).last == .endMonitor)
        #expect(machine.outcome?.reason == "no slot")
    }

    private func restored() -> Machine {
        var policy = Machine.Policy()
        policy.origin = .template
        let machine = Machine(policy: policy)
        #expect(machine.start().count == 2)
        return machine
    }

    /// Those that are forked in one go may all have to share a processor.
    @Test func aForkAmongMany() {
        var policy = Machine.Policy()
        policy.origin = .snapshot
        #expect(
            Machine(policy: policy).start() == [
                .arm(.start, milliseconds: 180_000), .arm(.restore, milliseconds: 20_000),
            ])
        policy.allow(forOthers: 49)
        #expect(
            Machine(policy: policy).start() == [
                .arm(.start, milliseconds: 425_000), .arm(.restore, milliseconds: 265_000),
            ])
    }

    @Test func withItsCommandAMachineEnds() {
        for isForCommand in [false, true] {
            var machine = running {
                $0.isDetached = true
                $0.endsWithCommand = isForCommand
            }
            #expect(machine.handle(.foregroundLost).contains(.endMonitor) == isForCommand)
        }
    }

    /// Its guest says what it drew, which is not to be what its original's drew.
    @Test func aCloneWithItsOriginalsRandomNumbersIsEnded() {
        var policy = Machine.Policy()
        policy.origin = .snapshot
        policy.originalSample = [UInt8](repeating: 7, count: 16)
        for isAnother in [false, true] {
            if isAnother { policy.originalSample = [UInt8](repeating: 8, count: 16) }
            var machine = Machine(policy: policy)
            #expect(machine.handle(.guestConnected) == [.greetClone])
            var hello = Hello()
            hello.generation = 1
            _ = machine.handle(.guestFrame(Frame(.hello, payload: hello.payload)))
            _ = machine.handle(.guestFrame(Frame(.running, session: 1, payload: RunningSession().payload)))
            let actions = machine.handle(.guestFrame(identified()))
            #expect(actions.contains(.endMonitor) == !isAnother)
            #expect(machine.outcome?.exitCode == (isAnother ? nil : 125))
            // Whatever its guest does meanwhile.
            _ = machine.handle(.guestFrame(Frame(.thawed, payload: StepReport().payload)))
            #expect((machine.phase == .running) == isAnother)
        }
    }

    @Test func aRestoredMachine() {
        var machine = restored()
        #expect(machine.handle(.guestConnected) == [.greetGuest])
        var hello = Hello()
        hello.generation = 1
        #expect(machine.handle(.guestFrame(Frame(.hello, payload: hello.payload))) == [.disarm(.restore)])
        #expect(machine.handle(.timer(.restore)) == [])
        for frame in [identified(), Frame(.configured), Frame(.accepted, session: 1)] {
            _ = machine.handle(.guestFrame(frame))
        }
        // From here on its end is an end.
        #expect(machine.handle(.monitorEnded("x")).count == 2)
        #expect(machine.phase == .ended)
    }

    /// Whatever becomes of a restore before the container's process, the machine is booted instead, once.
    @Test(arguments: [
        [Machine.Event.monitorEnded("damaged")], [.timer(.restore), .monitorEnded("killed")],
        [.guestConnected, .guestFrame(hello()), .monitorEnded("killed")],
        [.guestConnected, .guestFrame(Frame(.failure)), .monitorEnded("killed")],
        [.guestConnected, .guestLost("lost"), .timer(.farewell), .monitorEnded("killed")],
        [.guestConnected, .guestLost("lost"), .monitorEnded("killed")],
    ])
    fileprivate func aRestoreThatComesToNothing(_ events: [Machine.Event]) {
        var machine = restored()
        var actions: [Machine.Action] = []
        for event in events { actions += machine.handle(event) }
        #expect(actions.filter { if case .bootInstead = $0 { true } else { false } }.count == 1)
        #expect(machine.phase == .booting)
        _ = machine.handle(.guestConnected)
        for frame in [hello(), identified(), Frame(.configured), Frame(.accepted, session: 1)] {
            _ = machine.handle(.guestFrame(frame))
        }
        #expect(machine.phase == .starting)
        var again = machine
        #expect(again.handle(.monitorEnded("gone")).count == 2)
    }

    @Test func anotherMajorVersion() {
        var machine = Machine(policy: Machine.Policy())
        _ = machine.handle(.guestConnected)
        var other = Hello()
        other.major = 9
        _ = machine.handle(.guestFrame(Frame(.hello, payload: other.payload)))
        #expect(machine.outcome?.reason?.contains("version 9") == true)
    }

    @Test func unknownKindsAndSessionsAreSkipped() {
        var machine = running()
        var unknown = Frame(.activity)
        unknown.header.kind = 999
        #expect(machine.handle(.guestFrame(unknown)) == [])
        #expect(machine.handle(.guestFrame(Frame(.exited, session: 2))) == [])
        #expect(machine.phase == .running)
    }

    @Test(arguments: [output("x", at: 1), output("x", at: 0, .input), Frame(.data, session: 1, stream: .output)])
    func outputThatIsWrong(_ frame: Frame) {
        for detached in [false, true] {
            var machine = running { $0.isDetached = detached }
            _ = machine.handle(.guestFrame(frame))
            #expect(machine.outcome?.exitCode == 125)
        }
    }

    @Test func outputBeyondItsCredit() {
        var machine = running()
        let chunk = [UInt8](repeating: 65, count: 65_536)
        for index in 0..<4 as Range<UInt64> {
            _ = machine.handle(
                .guestFrame(Frame(.data, session: 1, stream: .errors, offset: index * 65_536, payload: chunk)))
        }
        #expect(machine.phase == .running)
        // The client takes more; a client that promises the moon is not believed.
        let credit = Frame(.credit, session: 1, stream: .errors, offset: 262_145)
        #expect(machine.handle(.foregroundFrame(credit)) == [.sendToGuest(credit)])
        #expect(machine.handle(.foregroundFrame(Frame(.credit, session: 1, stream: .errors, offset: .max))) == [])
        _ = machine.handle(.guestFrame(output("x", at: 262_144, .errors)))
        #expect(machine.phase == .running)
        _ = machine.handle(.guestFrame(output("x", at: 262_145, .errors)))
        #expect(machine.outcome?.exitCode == 125)
    }

    @Test func aDetachedMachineGrantsCreditItself() {
        var machine = running { $0.isDetached = true }
        let chunk = [UInt8](repeating: 65, count: 65_536)
        var granted: [UInt64] = []
        for index in 0..<64 as Range<UInt64> {
            let frame = Frame(.data, session: 1, stream: .output, offset: index * 65_536, payload: chunk)
            for action in machine.handle(.guestFrame(frame)) {
                if case .sendToGuest(let credit) = action {
                    #expect(credit.kind == .credit)
                    granted.append(credit.header.offset)
                }
            }
        }
        #expect(machine.phase == .running)
        #expect(granted.count == 32)
        #expect(granted.last == 64 * 65_536 + 262_144)
        #expect(machine.handle(.foregroundLost) == [])
    }

    @Test func aLostClientEndsItsMachine() {
        var machine = running()
        #expect(machine.handle(.foregroundLost).last == .endMonitor)
        #expect(machine.outcome?.exitCode == 125)
        var other = running()
        #expect(other.handle(.foregroundFrame(Frame(.hangUp, session: 1))).last == .endMonitor)
    }

    @Test func aDetachedMachineWhoseClientLeftBeforeTheStart() {
        var policy = Machine.Policy()
        policy.isDetached = true
        var machine = Machine(policy: policy)
        #expect(machine.handle(.foregroundLost).last == .endMonitor)
    }

    @Test func aLostMonitor() {
        var machine = running()
        let actions = machine.handle(.monitorEnded("the machine ended: panic"))
        #expect(actions.count == 2)
        guard case .finish(let outcome) = actions.last else {
            Issue.record("no end")
            return
        }
        #expect(outcome.exitCode == 125)
        #expect(outcome.reason == "the machine ended: panic")
    }

    @Test func aLostGuestWaitsForTheMonitorsWord() {
        var machine = running()
        #expect(machine.handle(.guestLost("lost")) == [.arm(.farewell, milliseconds: 2000)])
        guard case .finish(let outcome) = machine.handle(.monitorEnded("panic")).last else {
            Issue.record("no end")
            return
        }
        #expect(outcome.reason == "panic")
        var other = running()
        _ = other.handle(.guestLost("lost"))
        #expect(other.handle(.timer(.farewell)).last == .endMonitor)
        #expect(other.outcome?.reason == "lost")
    }

    @Test func signals() {
        var machine = running()
        #expect(machine.handle(.controlFrame(signal(10))) == [.sendToGuest(signal(10))])
        #expect(machine.handle(.foregroundFrame(signal(2))) == [.sendToGuest(signal(2))])
        #expect(machine.handle(.controlFrame(signal(0))) == [])
        #expect(machine.handle(.controlFrame(signal(65))) == [])
        #expect(machine.handle(.controlFrame(Frame(.signal))) == [])
        #expect(machine.handle(.controlFrame(signal(9))).last == .arm(.force, milliseconds: 5000))
        #expect(machine.handle(.timer(.force)).last == .endMonitor)
        #expect(machine.outcome?.exitCode == 137)
    }

    @Test func signalsBeforeTheProcess() {
        for number in [1, 2, 3, 9, 15] as [UInt64] {
            var machine = Machine(policy: Machine.Policy())
            #expect(machine.handle(.controlFrame(signal(number))).last == .endMonitor)
            #expect(machine.outcome?.exitCode == UInt8(128 + number))
        }
        var machine = Machine(policy: Machine.Policy())
        #expect(machine.handle(.controlFrame(signal(10))) == [])
        #expect(machine.phase == .booting)
    }

    @Test func stopping() {
        var machine = running { $0.stopSignal = 3 }
        let stop = Frame(.stop, payload: NumberMessage(1500).payload)
        #expect(machine.handle(.controlFrame(stop)) == [.sendToGuest(signal(3)), .arm(.stop, milliseconds: 1500)])
        #expect(machine.handle(.timer(.stop)) == [.sendToGuest(signal(9)), .arm(.force, milliseconds: 5000)])
        _ = machine.handle(.guestFrame(exited(9, signaled: true)))
        #expect(machine.outcome?.exitCode == 137)
        var atOnce = running()
        let force = Frame(.stop, payload: NumberMessage(0).payload)
        #expect(atOnce.handle(.controlFrame(force)).first == .sendToGuest(signal(9)))
        var early = Machine(policy: Machine.Policy())
        #expect(early.handle(.controlFrame(stop)).last == .endMonitor)
    }

    @Test func timeLimit() {
        var machine = running {
            $0.runTimeout = 1500
            $0.stopTimeout = 700
        }
        #expect(machine.handle(.timer(.run)) == [.sendToGuest(signal(15)), .arm(.stop, milliseconds: 700)])
        _ = machine.handle(.guestFrame(exited(15, signaled: true)))
        #expect(machine.outcome?.exitCode == 124)
        #expect(machine.outcome?.reason == "the time limit of 1.5 s was reached")
    }

    @Test func aGuestThatNeverCalls() {
        var machine = Machine(policy: Machine.Policy())
        #expect(machine.handle(.timer(.start)).last == .endMonitor)
        #expect(machine.outcome?.reason?.contains("did not call") == true)
        var late = running()
        #expect(late.handle(.timer(.start)) == [])
    }

    @Test func inputPasses() {
        var machine = running()
        let input = Frame(.data, session: 1, stream: .input, payload: [1])
        let end = Frame(.end, session: 1, stream: .input, offset: 1)
        #expect(machine.handle(.foregroundFrame(input)) == [.sendToGuest(input)])
        #expect(machine.handle(.foregroundFrame(end)) == [.sendToGuest(end)])
        #expect(machine.handle(.foregroundFrame(output("x", at: 0))) == [])
        let credit = Frame(.credit, session: 1, stream: .input, offset: 300_000)
        #expect(machine.handle(.guestFrame(credit)) == [.sendToForeground(credit)])
    }

    @Test func aGuestsWordsAreMadePrintable() {
        var machine = Machine(policy: Machine.Policy())
        _ = machine.handle(.guestConnected)
        let message = Array("\u{1B}[2Jhello\u{7}\n".utf8) + [UInt8](repeating: 0x41, count: 5000)
        let refusal = Refusal(exitCode: 3, message: message)
        _ = machine.handle(.guestFrame(Frame(.failure, payload: refusal.payload)))
        let reason = machine.outcome?.reason ?? ""
        #expect(reason.hasPrefix(" [2Jhello  AAA"))
        #expect(reason.utf8.count <= 1000)
        // A guest does not choose the code of our own failures.
        #expect(machine.outcome?.exitCode == 125)
    }
}

/// Lives of any course: whatever comes in whatever order, there is at most one end, and nothing after it.
@Suite struct SupervisorSimulation {
    @Test(arguments: 0..<8 as Range<UInt64>)
    func anyCourse(seed: UInt64) {
        var generator = SeededGenerator(seed + 1)
        for _ in 0..<3000 {
            var policy = Machine.Policy()
            policy.isDetached = Bool.random(using: &generator)
            policy.runTimeout = Bool.random(using: &generator) ? 5 : nil
            policy.origin = [.boot, .bootForTemplate, .template].randomElement(using: &generator) ?? .boot
            var machine = Machine(policy: policy)
            var logged = 0
            var ends = 0
            var kills = 0
            for _ in 0..<60 {
                let actions = machine.handle(anyEvent(&generator))
                #expect(ends == 0 || actions.isEmpty)
                for action in actions {
                    switch action {
                    case .log(_, let bytes): logged += bytes.count
                    case .endMonitor: kills += 1
                    case .finish: ends += 1
                    case .bootInstead:
                        kills = 0
                        // Once: what is booted is not restored again.
                        #expect(policy.origin == .template)
                        policy.origin = .boot
                    default: break
                    }
                }
            }
            #expect(ends <= 1)
            // A machine that is given up may be given up for good before its monitor has ended.
            #expect(kills <= (policy.origin == .template ? 2 : 1))
            // Nothing of a guest is taken in without credit for it.
            #expect(policy.isDetached || logged <= 4 * Int(SendWindow.initial) + 120 * 70_000)
            if ends == 0 {
                // However it stands, the monitor's end is the end, or that of the one after it.
                let last = machine.handle(.monitorEnded("x")) + machine.handle(.monitorEnded("x"))
                #expect(last.contains { if case .finish = $0 { true } else { false } })
            }
        }
    }

    private func anyEvent(_ generator: inout SeededGenerator) -> Machine.Event {
        switch Int.random(in: 0..<40, using: &generator) {
        case 0: return .guestConnected
        case 1: return .guestLost("lost")
        case 2: return .foregroundLost
        case 3: return .monitorEnded("ended")
        case 4:
            return [.terminated, .templateMade, .deviceRefused("x")].randomElement(using: &generator) ?? .terminated
        case 5: return .timer(Machine.TimerName.allCases.randomElement(using: &generator) ?? .run)
        case 6..<12: return .foregroundFrame(anyFrame(&generator))
        case 12..<16: return .controlFrame(anyFrame(&generator))
        case 16..<26:
            let likely = [
                hello(), Frame(.accepted, session: 1), Frame(.started, session: 1), Frame(.configured), identified(),
            ]
            return .guestFrame(likely.randomElement(using: &generator) ?? hello())
        default: return .guestFrame(anyFrame(&generator))
        }
    }

    private func anyFrame(_ generator: inout SeededGenerator) -> Frame {
        let kind = FrameKind(rawValue: UInt16.random(in: 1...20, using: &generator)) ?? .data
        let stream = StreamKind(rawValue: UInt16.random(in: 0...2, using: &generator)) ?? .output
        let offset: UInt64 =
            Bool.random(using: &generator) ? 0 : generator.next() >> UInt64.random(in: 0...63, using: &generator)
        var payload: [UInt8] = []
        for _ in 0..<Int.random(in: 0...24, using: &generator) {
            payload.append(UInt8(truncatingIfNeeded: generator.next()))
        }
        if Bool.random(using: &generator) { payload = NumberMessage(offset).payload }
        return Frame(
            kind, session: UInt32.random(in: 0...2, using: &generator), stream: stream, offset: offset, payload: payload
        )
    }
}
