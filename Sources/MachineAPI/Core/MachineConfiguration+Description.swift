// SPDX-License-Identifier: Apache-2.0

internal import Wire

// The configuration as `GET /vm/config` shows it: every field of Firecracker's, null where it is not set. Ours come
// only where they say something.

extension JSON {
    fileprivate static func optional(_ text: String?) -> JSON { text.map(JSON.string) ?? .null }

    /// An object; a member that is nil is not there.
    static func ordered(_ members: [(String, JSON?)]) -> JSON {
        var object = JSONObject()
        for (name, value) in members { object[name] = value }
        return .object(object)
    }
}

extension MachineConfiguration {
    func description(cpuTemplate: String?) -> JSON {
        .ordered([
            ("balloon", .null),
            ("drives", .array(drives.map(\.description))),
            (
                "boot-source",
                .ordered([
                    ("kernel_image_path", .optional(bootSource.kernel.path)),
                    ("initrd_path", .optional(bootSource.initrd?.path)),
                    ("boot_args", .optional(bootSource.arguments)),
                    ("kernel_image_fd", (bootSource.kernel.descriptor).map(JSON.number)),
                    ("initrd_fd", (bootSource.initrd?.descriptor).map(JSON.number)),
                ])
            ),
            ("cpu-config", .null),
            ("logger", .null),
            ("machine-config", machine.description(cpuTemplate: cpuTemplate)),
            ("metrics", .null),
            ("mmds-config", .null),
            ("network-interfaces", .array(networkInterfaces.map(\.description))),
            (
                "vsock",
                vsock.map {
                    .ordered([
                        ("guest_cid", .number($0.guestCID)), ("uds_path", .string($0.socketPath)),
                        ("uds_fd", $0.listener.map(JSON.number)),
                    ])
                } ?? .null
            ),
            (
                "entropy",
                hasEntropyDevice ? .ordered([("rate_limiter", entropyLimit?.json ?? .null)]) : .null
            ),
            ("pmem", .array([])),
            ("memory-hotplug", .null),
            ("spare-slots", spareSlotCount > 0 ? .number(spareSlotCount) : nil),
        ])
    }
}

extension MachineSettings {
    func description(cpuTemplate: String?) -> JSON {
        .ordered([
            ("vcpu_count", .number(vcpuCount)), ("mem_size_mib", .number(memoryInMiB)),
            ("smt", .bool(simultaneousMultithreading)), ("cpu_template", cpuTemplate.map(JSON.string)),
            ("track_dirty_pages", .bool(tracksDirtyPages)),
            ("huge_pages", .string(hugePages.rawValue)), ("acpi", acpi ? nil : false),
        ])
    }
}

extension Drive {
    fileprivate var description: JSON {
        var path: String?
        var number: Int32?
        var parts: JSON?
        switch content {
        case .path(let name): path = name
        case .descriptor(let descriptor): number = descriptor
        case .extents(let extents):
            parts = .array(
                extents.map { extent in
                    .ordered([
                        ("path", (extent.file.path).map(JSON.string)),
                        ("fd", (extent.file.descriptor).map(JSON.number)), ("offset", .number(extent.offset)),
                        ("length", extent.length.map(JSON.number)),
                    ])
                })
        }
        return .ordered([
            ("drive_id", .string(identifier)), ("partuuid", .optional(partitionIdentifier)),
            ("is_root_device", .bool(isRootDevice)), ("cache_type", .string(cache.rawValue)),
            ("is_read_only", .bool(isReadOnly)), ("path_on_host", .optional(path)),
            ("rate_limiter", limit?.json ?? .null),
            ("io_engine", .string(engine.rawValue)), ("socket", .null), ("extents", parts),
            ("fd", number.map(JSON.number)),
        ])
    }
}

extension NetworkInterface {
    fileprivate var description: JSON {
        var device: String?
        var socket: String?
        var descriptor: Int32?
        switch peer {
        case .tap(let name): device = name
        case .socket(let path): socket = path
        case .descriptor(let number): descriptor = number
        }
        return .ordered([
            ("iface_id", .string(identifier)), ("host_dev_name", .optional(device)),
            ("guest_mac", .optional(guestMAC?.description)), ("mtu", mtu.map(JSON.number) ?? .null),
            ("rx_rate_limiter", receiveLimit?.json ?? .null), ("tx_rate_limiter", transmitLimit?.json ?? .null),
            ("socket_path", socket.map(JSON.string)), ("host_dev_fd", descriptor.map(JSON.number)),
            ("queue_pairs", queuePairs.map(JSON.number)),
        ])
    }
}
