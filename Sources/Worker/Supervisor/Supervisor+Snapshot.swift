// SPDX-License-Identifier: Apache-2.0

internal import GuestProtocol
internal import Platform
internal import Wire

/// A machine that is being saved or forked for a client: frozen, then either, thawed; before all that copied while it
/// runs, where it is to be saved so. Whatever fails, the machine goes on.
struct Saving {
    enum Purpose {
        /// Pause, write, resume.
        case snapshot(directory: String, SaveOrder.Manner)
        case fork(ForkOrder)
    }

    /// How many may wait for their turn.
    static let waitingLimit = 16

    enum Phase {
        case copying
        /// The guest has yet to answer what it was told for another.
        case waiting
        case freezing
        /// The monitor does what is wanted.
        case working
        case thawing
        case thawed
    }

    var client: UInt64?
    let purpose: Purpose
    let began = monotonicNanoseconds()
    var phase = Phase.freezing
    /// The monitor has said what came of it.
    var isAnswered = false
    /// Only what was written since the snapshot before.
    var isDiff = false
    var report = StepReport()
    var forkFailures: [ForkedReport.Failure] = []

    func takes(_ kind: FrameKind?) -> Bool {
        switch kind {
        case .frozen: phase == .freezing
        case .thawed: phase == .thawing
        default: false
        }
    }

    /// Notes a step and how long it took.
    mutating func add(_ name: String, since time: UInt64) {
        add(name, nanoseconds: monotonicNanoseconds() - time)
    }

    mutating func add(_ name: String, nanoseconds: UInt64) {
        report.steps.append(StepReport.Step(Array(name.utf8), nanoseconds: nanoseconds))
    }

    /// How much longer the machine may take since others begin beside it, in milliseconds.
    var timeForOthers: UInt64 {
        guard case .fork(let order) = purpose else { return 0 }
        return SupervisorStateMachine.Policy.timeForEachMore * UInt64(order.machines.count)
    }

    mutating func fail(_ reason: [UInt8]) {
        if report.failure.isEmpty { report.failure = reason }
    }

    /// What the client is told.
    var answer: Frame {
        switch purpose {
        case .snapshot: return Frame(.saved, payload: report.payload)
        case .fork:
            var forked = ForkedReport(report)
            forked.failures = forkFailures
            return Frame(.forked, payload: forked.payload)
        }
    }
}

/// The files that a machine is saved as, in the directory that its client gave.
package struct SavedFiles: Sendable {
    package let state: String
    package let memory: String

    /// What is saved while the machine stands still.
    package static let saved = SavedFiles(state: "state", memory: "memory")
    /// What was copied before, while it ran: `saved` has what was written since.
    package static let copied = SavedFiles(state: "copied-state", memory: "copied-memory")
}

extension Supervisor {
    /// How long a guest may take to freeze or thaw a container beside its hook, in milliseconds.
    private static let answerLimit: UInt64 = 10_000

    func save(_ frame: Frame, _ client: UInt64) {
        let order = SaveOrder(frame.payload)
        let directory = order.map { String(decoding: $0.directory, as: UTF8.self) }
        let saving = Saving(client: client, purpose: .snapshot(directory: directory ?? "", order?.manner ?? .full))
        begin(saving, unless: order == nil ? "the order to save it cannot be read" : nil)
    }

    /// Begins what a client wants, unless something is in its way. What another wanted before is done first, also for
    /// one that is gone by now.
    func begin(_ wanted: Saving, unless problem: String?) {
        var problem = problem
        if saving != nil, problem == nil {
            guard waiting.count >= Saving.waitingLimit else { return waiting.append(wanted) }
            problem = "it is just being saved or forked for others"
        }
        if rearranging != nil { problem = "its networks are just being changed" }
        if isGuestBehind { problem = "its guest has not answered yet to a change of its networks" }
        if machine.phase != .running { problem = "the container is not running" }
        guard let problem else {
            saving = wanted
            switch wanted.purpose {
            case .snapshot(let directory, .live): copy(into: directory)
            case .snapshot(_, .diff):
                // A clone's memory says by itself what is another than in the snapshot that it was made of.
                saving?.isDiff = tracksWrites || start.isClone
                freeze()
            case .snapshot(_, .full), .fork: freeze()
            }
            return
        }
        var refused = wanted
        refused.fail(Array(problem.utf8))
        if let client = wanted.client { controls[client]?.queue(refused.answer) }
    }

    private func freeze() {
        saving?.phase = guestDebt.isSettled ? .freezing : .waiting
        arm(.freezing, milliseconds: Self.hookLimit + Self.answerLimit)
        guard guestDebt.isSettled else { return }
        guest?.queue(Frame(.freeze, payload: Self.interruption(isClone: false).payload))
    }

    /// The guest has answered what nobody waits for any more.
    func takeOwed() {
        if saving?.phase == .waiting, guestDebt.isSettled { freeze() }
    }

    /// Copies the memory while all goes on; what is written meanwhile is recorded.
    private func copy(into directory: String) {
        saving?.phase = .copying
        let began = monotonicNanoseconds()
        let body: JSON = [
            "snapshot_type": "Full", "live": true, "track_dirty_pages": true,
            "snapshot_path": .string("\(directory)/\(SavedFiles.copied.state)"),
            "mem_file_path": .string("\(directory)/\(SavedFiles.copied.memory)"),
        ]
        api.ask("PUT", "/snapshot/create", body, epoll: epoll) { [unowned self] answer in
            saving?.add("copied while it ran", since: began)
            if let failure = answer.refusal {
                saving?.fail(Array(failure.utf8))
                saving?.phase = .thawed
                saving?.isAnswered = true
                return finishSaving()
            }
            saving?.isDiff = true
            freeze()
        }
    }

    func takeWhileSaving(_ frame: Frame) {
        guard var current = saving else { return }
        guard let report = StepReport(frame.payload) else { return feed(.guestFailed("a report that cannot be read")) }
        current.report.steps += report.steps
        if !report.failure.isEmpty { current.fail(report.failure) }
        let hasFailed = !current.report.failure.isEmpty
        switch current.phase {
        case .freezing where hasFailed:
            // The guest lets the container go on by itself where it could not freeze it.
            current.phase = .thawed
            current.isAnswered = true
        case .freezing:
            arm(.freezing, milliseconds: nil)
            current.phase = .working
        case .thawing: current.phase = .thawed
        case .copying, .waiting, .working, .thawed: break
        }
        saving = current
        guard current.phase == .working else { return finishSaving() }
        switch current.purpose {
        case .snapshot(let directory, let manner): write(into: directory, manner)
        case .fork(let order): fork(order)
        }
    }

    /// The monitor has done its part.
    func thaw() {
        guard saving?.phase == .working else { return }
        saving?.phase = .thawing
        arm(.freezing, milliseconds: Self.hookLimit + Self.answerLimit + (saving?.timeForOthers ?? 0))
        guest?.queue(Frame(.thaw, payload: Self.interruption(isClone: false).payload))
    }

    /// Nobody waits for ever for a guest. Should it answer after all, the container goes on.
    func guestDidNotAnswer() {
        switch saving?.phase {
        case .waiting:
            saving?.fail(Array("the guest has not answered yet to an earlier freeze".utf8))
            saving?.isAnswered = true
        case .freezing:
            saving?.fail(Array("the guest did not answer".utf8))
            saving?.isAnswered = true
            guest?.queue(Frame(.thaw, payload: Self.interruption(isClone: false).payload))
            guestDebt.giveUpFreezing()
        case .thawing:
            saving?.fail(Array("the guest did not answer".utf8))
            guestDebt.giveUpThawing()
        case .copying, .working, .thawed, nil: return
        }
        saving?.phase = .thawed
        finishSaving()
    }

    private func write(into directory: String, _ manner: SaveOrder.Manner) {
        let paused = monotonicNanoseconds()
        var failure: String?
        api.ask("PATCH", "/vm", ["state": "Paused"], epoll: epoll) { answer in failure = answer.refusal }
        let isDiff = saving?.isDiff ?? false
        let records = tracksWrites || manner == .diff
        let body: JSON = [
            "snapshot_type": isDiff ? "Diff" : "Full",
            "snapshot_path": .string("\(directory)/\(SavedFiles.saved.state)"),
            "mem_file_path": .string("\(directory)/\(SavedFiles.saved.memory)"),
            "track_dirty_pages": .bool(records),
        ]
        api.ask("PUT", "/snapshot/create", body, epoll: epoll) { [unowned self] answer in
            failure = failure ?? answer.refusal
            if answer.refusal == nil { tracksWrites = records }
        }
        api.ask("PATCH", "/vm", ["state": "Resumed"], epoll: epoll) { [unowned self] answer in
            failure = failure ?? answer.refusal
            if let failure { saving?.fail(Array(failure.utf8)) }
            saving?.add("paused", since: paused)
            saving?.isAnswered = true
            thaw()
        }
    }

    /// Tells the client, once the container goes on and the monitor has answered.
    func finishSaving() {
        guard var current = saving, current.phase == .thawed, current.isAnswered else { return }
        saving = nil
        arm(.freezing, milliseconds: nil)
        current.add("in all", since: current.began)
        if case .fork = current.purpose {
            state.fork = current.report.steps.map { (printable($0.name, limit: 40), $0.nanoseconds / 1000) }
            writeState()
        }
        if let client = current.client { controls[client]?.queue(current.answer) }
        while saving == nil, !waiting.isEmpty { begin(waiting.removeFirst(), unless: nil) }
    }
}
