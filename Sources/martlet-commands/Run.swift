// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import ImageStore

/// `martlet run`
struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run a container of an image.",
        usage: """
            martlet run [OPTIONS] IMAGE [COMMAND] [ARGUMENT...]
            martlet run --snapshot SNAPSHOT [OPTIONS] [COMMAND] [ARGUMENT...]
            """,
        discussion: """
            Options end at the image: what follows it is the command's. Standard output and standard error stay apart; \
            with -i standard input goes to the process. SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 go to \
            the process.

            The exit status is the process's (128 and more: ended by that signal); 125: martlet itself failed; 126: \
            the command cannot be executed; 127: there is no such command; 124: the time limit was reached.

            With --snapshot the container goes on from there, and no image is named. A command is run in it as by exec, with \
            its options; the run's output and exit status are the command's, and with it the container ends.

            martlet run --rm docker.io/library/alpine:3.20 echo hello
            martlet run --snapshot warm --name two
            martlet run --rm --snapshot warm python3 /test.py
            echo data | martlet run --rm -i oci:images/busybox:latest cat
            martlet run -d --name web -m 1g --cpus 2 docker-archive:web.tar
            """)

    @Flag(help: "Remove the container when it has ended.")
    var rm = false
    @Flag(name: [.customShort("i"), .long], help: "Connect standard input.")
    var interactive = false
    @Flag(name: [.customShort("d"), .long], help: "Do not stay attached: print the id once the process runs.")
    var detach = false
    @Option(help: "Name the container.")
    var name: String?
    @OptionGroup var process: ProcessOptions
    @Option(help: ArgumentHelp("Replace the image's entrypoint; empty takes it away.", valueName: "program"))
    var entrypoint: String?
    @Option(help: ArgumentHelp("Processors of the machine, 1 to 32.", valueName: "number"))
    var cpus = "1"
    @Option(
        name: [.customShort("m"), .long],
        help: ArgumentHelp("Memory of the machine, for example 512m or 2g; at least 64m.", valueName: "size"))
    var memory = "512m"
    @Option(
        name: [.customShort("h"), .long],
        help: ArgumentHelp("The container's host name (default: the id).", valueName: "name"))
    var hostname: String?
    @Flag(help: "Make the root file system read-only.")
    var readOnly = false
    @Option(
        help: ArgumentHelp("Boot this kernel: an ELF vmlinux or a bzImage.", valueName: "file"), completion: .file())
    var kernel: String?
    @Option(
        help: ArgumentHelp(
            "Stop the process when it has run for so long: seconds, or a number with ms, s, m, h or d.",
            valueName: "time"))
    var timeout: String?
    @Flag(help: "Boot the machine even where one that has booted is kept as a template (also: MARTLET_TEMPLATES=off).")
    var noTemplate = false
    @Option(
        help: ArgumentHelp(
            "Go on from a snapshot, as another container with all that ran in it; no image is named then.",
            valueName: "tag or id"))
    var snapshot: String?
    @Option(
        help: ArgumentHelp(
            "Have a snapshot's memory come from the page server at this socket (martlet serve-memory).",
            valueName: "socket"), completion: .file())
    var memoryServer: String?
    @Option(help: ArgumentHelp("Pull the image: always, missing or never.", valueName: "when"))
    var pull = PullPolicy.missing
    @Flag(help: "Take HTTP, and certificates that are not valid, from the registry.")
    var insecureRegistry = false
    @Option(help: ArgumentHelp("Time from a stop until force (default: 10s).", valueName: "time"))
    var stopTimeout: String?
    @Option(
        help: ArgumentHelp("The signal that stops the process (default: the image's, or TERM).", valueName: "signal"))
    var stopSignal: String?
    @OptionGroup(title: "Network")
    var network: NetworkOptions
    /// What the user called the image, where another command found it already.
    @Option(help: .hidden)
    var imageName: String?

    @Argument(
        help: "A registry's image, oci:DIRECTORY[:TAG], docker-archive:FILE, dir:DIRECTORY, or the id of a stored one.")
    var image: String = ""
    @Argument(help: "The command and its arguments (default: the image's).")
    var command: [String] = []

    func validate() throws {
        if image.isEmpty && snapshot == nil { throw ValidationError("Missing expected argument '<image>'") }
    }

    func run() throws {
        var options = RunOptions(image: image)
        options.rm = rm
        options.interactive = interactive
        options.detach = detach
        options.name = name
        options.env = process.env
        options.envFile = process.envFile
        options.workdir = process.workdir
        options.user = process.user
        options.entrypoint = entrypoint
        options.cpus = cpus
        options.memory = memory
        options.hostname = hostname
        options.readOnly = readOnly
        options.kernel = kernel
        options.timeout = timeout
        options.noTemplate = noTemplate
        options.snapshot = snapshot
        options.memoryServer = memoryServer
        options.pull = pull
        options.insecureRegistry = insecureRegistry
        options.stopTimeout = stopTimeout
        options.stopSignal = stopSignal
        options.imageName = imageName
        options.command = command
        options.network = network.choice
        try options.run()
    }
}

extension PullPolicy: ExpressibleByArgument {}
