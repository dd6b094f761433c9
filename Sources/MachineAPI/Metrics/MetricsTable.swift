// SPDX-License-Identifier: Apache-2.0

/// The figures of a line, by their groups, with the names that Firecracker gave them. What this monitor has no device
/// for stays 0, for readers that want every name.
enum MetricsTable {
    /// Three figures about the time that something took, within a group of others.
    static let latency = ["min_us", "max_us", "sum_us"]

    struct Group {
        let name: String
        let figures: [String]
        /// Names of groups of latencies within this one.
        var latencies: [String] = []
    }

    static let block = Group(
        name: "block",
        figures: [
            "activate_fails", "cfg_fails", "no_avail_buffer", "event_fails", "execute_fails", "invalid_reqs_count",
            "flush_count", "queue_event_count", "rate_limiter_event_count", "update_count", "update_fails",
            "read_bytes", "write_bytes", "read_count", "write_count", "rate_limiter_throttled_events",
            "io_engine_throttled_events", "remaining_reqs_count",
        ],
        latencies: ["read_agg", "write_agg"])

    static let net = Group(
        name: "net",
        figures: [
            "activate_fails", "cfg_fails", "no_rx_avail_buffer", "no_tx_avail_buffer", "event_fails",
            "rx_queue_event_count", "rx_event_rate_limiter_count", "rx_rate_limiter_throttled", "rx_tap_event_count",
            "rx_bytes_count", "rx_packets_count", "rx_fails", "rx_count", "tap_read_fails", "tap_write_fails",
            "tx_bytes_count", "tx_malformed_frames", "tx_fails", "tx_count", "tx_packets_count",
            "tx_queue_event_count", "tx_rate_limiter_event_count", "tx_rate_limiter_throttled",
            "tx_spoofed_mac_count", "tx_remaining_reqs_count",
        ],
        latencies: ["tap_write_agg"])

    static let groups = [
        Group(name: "api_server", figures: ["process_startup_time_us", "process_startup_time_cpu_us"]),
        Group(
            name: "balloon",
            figures: [
                "activate_fails", "inflate_count", "stats_updates_count", "stats_update_fails", "deflate_count",
                "event_fails", "free_page_report_count", "free_page_report_freed", "free_page_report_fails",
                "free_page_hint_count", "free_page_hint_freed", "free_page_hint_fails",
            ]),
        block,
        Group(name: "deprecated_api", figures: ["deprecated_http_api_calls"]),
        Group(
            name: "get_api_requests",
            figures: [
                "instance_info_count", "machine_cfg_count", "mmds_count", "vmm_version_count", "hotplug_memory_count",
            ]),
        Group(
            name: "i8042",
            figures: [
                "error_count", "missed_read_count", "missed_write_count", "read_count", "reset_count", "write_count",
            ]),
        Group(name: "latencies_us", figures: latencies),
        Group(
            name: "logger",
            figures: ["missed_metrics_count", "metrics_fails", "missed_log_count", "rate_limited_log_count"]),
        Group(
            name: "mmds",
            figures: [
                "rx_accepted", "rx_accepted_err", "rx_accepted_unusual", "rx_bad_eth", "rx_invalid_token",
                "rx_no_token", "rx_count", "tx_bytes", "tx_count", "tx_errors", "tx_frames", "connections_created",
                "connections_destroyed",
            ]),
        net,
        Group(
            name: "patch_api_requests",
            figures: requests(["drive", "network", "machine_cfg", "mmds", "hotplug_memory", "pmem"])),
        Group(
            name: "put_api_requests",
            figures: requests([
                "actions", "boot_source", "drive", "logger", "machine_cfg", "cpu_cfg", "metrics", "network", "mmds",
                "vsock", "pmem", "serial", "hotplug_memory",
            ])),
        Group(name: "seccomp", figures: ["num_faults"]),
        Group(
            name: "vcpu",
            figures: [
                "exit_io_in", "exit_io_out", "exit_mmio_read", "exit_mmio_write", "failures", "kvmclock_ctrl_fails",
            ],
            latencies: ["exit_io_in_agg", "exit_io_out_agg", "exit_mmio_read_agg", "exit_mmio_write_agg"]),
        Group(name: "vmm", figures: ["panic_count"]),
        Group(
            name: "uart",
            figures: [
                "error_count", "flush_count", "missed_read_count", "missed_write_count", "read_count", "write_count",
                "rate_limiter_dropped_bytes",
            ]),
        Group(name: "signals", figures: signals),
        Group(
            name: "vsock",
            figures: [
                "activate_fails", "cfg_fails", "rx_queue_event_fails", "tx_queue_event_fails", "ev_queue_event_fails",
                "muxer_event_fails", "conn_event_fails", "rx_queue_event_count", "tx_queue_event_count",
                "rx_bytes_count", "tx_bytes_count", "rx_packets_count", "tx_packets_count", "conns_added",
                "conns_killed", "conns_removed", "killq_resync", "tx_flush_fails", "tx_write_fails", "rx_read_fails",
            ]),
        Group(
            name: "entropy",
            figures: [
                "activate_fails", "entropy_event_fails", "entropy_event_count", "entropy_bytes", "host_rng_fails",
                "entropy_rate_limiter_throttled", "rate_limiter_event_count",
            ]),
        Group(
            name: "pmem",
            figures: [
                "activate_fails", "cfg_fails", "event_fails", "queue_event_count", "rate_limiter_throttled_events",
                "rate_limiter_event_count",
            ]),
        Group(name: "interrupts", figures: ["triggers", "config_updates"]),
        Group(
            name: "memory_hotplug",
            figures: [
                "activate_fails", "queue_event_fails", "queue_event_count", "plug_count", "plug_bytes", "plug_fails",
                "unplug_count", "unplug_bytes", "unplug_fails", "unplug_discard_fails", "state_count", "state_fails",
                "unplug_all_count", "unplug_all_fails",
            ],
            latencies: ["plug_agg", "unplug_agg", "state_agg", "unplug_all_agg"]),
    ]

    private static let latencies = [
        "full_create_snapshot", "diff_create_snapshot", "load_snapshot", "pause_vm", "resume_vm",
        "vmm_full_create_snapshot", "vmm_diff_create_snapshot", "vmm_load_snapshot", "vmm_pause_vm", "vmm_resume_vm",
    ]
    private static let signals = ["sigbus", "sigsegv", "sigxfsz", "sigxcpu", "sigpipe", "sighup", "sigill"]

    private static func requests(_ names: [String]) -> [String] {
        names.flatMap { ["\($0)_count", "\($0)_fails"] }
    }

    /// Groups whose figures are levels and not counts: they are written as they are.
    static let levels: Set<String> = ["api_server", "latencies_us", "seccomp", "vmm"]
}
