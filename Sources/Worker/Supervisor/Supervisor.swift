// SPDX-License-Identifier: Apache-2.0
//
// One plain thread and one epoll loop. The monitor's death signal hangs on this thread: nothing here starts another.

internal import Glibc
internal import GuestProtocol
internal import Networks
package import Platform
internal import Sessions
internal import Wire

/// One machine's supervisor: starts the monitor, speaks with the guest, keeps the log and the state, takes orders. What
/// it does when is `SupervisorStateMachine`'s.
package final class Supervisor {
    /// The port that a guest calls (Docs/GUEST-PROTOCOL.md).
    static let guestPort = 1024
    /// How long each of the container's own hooks may take, in milliseconds.
    static let hookLimit: UInt64 = 10_000

    enum Token {
        static let guestListener: UInt64 = 1
        static let controlListener: UInt64 = 2
        static let guest: UInt64 = 3
        static let foreground: UInt64 = 4
        static let monitor: UInt64 = 5
        static let status: UInt64 = 6
        static let timer: UInt64 = 7
        static let signals: UInt64 = 8
        static let api: UInt64 = 9
        static let network: UInt64 = 10
        static let networkTimer: UInt64 = 11
        static let firstControl: UInt64 = 64
    }

    /// As it was asked for; its networks as they are.
    var configuration: ContainerConfiguration
    /// Its places in its networks, in the order in which it got them.
    var networks: [NetworkLease]
    var preferences: NetworkPreferences
    /// Runs while what was lost of a network could not be had again; and how long it waits, in milliseconds.
    let networkTimer: Timer
    var networkDelay: UInt64 = 0
    /// A network that it gets or leaves just now.
    var rearranging: Rearranging?
    /// The guest has yet to answer an order that nobody waits for any more.
    var isGuestBehind = false
    let store: MachineStore
    let epoll: Epoll
    private let timer: Timer
    private let signals: SignalQueue
    private(set) var machine: SupervisorStateMachine
    var state = MachineState()
    private var log: OutputLog
    private let guestListener: Descriptor
    private let controlListener: Descriptor
    private(set) var monitor: MonitorProcess
    let api = MonitorClient(path: MachineFile.api, token: Token.api)
    var start: MachineStart
    var saving: Saving?
    /// What the guest has yet to answer that was for one before.
    var guestDebt = GuestDebt()
    /// Those whose turn comes when it is done.
    var waiting: [Saving] = []
    var workingSet = WorkingSetRecording.none
    /// The monitor records what is written, since diffs are wanted.
    var tracksWrites = false
    private(set) var guest: Connection?
    private var foreground: Connection?
    private(set) var controls: [UInt64: Connection] = [:]
    /// Sessions of clients that came later than the one that it runs for.
    var relay = SessionRelay(identity: "martlet-supervisor", lastNumber: SupervisorStateMachine.mainSession)
    private var nextControl = Token.firstControl
    var deadlines: [SupervisorStateMachine.TimerName: UInt64] = [:]
    private var outcome: Outcome?
    private var hasOutput = false

    /// Starts the machine whose directory is the working directory.
    /// - Parameters:
    ///   - networks: its places in its networks, asked for and kept for as long as it runs.
    ///   - foreground: the socket of the client that it runs for.
    package init(
        configuration: ContainerConfiguration, store: MachineStore, networks: [NetworkLease],
        foreground: consuming Descriptor
    ) throws(SystemError) {
        self.configuration = configuration
        self.networks = networks
        preferences = NetworkPreferences(configuration.networks)
        networkTimer = try Timer()
        self.store = store
        var policy = SupervisorStateMachine.Policy()
        policy.isDetached = configuration.isDetached
        policy.endsWithCommand = configuration.endsWithCommand
        policy.stopSignal = configuration.process.stopSignal
        policy.stopTimeout = configuration.stopTimeout
        policy.runTimeout = configuration.runTimeout
        let start = MachineStart(configuration)
        policy.origin = start.origin
        policy.allow(forOthers: configuration.forkCount - 1)
        policy.originalSample = configuration.originalSample.flatMap(RandomSample.bytes)
        machine = SupervisorStateMachine(policy: policy)
        ignoreBrokenPipes()
        let signals = try SignalQueue([SIGTERM, SIGINT, SIGHUP])
        let epoll = try Epoll()
        let timer = try Timer()
        // Before the monitor starts: the guest may call at once.
        let guestListener = try UnixSocket.listen(at: "\(MachineFile.vsock)_\(Self.guestPort)", backlog: 4)
        let monitor =
            start.isFork
            ? try ForkedMonitor.adopt(
                client: foreground, signals: signals, network: networks.first?.monitorDescriptor)
            : try start.startMonitor(configuration.monitor, network: networks.first?.monitorDescriptor)
        let controlListener = try UnixSocket.listen(at: MachineFile.control)
        log = try OutputLog(path: MachineFile.output)
        try epoll.add(guestListener.raw, .readable, token: Token.guestListener)
        try epoll.add(controlListener.raw, .readable, token: Token.controlListener)
        try epoll.add(monitor.ended, .readable, token: Token.monitor)
        try epoll.add(monitor.status, .readable, token: Token.status)
        try epoll.add(timer.descriptor.raw, .readable, token: Token.timer)
        try epoll.add(signals.descriptor.raw, .readable, token: Token.signals)
        try epoll.add(networkTimer.descriptor.raw, .readable, token: Token.networkTimer)
        self.foreground = try Connection(foreground, token: Token.foreground, epoll: epoll)
        let pid = monitor.pid
        self.signals = signals
        self.epoll = epoll
        self.timer = timer
        self.guestListener = guestListener
        self.monitor = monitor
        self.start = start
        self.controlListener = controlListener
        mark("monitor")
        state.supervisor = ProcessIdentity.current
        state.monitor = ProcessIdentity(pid: pid)
        state.origin = start.word
        state.originNote = start.note
        writeState()
    }

    /// Runs until the machine has ended and everything about it is done.
    package func run() throws(SystemError) {
        perform(machine.start())
        var events = EpollEvents()
        while outcome == nil {
            flush()
            guard try epoll.wait(&events) > 0 else { continue }
            // The monitor's end last: what the guest said before is read before.
            var monitorEnded = false
            for index in 0..<events.count {
                let (token, readiness) = events[index]
                if token == Token.monitor { monitorEnded = true } else { handle(token, readiness) }
            }
            if monitorEnded { handleMonitorEnd() }
        }
        if let outcome { try conclude(outcome) }
    }

    private func handle(_ token: UInt64, _ readiness: Readiness) {
        switch token {
        case Token.guestListener: acceptGuest()
        case Token.controlListener: acceptControls()
        case Token.guest: readGuest()
        case Token.foreground: readForeground()
        case Token.status: readStatus()
        case Token.api: api.handle(epoll)
        case Token.timer: handleTimers()
        case Token.network, Token.networkTimer: restoreNetworks()
        case Token.signals: while signals.next() != nil { feed(.terminated) }
        default: readControl(token)
        }
    }

    func feed(_ event: SupervisorStateMachine.Event) {
        perform(machine.handle(event))
    }

    private func perform(_ actions: [SupervisorStateMachine.Action]) {
        for action in actions {
            switch action {
            case .greetGuest: greetGuest()
            case .greetClone: greetClone()
            case .makeTemplate: makeTemplate()
            case .bootInstead(let reason): bootInstead(reason)
            case .recordIdentity(let report): record(report)
            case .sendToGuest(let frame): guest?.queue(frame)
            case .sendToForeground(let frame): foreground?.queue(frame)
            case .log(let stream, let bytes):
                if !hasOutput { mark("output") }
                hasOutput = true
                log.append(LogRecord(stream: stream, time: wallClockNanoseconds(), bytes: bytes))
            case .arm(let name, let milliseconds): arm(name, milliseconds: milliseconds)
            case .disarm(let name): arm(name, milliseconds: nil)
            case .recordStarted:
                mark("started")
                state.status = .running
                state.startedAt = wallClockNanoseconds()
                writeState()
                awaitWorkingSet()
            case .endMonitor:
                mark("ended")
                // The client hears of the end before the monitor's memory is given back, which takes a while.
                foreground?.flush(epoll)
                endMonitor()
            case .finish(let outcome): self.outcome = outcome
            }
        }
    }

    private func flush() {
        guest?.flush(epoll)
        foreground?.flush(epoll)
        for connection in controls.values { connection.flush(epoll) }
    }
}

// MARK: - The guest and its monitor

extension Supervisor {
    private func acceptGuest() {
        guard let socket = ((try? UnixSocket.accept(on: guestListener)) ?? nil) as Descriptor? else { return }
        // One connection a machine: whoever else calls from inside is none of ours.
        guard guest == nil else { return socket.close() }
        guard let connection = try? Connection(socket, token: Token.guest, epoll: epoll) else {
            return feed(.guestLost("the guest's connection could not be watched"))
        }
        guest = connection
        mark("guest")
        feed(.guestConnected)
    }

    private func greet(isClone: Bool, _ networks: MachineNetworks) {
        var hello = Hello()
        hello.program = Array("martlet-supervisor".utf8)
        guest?.queue(Frame(.hello, payload: hello.payload))
        let identity = configuration.identity(isClone: isClone, networks: networks, slot: start.networkSlot)
        guest?.queue(Frame(.identify, payload: identity.payload))
    }

    private func greetClone() {
        let networks: MachineNetworks
        do throws(NetworkError) { networks = try settleNetworks() } catch { return feed(.deviceRefused("\(error)")) }
        greet(isClone: true, networks)
        guest?.queue(Frame(.thaw, payload: Self.interruption(isClone: true).payload))
    }

    static func interruption(isClone: Bool) -> Interruption {
        var result = Interruption()
        result.hookLimit = hookLimit
        result.isClone = isClone
        return result
    }

    private func greetGuest() {
        let networks: MachineNetworks
        do throws(NetworkError) { networks = try settleNetworks() } catch { return feed(.deviceRefused("\(error)")) }
        greet(isClone: false, networks)
        let become = configuration.guestConfiguration(
            rootSlot: start.rootSlot, networks: networks, present: start.presentInterface)
        guest?.queue(Frame(.configure, payload: become.payload))
        let request = configuration.processRequest.payload
        guest?.queue(Frame(.request, session: SupervisorStateMachine.mainSession, payload: request))
    }

    /// The machine that was restored is no good and its monitor gone; nothing of the container has run.
    private func bootInstead(_ reason: String) {
        start.bootInstead(reason)
        state.origin = start.word
        state.originNote = start.note
        guest?.stopWatching(epoll)
        guest = nil
        api.end(epoll)
        try? epoll.remove(monitor.ended)
        if !monitor.isStatusClosed { try? epoll.remove(monitor.status) }
        Files.remove(MachineFile.vsock)
        Files.remove(MachineFile.api)
        do throws(SystemError) {
            monitor = try start.startMonitor(
                configuration.monitor, network: networks.first?.monitorDescriptor)
            try epoll.add(monitor.ended, .readable, token: Token.monitor)
            try epoll.add(monitor.status, .readable, token: Token.status)
        } catch {
            return feed(.monitorEnded("\(error)"))
        }
        mark("monitor after a template that was no good")
        state.monitor = ProcessIdentity(pid: monitor.pid)
        writeState()
    }

    private func record(_ report: StepReport) {
        for step in report.steps {
            state.identity.append((printable(step.name, limit: 40), step.nanoseconds / 1000))
        }
        if !report.sample.isEmpty { state.randomSample = RandomSample.text(report.sample) }
    }

    private func readGuest() {
        guard let guest else { return }
        let isThere = guest.receive { takeFromGuest($0) }
        if !isThere {
            guest.stopWatching(epoll)
            feed(.guestLost("the connection to the guest was lost"))
        }
    }

    private func readStatus() {
        for event in monitor.readStatus() {
            mark("monitor \(event.name)", at: event.time)
            if event.name == "forked" { goOnForked() }
            // What the monitor itself took to get the guest going.
            if event.name == "first-instruction", let time = event.processorTime {
                state.timings.append(("monitor processor time at first-instruction", time))
            }
        }
        if monitor.isStatusClosed { try? epoll.remove(monitor.status) }
    }

    private func handleMonitorEnd() {
        // What it sent last lies in the socket, which holds a bounded amount; nobody adds to it any more.
        if let guest, !guest.isLost { _ = guest.receive(turns: .max) { takeFromGuest($0) } }
        readStatus()
        let reason = monitor.reap()
        let console = (try? Files.readEnd(MachineFile.console, limit: ConsoleWords.limit)) ?? []
        feed(.monitorEnded(reason + ConsoleWords(console).text))
    }
}

// MARK: - Clients, timers, state

extension Supervisor {
    private func acceptControls() {
        while let socket = ((try? UnixSocket.accept(on: controlListener)) ?? nil) as Descriptor? {
            guard controls.count < 64, let connection = try? Connection(socket, token: nextControl, epoll: epoll) else {
                return
            }
            connection.queue(Frame(.hello, payload: Hello().payload))
            controls[nextControl] = connection
            relay.clientConnected(nextControl)
            nextControl += 1
        }
    }

    private func readControl(_ token: UInt64) {
        guard let connection = controls[token] else { return }
        if !connection.receive({ takeFromControl($0, token) }) { drop(token) }
    }

    /// Lets go of a client; its processes end.
    func drop(_ token: UInt64) {
        guard let connection = controls.removeValue(forKey: token) else { return }
        if saving?.client == token { saving?.client = nil }
        if rearranging?.client == token { rearranging?.client = nil }
        waiting.removeAll { $0.client == token }
        connection.flush(epoll)
        connection.stopWatching(epoll)
        perform(relay.clientGone(token))
    }

    private func readForeground() {
        guard let foreground else { return }
        if !foreground.receive({ feed(.foregroundFrame($0)) }) {
            foreground.stopWatching(epoll)
            self.foreground = nil
            feed(.foregroundLost)
        }
    }

    /// Sets a timer, or ends it.
    func arm(_ name: SupervisorStateMachine.TimerName, milliseconds: UInt64?) {
        deadlines[name] = milliseconds.map { monotonicNanoseconds() &+ $0 &* 1_000_000 }
        armTimer()
    }

    func armTimer() {
        let now = monotonicNanoseconds()
        let next = deadlines.values.min().map { $0 > now ? ($0 - now + 999_999) / 1_000_000 : 0 }
        try? timer.arm(afterMilliseconds: next)
    }

    private func handleTimers() {
        _ = timer.drain()
        let now = monotonicNanoseconds()
        for name in SupervisorStateMachine.TimerName.allCases {
            guard let deadline = deadlines[name], deadline <= now else { continue }
            deadlines[name] = nil
            switch name {
            case .freezing: guestDidNotAnswer()
            case .workingSet: handleWorkingSetTimer()
            case .rearranging: guestDidNotRearrange()
            default: feed(.timer(name))
            }
        }
        armTimer()
    }

    func mark(_ step: String, at time: UInt64? = nil) {
        let now = time ?? monotonicNanoseconds()
        let elapsed = now > configuration.commandStartedAt ? now - configuration.commandStartedAt : 0
        // What the monitor says about itself is no reason to grow without end.
        if state.timings.count < 64 { state.timings.append((step, elapsed / 1000)) }
    }

    func writeState() {
        // Not durable: after a crash of the host no machine runs, whatever its file says; the boot id tells.
        do throws(SystemError) {
            try Files.writeAtomically(state.json.encoded(), to: MachineFile.state, permissions: 0o600)
        } catch {
            say("the machine's state cannot be written: \(error)")
        }
    }

    /// The monitor is gone. The state is written, or the whole directory removed, before anybody is told that all is
    /// over: who then looks sees it so.
    private func conclude(_ outcome: Outcome) throws(SystemError) {
        mark("gone")
        start.end()
        state.status = .exited
        state.exitCode = outcome.exitCode
        state.reason = outcome.reason ?? log.failure.map { "the log is not whole: \($0)" }
        state.finishedAt = wallClockNanoseconds()
        if case .exited(let report) = outcome { recordGuestTimings(report) }
        for lease in networks { lease.release() }
        Files.remove(MachineFile.control)
        Files.remove("\(MachineFile.vsock)_\(Self.guestPort)")
        Files.remove(MachineFile.vsock)
        Files.remove(MachineFile.api)
        // What never ran is not kept: its reason is told to who wanted it.
        if configuration.removesItself || state.startedAt == nil {
            try? store.removeOwn(configuration.id)
        } else {
            writeState()
        }
        var report = ExitReport()
        report.code = outcome.exitCode
        if case .exited(let known) = outcome { report = known }
        let last = Frame(.exited, session: SupervisorStateMachine.mainSession, payload: report.payload)
        for connection in controls.values { connection.queue(last) }
        try drainClients()
    }

    /// The guest's own clock begins at its boot.
    private func recordGuestTimings(_ report: ExitReport) {
        let steps = [
            ("guest init", report.bootedAt), ("guest configured", report.configuredAt),
            ("guest started", report.startedAt), ("guest exited", report.exitedAt),
        ]
        for (step, time) in steps where time > 0 { state.timings.append((step, time / 1000)) }
    }

    /// Gives the clients what waits for them. A foreground client that reads slowly is waited for, for as long as it
    /// lives: its output is whole. Others are not.
    private func drainClients() throws(SystemError) {
        for connection in controls.values { connection.flush(epoll) }
        var events = EpollEvents()
        while let foreground {
            foreground.flush(epoll)
            if foreground.pendingByteCount == 0 || foreground.isLost { return }
            _ = try epoll.wait(&events)
            for index in 0..<events.count {
                let token = events[index].token
                if token == Token.foreground {
                    if !foreground.receive({ _ in }) { self.foreground = nil }
                } else {
                    ignore(token)
                }
            }
        }
    }

    /// Watches no more what nobody answers now, lest it wakes the loop for ever.
    private func ignore(_ token: UInt64) {
        switch token {
        case Token.guestListener: try? epoll.remove(guestListener.raw)
        case Token.controlListener: try? epoll.remove(controlListener.raw)
        case Token.timer: _ = timer.drain()
        case Token.network: for lease in networks { watchNoLonger(lease) }
        case Token.networkTimer: _ = networkTimer.drain()
        case Token.signals: while signals.next() != nil {}
        case Token.status: try? epoll.remove(monitor.status)
        case Token.monitor: try? epoll.remove(monitor.ended)
        case Token.api: api.end(epoll)
        case Token.guest: guest?.stopWatching(epoll)
        default: controls[token]?.stopWatching(epoll)
        }
    }
}
