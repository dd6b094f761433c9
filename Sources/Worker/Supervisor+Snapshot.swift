// SPDX-License-Identifier: Apache-2.0

internal import GuestProtocol
internal import Platform
internal import Wire

/// A machine that is being saved for a client: frozen, paused, written, resumed, thawed. Whatever fails, the machine
/// goes on.
struct Saving {
    enum Phase {
        case freezing
        case writing
        case thawing
    }

    var client: UInt64?
    let directory: String
    let began: UInt64
    var phase = Phase.freezing
    var report = StepReport()

    func takes(_ kind: FrameKind?) -> Bool {
        switch kind {
        case .frozen: phase == .freezing
        case .thawed: phase == .thawing
        default: false
        }
    }

    /// Notes a step and how long it took.
    mutating func add(_ name: String, since time: UInt64) {
        report.steps.append(StepReport.Step(Array(name.utf8), nanoseconds: monotonicNanoseconds() - time))
    }

    mutating func fail(_ reason: [UInt8]) {
        if report.failure.isEmpty { report.failure = reason }
    }
}

extension Supervisor {
    func save(_ frame: Frame, _ client: UInt64) {
        guard let order = SaveOrder(frame.payload) else { return refuseToSave("no directory is given", client) }
        guard saving == nil else { return refuseToSave("it is just being saved for another", client) }
        guard machine.phase == .running else { return refuseToSave("the container is not running", client) }
        saving = Saving(
            client: client, directory: String(decoding: order.directory, as: UTF8.self), began: monotonicNanoseconds())
        guest?.queue(Frame(.freeze, payload: Self.interruption(isClone: false).payload))
    }

    private func refuseToSave(_ reason: String, _ client: UInt64) {
        var report = StepReport()
        report.failure = Array(reason.utf8)
        controls[client]?.queue(Frame(.saved, payload: report.payload))
    }

    func takeWhileSaving(_ frame: Frame) {
        guard var current = saving else { return }
        guard let report = StepReport(frame.payload) else { return feed(.guestFailed("a report that cannot be read")) }
        current.report.steps += report.steps
        if !report.failure.isEmpty { current.fail(report.failure) }
        saving = current
        switch current.phase {
        // The guest lets the container go on by itself where it could not freeze it.
        case .freezing: current.report.failure.isEmpty ? write() : finishSaving()
        case .thawing: finishSaving()
        case .writing: break
        }
    }

    private func write() {
        guard let current = saving else { return }
        saving?.phase = .writing
        let paused = monotonicNanoseconds()
        var failure: String?
        api.ask("PATCH", "/vm", ["state": "Paused"], epoll: epoll) { answer in failure = answer.refusal }
        let body: JSON = [
            "snapshot_type": "Full", "snapshot_path": .string("\(current.directory)/state"),
            "mem_file_path": .string("\(current.directory)/memory"),
        ]
        api.ask("PUT", "/snapshot/create", body, epoll: epoll) { answer in failure = failure ?? answer.refusal }
        api.ask("PATCH", "/vm", ["state": "Resumed"], epoll: epoll) { [unowned self] answer in
            failure = failure ?? answer.refusal
            if let failure { saving?.fail(Array(failure.utf8)) }
            saving?.add("paused", since: paused)
            saving?.phase = .thawing
            guest?.queue(Frame(.thaw, payload: Self.interruption(isClone: false).payload))
        }
    }

    private func finishSaving() {
        guard var current = saving else { return }
        saving = nil
        current.add("in all", since: current.began)
        if let client = current.client { controls[client]?.queue(Frame(.saved, payload: current.report.payload)) }
    }
}
