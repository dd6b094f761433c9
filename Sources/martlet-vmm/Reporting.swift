// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Machine
internal import Platform
internal import Wire

/// Writes the events of a machine's life to whoever started the monitor. For any thread: an event is one write.
final class StatusReport: Sendable {
    private let descriptor: Descriptor?

    init(_ descriptor: consuming Descriptor?) { self.descriptor = descriptor }

    /// Writes an event with its time, and the processor time that this process has used so far.
    func write(_ event: String, _ members: [(String, JSON)] = []) {
        guard descriptor != nil else { return }
        var object = JSONObject()
        object["event"] = .string(event)
        for (name, value) in members { object[name] = value }
        object["cpu_us"] = .number(processorTimeInMicroseconds())
        object["monotonic_ns"] = .number(monotonicNanoseconds())
        let line = JSON.object(object).encoded() + [0x0a]
        // A reader that has gone away is told nothing more.
        try? descriptor?.writeAll(line)
    }

    func write(_ exit: MachineExit) {
        write("exited", [("reason", .string(exit.reason)), ("detail", exit.detail.map(JSON.string) ?? .null)])
    }

}

extension MachineExit {
    /// One word, as the status report has it.
    var reason: String {
        switch self {
        case .powerOff: "power-off"
        case .reboot: "reboot"
        case .tripleFault: "triple-fault"
        case .panic: "panic"
        case .internalError: "internal-error"
        case .killed: "killed"
        }
    }

    var detail: String? {
        switch self {
        case .internalError(let text), .killed(let text): text
        default: nil
        }
    }
}
