// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Platform
internal import Worker

/// The options of `run` and `exec` that are about the process.
struct ProcessOptions: ParsableArguments {
    @Option(
        name: [.customShort("e"), .long],
        help: ArgumentHelp("Set a variable; a name alone takes its value from here.", valueName: "name=value"))
    var env: [String] = []
    @Option(help: "Set the variables that a file lists.", completion: .file())
    var envFile: [String] = []
    @Option(name: [.customShort("w"), .long], help: ArgumentHelp("Start in this directory.", valueName: "directory"))
    var workdir: String?
    @Option(
        name: [.customShort("u"), .long],
        help: ArgumentHelp("Run as this user, by name or number.", valueName: "user[:group]"))
    var user: String?
}

extension EnvironmentSetting {
    /// What `--env-file` and `--env` come to; of one name the last counts, and files come first.
    static func read(files: [String], settings texts: [String]) throws -> [EnvironmentSetting] {
        var settings: [EnvironmentSetting] = []
        for path in files {
            let bytes: [UInt8]
            do throws(SystemError) { bytes = try Files.read(path, limit: 4 << 20) } catch {
                throw Failure("--env-file: \(error)")
            }
            settings += try parse(file: bytes, named: path, lookUp: { environmentVariable($0) })
        }
        for text in texts { settings.append(try EnvironmentSetting(text, lookUp: { environmentVariable($0) })) }
        return settings
    }
}
