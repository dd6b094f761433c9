// SPDX-License-Identifier: Apache-2.0

package import Wire

/// How a machine stands: `state.json` in its directory, which only its supervisor writes, whole each time.
package struct MachineState: Equatable, Sendable {
    package enum Status: String, Sendable {
        /// Its process is not started yet.
        case created
        case running
        case exited
    }

    package var status = Status.created
    package var supervisor: ProcessIdentity?
    package var monitor: ProcessIdentity?
    /// Nanoseconds since 1970, as all points in time here.
    package var startedAt: UInt64?
    package var finishedAt: UInt64?
    package var exitCode: UInt8?
    /// Why it ended, where that was not its process's own end.
    package var reason: String?
    /// Microseconds from the command's start to each step, in order.
    package var timings: [(step: String, microseconds: UInt64)] = []

    package init() {}

    package static func == (one: MachineState, other: MachineState) -> Bool { one.json == other.json }
}

extension MachineState {
    package var json: JSON {
        var json: [(String, JSON)] = [("version", 1), ("status", .string(status.rawValue))]
        if let supervisor { json.append(("supervisor", supervisor.json)) }
        if let monitor { json.append(("monitor", monitor.json)) }
        if let startedAt { json.append(("startedAt", .number(startedAt))) }
        if let finishedAt { json.append(("finishedAt", .number(finishedAt))) }
        if let exitCode { json.append(("exitCode", .number(exitCode))) }
        if let reason { json.append(("reason", .string(reason))) }
        json.append(("timingsInMicroseconds", JSON(members: timings.map { ($0.step, .number($0.microseconds)) })))
        return JSON(members: json)
    }

    package init(_ json: JSON) throws(JSONMismatch) {
        let view = JSONView(json)
        _ = try view.required("version").unsigned(in: 1...1)
        let text = try view.required("status").string()
        guard let status = Status(rawValue: text) else {
            throw JSONMismatch(path: JSONPath([.member("status")]), problem: "there is no status \(quoted(text))")
        }
        self.status = status
        supervisor = try view.optional("supervisor").flatMap { ProcessIdentity($0.value) }
        monitor = try view.optional("monitor").flatMap { ProcessIdentity($0.value) }
        startedAt = try view.optional("startedAt")?.unsigned()
        finishedAt = try view.optional("finishedAt")?.unsigned()
        exitCode = try view.optional("exitCode").map { view throws(JSONMismatch) in
            UInt8(try view.unsigned(in: 0...255))
        }
        reason = try view.optional("reason")?.string()
        if let object = json["timingsInMicroseconds"]?.objectValue {
            for (name, value) in zip(object.names, object.values) {
                if let microseconds = value.unsignedValue { timings.append((name, microseconds)) }
            }
        }
    }
}
