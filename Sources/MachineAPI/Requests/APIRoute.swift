// SPDX-License-Identifier: Apache-2.0

internal import Wire

/// A path of the API with a method, and how what is sent there is read.
package struct APIRoute: Sendable {
    enum Second: Equatable, Sendable {
        case none
        case word(String)
        /// The name of a device, which the body repeats in its field of this name.
        case identifier(String)
    }

    package let method: HTTPMethod
    let first: String
    let second: Second
    /// nil where there is no body.
    package let schema: BodySchema?
    /// What the figures call it: `drive` for `drive_count` and `drive_fails`; nil where nothing counts it.
    let figure: String?
    /// Whether Firecracker has no such path.
    package let isAddition: Bool
    let make: @Sendable (_ body: JSON, _ identifier: String) throws(RequestFault) -> APIRequest

    init(
        _ method: HTTPMethod, _ first: String, _ second: Second = .none, _ schema: BodySchema? = nil,
        figure: String? = nil, isAddition: Bool = false,
        _ make: @escaping @Sendable (JSON, String) throws(RequestFault) -> APIRequest
    ) {
        self.method = method
        self.first = first
        self.second = second
        self.schema = schema
        self.figure = figure
        self.isAddition = isAddition
        self.make = make
    }

    /// The path as OpenAPI writes it, for example `/drives/{drive_id}`.
    package var template: String {
        switch second {
        case .none: "/\(first)"
        case .word(let word): "/\(first)/\(word)"
        case .identifier(let name): "/\(first)/{\(name)}"
        }
    }

    package static let all: [APIRoute] = [
        APIRoute(.get, "", figure: "instance_info") { _, _ in .describeInstance },
        APIRoute(.get, "version", figure: "vmm_version") { _, _ in .version },
        APIRoute(.get, "vm", .word("config")) { _, _ in .describeConfiguration },
        APIRoute(.get, "machine-config", figure: "machine_cfg") { _, _ in .describeMachine },
        APIRoute(.get, "introspection", isAddition: true) { _, _ in .introspect },

        APIRoute(.put, "actions", .none, .action, figure: "actions") { body, _ in
            switch body["action_type"]?.stringValue {
            case "InstanceStart": .start
            case "FlushMetrics": .flushMetrics
            default: .sendCtrlAltDel
            }
        },
        APIRoute(.put, "boot-source", .none, .bootSource, figure: "boot_source") { body, _ throws(RequestFault) in
            .setBootSource(try BootSource(body))
        },
        APIRoute(.put, "machine-config", .none, .machine, figure: "machine_cfg") { body, _ in
            .setMachine(MachineUpdate(whole: body))
        },
        APIRoute(.patch, "machine-config", .none, .machineUpdate, figure: "machine_cfg") {
            body, _ throws(RequestFault) in
            guard body.objectValue?.count ?? 0 > 0 else { throw RequestFault("Empty PATCH request.") }
            return .setMachine(MachineUpdate(body))
        },
        APIRoute(.put, "spare-slots", .none, .spareSlots, isAddition: true) { body, _ in
            .setSpareSlots(Int(body["count"]?.unsignedValue ?? 0))
        },
        APIRoute(.put, "drives", .identifier("drive_id"), .drive, figure: "drive") { body, _ throws(RequestFault) in
            .setDrive(try Drive(body))
        },
        APIRoute(.patch, "drives", .identifier("drive_id"), .driveUpdate, figure: "drive") { body, identifier in
            .updateDrive(
                id: identifier, path: body["path_on_host"]?.stringValue, limit: RateLimitUpdate(body["rate_limiter"]))
        },
        APIRoute(.delete, "drives", .identifier("drive_id")) { _, identifier in .remove(id: identifier) },
        APIRoute(.put, "network-interfaces", .identifier("iface_id"), .networkInterface, figure: "network") {
            body, _ throws(RequestFault) in
            .setInterface(try NetworkInterface(body))
        },
        APIRoute(.patch, "network-interfaces", .identifier("iface_id"), .networkInterfaceUpdate, figure: "network") {
            body, identifier in
            .updateInterface(
                id: identifier, receive: RateLimitUpdate(body["rx_rate_limiter"]),
                transmit: RateLimitUpdate(body["tx_rate_limiter"]))
        },
        APIRoute(.delete, "network-interfaces", .identifier("iface_id")) { _, identifier in
            .removeInterface(id: identifier)
        },
        APIRoute(.put, "vsock", .none, .vsock, figure: "vsock") { body, _ throws(RequestFault) in
            .setVsock(try Vsock(body))
        },
        APIRoute(.put, "entropy", .none, .entropy) { body, _ in
            .setEntropy(RateLimit(body["rate_limiter"])?.effective)
        },
        APIRoute(.put, "serial", .none, .serial, figure: "serial") { body, _ in .setSerial(Serial(body)) },
        APIRoute(.put, "logger", .none, .logger, figure: "logger") { body, _ in .setLogger(Logger(body)) },
        APIRoute(.put, "metrics", .none, .metrics, figure: "metrics") { body, _ in
            .setMetrics(MetricsSettings(body))
        },
        APIRoute(.patch, "vm", .none, .vmState) { body, _ in
            body["state"]?.stringValue == "Paused" ? .pause : .resume
        },
        APIRoute(.put, "snapshot", .word("create"), .snapshotCreation) { body, _ in
            .createSnapshot(SnapshotCreation(body))
        },
        APIRoute(.put, "snapshot", .word("load"), .snapshotLoading) { body, _ throws(RequestFault) in
            .loadSnapshot(try SnapshotLoading(body))
        },
        APIRoute(.put, "fork", .none, .fork, isAddition: true) { body, _ throws(RequestFault) in
            .fork(try body.forkChildren())
        },
        APIRoute(.put, "snapshot", .word("working-set"), .workingSet, isAddition: true) { body, _ in
            .recordWorkingSet(body["path"]?.stringValue ?? "")
        },
    ]

    /// What Firecracker has and this monitor does not have yet, by the first part of the path.
    static func later(_ method: HTTPMethod, _ first: String, _ second: String?) -> APIRequest? {
        switch first {
        case "balloon":
            let isAfter = method == .patch || second != nil
            return .later("balloon device", isAfter ? .afterStart : method == .put ? .beforeStart : .always)
        case "hotplug":
            return .later("hotplug of memory", method == .put ? .beforeStart : .afterStart)
        case "mmds": return .later("metadata service", second == "config" ? .beforeStart : .always)
        case "pmem": return .later("persistent memory device", method == .put ? .always : .afterStart)
        case "cpu-config": return .later("CPU templates", .beforeStart)
        default: return nil
        }
    }
}
