// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import EmulatedHost
internal import Glibc
internal import Launch
internal import Machine
internal import PageServer
internal import Platform
internal import Sessions
internal import Worker

/// `martlet serve-memory`
struct ServeMemory: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Serve the memory of a snapshot, page by page, to any number of machines that are made of it.",
        discussion: """
            martlet serve-memory warm --listen /tmp/warm.sock, then as often as wanted:
            martlet run -d --snapshot warm --memory-server /tmp/warm.sock

            Prints the socket's path once it listens there, and serves until it is told to end (SIGINT, SIGTERM). \
            Machines that it serves end with it, since what it has not handed over is lost to them. Firecracker's \
            handoff is spoken (mem_backend Uffd), so that its machines are served as well, from their own memory files.

            With --from the memory is another host's, and comes from there as it is touched. The snapshot is brought \
            here without it before: ssh HOST martlet snapshot export --without-memory warm | martlet snapshot import
            """)

    @Option(
        help: ArgumentHelp(
            "Listen at this unix socket (default: one beside those of this user's machines).", valueName: "socket"),
        completion: .file())
    var listen: String?
    @Option(
        help: ArgumentHelp(
            "Where the memory is: \(MemoryOrigin.forms).", valueName: "place"))
    var from: String?
    @Option(help: ArgumentHelp("The program that reaches other hosts, with arguments.", valueName: "command"))
    var ssh = "ssh"
    @Option(help: ArgumentHelp("Where martlet is on the other host.", valueName: "path"))
    var remoteMartlet = "martlet"
    @Flag(
        help: ArgumentHelp(
            "Hand the memory to another host, over standard input and output: what --from starts there. Without a "
                + "snapshot, whichever is asked for."))
    var stream = false
    @Argument(help: "Tag or id of a snapshot, or the path of a machine's memory file (with a '/').")
    var snapshot: String?

    func validate() throws {
        guard !stream || from == nil && listen == nil else {
            throw ValidationError("--stream: goes without --from and --listen")
        }
        guard stream || snapshot != nil else { throw ValidationError("a snapshot is wanted") }
        if snapshot?.contains("/") == true, stream || from != nil {
            throw ValidationError("another host wants a snapshot, and this is a file")
        }
        guard isPlain(remoteMartlet, besides: "/~+@%") else {
            throw ValidationError("--remote-martlet: '\(remoteMartlet)' is no plain path")
        }
    }

    func run() throws {
        if let from { return try fetch(try MemoryOrigin(from)) }
        if stream { return try send() }
        if try Placement.decide() == .emulatedHost { try EmulatedHosting.forwardThisCommand() }
        let (memory, name) = try chosen()
        try become(["--memory", memory, "--listen", try listen ?? defaultSocket(name)])
    }

    /// Nothing of this program is needed any more: the server is a small one that holds the memory alone.
    private func become(_ arguments: [String]) throws -> Never {
        let program = try Installation.find().pageServer
        throw Failure("\(program) cannot be executed: \(becomeProgram(program, ["martlet-pages"] + arguments))")
    }

    private func chosen() throws -> (memory: String, name: String) {
        let snapshot = snapshot ?? ""
        guard !snapshot.contains("/") else {
            guard Files.exists(snapshot) else { throw Failure("there is no file \(snapshot)") }
            return (snapshot, "\(getpid())")
        }
        let store = try SnapshotLaunch.store()
        let manifest = try store.find(snapshot)
        return (try memory(of: manifest, in: store), String(manifest.id.prefix(12)))
    }

    /// The memory file of a snapshot, which is made a whole one: a diff has no memory that a machine could go on with.
    private func memory(of manifest: SnapshotManifest, in store: SnapshotStore) throws -> String {
        guard !manifest.isMemoryElsewhere else {
            throw Failure("the memory of the snapshot \(manifest.id.prefix(12)) is elsewhere: add --from ssh://HOST")
        }
        let whole = try SnapshotChain.whole(manifest, in: store)
        if let problem = store.verify(whole) {
            throw Failure("the snapshot \(whole.id.prefix(12)) is damaged: \(problem)")
        }
        return "\(store.directory(of: whole.id))/\(SnapshotManifest.memory)"
    }

    private func defaultSocket(_ name: String) throws -> String {
        let directory = HostPaths.ofThisUser().runtime
        try Files.makeDirectories(directory, permissions: 0o700)
        return "\(directory)/memory-\(name).sock"
    }
}

// MARK: - To another host

extension ServeMemory {
    private func send() throws {
        if try Placement.decide() == .emulatedHost {
            ignoreBrokenPipes()
            let signals = try SignalQueue([SIGINT, SIGTERM, SIGHUP, SIGQUIT])
            let arguments = ["serve-memory", "--stream"] + (snapshot.map { [$0] } ?? [])
            throw Failure(
                silentlyWith: try EmulatedHosting.execute(
                    [try Installation.find().command] + arguments, hasInput: true, signals: signals))
        }
        let wanted = try PageStream.snapshot(greeting: try greeting())
        let store = try SnapshotLaunch.store()
        let memory = try memory(of: try find(wanted, in: store), in: store)
        let hint = "\(splitPath(memory).directory)/\(SnapshotManifest.workingSetName)"
        try become(["--memory", memory, "--stream", "--first", hint])
    }

    /// What the other host says first; not a byte more is read.
    private func greeting() throws -> [UInt8] {
        let input = try Descriptor(duplicating: STDIN_FILENO)
        var bytes = [UInt8](repeating: 0, count: PageStream.greetingSize)
        var count = 0
        while count < bytes.count {
            guard
                case .bytes(let got) = try bytes.withUnsafeMutableBytes({ space in
                    try input.read(into: UnsafeMutableRawBufferPointer(rebasing: space[count...]))
                })
            else { throw Failure("--stream: standard input has no other host's martlet behind it") }
            count += got
        }
        return bytes
    }

    /// The snapshot that another host wants, by the name that its files give it: whatever is said on that side, no word
    /// of it becomes a path here.
    private func find(_ wanted: String, in store: SnapshotStore) throws -> SnapshotManifest {
        guard let snapshot else {
            guard let found = store.list().first(where: { $0.identifier == wanted && !$0.isMemoryElsewhere }) else {
                throw Failure("no snapshot here is \(wanted), which the other host wants: it may have been removed")
            }
            return found
        }
        let found = try store.find(snapshot)
        let identifier = try found.identifier ?? SnapshotDescription(of: found, in: store).identifier
        guard identifier == wanted else {
            throw Failure("the snapshot \(snapshot) here is \(identifier), and the other host wants \(wanted)")
        }
        return found
    }
}

// MARK: - From another host

extension ServeMemory {
    private func fetch(_ origin: MemoryOrigin) throws {
        if try Placement.decide() == .emulatedHost { try fetchInside(origin) }
        let store = try SnapshotLaunch.store()
        let manifest = try find(in: store, origin)
        let description = try SnapshotDescription(of: manifest, in: store)
        guard description.kind == .full else {
            throw Failure("the snapshot \(manifest.id.prefix(12)) is a diff of one that is here: it has its memory")
        }
        let socket = try listen ?? defaultSocket(String(manifest.id.prefix(12)))
        let stream = try origin.open(ssh: ssh, martlet: remoteMartlet)
        // Standard input and output stay what they are, so that the server knows where not to print.
        let isStandard = origin == .standardStreams
        if !isStandard {
            try stream.input.setInherited(true)
            try stream.output.setInherited(true)
        }
        let ends = isStandard ? "\(STDIN_FILENO),\(STDOUT_FILENO)" : "\(stream.input.raw),\(stream.output.raw)"
        try become([
            "--from", ends, "--snapshot", description.identifier, "--size", "\(description.memorySize)",
            "--cache", store.directory(of: manifest.id), "--listen", socket,
        ])
    }

    private func find(in store: SnapshotStore, _ origin: MemoryOrigin) throws -> SnapshotManifest {
        let reference = snapshot ?? ""
        do throws(WorkerError) { return try store.find(reference) } catch {
            guard case .noSuchSnapshot = error else { throw error }
            throw Failure("\(error); bring it here without its memory: \(origin.command(bringing: reference))")
        }
    }

    /// The stream is opened on this side, where the user's keys and terminal are, and goes on to the server inside.
    private func fetchInside(_ origin: MemoryOrigin) throws -> Never {
        let stream = try origin.open(ssh: ssh, martlet: remoteMartlet)
        ignoreBrokenPipes()
        let signals = try SignalQueue([SIGINT, SIGTERM, SIGHUP, SIGQUIT])
        let arguments = ["serve-memory", "--from", "-"] + (listen.map { ["--listen", $0] } ?? []) + [snapshot ?? ""]
        let pipe = try Pipe()
        let errors = pipe.reading
        let writing = pipe.writing
        let source = errors.release()
        let isStandard = origin == .standardStreams
        let sorter = try Platform.Thread(name: "errors") { Self.sortErrors(source, isSorted: !isStandard) }
        let command = [try Installation.find().command] + arguments
        let streams = SessionStreams(input: stream.input.raw, output: stream.output.raw, errors: writing.raw)
        let result = Result {
            try EmulatedHosting.stand { try $0.execute(command, streams: streams, signals: signals) }
        }
        writing.close()
        sorter.join()
        throw Failure(silentlyWith: try result.get())
    }

    /// Passes on what the server inside says: where it listens is what this command prints.
    private static func sortErrors(_ raw: Int32, isSorted: Bool) {
        let source = Descriptor(owning: raw)
        var space = [UInt8](repeating: 0, count: 4096)
        var line: [UInt8] = []
        let prefix = Array(PageServerStart.socketLine.utf8)
        while true {
            guard case .bytes(let count)? = try? space.withUnsafeMutableBytes({ try source.read(into: $0) }) else {
                break
            }
            for byte in space[..<count] {
                line.append(byte)
                guard byte == UInt8(ascii: "\n") || line.count == 4096 else { continue }
                let isSocket = isSorted && line.starts(with: prefix)
                let target = isSocket ? STDOUT_FILENO : STDERR_FILENO
                let bytes = isSocket ? Array(line.dropFirst(prefix.count)) : line
                _ = bytes.withUnsafeBytes { write(target, $0.baseAddress, $0.count) }
                line = []
            }
        }
        _ = line.withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
}
