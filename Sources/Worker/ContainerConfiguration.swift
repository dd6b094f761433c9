// SPDX-License-Identifier: Apache-2.0

package import Wire

/// All that was asked of a machine: `config.json` in its directory, written before its supervisor starts, and by that
/// again when its networks change.
package struct ContainerConfiguration: Equatable, Sendable {
    package var id: String
    package var name: String
    /// Nanoseconds since 1970.
    package var createdAt: UInt64
    /// What the user called the image, and its digest.
    package var image: String
    package var imageID: String
    package var process: ContainerSpecification
    package var hasInput = false
    package var isReadOnly = false
    package var processors: Int
    package var memoryInMiB: Int
    /// The device in the guest that holds the root file system.
    package var rootDevice = "/dev/vda"
    /// Nobody stays attached.
    package var isDetached = false
    /// Though nobody stays attached, it ends with the command that it was made for.
    package var endsWithCommand = false
    /// The directory goes when the machine ends.
    package var removesItself = false
    /// Milliseconds from a stop until force.
    package var stopTimeout: UInt64 = 10_000
    /// Milliseconds that the process may run; nil for no limit.
    package var runTimeout: UInt64?
    /// Where templates are kept, by whose help the machine need not boot; nil to boot it in any case.
    package var templates: String?
    /// The directory of the snapshot that the machine goes on from; nil for one that begins.
    package var snapshot: String?
    /// The id of the machine that it is forked from; nil for one that is not.
    package var forkOf: String?
    /// How many were forked in one go, this one among them: they share the host's processors when they begin.
    package var forkCount = 1
    /// What the machine that it was made of drew at random, where that is known (`RandomSample`): it is to draw another.
    package var originalSample: String?
    /// The socket of the server that the snapshot's memory comes from; nil for its file.
    package var memoryServer: String?
    /// The files of its disk, one after another, where they are others than the snapshot says.
    package var disk: [DiskPart]?
    /// What was asked for its networks, the first one first; none for no interface but loopback.
    package var networks: [NetworkWish] = []
    /// The monitor's program.
    package var monitor: String
    /// When the command began, in nanoseconds on the monotonic clock: what timings are counted from.
    package var commandStartedAt: UInt64

    /// The name that the monitor knows the image's disk by.
    package static let rootDrive = "root"

    /// A file of the disk; its length in bytes.
    package struct DiskPart: Equatable, Sendable {
        package var path: String
        package var length: UInt64

        package init(path: String, length: UInt64) {
            self.path = path
            self.length = length
        }
    }

    package init(
        id: String, name: String, createdAt: UInt64, image: String, imageID: String, process: ContainerSpecification,
        processors: Int, memoryInMiB: Int, monitor: String, commandStartedAt: UInt64
    ) {
        self.id = id
        self.name = name
        self.createdAt = createdAt
        self.image = image
        self.imageID = imageID
        self.process = process
        self.processors = processors
        self.memoryInMiB = memoryInMiB
        self.monitor = monitor
        self.commandStartedAt = commandStartedAt
    }
}

extension ContainerConfiguration {
    package static let formatVersion: UInt64 = 1

    package var json: JSON {
        var json: [(String, JSON)] = [
            ("version", .number(Self.formatVersion)), ("id", .string(id)), ("name", .string(name)),
            ("createdAt", .number(createdAt)), ("image", .string(image)), ("imageId", .string(imageID)),
            ("arguments", .strings(process.arguments)), ("environment", .strings(process.environment)),
            ("workingDirectory", .string(process.workingDirectory)), ("user", .string(process.user)),
            ("hostname", .string(process.hostname)), ("stopSignal", .number(process.stopSignal)),
            ("hasInput", .bool(hasInput)), ("readOnly", .bool(isReadOnly)), ("processors", .number(processors)),
            ("memoryInMiB", .number(memoryInMiB)), ("rootDevice", .string(rootDevice)), ("detached", .bool(isDetached)),
            ("removesItself", .bool(removesItself)), ("stopTimeoutInMilliseconds", .number(stopTimeout)),
        ]
        if endsWithCommand { json.append(("endsWithCommand", true)) }
        if let runTimeout { json.append(("runTimeoutInMilliseconds", .number(runTimeout))) }
        if let templates { json.append(("templates", .string(templates))) }
        if let snapshot { json.append(("snapshot", .string(snapshot))) }
        if let forkOf { json.append(("forkOf", .string(forkOf))) }
        if forkCount != 1 { json.append(("forkCount", .number(forkCount))) }
        if let originalSample { json.append(("originalSample", .string(originalSample))) }
        if let memoryServer { json.append(("memoryServer", .string(memoryServer))) }
        if let disk {
            let parts = disk.map { JSON(members: [("path", .string($0.path)), ("length", .number($0.length))]) }
            json.append(("disk", .array(parts)))
        }
        if !networks.isEmpty { json.append(("networks", .array(networks.map(\.json)))) }
        json.append(("monitor", .string(monitor)))
        json.append(("commandStartedAt", .number(commandStartedAt)))
        return JSON(members: json)
    }

    package init(_ json: JSON) throws(JSONMismatch) {
        let view = JSONView(json)
        _ = try view.required("version").unsigned(in: Self.formatVersion...Self.formatVersion)
        var process = ContainerSpecification(arguments: try view.required("arguments").strings())
        process.environment = try view.required("environment").strings()
        process.workingDirectory = try view.required("workingDirectory").string()
        process.user = try view.required("user").string()
        process.hostname = try view.required("hostname").string()
        process.stopSignal = Int32(try view.required("stopSignal").unsigned(in: 1...64))
        self.init(
            id: try view.required("id").string(), name: try view.required("name").string(),
            createdAt: try view.required("createdAt").unsigned(), image: try view.required("image").string(),
            imageID: try view.required("imageId").string(), process: process,
            processors: Int(try view.required("processors").unsigned(in: 1...1024)),
            memoryInMiB: Int(try view.required("memoryInMiB").unsigned(in: 1...(1 << 30))),
            monitor: try view.required("monitor").string(),
            commandStartedAt: try view.required("commandStartedAt").unsigned())
        hasInput = try view.required("hasInput").bool()
        isReadOnly = try view.required("readOnly").bool()
        rootDevice = try view.required("rootDevice").string()
        isDetached = try view.required("detached").bool()
        removesItself = try view.required("removesItself").bool()
        stopTimeout = try view.required("stopTimeoutInMilliseconds").unsigned()
        endsWithCommand = try view.optional("endsWithCommand")?.bool() ?? false
        runTimeout = try view.optional("runTimeoutInMilliseconds")?.unsigned()
        templates = try view.optional("templates")?.string()
        snapshot = try view.optional("snapshot")?.string()
        forkOf = try view.optional("forkOf")?.string()
        if let count = try view.optional("forkCount") { forkCount = Int(try count.unsigned(in: 1...1000)) }
        originalSample = try view.optional("originalSample")?.string()
        memoryServer = try view.optional("memoryServer")?.string()
        if let field = try view.optional("disk") {
            var parts: [DiskPart] = []
            for part in try field.elements() {
                parts.append(
                    DiskPart(
                        path: try part.required("path").string(), length: try part.required("length").unsigned()))
            }
            disk = parts
        }
        // One that was saved when a container had one network at most.
        if let field = try view.optional("network") { networks = [try NetworkWish(field)] }
        for element in try view.optional("networks")?.elements() ?? [] { networks.append(try NetworkWish(element)) }
    }
}

extension JSON {
    static func strings(_ values: [String]) -> JSON { .array(values.map { .string($0) }) }

    /// An object, for members that are not all known in one place.
    init(members: [(String, JSON)]) {
        var object = JSONObject()
        for (name, value) in members { object[name] = value }
        self = .object(object)
    }
}

extension JSONView {
    func strings() throws(JSONMismatch) -> [String] {
        var result: [String] = []
        for element in try elements() { result.append(try element.string()) }
        return result
    }
}

extension ContainerConfiguration {
    /// Reads the file in a machine's directory.
    package static func load(from directory: String = ".") throws(WorkerError) -> ContainerConfiguration {
        let path = "\(directory)/\(MachineFile.configuration)"
        guard let json = try MachineStore.readJSON(path) else {
            throw .malformed(path: path, reason: "it is missing")
        }
        do throws(JSONMismatch) {
            return try ContainerConfiguration(json)
        } catch {
            throw .malformed(path: path, reason: "\(error)")
        }
    }
}
