// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser

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
