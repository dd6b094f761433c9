// SPDX-License-Identifier: Apache-2.0

// The bodies of Firecracker's API and what we add to them, field by field. Docs/openapi.yaml says the same, and a test
// compares the two.

extension BodySchema {
    package static let action = BodySchema(
        "ActionBody",
        [.required("action_type", .word(["FlushMetrics", "InstanceStart", "SendCtrlAltDel"]))])

    package static let bootSource = BodySchema(
        "BootSourceConfig",
        [
            .required("kernel_image_path", .string, or: "kernel_image_fd"), .optional("initrd_path", .string),
            .optional("boot_args", .string), .addition("kernel_image_fd", .unsigned(32)),
            .addition("initrd_fd", .unsigned(32)),
        ])

    static let cpuTemplates = ["C3", "T2", "T2S", "None", "T2CL", "T2A"]
    static let hugePages = ["None", "Transparent", "2M"]

    package static let machine = BodySchema(
        "MachineConfig",
        [
            .required("vcpu_count", .unsigned(8)), .required("mem_size_mib", .size), .defaulted("smt", .bool),
            .optional("cpu_template", .word(cpuTemplates)), .defaulted("track_dirty_pages", .bool),
            .defaulted("huge_pages", .word(hugePages)), .addition("acpi", .bool),
        ])

    package static let spareSlots = BodySchema("SpareSlots", [.required("count", .unsigned(8))])

    package static let machineUpdate = BodySchema(
        "MachineConfigUpdate",
        [
            .optional("vcpu_count", .unsigned(8)), .optional("mem_size_mib", .size), .optional("smt", .bool),
            .optional("cpu_template", .word(cpuTemplates)), .optional("track_dirty_pages", .bool),
            .optional("huge_pages", .word(hugePages)), .addition("acpi", .bool),
        ])

    /// A bucket may have members that nobody reads.
    static let tokenBucket = BodySchema(
        "TokenBucketConfig",
        [
            .required("size", .unsigned(64)), .optional("one_time_burst", .unsigned(64)),
            .required("refill_time", .unsigned(64)),
        ], refusesUnknown: false)

    static let rateLimiter = BodySchema(
        "RateLimiterConfig",
        [.optional("bandwidth", .object(tokenBucket)), .optional("ops", .object(tokenBucket))])

    static let extent = BodySchema(
        "Extent",
        [
            .required("path", .path, or: "fd"), .optional("offset", .unsigned(64)), .optional("length", .unsigned(64)),
            .addition("fd", .unsigned(32)),
        ])

    package static let drive = BodySchema(
        "BlockDeviceConfig",
        [
            .required("drive_id", .string), .optional("partuuid", .string), .required("is_root_device", .bool),
            .defaulted("cache_type", .word(["Unsafe", "Writeback"])), .optional("is_read_only", .bool),
            .optional("path_on_host", .string), .optional("rate_limiter", .object(rateLimiter)),
            .optional("io_engine", .word(["Async", "Sync"])), .optional("socket", .string),
            .addition("extents", .list(.object(extent))), .addition("fd", .unsigned(32)),
        ])

    package static let driveUpdate = BodySchema(
        "BlockDeviceUpdateConfig",
        [
            .required("drive_id", .string), .optional("path_on_host", .string),
            .optional("rate_limiter", .object(rateLimiter)),
        ])

    package static let networkInterface = BodySchema(
        "NetworkInterfaceConfig",
        [
            .required("iface_id", .string), .optional("host_dev_name", .string), .optional("guest_mac", .address),
            .optional("mtu", .unsigned(16)), .optional("rx_rate_limiter", .object(rateLimiter)),
            .optional("tx_rate_limiter", .object(rateLimiter)), .addition("socket_path", .path),
            .addition("host_dev_fd", .unsigned(32)), .addition("queue_pairs", .unsigned(8)),
        ])

    package static let networkInterfaceUpdate = BodySchema(
        "NetworkInterfaceUpdateConfig",
        [
            .required("iface_id", .string), .optional("rx_rate_limiter", .object(rateLimiter)),
            .optional("tx_rate_limiter", .object(rateLimiter)),
        ])

    package static let vsock = BodySchema(
        "VsockDeviceConfig",
        [
            .optional("vsock_id", .string), .required("guest_cid", .unsigned(32)), .required("uds_path", .string),
            .addition("uds_fd", .unsigned(32)),
        ])

    package static let entropy = BodySchema(
        "EntropyDeviceConfig", [.optional("rate_limiter", .object(rateLimiter))])

    package static let serial = BodySchema(
        "SerialConfig",
        [.optional("serial_out_path", .path), .optional("rate_limiter", .object(tokenBucket))])

    package static let logger = BodySchema(
        "LoggerConfig",
        [
            .optional("log_path", .path), .optional("level", .level), .optional("show_level", .bool),
            .optional("show_log_origin", .bool), .optional("module", .string),
        ])

    package static let metrics = BodySchema(
        "MetricsConfig",
        [.required("metrics_path", .path), .defaulted("emit_id", .bool), .optional("properties", .strings)],
        refusesUnknown: false)

    package static let vmState = BodySchema("Vm", [.required("state", .word(["Paused", "Resumed"]))])

    package static let snapshotCreation = BodySchema(
        "CreateSnapshotParams",
        [
            .defaulted("snapshot_type", .word(["Diff", "Full"])), .required("snapshot_path", .path),
            .required("mem_file_path", .path), .addition("live", .bool),
            .addition("track_dirty_pages", .bool),
        ])

    static let memoryBackend = BodySchema(
        "MemBackendConfig",
        [
            .required("backend_path", .path, or: "backend_fd"), .required("backend_type", .word(["File", "Uffd"])),
            .addition("backend_fd", .unsigned(32)),
        ])

    static let networkOverride = BodySchema(
        "NetworkOverride",
        [
            .required("iface_id", .string), .optional("host_dev_name", .string), .addition("socket_path", .path),
            .addition("host_dev_fd", .unsigned(32)),
            .addition("guest_mac", .address),
        ], refusesUnknown: false)

    static let driveOverride = BodySchema(
        "DriveOverride",
        [
            .required("drive_id", .string), .required("path_on_host", .path, or: "fd"),
            .addition("fd", .unsigned(32)),
        ])

    static let forkDriveOverride = BodySchema(
        "ForkDriveOverride",
        [.required("drive_id", .string), .required("path_on_host", .path), .defaulted("copy", .bool)])

    static let handedInterface = BodySchema(
        "HandedInterface", [.required("iface_id", .string), .optional("guest_mac", .address)])

    static let forkChild = BodySchema(
        "ForkChild",
        [
            .required("id", .string), .optional("directory", .path), .optional("api_sock", .path),
            .optional("supervisor_sock", .path), .optional("stdout_path", .path), .optional("stderr_path", .path),
            .optional("log_path", .path), .optional("metrics_path", .path), .optional("serial_out_path", .path),
            .defaulted("drive_overrides", .list(.object(forkDriveOverride))),
            .defaulted("network_overrides", .list(.object(networkOverride))),
            .defaulted("supervisor_interfaces", .list(.object(handedInterface))),
            .optional("vsock_override", .object(vsockOverride)),
        ])

    package static let fork = BodySchema("Fork", [.required("children", .list(.object(forkChild)))])

    static let vsockOverride = BodySchema(
        "VsockOverride", [.required("uds_path", .string), .addition("uds_fd", .unsigned(32))],
        refusesUnknown: false)

    package static let snapshotLoading = BodySchema(
        "LoadSnapshotConfig",
        [
            .required("snapshot_path", .path, or: "snapshot_fd"), .optional("mem_file_path", .path),
            .optional("mem_backend", .object(memoryBackend)), .defaulted("enable_diff_snapshots", .bool),
            .defaulted("track_dirty_pages", .bool), .defaulted("resume_vm", .bool),
            .defaulted("network_overrides", .list(.object(networkOverride))),
            .optional("vsock_override", .object(vsockOverride)), .defaulted("clock_realtime", .bool),
            .defaulted("huge_pages", .word(["Snapshot", "None", "Transparent", "2M"])),
            .addition("drive_overrides", .list(.object(driveOverride))), .addition("working_set_path", .path),
            .addition("snapshot_fd", .unsigned(32)),
        ])

    package static let workingSet = BodySchema("WorkingSet", [.required("path", .path)])
}
