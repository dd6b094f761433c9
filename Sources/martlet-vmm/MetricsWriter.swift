// SPDX-License-Identifier: Apache-2.0

internal import Machine
internal import MachineAPI
internal import Platform
internal import Synchronization

/// Writes figures, a line of JSON each time, to a file or a named pipe. For any thread.
final class MetricsWriter: Sendable {
    private struct Output: ~Copyable {
        var target: Descriptor
        var report: MetricsReport
    }

    private let identifier: String
    private let output = Mutex<Output?>(nil)
    private let values = Mutex(MetricsValues())
    private let counters = Mutex(APICounters())

    init(identifier: String) { self.identifier = identifier }

    func open(_ settings: MetricsSettings) throws(SystemError) {
        let raw = try Descriptor.open(settings.path, .appendOrPipe).release()
        output.withLock {
            $0 = Output(target: Descriptor(owning: raw), report: MetricsReport(settings, identifier: identifier))
        }
    }

    /// Whether anybody wants them.
    var isOpen: Bool {
        output.withLock {
            switch $0 {
            case .some: true
            case .none: false
            }
        }
    }

    /// Sets a level.
    func set(_ group: String, _ name: String, _ value: UInt64) {
        values.withLock { $0[group, name] = value }
    }

    func count(_ group: String, _ name: String) {
        values.withLock { $0[group, name] += 1 }
    }

    /// All that was asked of the API so far.
    func set(_ counters: APICounters) { self.counters.withLock { $0 = counters } }

    /// Writes a line, where `isOpen`.
    /// - Parameters:
    ///   - machine: whose devices are counted.
    ///   - missedLogs: how many messages could not be written.
    func write(_ machine: MachineFigures?, missedLogs: UInt64) throws(SystemError) {
        var values = values.withLock { $0 }
        values.merge(counters.withLock { $0 })
        values["logger", "missed_log_count"] = missedLogs
        machine?.add(to: &values)
        let milliseconds = wallClockNanoseconds() / 1_000_000
        let failure = output.withLock { output -> SystemError? in
            let line = output?.report.line(
                values, drives: machine?.drives ?? [], interfaces: machine?.interfaces ?? [],
                timeInMilliseconds: milliseconds)
            guard let line else { return nil }
            do throws(SystemError) {
                try output?.target.writeAll(line)
                return nil
            } catch {
                return error
            }
        }
        guard let failure else { return }
        count("logger", "missed_metrics_count")
        throw failure
    }
}
