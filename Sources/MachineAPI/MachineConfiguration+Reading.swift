// SPDX-License-Identifier: Apache-2.0

package import Wire

/// What is wrong with a configuration: where, what, and what would be right, in one line.
package struct ConfigurationError: Error, Equatable, Sendable, CustomStringConvertible {
    /// Line and column, where the configuration came as text.
    package let position: JSONPosition?
    /// The field, for example `drives[0].path_on_host`; empty for the whole.
    package let field: String
    package let problem: String

    package var description: String {
        var text = field.isEmpty ? "" : field
        if let position { text += text.isEmpty ? "\(position)" : " (\(position))" }
        return text.isEmpty ? problem : "\(text): \(problem)"
    }

    /// What `read` makes of JSON text; what it does not like is told with its place in the text.
    static func locating<Result>(
        in bytes: [UInt8], _ read: (JSONView) throws(JSONMismatch) -> Result
    ) throws(ConfigurationError) -> Result {
        let document: JSON
        do throws(JSONSyntaxError) {
            document = try JSON(parsing: bytes)
        } catch {
            throw ConfigurationError(position: error.position, field: "", problem: error.problem)
        }
        do throws(JSONMismatch) {
            return try read(JSONView(document))
        } catch {
            throw ConfigurationError(
                position: JSON.position(of: error.path, in: bytes), field: error.path.description,
                problem: error.problem)
        }
    }
}

extension MachineConfiguration {
    /// The most bytes a configuration may have.
    package static let sizeLimitInBytes = 1 << 20

    /// Reads a configuration from JSON text. All that can be judged without the host's files is checked.
    package init(parsing bytes: [UInt8]) throws(ConfigurationError) {
        self = try ConfigurationError.locating(in: bytes) { (view) throws(JSONMismatch) in
            try MachineConfiguration(reading: view)
        }
    }

    /// Fields of Firecracker's that ask for something this monitor does not have.
    private static let refused = ["balloon", "cpu-config", "mmds-config", "pmem", "memory-hotplug"]

    init(reading view: JSONView) throws(JSONMismatch) {
        for name in Self.refused {
            // As `GET /vm/config` shows it, there is none.
            if let field = try view.optional(name), field.value != .array([]) {
                throw field.mismatch("this monitor has no \(name); leave it out")
            }
        }
        try view.requireMembers(
            among: [
                "boot-source", "machine-config", "drives", "network-interfaces", "vsock", "entropy", "serial", "logger",
                "metrics", "spare-slots",
            ] + Self.refused)
        self.init(bootSource: try BootSource(reading: view.required("boot-source")))
        if let field = try view.optional("machine-config") { machine = try MachineSettings(reading: field) }
        drives = try Self.list(view, "drives") { field throws(JSONMismatch) in try Drive(reading: field) }
        networkInterfaces = try Self.list(view, "network-interfaces") { field throws(JSONMismatch) in
            try NetworkInterface(reading: field)
        }
        if let field = try view.optional("vsock") { vsock = try Vsock(reading: field) }
        if let field = try view.optional("entropy") {
            try field.requireMembers(among: ["rate_limiter"])
            hasEntropyDevice = true
            entropyLimit = try RateLimit.read(field.optional("rate_limiter"))
        }
        if let field = try view.optional("serial") {
            try field.requireMembers(among: ["serial_out_path", "rate_limiter"])
            serial.outputPath = try field.optional("serial_out_path")?.path()
            serial.limit = try RateLimit.Bucket.read(field.optional("rate_limiter"))
        }
        if let field = try view.optional("logger") { logger = try Logger(reading: field) }
        if let field = try view.optional("metrics") { metrics = try MetricsSettings(reading: field) }
        if let field = try view.optional("spare-slots") {
            spareSlotCount = Int(try field.unsigned(in: 0...UInt64(Self.spareSlotLimit)))
        }
        try checkIdentifiers(view)
    }

    private static func list<Element>(
        _ view: JSONView, _ name: String, _ read: (JSONView) throws(JSONMismatch) -> Element
    ) throws(JSONMismatch) -> [Element] {
        guard let field = try view.optional(name) else { return [] }
        var result: [Element] = []
        for element in try field.elements() { result.append(try read(element)) }
        return result
    }

    private func checkIdentifiers(_ view: JSONView) throws(JSONMismatch) {
        let fields = [
            ("drives", "drive_id", drives.map(\.identifier)),
            ("network-interfaces", "iface_id", networkInterfaces.map(\.identifier)),
        ]
        for (list, name, identifiers) in fields {
            var seen: Set<String> = []
            for (index, identifier) in identifiers.enumerated() where !seen.insert(identifier).inserted {
                throw JSONMismatch(
                    path: JSONPath([.member(list), .element(index), .member(name)]),
                    problem: "\"\(identifier)\" is the name of an earlier one too; each needs its own")
            }
        }
        let roots = drives.indices.filter { drives[$0].isRootDevice }
        if roots.count > 1 {
            throw JSONMismatch(
                path: JSONPath([.member("drives"), .element(roots[1]), .member("is_root_device")]),
                problem: "drives[\(roots[0])] is the root device already; there can be one")
        }
        if let conflict = descriptorConflict { throw view.mismatch(conflict) }
    }
}

extension BootSource {
    init(reading view: JSONView) throws(JSONMismatch) {
        try view.requireMembers(among: [
            "kernel_image_path", "kernel_image_fd", "initrd_path", "initrd_fd", "boot_args",
        ])
        guard let kernel = try view.file("kernel_image_path", "kernel_image_fd") else {
            throw view.mismatch("kernel_image_path is missing (or kernel_image_fd, for a descriptor)")
        }
        self.kernel = kernel
        initrd = try view.file("initrd_path", "initrd_fd")
        arguments = nil
        if let field = try view.optional("boot_args") {
            let text = try field.string()
            guard text.utf8.count < 2048 else {
                throw field.mismatch("it has \(text.utf8.count) bytes; 2047 are the most that a kernel takes")
            }
            guard text.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7f }) else {
                throw field.mismatch("it has control characters, which a kernel's command line cannot have")
            }
            arguments = text
        }
    }
}

extension MachineSettings {
    init(reading view: JSONView) throws(JSONMismatch) {
        try view.requireMembers(among: [
            "vcpu_count", "mem_size_mib", "smt", "track_dirty_pages", "huge_pages", "acpi", "cpu_template",
        ])
        let count = try view.required("vcpu_count")
        vcpuCount = Int(try count.unsigned(in: 1...32))
        let memory = try view.required("mem_size_mib")
        memoryInMiB = try memory.unsigned(in: 64...(1 << 24))
        simultaneousMultithreading = try view.optional("smt")?.bool() ?? false
        if simultaneousMultithreading, vcpuCount > 1, !vcpuCount.isMultiple(of: 2) {
            throw count.mismatch("with smt the number of vCPUs must be 1 or even")
        }
        tracksDirtyPages = try view.optional("track_dirty_pages")?.bool() ?? false
        if let field = try view.optional("huge_pages") {
            hugePages = HugePages(rawValue: try field.word(among: HugePages.allCases.map(\.rawValue))) ?? hugePages
            guard hugePages != .pool || memoryInMiB.isMultiple(of: 2) else {
                throw memory.mismatch("\(memoryInMiB) MiB are no whole number of pages of 2 MiB")
            }
        }
        acpi = try view.optional("acpi")?.bool() ?? true
        if let field = try view.optional("cpu_template"), try field.string() != "None" {
            throw field.mismatch("CPU templates are not supported; leave it out")
        }
    }
}

extension Drive {
    init(reading view: JSONView) throws(JSONMismatch) {
        try view.requireMembers(among: [
            "drive_id", "path_on_host", "fd", "extents", "is_root_device", "is_read_only", "partuuid", "cache_type",
            "io_engine", "rate_limiter", "socket",
        ])
        if let field = try view.optional("socket") {
            throw field.mismatch("this monitor has no vhost-user disks; leave it out")
        }
        let identifier = try view.required("drive_id").identifier()
        limit = try RateLimit.read(view.optional("rate_limiter"))
        isRootDevice = try view.optional("is_root_device")?.bool() ?? false
        switch (try view.file("path_on_host", "fd"), try view.optional("extents")) {
        case (let file?, nil):
            content = Content(file)
            isReadOnly = try view.optional("is_read_only")?.bool() ?? false
        case (nil, let field?):
            content = .extents(try Self.extents(field))
            isReadOnly = true
            if let flag = try view.optional("is_read_only"), try !flag.bool() {
                throw flag.mismatch("a drive of extents is read-only; leave it out or set it to true")
            }
        case (nil, nil):
            throw view.mismatch(
                "path_on_host is missing (or fd, for a descriptor, or extents, for a drive made of several files)")
        case (_, let field?): throw field.mismatch("a drive has either path_on_host or extents, not both")
        }
        self.identifier = identifier
        partitionIdentifier = try view.optional("partuuid")?.string()
        if let field = try view.optional("cache_type") {
            cache = Cache(rawValue: try field.word(among: Cache.allCases.map(\.rawValue))) ?? .unsafe
        }
        if let field = try view.optional("io_engine") {
            engine = Engine(rawValue: try field.word(among: Engine.allCases.map(\.rawValue))) ?? .sync
        }
    }

    private static func extents(_ field: JSONView) throws(JSONMismatch) -> [Extent] {
        let elements = try field.elements()
        guard !elements.isEmpty else { throw field.mismatch("there must be at least one extent") }
        guard elements.count <= 1024 else {
            throw field.mismatch("\(elements.count) extents are too many; 1024 are the most")
        }
        var result: [Extent] = []
        for element in elements {
            try element.requireMembers(among: ["path", "fd", "offset", "length"])
            guard let file = try element.file("path", "fd") else {
                throw element.mismatch("path is missing (or fd, for a descriptor)")
            }
            let limit: ClosedRange<UInt64> = 0...UInt64(Int64.max)
            result.append(
                Extent(
                    file, offset: try element.optional("offset")?.unsigned(in: limit) ?? 0,
                    length: try element.optional("length")?.unsigned(in: limit)))
        }
        return result
    }
}

extension NetworkInterface {
    init(reading view: JSONView) throws(JSONMismatch) {
        try view.requireMembers(among: [
            "iface_id", "host_dev_name", "socket_path", "host_dev_fd", "guest_mac", "mtu", "queue_pairs",
            "rx_rate_limiter", "tx_rate_limiter",
        ])
        identifier = try view.required("iface_id").identifier()
        receiveLimit = try RateLimit.read(view.optional("rx_rate_limiter"))
        transmitLimit = try RateLimit.read(view.optional("tx_rate_limiter"))
        let fields = ["host_dev_name", "socket_path", "host_dev_fd"]
        var given: [(name: String, view: JSONView)] = []
        for name in fields {
            if let field = try view.optional(name) { given.append((name, field)) }
        }
        guard let (name, field) = given.first else {
            throw view.mismatch(
                "host_dev_name is missing (or socket_path, for a unix socket, or host_dev_fd, for a descriptor)")
        }
        guard given.count == 1 else {
            throw given[1].view.mismatch("an interface has one of \(fields.joined(separator: ", "))")
        }
        switch name {
        case "socket_path": peer = .socket(try field.path())
        case "host_dev_fd": peer = .descriptor(try field.descriptor())
        default:
            let device = try field.string()
            guard !device.isEmpty, device.utf8.count < 16, !device.utf8.contains(0x2f) else {
                throw field.mismatch("a network device's name has 1 to 15 bytes without a slash")
            }
            peer = .tap(device)
        }
        guestMAC = nil
        if let field = try view.optional("guest_mac") {
            guard let address = MACAddress(try field.string()) else {
                throw field.mismatch("an address such as \"06:00:ac:10:00:02\" is wanted here")
            }
            guestMAC = address
        }
        mtu = try view.optional("mtu").map { field throws(JSONMismatch) in
            UInt16(try field.unsigned(in: 68...65535))
        }
        queuePairs = try view.optional("queue_pairs").map { field throws(JSONMismatch) in
            UInt8(try field.unsigned(in: 1...UInt64(Self.queuePairLimit)))
        }
    }
}

extension Vsock {
    init(reading view: JSONView) throws(JSONMismatch) {
        try view.requireMembers(among: ["guest_cid", "uds_path", "uds_fd", "vsock_id"])
        guestCID = UInt32(try view.required("guest_cid").unsigned(in: 3...0xffff_fffe))
        socketPath = try view.required("uds_path").path()
        listener = try view.optional("uds_fd").map { field throws(JSONMismatch) in try field.descriptor() }
    }
}

extension Logger {
    init(reading view: JSONView) throws(JSONMismatch) {
        self.init()
        try view.requireMembers(among: ["log_path", "level", "show_level", "show_log_origin", "module"])
        path = try view.optional("log_path")?.path()
        if let field = try view.optional("level") {
            let word = try field.string()
            guard let level = Level(word: word) else {
                throw field.mismatch(
                    "\"\(word)\" is none of \(Level.allCases.map(\.rawValue).joined(separator: ", "))")
            }
            self.level = level
        }
        showsLevel = try view.optional("show_level")?.bool()
        showsOrigin = try view.optional("show_log_origin")?.bool()
        module = try view.optional("module")?.string()
    }
}

extension MetricsSettings {
    init(reading view: JSONView) throws(JSONMismatch) {
        try view.requireMembers(among: ["metrics_path", "emit_id", "properties"])
        self.init(path: try view.required("metrics_path").path())
        emitsIdentifier = try view.optional("emit_id")?.bool() ?? false
        guard let field = try view.optional("properties") else { return }
        guard case .object(let object) = field.value else { throw field.mismatch("an object is wanted here") }
        properties = []
        for name in object.names { properties?.append((name, try field.required(name).string())) }
    }
}

extension Logger.Level {
    /// Reads the name of a level, in any case.
    package init?(word: String) {
        let word = word.lowercased()
        guard let level = Self.allCases.first(where: { $0.rawValue.lowercased() == word }) else {
            guard word == "warn" else { return nil }
            self = .warning
            return
        }
        self = level
    }
}

extension Drive.Content {
    init(_ file: HostFile) {
        switch file {
        case .path(let path): self = .path(path)
        case .descriptor(let number): self = .descriptor(number)
        }
    }
}

extension JSONView {
    /// A file that is named by one member or the other; nil where it is by neither.
    func file(_ path: String, _ number: String) throws(JSONMismatch) -> HostFile? {
        switch (try optional(path), try optional(number)) {
        case (let field?, nil): return .path(try field.path())
        case (nil, let field?): return .descriptor(try field.descriptor())
        case (nil, nil): return nil
        case (_, let field?): throw field.mismatch("there is \(path) already: either is wanted, not both")
        }
    }

    /// The number of a descriptor.
    func descriptor() throws(JSONMismatch) -> Int32 { Int32(try unsigned(in: 0...UInt64(Int32.max))) }

    /// The path of a file.
    fileprivate func path() throws(JSONMismatch) -> String {
        let text = try string()
        guard !text.isEmpty else { throw mismatch("a path is wanted here, not an empty string") }
        guard text.utf8.count < 4096, !text.utf8.contains(0) else {
            throw mismatch("this is no path: it has a zero byte or more than 4095 bytes")
        }
        return text
    }

    /// The name of a device: letters, digits and `_`.
    fileprivate func identifier() throws(JSONMismatch) -> String {
        let text = try string()
        guard DeviceIdentifier.hasGoodCharacters(text), !text.isEmpty, text.utf8.count <= DeviceIdentifier.limit else {
            throw mismatch("a name of 1 to \(DeviceIdentifier.limit) letters, digits and _ is wanted here")
        }
        return text
    }
}
