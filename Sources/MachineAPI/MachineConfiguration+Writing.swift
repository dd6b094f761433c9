// SPDX-License-Identifier: Apache-2.0

package import Wire

extension MachineConfiguration {
    /// The configuration as `--config-file` takes it. Reading it again gives an equal one.
    package var json: JSON {
        var result = JSONObject()
        result["boot-source"] = object([
            ("kernel_image_path", (bootSource.kernel.path).map(JSON.string)),
            ("kernel_image_fd", (bootSource.kernel.descriptor).map(JSON.number)),
            ("initrd_path", (bootSource.initrd?.path).map(JSON.string)),
            ("initrd_fd", (bootSource.initrd?.descriptor).map(JSON.number)),
            ("boot_args", bootSource.arguments.map(JSON.string)),
        ])
        result["machine-config"] = object([
            ("vcpu_count", .number(machine.vcpuCount)),
            ("mem_size_mib", .number(machine.memoryInMiB)),
            ("smt", machine.simultaneousMultithreading ? true : nil),
            ("track_dirty_pages", machine.tracksDirtyPages ? true : nil),
            ("huge_pages", machine.hugePages == .none ? nil : .string(machine.hugePages.rawValue)),
            ("acpi", machine.acpi ? nil : false),
        ])
        if !drives.isEmpty { result["drives"] = .array(drives.map(\.json)) }
        if !networkInterfaces.isEmpty { result["network-interfaces"] = .array(networkInterfaces.map(\.json)) }
        if let vsock {
            result["vsock"] = object([
                ("guest_cid", .number(vsock.guestCID)), ("uds_path", .string(vsock.socketPath)),
                ("uds_fd", vsock.listener.map(JSON.number)),
            ])
        }
        if hasEntropyDevice { result["entropy"] = object([("rate_limiter", entropyLimit?.json)]) }
        if serial != Serial() {
            result["serial"] = object([
                ("serial_out_path", serial.outputPath.map(JSON.string)), ("rate_limiter", serial.limit?.json),
            ])
        }
        if logger != Logger() {
            result["logger"] = object([
                ("log_path", logger.path.map(JSON.string)), ("level", (logger.level?.rawValue).map(JSON.string)),
                ("show_level", logger.showsLevel.map(JSON.bool)),
                ("show_log_origin", logger.showsOrigin.map(JSON.bool)), ("module", logger.module.map(JSON.string)),
            ])
        }
        if let metrics {
            result["metrics"] = object([
                ("metrics_path", .string(metrics.path)), ("emit_id", metrics.emitsIdentifier ? true : nil),
                ("properties", metrics.properties.map { object($0.map { ($0.name, .string($0.value)) }) }),
            ])
        }
        if spareSlotCount > 0 { result["spare-slots"] = .number(spareSlotCount) }
        return .object(result)
    }
}

extension NetworkInterface {
    /// The interface as a configuration lists it, and as the API takes it.
    package var json: JSON {
        var members: [(String, JSON?)] = [("iface_id", .string(identifier))]
        switch peer {
        case .tap(let name): members.append(("host_dev_name", .string(name)))
        case .socket(let path): members.append(("socket_path", .string(path)))
        case .descriptor(let number): members.append(("host_dev_fd", .number(number)))
        }
        members.append(("guest_mac", (guestMAC?.description).map(JSON.string)))
        members.append(("mtu", mtu.map(JSON.number)))
        members.append(("queue_pairs", queuePairs.map(JSON.number)))
        members.append(("rx_rate_limiter", receiveLimit?.json))
        members.append(("tx_rate_limiter", transmitLimit?.json))
        return object(members)
    }
}

extension Drive {
    /// The drive as a configuration lists it, and as the API takes it.
    package var json: JSON {
        var members: [(String, JSON?)] = [("drive_id", .string(identifier))]
        switch content {
        case .path(let path):
            members.append(("path_on_host", .string(path)))
            members.append(("is_read_only", .bool(isReadOnly)))
        case .descriptor(let number):
            members.append(("fd", .number(number)))
            members.append(("is_read_only", .bool(isReadOnly)))
        case .extents(let extents):
            let list = extents.map { extent in
                object([
                    ("path", (extent.file.path).map(JSON.string)),
                    ("fd", (extent.file.descriptor).map(JSON.number)),
                    ("offset", .number(extent.offset)),
                    ("length", extent.length.map(JSON.number)),
                ])
            }
            members.append(("extents", .array(list)))
        }
        members.append(("is_root_device", .bool(isRootDevice)))
        members.append(("partuuid", partitionIdentifier.map(JSON.string)))
        members.append(("cache_type", .string(cache.rawValue)))
        if engine != .sync { members.append(("io_engine", .string(engine.rawValue))) }
        members.append(("rate_limiter", limit?.json))
        return object(members)
    }
}

private func object(_ members: [(String, JSON?)]) -> JSON {
    var result = JSONObject()
    for (name, value) in members { result[name] = value }
    return .object(result)
}
