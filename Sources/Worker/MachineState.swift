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
    /// Where the machine came from: `boot`, `template`, `snapshot` or `fork`.
    package var origin: String?
    /// What there is to say about that, for example why there was no way to use a template.
    package var originNote: String?
    /// Its places in its networks, as the fabrics gave them, in the order in which it got them.
    package var networks: [JSON] = []
    /// What the guest did to become a machine of its own, with the microseconds that each step took, in order.
    package var identity: [(step: String, microseconds: UInt64)] = []
    /// What the last fork of it took, step by step.
    package var fork: [(step: String, microseconds: UInt64)] = []
    /// Random bytes of the guest's, in hexadecimal, drawn after that.
    package var randomSample: String?
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
        if let origin { json.append(("origin", .string(origin))) }
        if let originNote { json.append(("originNote", .string(originNote))) }
        if let first = networks.first { json.append(("network", first)) }
        if !networks.isEmpty { json.append(("networks", .array(networks))) }
        if !identity.isEmpty {
            json.append(("identityInMicroseconds", JSON(members: identity.map { ($0.step, .number($0.microseconds)) })))
        }
        if !fork.isEmpty {
            json.append(("forkInMicroseconds", JSON(members: fork.map { ($0.step, .number($0.microseconds)) })))
        }
        if let randomSample { json.append(("randomSample", .string(randomSample))) }
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
        origin = try view.optional("origin")?.string()
        originNote = try view.optional("originNote")?.string()
        networks = try view.optional("networks")?.elements().map(\.value) ?? []
        randomSample = try view.optional("randomSample")?.string()
        identity = Self.steps(json["identityInMicroseconds"])
        fork = Self.steps(json["forkInMicroseconds"])
        timings = Self.steps(json["timingsInMicroseconds"])
    }

    static func steps(_ json: JSON?) -> [(step: String, microseconds: UInt64)] {
        guard let object = json?.objectValue else { return [] }
        return zip(object.names, object.values).compactMap { name, value in
            value.unsignedValue.map { (name, $0) }
        }
    }
}
