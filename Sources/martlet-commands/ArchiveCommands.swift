// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Glibc
internal import Launch
internal import Platform
internal import Worker

extension Snapshot {
    struct Export: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Write a snapshot, and the image of its container, as one file.")

        @Flag(help: "Leave the image out: who takes the snapshot must have it.")
        var withoutImage = false
        @Flag(
            help: ArgumentHelp(
                "Leave the memory out: containers that are made of it elsewhere have it served (martlet serve-memory "
                    + "--from)."))
        var withoutMemory = false
        @Argument(help: "Tag or id.")
        var snapshot: String
        @Argument(help: "The file, or - for standard output.", completion: .file())
        var file: String = "-"

        func run() throws {
            ignoreBrokenPipes()
            guard file == "-" else { return try ArchiveFile.write(file) { try export(as: "-") } }
            if isatty(STDOUT_FILENO) != 0 { throw Failure("an archive is nothing for a terminal: name a file") }
            try export(as: "-")
        }

        /// To standard output, from where the snapshots are.
        private func export(as target: String) throws {
            if try Placement.decide() == .emulatedHost {
                let options = (withoutImage ? ["--without-image"] : []) + (withoutMemory ? ["--without-memory"] : [])
                try ArchiveFile.forward(["snapshot", "export"] + options + [snapshot, target], hasInput: false)
            } else {
                let manifest = try SnapshotLaunch.store().find(snapshot)
                try SnapshotTransfer.export(
                    manifest, to: STDOUT_FILENO, withImage: !withoutImage, withMemory: !withoutMemory)
            }
        }
    }

    struct Import: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make a snapshot of what export has written; print its id.",
            discussion: """
                What a snapshot contains runs as it was: take only those from people whose programs you would run. Its \
                container is confined to its machine as any other.
                """)

        @Option(help: ArgumentHelp("Name the snapshot (default: as it was).", valueName: "tag"))
        var tag: String?
        @Argument(help: "The file, or - for standard input.", completion: .file())
        var file: String = "-"

        func run() throws {
            try SavedSnapshot.check(tag: tag)
            if file != "-" { try ArchiveFile.read(file) }
            if try Placement.decide() == .emulatedHost {
                try ArchiveFile.forward(
                    ["snapshot", "import"] + (tag.map { ["--tag=\($0)"] } ?? []) + ["-"], hasInput: true)
            } else {
                print(try SnapshotTransfer.take(from: STDIN_FILENO, tag: tag).id)
            }
        }
    }
}

/// Files of this side, as standard input and output of what runs where the snapshots are.
private enum ArchiveFile {
    /// Has a file written by what writes to standard output: whole, or not at all.
    static func write(_ path: String, _ body: () throws -> Void) throws {
        let file = try HiddenFile(for: path, permissions: 0o600)
        guard dup2(file.descriptor.raw, STDOUT_FILENO) >= 0 else { throw SystemError("dup2") }
        try body()
        try file.publish()
    }

    /// Makes a file standard input.
    static func read(_ path: String) throws {
        let file = try Descriptor.open(path, .readOnly)
        guard dup2(file.raw, STDIN_FILENO) >= 0 else { throw SystemError("dup2") }
    }

    static func forward(_ arguments: [String], hasInput: Bool) throws {
        let signals = try SignalQueue([SIGINT, SIGTERM, SIGHUP, SIGQUIT])
        let status = try EmulatedHosting.execute(
            [try Installation.find().command] + arguments, hasInput: hasInput, signals: signals)
        if status != 0 { throw Failure(silentlyWith: status) }
    }
}
