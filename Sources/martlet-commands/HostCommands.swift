// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import EmulatedHost
internal import Glibc
internal import Launch
internal import Platform
internal import Worker

/// `martlet host`
struct Host: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Manage the emulated host, where KVM is missing or unusable.",
        discussion: """
            The other commands start it when they need it, and it ends when it has nothing to do for some minutes. \
            Containers and their state are on its disk and stay.

            martlet host start --memory 8g
            martlet host exec -- uname -a
            """,
        subcommands: [Start.self, Status.self, Exec.self, Shell.self, Stop.self])

    struct Start: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Start it, unless it runs.")

        @Option(
            name: .shortAndLong, help: ArgumentHelp("Its memory (default: half of this machine's).", valueName: "size"))
        var memory: String?

        func run() throws {
            let memory = try memory.map { Int(clamping: try Quantities.bytes($0) >> 20) }
            let progress = ProgressLine()
            try EmulatedHosting.host(memoryInMiB: memory).start(progress: { progress.show($0) })
        }
    }

    struct Status: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Say whether it runs, and what it takes; exit status 3 where it does not run.")

        func run() throws {
            guard let status = try EmulatedHosting.host().status() else {
                print("The emulated host does not run.")
                throw Failure(silentlyWith: 3)
            }
            let disk = Quantities.describe(bytes: status.diskInBytes)
            print(
                """
                The emulated host runs\(status.isOfThisBuild ? "" : ", started by another build of martlet").
                up:        \(Quantities.describe(seconds: status.uptimeInSeconds))
                memory:    \(Quantities.describe(bytes: UInt64(status.memoryInMiB) << 20))
                processes: \(status.processes)
                disk:      \(status.disk) (\(disk))
                keeper:    process \(status.keeper), QEMU process \(status.emulator)
                """)
        }
    }

    struct Exec: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Run a command in it, as this user, in this directory.",
            usage: "martlet host exec -- COMMAND [ARGUMENT...]")

        @Argument(parsing: .remaining, help: "The command and its arguments.")
        var command: [String]

        func run() throws {
            ignoreBrokenPipes()
            let signals = try SignalQueue([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2])
            throw Failure(silentlyWith: try EmulatedHosting.execute(command, hasInput: true, signals: signals))
        }
    }

    struct Shell: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Run a shell in it.")

        func run() throws {
            ignoreBrokenPipes()
            let signals = try SignalQueue([SIGINT, SIGTERM, SIGHUP, SIGQUIT])
            throw Failure(
                silentlyWith: try EmulatedHosting.execute(["/bin/sh", "-i"], hasInput: true, signals: signals))
        }
    }

    struct Stop: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "End it, with all containers that run in it.")

        func run() throws {
            try EmulatedHosting.host().stop()
        }
    }
}

/// The emulated host's keeper; started by the commands that need the host.
struct HostKeeperCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: EmulatedHosting.keeperCommand, shouldDisplay: false)

    @Argument(parsing: .captureForPassthrough)
    var arguments: [String] = []

    func run() throws {
        throw Failure(silentlyWith: HostKeeper.run(arguments: arguments))
    }
}
