// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import GuestProtocol
internal import Launch
internal import Platform
internal import Wire
internal import Worker

/// Runs the rest where containers run.
private func there() throws {
    if try Placement.decide() == .emulatedHost { try EmulatedHosting.forwardThisCommand() }
}

/// `martlet snapshot`
struct Snapshot: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Save running containers, memory and all; the container goes on.",
        discussion: """
            martlet snapshot create web --tag warm, then as often as wanted: martlet run -d --snapshot warm

            What is made of a snapshot is another container: it has random numbers, a host name, a machine id and a \
            log of its own; in a network it has other addresses and its own name there, and no published ports but \
            those that are asked for; connections that it had to others are reset. /etc/martlet/hooks/freeze, thaw and clone \
            in the container are run, as root and for at most 10 s each, before it is saved, after it goes on, and in \
            each container made of it before that goes on.
            """,
        subcommands: [
            Create.self, List.self, Show.self, Remove.self, Collect.self, Verify.self, Export.self, Import.self,
        ])

    struct Create: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Save a running container; print the snapshot's id.")

        @Option(help: ArgumentHelp("Name the snapshot; one that had the name keeps its id only.", valueName: "tag"))
        var tag: String?
        @Flag(help: "Copy the memory while the container runs, which stands still for the last of it only.")
        var live = false
        @Flag(
            help: ArgumentHelp(
                "Keep only what was written since the container was saved with --diff before, or since it was made of a "
                    + "snapshot."))
        var diff = false
        @Argument(help: "Name or id.", completion: machineNames)
        var container: String

        func validate() throws {
            if live && diff { throw ValidationError("--live and --diff exclude each other") }
        }

        func run() throws {
            try there()
            let manner: SaveOrder.Manner = live ? .live : diff ? .diff : .full
            print(try SavedSnapshot.create(container, tag: tag, manner: manner).id)
        }
    }

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(commandName: "ls", abstract: "List snapshots.")

        @Flag(name: .shortAndLong, help: "Print ids only.")
        var quiet = false
        @Option(help: "table, or json: one object a line.")
        var format = OutputFormat.table

        func run() throws {
            try there()
            let all = try SnapshotLaunch.store().list()
            if quiet {
                for snapshot in all { print(snapshot.id) }
            } else if format == .json {
                for snapshot in all { print(String(decoding: snapshot.json.encoded(), as: UTF8.self)) }
            } else {
                var table = Table(["SNAPSHOT ID", "TAG", "CONTAINER", "IMAGE", "CREATED", "MEMORY"])
                for snapshot in all {
                    let age = (wallClockNanoseconds() &- snapshot.createdAt) / 1_000_000_000
                    table.rows.append([
                        String(snapshot.id.prefix(MachineIdentity.shortIDLength)), snapshot.tag ?? "<none>",
                        snapshot.machine.name, snapshot.machine.image, "\(Quantities.describe(seconds: age)) ago",
                        snapshot.isMemoryElsewhere ? "elsewhere" : "here",
                    ])
                }
                print(table.text, terminator: "")
            }
        }
    }

    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "inspect", abstract: "Print all that is known about snapshots, as JSON.")

        @Argument(help: "Tags or ids.")
        var snapshots: [String]

        func run() throws {
            try there()
            let store = try SnapshotLaunch.store()
            let found = try snapshots.map { try store.find($0).json }
            print(String(decoding: JSON.array(found).encoded(indented: true), as: UTF8.self))
        }
    }

    struct Remove: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "rm", abstract: "Remove snapshots. Containers that were made of them go on.")

        @Argument(help: "Tags or ids.")
        var snapshots: [String]

        func run() throws {
            try there()
            let store = try SnapshotLaunch.store()
            // Diffs first: they need not be made whole when what they go on from goes as well.
            let ages = Dictionary(store.list().enumerated().map { ($1.id, $0) }) { first, _ in first }
            let ordered = snapshots.map { ($0, (try? store.find($0)).flatMap { ages[$0.id] } ?? 0) }
                .sorted { $0.1 < $1.1 }.map(\.0)
            try forEach(ordered) { reference in
                try SnapshotChain.remove(try store.find(reference).id, from: store)
                print(reference)
            }
        }
    }

    struct Collect: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "gc", abstract: "Remove the oldest snapshots that have no tag, and what was left half-made.")

        @Option(help: ArgumentHelp("How many of those without a tag to keep.", valueName: "number"))
        var keep: Int

        func validate() throws {
            guard keep >= 0 else { throw ValidationError("--keep: \(keep) is less than none") }
        }

        func run() throws {
            try there()
            let store = try SnapshotLaunch.store()
            store.sweep()
            for snapshot in store.list().filter({ $0.tag == nil }).dropFirst(keep) {
                try SnapshotChain.remove(snapshot.id, from: store)
                print(snapshot.id)
            }
        }
    }

    struct Verify: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Read all of snapshots, and look whether it is what was saved; exit status 1 where it is not.")

        @Argument(help: "Tags or ids (default: all).")
        var snapshots: [String] = []

        func run() throws {
            try there()
            let store = try SnapshotLaunch.store()
            let wanted = snapshots.isEmpty ? store.list() : try snapshots.map { try store.find($0) }
            var isWhole = true
            for snapshot in wanted {
                let problem = SnapshotChain.problem(snapshot, in: store)
                let state = snapshot.isMemoryElsewhere ? "whole, its memory elsewhere" : "whole"
                print("\(snapshot.id): \(problem ?? state)")
                if problem != nil { isWhole = false }
            }
            if !isWhole { throw Failure(silentlyWith: 1) }
        }
    }
}

/// `martlet restore`
struct Restore: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Make a new container that goes on from a snapshot of another; print its id.")

    @Option(
        help: ArgumentHelp(
            "Have the memory come from the page server at this socket (martlet serve-memory).", valueName: "socket"),
        completion: .file())
    var memoryServer: String?
    @OptionGroup(title: "Network")
    var network: NetworkOptions
    @Argument(help: "The container that was saved.", completion: machineNames)
    var container: String
    @Argument(help: "Tag or id of the snapshot.")
    var snapshot: String
    @Argument(help: "The new container's name.")
    var name: String

    func run() throws {
        var options = CloneOptions(.restore, container, snapshot, name)
        options.network = network.choice
        options.memoryServer = memoryServer
        try options.run(ReadySnapshot.init(preparing:in:))
    }
}

/// `martlet fork`
struct Fork: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Make more containers of a running one, each going on from the same moment; print their ids.")

    @Option(help: ArgumentHelp("How many.", valueName: "number"))
    var count = 1
    @Option(
        help: ArgumentHelp("Name them so, with a number behind (default: the container's name).", valueName: "prefix"))
    var namePrefix: String?
    @Argument(help: "Name or id.", completion: machineNames)
    var container: String

    func validate() throws {
        guard CloneOptions.counts.contains(count) else {
            throw ValidationError("--count: 1 to 1000 can be made at a time")
        }
    }

    func run() throws {
        var options = CloneOptions(.fork, container)
        options.count = count
        options.namePrefix = namePrefix
        try options.run(ReadySnapshot.init(preparing:in:))
    }
}

/// `martlet branch`
struct Branch: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Make one more container of a running one, with a name; print its id.")

    @OptionGroup(title: "Network")
    var network: NetworkOptions
    @Argument(help: "Name or id.", completion: machineNames)
    var container: String
    @Argument(help: "The new container's name.")
    var name: String

    func run() throws {
        var options = CloneOptions(.branch, container, name)
        options.network = network.choice
        try options.run(ReadySnapshot.init(preparing:in:))
    }
}
