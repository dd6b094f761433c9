// SPDX-License-Identifier: Apache-2.0

internal import Wire

// From bodies of the right shape to what they ask for. What a shape cannot say is judged here.

extension JSON {
    fileprivate func text(_ name: String) -> String? { self[name]?.stringValue }
    fileprivate func flag(_ name: String) -> Bool? { self[name]?.boolValue }
    fileprivate func number(_ name: String) -> UInt64? { self[name]?.unsignedValue }
    fileprivate func descriptor(_ name: String) -> Int32? { number(name).map { Int32(clamping: $0) } }

    /// A file that is named by one member or the other; nil where it is by neither.
    fileprivate func file(_ path: String, _ number: String) throws(RequestFault) -> HostFile? {
        guard self[path] != nil || self[number] != nil else { return nil }
        guard let file = HostFile(path: text(path), descriptor: self.number(number)) else {
            throw .body(BodyError("too many fields: either `\(path)` or `\(number)` is required"))
        }
        return file
    }
}

extension MachineUpdate {
    init(_ body: JSON) {
        vcpuCount = body.number("vcpu_count").map { Int($0) }
        memoryInMiB = body.number("mem_size_mib")
        simultaneousMultithreading = body.flag("smt")
        tracksDirtyPages = body.flag("track_dirty_pages")
        acpi = body.flag("acpi")
        hugePages = body.text("huge_pages").flatMap(MachineSettings.HugePages.init(rawValue:))
        cpuTemplate = body.text("cpu_template")
    }

    /// A whole configuration: what it does not say has its default.
    init(whole body: JSON) {
        self.init(body)
        simultaneousMultithreading = simultaneousMultithreading ?? false
        tracksDirtyPages = tracksDirtyPages ?? false
        hugePages = hugePages ?? MachineSettings.HugePages.none
        acpi = acpi ?? true
    }
}

extension BootSource {
    init(_ body: JSON) throws(RequestFault) {
        self.init(
            kernel: try body.file("kernel_image_path", "kernel_image_fd") ?? "",
            initrd: try body.file("initrd_path", "initrd_fd"), arguments: body.text("boot_args"))
    }
}

extension Drive {
    init(_ body: JSON) throws(RequestFault) {
        guard body["socket"] == nil else { throw .notSupported("vhost-user disks") }
        let content: Content
        switch (try body.file("path_on_host", "fd"), body["extents"]?.arrayValue) {
        case (let file?, nil): content = Content(file)
        case (nil, let extents?) where !extents.isEmpty && extents.count <= 1024:
            var parts: [Extent] = []
            for extent in extents {
                parts.append(
                    Extent(
                        try extent.file("path", "fd") ?? "", offset: extent.number("offset") ?? 0,
                        length: extent.number("length")))
            }
            content = .extents(parts)
        default:
            throw RequestFault("Drive config error: Unable to create the virtio block device: Invalid block config.")
        }
        var isReadOnly = body.flag("is_read_only") ?? false
        if case .extents = content { isReadOnly = true }
        self.init(identifier: body.text("drive_id") ?? "", content: content, isReadOnly: isReadOnly)
        isRootDevice = body.flag("is_root_device") ?? false
        partitionIdentifier = body.text("partuuid")
        cache = body.text("cache_type").flatMap(Cache.init(rawValue:)) ?? .unsafe
        engine = body.text("io_engine").flatMap(Engine.init(rawValue:)) ?? .sync
        limit = RateLimit(body["rate_limiter"])?.effective
    }
}

extension NetworkInterface.Peer {
    init(_ body: JSON) throws(RequestFault) {
        switch (body.text("host_dev_name"), body.text("socket_path"), body.number("host_dev_fd")) {
        case (let name?, nil, nil): self = .tap(name)
        case (nil, let path?, nil): self = .socket(path)
        case (nil, nil, .some): self = .descriptor(body.descriptor("host_dev_fd") ?? -1)
        case (nil, nil, nil): throw .body(BodyError("missing field `host_dev_name`"))
        default:
            throw .body(
                BodyError(
                    "too many fields: either `host_dev_name`, `socket_path` or `host_dev_fd` is required"))
        }
    }
}

extension NetworkInterface {
    init(_ body: JSON) throws(RequestFault) {
        let mtu = body.number("mtu").map { UInt16(clamping: $0) }
        if let mtu, mtu < 68 {
            throw RequestFault(
                "Network config error: Could not create the network device: MTU \(mtu) is out of range [68, 65535]")
        }
        self.init(
            identifier: body.text("iface_id") ?? "", peer: try Peer(body),
            guestMAC: body.text("guest_mac").flatMap(MACAddress.init), mtu: mtu)
        if let pairs = body.number("queue_pairs") {
            guard (1...UInt64(Self.queuePairLimit)).contains(pairs) else {
                throw RequestFault(
                    "Network config error: Could not create the network device: \(pairs) pairs of queues; there are 1 to "
                        + "\(Self.queuePairLimit)")
            }
            queuePairs = UInt8(pairs)
        }
        receiveLimit = RateLimit(body["rx_rate_limiter"])?.effective
        transmitLimit = RateLimit(body["tx_rate_limiter"])?.effective
    }
}

extension Vsock {
    init(_ body: JSON) throws(RequestFault) {
        let address = body.number("guest_cid") ?? 0
        guard (3...0xffff_fffe).contains(address) else {
            throw RequestFault(
                "Vsock config error: Cannot create vsock device: \(address) is no guest's address; those are "
                    + "3 to 4294967294")
        }
        self.init(guestCID: UInt32(address), socketPath: body.text("uds_path") ?? "")
        listener = body.descriptor("uds_fd")
    }
}

extension Serial {
    init(_ body: JSON) {
        self.init(outputPath: body.text("serial_out_path"))
        limit = body["rate_limiter"].map(RateLimit.Bucket.init).flatMap { $0.limits ? $0 : nil }
    }
}

extension Logger {
    init(_ body: JSON) {
        self.init()
        path = body.text("log_path")
        level = body.text("level").flatMap { Level(word: $0) }
        showsLevel = body.flag("show_level")
        showsOrigin = body.flag("show_log_origin")
        module = body.text("module")
    }
}

extension MetricsSettings {
    init(_ body: JSON) {
        self.init(path: body.text("metrics_path") ?? "")
        emitsIdentifier = body.flag("emit_id") ?? false
        if let object = body["properties"]?.objectValue {
            properties = zip(object.names, object.values).map { ($0, $1.stringValue ?? "") }
        }
    }
}

extension SnapshotCreation {
    init(_ body: JSON) {
        self.init(
            kind: body.text("snapshot_type").flatMap(Kind.init(rawValue:)) ?? .full,
            statePath: body.text("snapshot_path") ?? "", memoryPath: body.text("mem_file_path") ?? "",
            isLive: body.flag("live") ?? false, tracksDirtyPages: body.flag("track_dirty_pages"))
    }
}

extension JSON {
    fileprivate func networkOverrides() throws(RequestFault) -> [SnapshotLoading.InterfaceOverride] {
        var overrides: [SnapshotLoading.InterfaceOverride] = []
        for entry in self["network_overrides"]?.arrayValue ?? [] {
            overrides.append(
                SnapshotLoading.InterfaceOverride(
                    identifier: entry.text("iface_id") ?? "", peer: try NetworkInterface.Peer(entry),
                    guestMAC: entry.text("guest_mac").flatMap(MACAddress.init)))
        }
        return overrides
    }

    func forkChildren() throws(RequestFault) -> [ForkChild] {
        let entries = self["children"]?.arrayValue ?? []
        guard (1...ForkChild.limit).contains(entries.count) else {
            throw RequestFault("Fork error: 1 to \(ForkChild.limit) children can be made at a time")
        }
        var children: [ForkChild] = []
        for entry in entries { children.append(try ForkChild(entry)) }
        return children
    }
}

extension ForkChild {
    init(_ body: JSON) throws(RequestFault) {
        let identifier = body.text("id") ?? ""
        guard isMachineIdentifier(identifier) else {
            throw RequestFault("Fork error: id '\(identifier)': 1 to 64 letters, digits and - are wanted")
        }
        self.init(identifier: identifier)
        directory = body.text("directory")
        guard directory?.hasPrefix("/") ?? true else {
            throw RequestFault("Fork error: directory '\(directory ?? "")': an absolute path is wanted")
        }
        socketPath = body.text("api_sock")
        supervisorPath = body.text("supervisor_sock")
        outputPath = body.text("stdout_path")
        errorsPath = body.text("stderr_path")
        logPath = body.text("log_path")
        metricsPath = body.text("metrics_path")
        serialPath = body.text("serial_out_path")
        interfaces = try body.networkOverrides()
        handedInterfaces = (body["supervisor_interfaces"]?.arrayValue ?? []).map { entry in
            HandedInterface(
                identifier: entry.text("iface_id") ?? "",
                guestMAC: entry.text("guest_mac").flatMap(MACAddress.init))
        }
        guard handedInterfaces.isEmpty || supervisorPath != nil else {
            throw RequestFault("Fork error: supervisor_interfaces come by a supervisor_sock, which is missing")
        }
        drives = (body["drive_overrides"]?.arrayValue ?? []).map {
            DriveOverride(
                identifier: $0.text("drive_id") ?? "", path: $0.text("path_on_host") ?? "",
                isCopied: $0.flag("copy") ?? false)
        }
        vsockPath = body["vsock_override"]?.text("uds_path")
    }
}

extension SnapshotLoading {
    init(_ body: JSON) throws(RequestFault) {
        let memory: Memory
        switch (body["mem_backend"], body.text("mem_file_path")) {
        case (_?, _?):
            throw .body(
                BodyError("too many fields: either `mem_backend` or `mem_file_path` exclusively is required"))
        case (nil, nil):
            throw .body(BodyError("missing field: either `mem_backend` or `mem_file_path` is required"))
        case (nil, let path?): memory = .file(.path(path))
        case (let backend?, nil):
            let file = try backend.file("backend_path", "backend_fd") ?? ""
            memory = backend.text("backend_type") == "Uffd" ? .server(file) : .file(file)
        }
        self.init(state: try body.file("snapshot_path", "snapshot_fd") ?? "", memory: memory)
        tracksDirtyPages = body.flag("track_dirty_pages") ?? false || body.flag("enable_diff_snapshots") ?? false
        resumes = body.flag("resume_vm") ?? false
        interfaces = try body.networkOverrides()
        for entry in body["drive_overrides"]?.arrayValue ?? [] {
            drives.append(
                DriveOverride(
                    identifier: entry.text("drive_id") ?? "",
                    content: Drive.Content(try entry.file("path_on_host", "fd") ?? "")))
        }
        vsockPath = body["vsock_override"]?.text("uds_path")
        vsockListener = body["vsock_override"]?.descriptor("uds_fd")
        advancesClock = body.flag("clock_realtime") ?? false
        workingSetPath = body.text("working_set_path")
        // "Snapshot" is none of them: what the snapshot's machine had.
        hugePages = body.text("huge_pages").flatMap(MachineSettings.HugePages.init(rawValue:))
    }

    /// Whether a request says this with fields that its API will lose.
    static func isDeprecated(_ body: JSON) -> Bool {
        body["mem_file_path"] != nil || body.flag("enable_diff_snapshots") ?? false
    }
}
