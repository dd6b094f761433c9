// SPDX-License-Identifier: Apache-2.0

internal import Wire

/// What a `--config-file` describes: a machine that boots, or one that goes on from a snapshot.
package enum StartDescription: Equatable, Sendable {
    case machine(MachineConfiguration)
    case snapshot(SnapshotStart)

    /// Reads a file's contents.
    package init(parsing bytes: [UInt8]) throws(ConfigurationError) {
        self = try ConfigurationError.locating(in: bytes) { (view) throws(JSONMismatch) in
            if try view.optional("snapshot") == nil {
                .machine(try MachineConfiguration(reading: view))
            } else {
                .snapshot(try SnapshotStart(reading: view))
            }
        }
    }

    package var logger: Logger {
        switch self {
        case .machine(let configuration): configuration.logger
        case .snapshot(let start): start.logger
        }
    }

    package var metrics: MetricsSettings? {
        switch self {
        case .machine(let configuration): configuration.metrics
        case .snapshot(let start): start.metrics
        }
    }
}

/// A machine that goes on from a snapshot: what `PUT /snapshot/load` takes, and disks and network interfaces for slots
/// that were spare when it was saved, which are there before anything of the guest runs.
package struct SnapshotStart: Equatable, Sendable {
    package var loading: SnapshotLoading
    package var drives: [Drive] = []
    package var networkInterfaces: [NetworkInterface] = []
    package var logger = Logger()
    package var metrics: MetricsSettings?

    init(reading view: JSONView) throws(JSONMismatch) {
        try view.requireMembers(among: ["snapshot", "drives", "network-interfaces", "logger", "metrics"])
        let snapshot = try view.required("snapshot")
        try snapshot.requireMembers(
            among: [
                "snapshot_path", "snapshot_fd", "mem_backend", "resume_vm", "vsock_override", "track_dirty_pages",
                "clock_realtime",
                "working_set_path", "network_overrides", "drive_overrides",
            ])
        let backend = try snapshot.required("mem_backend")
        try backend.requireMembers(among: ["backend_type", "backend_path", "backend_fd"])
        let kind = try backend.required("backend_type")
        guard let file = try backend.file("backend_path", "backend_fd") else {
            throw backend.mismatch("backend_path is missing (or backend_fd, for a descriptor)")
        }
        guard let state = try snapshot.file("snapshot_path", "snapshot_fd") else {
            throw snapshot.mismatch("snapshot_path is missing (or snapshot_fd, for a descriptor)")
        }
        let isServed = try kind.word(among: ["File", "Uffd"]) == "Uffd"
        loading = SnapshotLoading(state: state, memory: isServed ? .server(file) : .file(file))
        loading.resumes = true
        if let resumes = try snapshot.optional("resume_vm"), try !resumes.bool() {
            throw resumes.mismatch("what a configuration file describes runs at once")
        }
        loading.tracksDirtyPages = try snapshot.optional("track_dirty_pages")?.bool() ?? false
        loading.advancesClock = try snapshot.optional("clock_realtime")?.bool() ?? false
        loading.workingSetPath = try snapshot.optional("working_set_path")?.string()
        if let vsock = try snapshot.optional("vsock_override") {
            try vsock.requireMembers(among: ["uds_path", "uds_fd"])
            loading.vsockPath = try vsock.required("uds_path").string()
            if let field = try vsock.optional("uds_fd") { loading.vsockListener = try field.descriptor() }
        }
        if let list = try snapshot.optional("network_overrides") {
            for element in try list.elements() {
                let interface = try NetworkInterface(reading: element)
                loading.interfaces.append(
                    SnapshotLoading.InterfaceOverride(
                        identifier: interface.identifier, peer: interface.peer, guestMAC: interface.guestMAC))
            }
        }
        if let list = try snapshot.optional("drive_overrides") {
            for element in try list.elements() {
                let drive = try Drive(reading: element)
                loading.drives.append(
                    SnapshotLoading.DriveOverride(identifier: drive.identifier, content: drive.content))
            }
        }
        if let conflict = loading.descriptorConflict { throw snapshot.mismatch(conflict) }
        if let list = try view.optional("drives") {
            for element in try list.elements() { drives.append(try Drive(reading: element)) }
        }
        if let list = try view.optional("network-interfaces") {
            for element in try list.elements() { networkInterfaces.append(try NetworkInterface(reading: element)) }
        }
        if let field = try view.optional("logger") { logger = try Logger(reading: field) }
        if let field = try view.optional("metrics") { metrics = try MetricsSettings(reading: field) }
    }
}
