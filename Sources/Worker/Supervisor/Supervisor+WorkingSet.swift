// SPDX-License-Identifier: Apache-2.0

internal import Platform
internal import Wire

/// What becomes of the working set of the template or snapshot that the machine goes on from: which pages it touched until
/// its end, or until it has run for a while, is written beside that once, for the next ones to have them beforehand.
enum WorkingSetRecording {
    /// There is nothing to be written: the machine booted, or it is there already.
    case none
    /// It is to be written here.
    case due(String)
    /// It is being written, and the monitor ends afterwards, if so.
    case writing(endsMonitor: Bool)
    case done
}

extension Supervisor {
    /// From the process's start until it has touched what it touches first, if it has not ended before. In milliseconds.
    private static let settlingTime: UInt64 = 5_000
    /// How long a monitor that is to end may take to write it. In milliseconds.
    private static let writingTime: UInt64 = 2_000

    /// The container runs.
    func awaitWorkingSet() {
        guard let path = start.missingWorkingSet else { return }
        workingSet = .due(path)
        arm(Self.settlingTime)
    }

    private func arm(_ milliseconds: UInt64) {
        deadlines[.workingSet] = monotonicNanoseconds() &+ milliseconds &* 1_000_000
        armTimer()
    }

    func handleWorkingSetTimer() {
        switch workingSet {
        case .due(let path): writeWorkingSet(path, endsMonitor: false)
        case .writing(endsMonitor: true): monitor.kill()
        default: break
        }
    }

    /// Ends the monitor, whose working set is written before where it is due.
    func endMonitor() {
        switch workingSet {
        case .due(let path): writeWorkingSet(path, endsMonitor: true)
        case .none, .writing, .done: monitor.kill()
        }
    }

    private func writeWorkingSet(_ path: String, endsMonitor: Bool) {
        workingSet = .writing(endsMonitor: endsMonitor)
        // A monitor that does not answer is not waited for.
        if endsMonitor { arm(Self.writingTime) }
        api.ask("PUT", "/snapshot/working-set", ["path": .string(path)], epoll: epoll) { [unowned self] answer in
            if case .refused(let reason) = answer, state.originNote == nil {
                state.originNote = "the working set could not be written: \(reason)"
            }
            guard case .writing(let ends) = workingSet else { return }
            workingSet = .done
            if ends { monitor.kill() }
        }
    }
}
