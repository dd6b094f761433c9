// SPDX-License-Identifier: Apache-2.0

package import GuestProtocol

/// What a supervisor does, and when. Pure: events in, actions out; `Supervisor` does the input and output.
///
///     booting ──guest connects──▶ asked ──accepted──▶ starting ──started──▶ running
///      │ ▲ │                       │ ▲                    │                     │
///      │ │ └─hello─▶ templating ───┼─┘ template made      │                     │
///      │ └── another monitor boots ┘                      │                     │
///      └───────────────────────────┴── any outcome ───────┴─────────────────────┴──▶ ending ──monitor ended──▶ ended
///
/// A machine that is restored from a template and comes to nothing before its process could start is booted instead:
/// nothing of the container has run. A machine that a template is made of waits in `templating`, its guest greeted only
/// afterwards, so that the template knows nothing of what the machine becomes.
///
/// The guest is hostile. Illegal, and the machine's end: a frame out of turn, output that is not the next or beyond its
/// credit, a payload that cannot be read, another major version. Skipped: unknown kinds, other sessions, and everything
/// once the outcome is known.
package struct SupervisorStateMachine: Sendable {
    /// The session of the machine's main process.
    package static let mainSession: UInt32 = 1

    /// Where the machine comes from.
    package enum Origin: Equatable, Sendable {
        /// Its kernel boots.
        case boot
        /// Its kernel boots, and a template for others is made before it becomes what it is to be.
        case bootForTemplate
        /// It goes on from a template.
        case template
        /// It goes on from another machine, by a snapshot or a fork, with the processes that ran there.
        case snapshot
    }

    /// What this machine's life is to be like.
    package struct Policy: Equatable, Sendable {
        package var origin = Origin.boot
        /// Nobody waits for the output: it goes to the log alone, and once the process runs its client may leave.
        package var isDetached = false
        /// Its client does not leave, all the same: with it the machine ends.
        package var endsWithCommand = false
        package var stopSignal: Int32 = 15
        /// From a stop until force.
        package var stopTimeout: UInt64 = 10_000
        /// From the monitor's start until the process runs.
        package var startTimeout: UInt64 = 180_000
        /// From the start of a monitor that restores until the guest answers; it takes milliseconds.
        package var restoreTimeout: UInt64 = 20_000
        /// From the process's start until it is stopped; nil for no limit. All times in milliseconds.
        package var runTimeout: UInt64?
        /// What the guest of the machine that it was made of drew, where that is known.
        package var originalSample: [UInt8]?

        package init() {}

        /// How much longer anything of a fork may take for each machine that comes of it beside the first, in
        /// milliseconds: all of them may have to share one processor.
        static let timeForEachMore: UInt64 = 5000

        /// Gives the machine time for what others do that begin in the same moment.
        package mutating func allow(forOthers count: Int) {
            let more = Self.timeForEachMore * UInt64(max(0, count))
            startTimeout += more
            restoreTimeout += more
        }
    }

    package enum TimerName: Hashable, Sendable, CaseIterable {
        /// The process should run by now.
        case start
        /// The restored guest should have answered by now.
        case restore
        /// The process may run no longer.
        case run
        /// The process had its time to end by itself.
        case stop
        /// The guest had its time to end the process by force.
        case force
        /// The guest's connection ended; the monitor had its time to say why.
        case farewell
        /// The guest should have frozen or thawed the container by now; the supervisor's own affair.
        case freezing
        /// The machine has touched what it touches first; or the monitor, which is to end, had its time to write that. The
        /// supervisor's own.
        case workingSet
        /// The guest should have changed its network by now; the supervisor's own.
        case rearranging
    }

    package enum Event: Equatable, Sendable {
        case guestConnected
        case guestFrame(Frame)
        /// The guest broke the protocol in a session that is not the main one.
        case guestFailed(String)
        /// The guest's connection ended, or broke the framing.
        case guestLost(String)
        case foregroundFrame(Frame)
        case foregroundLost
        case controlFrame(Frame)
        /// The template is made, or could not be, and the machine has its disk.
        case templateMade
        /// The machine could not be given its disk, or its place in its network.
        case deviceRefused(String)
        /// The monitor is gone; what it said about it.
        case monitorEnded(String)
        case timer(TimerName)
        /// This supervisor was told to end, by a signal.
        case terminated
    }

    package enum Action: Equatable, Sendable {
        /// Send `hello`, `identify`, `configure` and `request`.
        case greetGuest
        /// Send `hello`, `identify` and `thaw`.
        case greetClone
        /// Save the machine as it stands as a template, go on, and give it its disk.
        case makeTemplate
        /// The template is no good, for this reason: forget it and its guest, and boot the machine with a new monitor.
        case bootInstead(String)
        /// What the guest did to become a machine of its own.
        case recordIdentity(StepReport)
        case sendToGuest(Frame)
        case sendToForeground(Frame)
        case log(LogRecord.Stream, [UInt8])
        /// Replaces the timer of that name.
        case arm(TimerName, milliseconds: UInt64)
        case disarm(TimerName)
        case recordStarted
        /// End the monitor at once: its root file system was in memory, so that there is nothing to save.
        case endMonitor
        /// All is over; tell it and go.
        case finish(Outcome)
    }

    package enum Phase: Equatable, Sendable {
        case booting
        case templating
        case asked
        case starting
        case running
        case ending(Outcome)
        case ended
    }

    package private(set) var phase = Phase.booting
    private var policy: Policy
    private var saidHello = false
    private var isIdentified = false
    private var isConfigured = false
    private var restoreFailure: String?
    /// A restored machine's main process was there when it was saved.
    private var hasMain = false
    private var output = Stream()
    private var errors = Stream()
    private var isTimedOut = false

    /// One stream of output: passed on under the client's credit, or taken in by the supervisor itself.
    private struct Stream: Sendable {
        var relayed = RelayWindow()
        var consumed = ReceiveWindow()

        /// It had ended before it came here.
        mutating func end() {
            _ = relayed.end(at: 0)
            _ = consumed.end(at: 0)
        }
    }

    package init(policy: Policy) {
        self.policy = policy
    }

    /// What to do first of all.
    package func start() -> [Action] {
        let start = Action.arm(.start, milliseconds: policy.startTimeout)
        guard policy.origin == .template || policy.origin == .snapshot else { return [start] }
        return [start, .arm(.restore, milliseconds: policy.restoreTimeout)]
    }

    package mutating func handle(_ event: Event) -> [Action] {
        switch phase {
        case .ended: return []
        case .ending(let outcome):
            guard case .monitorEnded = event else { return [] }
            phase = .ended
            return [.finish(outcome)]
        case .booting, .templating, .asked, .starting, .running: break
        }
        switch event {
        case .guestConnected:
            guard phase == .booting, policy.origin != .bootForTemplate else { return [] }
            phase = .asked
            return [policy.origin == .snapshot ? .greetClone : .greetGuest]
        case .templateMade:
            guard phase == .templating else { return [] }
            phase = .asked
            return [.greetGuest]
        case .deviceRefused(let reason): return conclude(.failed(125, reason))
        case .guestFrame(let frame): return restoreFailure == nil ? handleGuest(frame) : []
        case .guestFailed(let what): return violation(what)
        case .guestLost(let reason):
            lostReason = reason
            return [.arm(.farewell, milliseconds: 2000)]
        case .foregroundFrame(let frame): return handleForeground(frame)
        case .foregroundLost:
            let mayGoOn = policy.isDetached && !policy.endsWithCommand && phase == .running
            return mayGoOn ? [] : conclude(.failed(125, "the command that ran it was lost"))
        case .controlFrame(let frame): return handleControl(frame)
        case .monitorEnded(let reason):
            if mayBootInstead { return bootInstead(restoreFailure ?? reason) }
            phase = .ended
            let outcome = Outcome.failed(125, reason)
            return [.sendToForeground(outcome.frame), .finish(outcome)]
        case .timer(let name): return handleTimer(name)
        case .terminated: return conclude(.failed(125, "its supervisor was told to end"))
        }
    }

    private var lostReason = ""

    /// Nothing of the container has run in a machine that was restored.
    private var mayBootInstead: Bool {
        policy.origin == .template && (phase == .booting || phase == .asked)
    }

    private mutating func bootInstead(_ reason: String) -> [Action] {
        policy.origin = .boot
        restoreFailure = nil
        phase = .booting
        saidHello = false
        isIdentified = false
        isConfigured = false
        return [.disarm(.restore), .disarm(.farewell), .bootInstead(reason)]
    }

    /// The restored machine is no good; its monitor's end is followed by another.
    private mutating func giveUpRestore(_ reason: String) -> [Action] {
        guard restoreFailure == nil else { return [] }
        restoreFailure = reason
        return [.endMonitor]
    }

    private mutating func conclude(_ outcome: Outcome) -> [Action] {
        phase = .ending(outcome)
        return [.sendToForeground(outcome.frame), .endMonitor]
    }
}

// MARK: - The guest

extension SupervisorStateMachine {
    private mutating func handleGuest(_ frame: Frame) -> [Action] {
        guard let kind = frame.kind else { return [] }
        switch kind {
        case .hello:
            guard let hello = Hello(frame.payload), !saidHello else { return violation("a greeting out of turn") }
            guard hello.major == ProtocolVersion.major else {
                return conclude(
                    .failed(
                        125, "the guest speaks version \(hello.major) of the protocol, not \(ProtocolVersion.major)"))
            }
            saidHello = true
            switch policy.origin {
            case .boot: return []
            case .bootForTemplate:
                phase = .templating
                return [.makeTemplate]
            case .template:
                // One that has not noticed goes on as the machine that the template was made of.
                guard hello.generation > 0 else {
                    return giveUpRestore("the guest did not notice that it was restored")
                }
                return [.disarm(.restore)]
            case .snapshot:
                guard hello.generation > 0 else {
                    return violation("a guest that has not noticed that it was restored")
                }
                return []
            }
        case .failure:
            if mayBootInstead {
                let reason = Refusal(frame.payload).map { printable($0.message) }
                return giveUpRestore(reason ?? "the guest failed")
            }
            let refusal = Refusal(frame.payload) ?? Refusal(exitCode: 125, message: Array("the guest failed".utf8))
            return conclude(.failed(Refusal(exitCode: 125, message: refusal.message)))
        case .activity: return []
        default: break
        }
        guard saidHello else { return violation("no greeting") }
        switch kind {
        case .identified:
            guard phase == .asked, !isIdentified, let report = StepReport(frame.payload), report.sample.count >= 16
            else { return violation("an identity") }
            // The guest has compared as well: but it is the guest's word.
            guard !isAnothers(report.sample) else {
                return conclude(.failed(125, "its random numbers are those of the machine that it was made of"))
            }
            isIdentified = true
            return [.recordIdentity(report)]
        case .running where policy.origin == .snapshot:
            guard phase == .asked, !isIdentified, let session = RunningSession(frame.payload) else {
                return violation("a session that goes on, out of turn")
            }
            // Those beside the main one were for clients of the other machine.
            guard frame.header.session == Self.mainSession else {
                return [.sendToGuest(Frame(.hangUp, session: frame.header.session))]
            }
            hasMain = true
            if session.isOutputEnded { output.end() }
            if session.isErrorsEnded { errors.end() }
            return []
        case .thawed where policy.origin == .snapshot && phase == .asked:
            return handleClone(frame)
        case .configured:
            guard isIdentified, !isConfigured else { return violation("a configuration out of turn") }
            isConfigured = true
            guard let report = StepReport(frame.payload), !report.steps.isEmpty else { return [] }
            return [.recordIdentity(report)]
        default: break
        }
        guard frame.header.session == Self.mainSession else { return [] }
        switch kind {
        case .accepted:
            // Fail closed: no process before the machine is one of its own.
            guard phase == .asked, isIdentified, isConfigured else { return violation("an answer out of turn") }
            phase = .starting
            return [.sendToGuest(Frame(.go, session: Self.mainSession)), .sendToForeground(frame)]
        case .refused:
            guard phase != .running, let refusal = Refusal(frame.payload) else { return violation("a refusal") }
            return conclude(.refused(refusal))
        case .started:
            guard phase == .starting else { return violation("a start out of turn") }
            phase = .running
            var actions: [Action] = [.disarm(.start), .recordStarted, .sendToForeground(frame)]
            if let limit = policy.runTimeout { actions.append(.arm(.run, milliseconds: limit)) }
            return actions
        case .data: return handleOutput(frame)
        case .end: return handleOutputEnd(frame)
        case .credit:
            guard isStarted, frame.stream == .input else { return violation("credit out of turn") }
            return [.sendToForeground(frame)]
        case .exited:
            guard phase == .running, let report = ExitReport(frame.payload) else { return violation("an exit") }
            return conclude(isTimedOut ? timeoutOutcome : .exited(report))
        default: return violation("a frame of kind \(frame.header.kind), which only a host sends")
        }
    }

    private func isAnothers(_ sample: [UInt8]) -> Bool {
        guard let original = policy.originalSample else { return false }
        return sample.prefix(RandomSample.count) == original[...]
    }

    /// The container of a restored machine runs again, now that the machine is one of its own.
    private mutating func handleClone(_ frame: Frame) -> [Action] {
        guard isIdentified, let report = StepReport(frame.payload) else { return violation("a thaw out of turn") }
        guard report.failure.isEmpty else {
            return conclude(.failed(125, "the container could not go on: \(printable(report.failure))"))
        }
        guard hasMain else { return conclude(.failed(125, "the container's process had ended when it was saved")) }
        phase = .running
        var actions: [Action] = [
            .disarm(.start), .disarm(.restore), .recordIdentity(report), .recordStarted,
            .sendToForeground(Frame(.accepted, session: Self.mainSession)),
            .sendToForeground(Frame(.started, session: Self.mainSession)),
        ]
        if let limit = policy.runTimeout { actions.append(.arm(.run, milliseconds: limit)) }
        return actions
    }

    private var isStarted: Bool { phase == .starting || phase == .running }

    private mutating func handleOutput(_ frame: Frame) -> [Action] {
        guard isStarted, let kind = frame.stream, kind != .input, !frame.payload.isEmpty else {
            return violation("output out of turn")
        }
        let isOutput = kind == .output
        let logged = Action.log(isOutput ? .output : .errors, frame.payload)
        let count = frame.payload.count
        var stream = isOutput ? output : errors
        defer { if isOutput { output = stream } else { errors = stream } }
        guard policy.isDetached else {
            guard stream.relayed.receive(count, at: frame.header.offset) else { return beyondCredit() }
            return [logged, .sendToForeground(frame)]
        }
        guard stream.consumed.receive(count, at: frame.header.offset) else { return beyondCredit() }
        guard let limit = stream.consumed.consume(count) else { return [logged] }
        return [logged, .sendToGuest(Frame(.credit, session: Self.mainSession, stream: kind, offset: limit))]
    }

    private mutating func handleOutputEnd(_ frame: Frame) -> [Action] {
        guard isStarted, let kind = frame.stream else { return violation("the end of a stream out of turn") }
        let isWhole: Bool
        switch (kind, policy.isDetached) {
        case (.input, _): isWhole = true
        case (.output, false): isWhole = output.relayed.end(at: frame.header.offset)
        case (.errors, false): isWhole = errors.relayed.end(at: frame.header.offset)
        case (.output, true): isWhole = output.consumed.end(at: frame.header.offset)
        case (.errors, true): isWhole = errors.consumed.end(at: frame.header.offset)
        }
        return isWhole ? [.sendToForeground(frame)] : violation("a stream that ended with bytes missing")
    }

    private mutating func beyondCredit() -> [Action] { violation("output out of order or beyond its credit") }

    private mutating func violation(_ what: String) -> [Action] {
        conclude(.failed(125, "the guest broke the protocol: \(what)"))
    }
}

// MARK: - Clients and timers

extension SupervisorStateMachine {
    private mutating func handleForeground(_ frame: Frame) -> [Action] {
        switch frame.kind {
        case .data, .end:
            guard isStarted, frame.stream == .input else { return [] }
            return [.sendToGuest(frame)]
        case .credit:
            guard isStarted, !policy.isDetached else { return [] }
            let isPlausible: Bool
            switch frame.stream {
            case .output: isPlausible = output.relayed.extend(to: frame.header.offset)
            case .errors: isPlausible = errors.relayed.extend(to: frame.header.offset)
            default: isPlausible = false
            }
            return isPlausible ? [.sendToGuest(frame)] : []
        case .hangUp: return handle(.foregroundLost)
        default: return handleControl(frame)
        }
    }

    private mutating func handleControl(_ frame: Frame) -> [Action] {
        guard let message = NumberMessage(payload: frame.payload) else { return [] }
        switch frame.kind {
        case .signal:
            guard (1...64).contains(message.number) else { return [] }
            return send(signal: Int32(message.number))
        case .stop: return stop(forceAfter: message.number)
        default: return []
        }
    }

    private mutating func send(signal: Int32) -> [Action] {
        guard isStarted else {
            // Those whose default is to end a process end the machine that has none yet; the others mean nothing to it.
            let endsProcess = [1, 2, 3, 9, 15].contains(signal)
            return endsProcess ? conclude(.failed(UInt8(128 + signal), "ended before its process started")) : []
        }
        let payload = NumberMessage(UInt64(signal)).payload
        var actions = [Action.sendToGuest(Frame(.signal, session: Self.mainSession, payload: payload))]
        if signal == 9 { actions.append(.arm(.force, milliseconds: Self.forceTimeout)) }
        return actions
    }

    private mutating func stop(forceAfter milliseconds: UInt64) -> [Action] {
        if milliseconds == 0 { return send(signal: 9) }
        let actions = send(signal: isStarted ? policy.stopSignal : 15)
        return isStarted ? actions + [.arm(.stop, milliseconds: milliseconds)] : actions
    }

    private mutating func handleTimer(_ name: TimerName) -> [Action] {
        switch name {
        case .start:
            guard phase != .running else { return [] }
            let limit = policy.startTimeout / 1000
            return conclude(
                .failed(
                    125,
                    phase == .booting
                        ? "the guest did not call within \(limit) s: its kernel needs virtio-mmio and vsock built in"
                        : "the guest did not start the process within \(limit) s"))
        case .restore where policy.origin == .snapshot:
            return phase == .running ? [] : conclude(.failed(125, "the restored guest did not answer"))
        case .restore:
            return mayBootInstead && !saidHello ? giveUpRestore("the restored guest did not answer") : []
        case .run:
            isTimedOut = true
            return stop(forceAfter: policy.stopTimeout)
        case .stop: return send(signal: 9)
        case .force:
            return conclude(isTimedOut ? timeoutOutcome : .failed(137, "ended by force: the guest did not answer"))
        case .farewell where mayBootInstead: return giveUpRestore(lostReason)
        case .farewell: return conclude(.failed(125, lostReason))
        case .freezing: return []
        case .workingSet: return []
        case .rearranging: return []
        }
    }

    private var timeoutOutcome: Outcome {
        .failed(124, "the time limit of \(Double(policy.runTimeout ?? 0) / 1000) s was reached")
    }

    private static let forceTimeout: UInt64 = 5000
}
