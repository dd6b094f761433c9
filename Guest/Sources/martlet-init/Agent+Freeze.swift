// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

/// The container stands still while its machine is saved, and in each machine made from it until that is one of its own.
extension Agent {
    /// The hook first, so that it can bring the container into an order; then all processes at once. Where one of both
    /// fails the container goes on, and the host is told why.
    func freeze(_ frame: Frame) {
        guard let workload, let order = Interruption(frame.payload) else { fail(text("not an order to freeze")) }
        var report = StepReport()
        do throws(SystemFailure) {
            if !isFrozen {
                try step("freeze hook", &report) { () throws(SystemFailure) in
                    try run(Hook.freeze, limit: order.hookLimit)
                }
                try step("freeze", &report) { () throws(SystemFailure) in try workload.freeze() }
                isFrozen = true
            }
        } catch {
            report.failure = error.message
            try? workload.thaw()
        }
        connection.send(.frozen, report.payload)
    }

    /// A machine that was restored runs nothing before it is identified.
    func thaw(_ frame: Frame) {
        guard let workload, let order = Interruption(frame.payload) else { fail(text("not an order to thaw")) }
        guard isIdentified else { fail(text("an order to thaw before an identity")) }
        var report = StepReport()
        do throws(SystemFailure) {
            if isFrozen {
                if order.isClone {
                    try step("clone hook", &report) { () throws(SystemFailure) in
                        try run(Hook.clone, limit: order.hookLimit)
                    }
                }
                try step("thaw", &report) { () throws(SystemFailure) in try workload.thaw() }
                isFrozen = false
                try step("thaw hook", &report) { () throws(SystemFailure) in
                    try run(Hook.thaw, limit: order.hookLimit)
                }
            }
        } catch {
            report.failure = error.message
        }
        connection.send(.thawed, report.payload)
    }

    /// Tells a new host of a session that goes on. What was sent to the one before is that one's.
    func announce(_ session: Session) {
        guard session.machine.phase == .running else { return }
        var running = RunningSession()
        running.hasInput = session.machine.hasInput && session.input.descriptor != nil && !session.input.isEnded
        running.isOutputEnded = session.output.descriptor == nil
        running.isErrorsEnded = session.errors.descriptor == nil
        session.machine = SessionStateMachine(resuming: .guest, running)
        connection.send(.running, session: session.id, running.payload)
    }
}
