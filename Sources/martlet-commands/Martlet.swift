// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import MachineAPI

struct Martlet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "martlet",
        abstract: "Runs containers, each in a microVM of its own.",
        discussion: """
            martlet run --rm docker.io/library/alpine:3.20 echo hello
            martlet run -d --name web IMAGE, then: martlet ps, martlet logs -f web, martlet stop web

            An image is named as docker does (a registry), or as oci:DIRECTORY[:TAG], docker-archive:FILE, dir:DIRECTORY.
            Where KVM is missing or unusable, containers run in an emulated host: see martlet kvm check, martlet host.
            """,
        version: "martlet \(monitorVersion)",
        groupedSubcommands: [
            CommandGroup(
                name: "Containers",
                subcommands: [
                    Run.self, Exec.self, PS.self, Logs.self, Stop.self, Kill.self, Wait.self, Remove.self, Inspect.self,
                ]),
            CommandGroup(
                name: "Snapshots",
                subcommands: [Snapshot.self, Restore.self, Fork.self, Branch.self, ServeMemory.self]),
            CommandGroup(name: "Images", subcommands: [Pull.self, Images.self, RemoveImage.self, Image.self]),
            CommandGroup(name: "Networks", subcommands: [Network.self]),
            CommandGroup(name: "This machine", subcommands: [KVMCommand.self, Host.self]),
            CommandGroup(name: "Other", subcommands: [Completion.self, Version.self, HostKeeperCommand.self]),
        ])
}

/// `martlet version`
struct Version: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Say which version this is.")

    func run() {
        print("martlet \(monitorVersion)")
    }
}

/// `martlet completion SHELL`
struct Completion: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print a shell's completion script.",
        discussion: """
            bash: martlet completion bash > ~/.local/share/bash-completion/completions/martlet
            zsh:  martlet completion zsh > "${fpath[1]}/_martlet"
            fish: martlet completion fish > ~/.config/fish/completions/martlet.fish
            """)

    enum Shell: String, CaseIterable, ExpressibleByArgument {
        case bash
        case zsh
        case fish
    }

    @Argument(help: "bash, zsh or fish.")
    var shell: Shell

    func run() {
        let known: CompletionShell =
            switch shell {
            case .bash: .bash
            case .zsh: .zsh
            case .fish: .fish
            }
        print(Martlet.completionScript(for: known))
    }
}
