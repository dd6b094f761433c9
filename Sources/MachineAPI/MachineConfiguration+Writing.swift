// SPDX-License-Identifier: Apache-2.0

package import Wire

extension MachineConfiguration {
    /// The configuration as `--config-file` takes it. Reading it again gives an equal one.
    package var json: JSON {
        var result = JSONObject()
        result["boot-source"] = object([
            ("kernel_image_path", .string(bootSource.kernelImagePath)),
            ("initrd_path", bootSource.initrdPath.map(JSON.string)),
            ("boot_args", bootSource.arguments.map(JSON.string)),
        ])
        result["machine-config"] = object([
            ("vcpu_count", .number(machine.vcpuCount)),
            ("mem_size_mib", .number(machine.memoryInMiB)),
            ("smt", machine.simultaneousMultithreading ? true : nil),
            ("track_dirty_pages", machine.tracksDirtyPages ? true : nil),
            ("huge_pages", machine.hugePages == .transparent ? nil : .string(machine.hugePages.rawValue)),
            ("acpi", machine.acpi ? nil : false),
        ])
        if !drives.isEmpty { result["drives"] = .array(drives.map(drive)) }
        if !networkInterfaces.isEmpty { result["network-interfaces"] = .array(networkInterfaces.map(interface)) }
        if let vsock {
            result["vsock"] = object([
                ("guest_cid", .number(vsock.guestCID)), ("uds_path", .string(vsock.socketPath)),
            ])
        }
        if hasEntropyDevice { result["entropy"] = object([]) }
        if let path = serial.outputPath { result["serial"] = object([("serial_out_path", .string(path))]) }
        if logger != Logger() {
            result["logger"] = object([
                ("log_path", logger.path.map(JSON.string)), ("level", .string(logger.level.rawValue)),
            ])
        }
        return .object(result)
    }

    private func drive(_ drive: Drive) -> JSON {
        var members: [(String, JSON?)] = [("drive_id", .string(drive.identifier))]
        switch drive.content {
        case .path(let path):
            members.append(("path_on_host", .string(path)))
            members.append(("is_read_only", .bool(drive.isReadOnly)))
        case .extents(let extents):
            let list = extents.map { extent in
                object([
                    ("path", .string(extent.path)),
                    ("offset", .number(extent.offset)),
                    ("length", extent.length.map(JSON.number)),
                ])
            }
            members.append(("extents", .array(list)))
        }
        members.append(("is_root_device", .bool(drive.isRootDevice)))
        members.append(("partuuid", drive.partitionIdentifier.map(JSON.string)))
        members.append(("cache_type", .string(drive.cache.rawValue)))
        return object(members)
    }

    private func interface(_ interface: NetworkInterface) -> JSON {
        var members: [(String, JSON?)] = [("iface_id", .string(interface.identifier))]
        switch interface.peer {
        case .tap(let name): members.append(("host_dev_name", .string(name)))
        case .socket(let path): members.append(("socket_path", .string(path)))
        }
        members.append(("guest_mac", (interface.guestMAC?.description).map(JSON.string)))
        members.append(("mtu", interface.mtu.map(JSON.number)))
        return object(members)
    }

    private func object(_ members: [(String, JSON?)]) -> JSON {
        var result = JSONObject()
        for (name, value) in members { result[name] = value }
        return .object(result)
    }
}
