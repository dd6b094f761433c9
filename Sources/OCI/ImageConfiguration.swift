// SPDX-License-Identifier: Apache-2.0

/// An image's configuration (OCI image specification, config.md): what runs in it, and how.
package struct ImageConfiguration: Codable, Equatable, Sendable {
    package var architecture: String
    package var os: String
    package var variant: String?
    /// Creation time, RFC 3339.
    package var created: String?
    package var author: String?
    package var config: Runtime
    package var rootfs: RootFileSystem
    /// How the layers came to be, lowest first.
    package var history: [HistoryEntry]?

    package struct HistoryEntry: Codable, Equatable, Sendable {
        package var created: String?
        package var createdBy: String?
        package var comment: String?
        /// It changed the configuration only.
        package var emptyLayer: Bool?

        enum CodingKeys: String, CodingKey {
            case created, comment
            case createdBy = "created_by"
            case emptyLayer = "empty_layer"
        }
    }

    /// What a container of the image starts with unless told otherwise.
    package struct Runtime: Codable, Equatable, Sendable {
        package var user: String?
        /// `NAME=value` each.
        package var environment: [String]?
        package var entrypoint: [String]?
        package var command: [String]?
        package var workingDirectory: String?
        /// `SIGTERM`, or a number.
        package var stopSignal: String?
        /// `80/tcp`, sorted.
        package var exposedPorts: [String]?
        /// Paths, sorted.
        package var volumes: [String]?
        package var labels: [String: String]?
        package var healthcheck: Healthcheck?
        package var shell: [String]?

        package init() {}
    }

    /// How Docker asks whether a container is well. Durations are in nanoseconds.
    package struct Healthcheck: Codable, Equatable, Sendable {
        /// `NONE`, or `CMD` and arguments, or `CMD-SHELL` and a line.
        package var test: [String]?
        package var interval: Int64?
        package var timeout: Int64?
        package var startPeriod: Int64?
        package var startInterval: Int64?
        package var retries: Int64?

        enum CodingKeys: String, CodingKey {
            case test = "Test"
            case interval = "Interval"
            case timeout = "Timeout"
            case startPeriod = "StartPeriod"
            case startInterval = "StartInterval"
            case retries = "Retries"
        }
    }

    package struct RootFileSystem: Codable, Equatable, Sendable {
        package var type: String
        /// The digests of the layers' tar files, uncompressed, lowest first.
        package var diffIDs: [String]

        enum CodingKeys: String, CodingKey {
            case type
            case diffIDs = "diff_ids"
        }

        package init(diffIDs: [String]) {
            self.type = "layers"
            self.diffIDs = diffIDs
        }
    }

    package init(platform: ImagePlatform, diffIDs: [String]) {
        architecture = platform.architecture
        os = platform.operatingSystem
        variant = platform.variant
        config = Runtime()
        rootfs = RootFileSystem(diffIDs: diffIDs)
    }

    enum CodingKeys: CodingKey { case architecture, os, variant, created, author, config, rootfs, history }

    package init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        architecture = try values.decodeIfPresent(String.self, forKey: .architecture) ?? ""
        os = try values.decodeIfPresent(String.self, forKey: .os) ?? ""
        variant = try values.decodeIfPresent(String.self, forKey: .variant)
        created = try values.decodeIfPresent(String.self, forKey: .created)
        author = try values.decodeIfPresent(String.self, forKey: .author)
        config = try values.decodeIfPresent(Runtime.self, forKey: .config) ?? Runtime()
        rootfs = try values.decode(RootFileSystem.self, forKey: .rootfs)
        history = try values.decodeIfPresent([HistoryEntry].self, forKey: .history)
    }
}

extension ImageConfiguration.Runtime {
    enum CodingKeys: String, CodingKey {
        case user = "User"
        case environment = "Env"
        case entrypoint = "Entrypoint"
        case command = "Cmd"
        case workingDirectory = "WorkingDir"
        case stopSignal = "StopSignal"
        case exposedPorts = "ExposedPorts"
        case volumes = "Volumes"
        case labels = "Labels"
        case healthcheck = "Healthcheck"
        case shell = "Shell"
    }

    /// A set, written in Go's manner as an object with empty values.
    private struct Empty: Codable {}

    package init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        user = try values.decodeIfPresent(String.self, forKey: .user)
        environment = try values.decodeIfPresent([String].self, forKey: .environment)
        entrypoint = try values.decodeIfPresent([String].self, forKey: .entrypoint)
        command = try values.decodeIfPresent([String].self, forKey: .command)
        workingDirectory = try values.decodeIfPresent(String.self, forKey: .workingDirectory)
        stopSignal = try values.decodeIfPresent(String.self, forKey: .stopSignal)
        exposedPorts = try values.decodeIfPresent([String: Empty].self, forKey: .exposedPorts)?.keys.sorted()
        volumes = try values.decodeIfPresent([String: Empty].self, forKey: .volumes)?.keys.sorted()
        labels = try values.decodeIfPresent([String: String].self, forKey: .labels)
        healthcheck = try values.decodeIfPresent(ImageConfiguration.Healthcheck.self, forKey: .healthcheck)
        shell = try values.decodeIfPresent([String].self, forKey: .shell)
    }

    package func encode(to encoder: any Encoder) throws {
        func set(_ names: [String]?) -> [String: Empty]? {
            names.map { Dictionary($0.map { ($0, Empty()) }, uniquingKeysWith: { first, _ in first }) }
        }
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encodeIfPresent(user, forKey: .user)
        try values.encodeIfPresent(environment, forKey: .environment)
        try values.encodeIfPresent(entrypoint, forKey: .entrypoint)
        try values.encodeIfPresent(command, forKey: .command)
        try values.encodeIfPresent(workingDirectory, forKey: .workingDirectory)
        try values.encodeIfPresent(stopSignal, forKey: .stopSignal)
        try values.encodeIfPresent(set(exposedPorts), forKey: .exposedPorts)
        try values.encodeIfPresent(set(volumes), forKey: .volumes)
        try values.encodeIfPresent(labels, forKey: .labels)
        try values.encodeIfPresent(healthcheck, forKey: .healthcheck)
        try values.encodeIfPresent(shell, forKey: .shell)
    }
}

extension ImageConfiguration {
    /// Reads and checks a configuration.
    package init(bytes: [UInt8], what: String) throws(OCIError) {
        guard bytes.count <= ImageLimits.configurationSize else {
            throw .tooLarge(what: what, limit: Int64(ImageLimits.configurationSize))
        }
        self = try decodeJSON(ImageConfiguration.self, bytes, what: what)
        guard rootfs.diffIDs.count <= ImageLimits.layers else {
            throw .tooLarge(what: "the list of layers in \(what)", limit: Int64(ImageLimits.layers))
        }
        for text in rootfs.diffIDs where Digest(text)?.algorithm != .sha256 {
            throw .malformed(what: what, reason: "the layer's id \"\(printable(text))\" is not a SHA-256 digest")
        }
    }

    /// The layers' ids; of a checked configuration all of them.
    package var layerIDs: [Digest] { rootfs.diffIDs.compactMap { Digest($0) } }

    /// Refuses an image for another kind of machine. One that does not say is taken at its word.
    func check(_ platform: ImagePlatform, image: String) throws(OCIError) {
        let rightSystem = os.isEmpty || os == platform.operatingSystem
        let rightProcessor = architecture.isEmpty || architecture == platform.architecture
        guard rightSystem && rightProcessor else {
            throw .noPlatform(
                image: image, wanted: platform.description, available: [printable("\(os)/\(architecture)", limit: 60)])
        }
    }
}
