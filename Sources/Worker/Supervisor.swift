// SPDX-License-Identifier: Apache-2.0
//
// One plain thread and one epoll loop. The monitor's death signal hangs on this thread: nothing here starts another.

internal import Glibc
internal import GuestProtocol
package import Platform
internal import Sessions
internal import Wire

/// One machine's supervisor: starts the monitor, speaks with the guest, keeps the log and the state, takes orders. What
/// it does when is `SupervisorStateMachine`'s.
package final class Supervisor {
    /// The port that a guest calls (Docs/GUEST-PROTOCOL.md).
    static let guestPort = 1024

    private enum Token {
        static let guestListener: UInt64 = 1
        static let controlListener: UInt64 = 2
        static let guest: UInt64 = 3
        static let foreground: UInt64 = 4
        static let monitor: UInt64 = 5
        static let status: UInt64 = 6
        static let timer: UInt64 = 7
        static let signals: UInt64 = 8
        static let firstControl: UInt64 = 64
    }

    let configuration: ContainerConfiguration
    private let store: MachineStore
    private let epoll: Epoll
    private let timer: Timer
    private let signals: SignalQueue
    private var machine: SupervisorStateMachine
    private var state = MachineState()
    private var log: OutputLog
    private let guestListener: Descriptor
    private let controlListener: Descriptor
    private var monitor: MonitorProcess
    private var guest: Connection?
    private var foreground: Connection?
    private var controls: [UInt64: Connection] = [:]
    private var nextControl = Token.firstControl
    private var deadlines: [SupervisorStateMachine.TimerName: UInt64] = [:]
    private var outcome: Outcome?
    private var hasOutput = false

    /// Starts the machine whose directory is the working directory.
    /// - Parameter foreground: the socket of the client that it runs for.
    package init(
        configuration: ContainerConfiguration, store: MachineStore, foreground: consuming Descriptor
    ) throws(SystemError) {
        self.configuration = configuration
        self.store = store
        var policy = SupervisorStateMachine.Policy()
        policy.isDetached = configuration.isDetached
        policy.stopSignal = configuration.process.stopSignal
        policy.stopTimeout = configuration.stopTimeout
        policy.runTimeout = configuration.runTimeout
        machine = SupervisorStateMachine(policy: policy)
        ignoreBrokenPipes()
        let signals = try SignalQueue([SIGTERM, SIGINT, SIGHUP])
        let epoll = try Epoll()
        let timer = try Timer()
        // Before the monitor starts: the guest may call at once.
        let guestListener = try UnixSocket.listen(at: "\(MachineFile.vsock)_\(Self.guestPort)", backlog: 4)
        let monitor = try MonitorProcess(program: configuration.monitor)
        let controlListener = try UnixSocket.listen(at: MachineFile.control)
        log = try OutputLog(path: MachineFile.output)
        try epoll.add(guestListener.raw, .readable, token: Token.guestListener)
        try epoll.add(controlListener.raw, .readable, token: Token.controlListener)
        try epoll.add(monitor.ended, .readable, token: Token.monitor)
        try epoll.add(monitor.status, .readable, token: Token.status)
        try epoll.add(timer.descriptor.raw, .readable, token: Token.timer)
        try epoll.add(signals.descriptor.raw, .readable, token: Token.signals)
        self.foreground = try Connection(foreground, token: Token.foreground, epoll: epoll)
        let pid = monitor.pid
        self.signals = signals
        self.epoll = epoll
        self.timer = timer
        self.guestListener = guestListener
        self.monitor = monitor
        self.controlListener = controlListener
        mark("monitor")
        state.supervisor = ProcessIdentity.current
        state.monitor = ProcessIdentity(pid: pid)
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
        case Token.timer: handleTimers()
        case Token.signals: while signals.next() != nil { feed(.terminated) }
        default: readControl(token)
        }
    }

    private func feed(_ event: SupervisorStateMachine.Event) {
        perform(machine.handle(event))
    }

    private func perform(_ actions: [SupervisorStateMachine.Action]) {
        for action in actions {
            switch action {
            case .greetGuest: greetGuest()
            case .sendToGuest(let frame): guest?.queue(frame)
            case .sendToForeground(let frame): foreground?.queue(frame)
            case .log(let stream, let bytes):
                if !hasOutput { mark("output") }
                hasOutput = true
                log.append(LogRecord(stream: stream, time: wallClockNanoseconds(), bytes: bytes))
            case .arm(let name, let milliseconds):
                deadlines[name] = monotonicNanoseconds() &+ milliseconds &* 1_000_000
                armTimer()
            case .disarm(let name):
                deadlines[name] = nil
                armTimer()
            case .recordStarted:
                mark("started")
                state.status = .running
                state.startedAt = wallClockNanoseconds()
                writeState()
            case .endMonitor:
                mark("ended")
                // The client hears of the end before the monitor's memory is given back, which takes a while.
                foreground?.flush(epoll)
                monitor.kill()
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

    private func greetGuest() {
        var hello = Hello()
        hello.program = Array("martlet-supervisor".utf8)
        guest?.queue(Frame(.hello, payload: hello.payload))
        guest?.queue(Frame(.configure, payload: configuration.guestConfiguration().payload))
        let request = configuration.processRequest.payload
        guest?.queue(Frame(.request, session: SupervisorStateMachine.mainSession, payload: request))
    }

    private func readGuest() {
        guard let guest else { return }
        let isThere = guest.receive { feed(.guestFrame($0)) }
        if !isThere {
            guest.stopWatching(epoll)
            feed(.guestLost("the connection to the guest was lost"))
        }
    }

    private func readStatus() {
        for event in monitor.readStatus() {
            mark("monitor \(event.name)", at: event.time)
            // What the monitor itself took to get the guest going.
            if event.name == "first-instruction", let time = event.processorTime {
                state.timings.append(("monitor processor time at first-instruction", time))
            }
        }
        if monitor.isStatusClosed { try? epoll.remove(monitor.status) }
    }

    private func handleMonitorEnd() {
        // What it sent last lies in the socket, which holds a bounded amount; nobody adds to it any more.
        if let guest, !guest.isLost { _ = guest.receive(turns: .max) { feed(.guestFrame($0)) } }
        readStatus()
        feed(.monitorEnded(monitor.reap()))
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
            nextControl += 1
        }
    }

    private func readControl(_ token: UInt64) {
        guard let connection = controls[token] else { return }
        if !connection.receive({ feed(.controlFrame($0)) }) {
            connection.stopWatching(epoll)
            controls[token] = nil
        }
    }

    private func readForeground() {
        guard let foreground else { return }
        if !foreground.receive({ feed(.foregroundFrame($0)) }) {
            foreground.stopWatching(epoll)
            self.foreground = nil
            feed(.foregroundLost)
        }
    }

    private func armTimer() {
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
            feed(.timer(name))
        }
        armTimer()
    }

    private func mark(_ step: String, at time: UInt64? = nil) {
        let now = time ?? monotonicNanoseconds()
        let elapsed = now > configuration.commandStartedAt ? now - configuration.commandStartedAt : 0
        // What the monitor says about itself is no reason to grow without end.
        if state.timings.count < 64 { state.timings.append((step, elapsed / 1000)) }
    }

    private func writeState() {
        // Not durable: after a crash of the host no machine runs, whatever its file says; the boot id tells.
        try? Files.writeAtomically(state.json.encoded(), to: MachineFile.state, permissions: 0o600)
    }

    /// The monitor is gone. The state is written, or the whole directory removed, before anybody is told that all is
    /// over: who then looks sees it so.
    private func conclude(_ outcome: Outcome) throws(SystemError) {
        mark("gone")
        state.status = .exited
        state.exitCode = outcome.exitCode
        state.reason = outcome.reason ?? log.failure.map { "the log is not whole: \($0)" }
        state.finishedAt = wallClockNanoseconds()
        if case .exited(let report) = outcome { recordGuestTimings(report) }
        Files.remove(MachineFile.control)
        Files.remove("\(MachineFile.vsock)_\(Self.guestPort)")
        Files.remove(MachineFile.vsock)
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
        case Token.signals: while signals.next() != nil {}
        case Token.status: try? epoll.remove(monitor.status)
        case Token.monitor: try? epoll.remove(monitor.ended)
        case Token.guest: guest?.stopWatching(epoll)
        default: controls[token]?.stopWatching(epoll)
        }
    }
}
