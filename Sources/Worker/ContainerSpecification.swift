// SPDX-License-Identifier: Apache-2.0

/// What an image says about the process that runs it (the OCI image specification's `config`).
package struct ImageDefaults: Equatable, Sendable {
    package var entrypoint: [String] = []
    package var command: [String] = []
    package var environment: [String] = []
    package var user = ""
    package var workingDirectory = ""
    package var stopSignal = ""

    package init() {}
}

/// What a user asks of a container beside its image.
package struct ContainerOptions: Equatable, Sendable {
    /// The arguments after the image.
    package var command: [String] = []
    /// nil leaves the image's; an empty text takes it away.
    package var entrypoint: String?
    /// In order; a later one wins.
    package var environment: [EnvironmentSetting] = []
    package var workingDirectory: String?
    package var user: String?
    package var hostname: String?
    package var stopSignal: String?

    package init() {}
}

/// The process of a container: the image's defaults and the user's options made one, by docker's rules.
package struct ContainerSpecification: Equatable, Sendable {
    package var arguments: [String]
    package var environment: [String]
    package var workingDirectory: String
    package var user: String
    package var hostname: String
    package var stopSignal: Int32

    /// What a process finds where neither image nor user says otherwise.
    package static let defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    package init(
        arguments: [String], environment: [String] = [], workingDirectory: String = "", user: String = "",
        hostname: String = "", stopSignal: Int32 = 15
    ) {
        self.arguments = arguments
        self.environment = environment
        self.workingDirectory = workingDirectory
        self.user = user
        self.hostname = hostname
        self.stopSignal = stopSignal
    }

    /// - Parameter defaultHostname: for a container that was given none.
    package init(
        image: ImageDefaults, options: ContainerOptions, defaultHostname: String
    ) throws(WorkerError) {
        arguments = try Self.arguments(image: image, options: options)
        hostname = try Self.hostname(options.hostname, default: defaultHostname)
        environment = Self.environment(image: image.environment, settings: options.environment, hostname: hostname)
        workingDirectory = options.workingDirectory ?? image.workingDirectory
        if let directory = options.workingDirectory, !directory.hasPrefix("/") {
            throw .invalid("the working directory \(quoted(directory)) is not an absolute path")
        }
        user = options.user ?? image.user
        if let text = options.stopSignal {
            stopSignal = try SignalName.number(text)
        } else {
            // An image's slip is no reason not to run it.
            stopSignal = image.stopSignal.isEmpty ? 15 : (try? SignalName.number(image.stopSignal)) ?? 15
        }
        for text in arguments where text.utf8.contains(0) {
            throw .invalid("an argument of the command contains a zero byte")
        }
    }

    /// The user's entrypoint takes the image's command with the image's entrypoint; otherwise each is replaced alone.
    private static func arguments(image: ImageDefaults, options: ContainerOptions) throws(WorkerError) -> [String] {
        let result: [String]
        if let entrypoint = options.entrypoint {
            result = (entrypoint.isEmpty ? [] : [entrypoint]) + options.command
        } else {
            result = image.entrypoint + (options.command.isEmpty ? image.command : options.command)
        }
        guard let program = result.first else {
            throw .invalid("no command: the image names none, so give one after the image")
        }
        guard !program.isEmpty else { throw .invalid("the command's program is an empty text") }
        return result
    }

    /// The variables of another process in the container.
    package func environment(with settings: [EnvironmentSetting]) -> [String] {
        Self.apply(environment.map { .set($0) } + settings)
    }

    private static func environment(
        image: [String], settings: [EnvironmentSetting], hostname: String
    ) -> [String] {
        let own = image.filter { $0.utf8.first != UInt8(ascii: "=") && $0.utf8.contains(UInt8(ascii: "=")) }
        return apply(
            [.set(defaultPath), .set("HOSTNAME=\(hostname)")] + own.map { .set($0) } + settings)
    }

    /// What settings come to, one after another.
    private static func apply(_ settings: [EnvironmentSetting]) -> [String] {
        var result: [String] = []
        var places: [Substring: Int] = [:]
        var removed: Set<Int> = []
        func apply(_ setting: EnvironmentSetting) {
            switch setting {
            case .set(let text):
                if let place = places[setting.name] {
                    result[place] = text
                    removed.remove(place)
                } else {
                    places[setting.name] = result.count
                    result.append(text)
                }
            case .unset(let name):
                if let place = places[name[...]] { removed.insert(place) }
            }
        }
        for setting in settings { apply(setting) }
        return result.indices.filter { !removed.contains($0) }.map { result[$0] }
    }

    private static func hostname(_ text: String?, default fallback: String) throws(WorkerError) -> String {
        guard let text else { return fallback }
        let bytes = Array(text.utf8)
        // The kernel's limit (uname(2)); the characters of RFC 1123, and the underscore that people use.
        let isValid =
            (1...64).contains(bytes.count) && bytes[0] != UInt8(ascii: "-")
            && bytes.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
                    UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"):
                    true
                default: false
                }
            }
        guard isValid else {
            throw .invalid("\(quoted(text)) is not a host name: 1 to 64 letters, digits, hyphens and dots")
        }
        return text
    }
}
