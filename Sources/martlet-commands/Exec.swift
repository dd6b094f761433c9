// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Launch
internal import Platform
internal import Worker

/// `martlet exec`
struct Exec: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run a command in a running container.",
        usage: "martlet exec [OPTIONS] CONTAINER COMMAND [ARGUMENT...]",
        discussion: """
            Options end at the container's name: what follows it is the command's. The command has the container's \
            file system, variables, working directory and user, unless told otherwise. Standard output and standard \
            error stay apart; with -i standard input goes to the command; signals as with run.

            The exit status is the command's (128 and more: ended by that signal); 125: martlet itself failed; 126: \
            the command cannot be executed; 127: there is no such command; 137: the container ended before it.

            martlet exec web ps
            echo 'select 1' | martlet exec -i -u postgres db psql
            """)

    @Flag(name: [.customShort("i"), .long], help: "Connect standard input.")
    var interactive = false
    @OptionGroup var process: ProcessOptions

    @Argument(help: "Name or id.", completion: machineNames)
    var container: String
    @Argument(help: "The command and its arguments.")
    var command: [String]

    func run() throws {
        var options = ExecOptions(container: container)
        options.interactive = interactive
        options.env = process.env
        options.envFile = process.envFile
        options.workdir = process.workdir
        options.user = process.user
        options.command = command
        try options.run()
    }
}
