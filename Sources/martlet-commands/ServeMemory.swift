// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import EmulatedHost
internal import Glibc
internal import Launch
internal import Platform
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
            """)

    @Option(
        help: ArgumentHelp(
            "Listen at this unix socket (default: one beside those of this user's machines).", valueName: "socket"),
        completion: .file())
    var listen: String?
    @Argument(help: "Tag or id of a snapshot, or the path of a machine's memory file (with a '/').")
    var snapshot: String

    func run() throws {
        if try Placement.decide() == .emulatedHost { try EmulatedHosting.forwardThisCommand() }
        let program = try Installation.find().pageServer
        let (memory, name) = try chosen()
        let arguments = ["martlet-pages", "--memory", memory, "--listen", try listen ?? defaultSocket(name)]
        // Nothing of this program is needed any more: the server is a small one that holds the memory file alone.
        throw Failure("\(program) cannot be executed: \(becomeProgram(program, arguments))")
    }

    private func chosen() throws -> (memory: String, name: String) {
        guard !snapshot.contains("/") else {
            guard Files.exists(snapshot) else { throw Failure("there is no file \(snapshot)") }
            return (snapshot, "\(getpid())")
        }
        let store = try SnapshotLaunch.store()
        // A diff has no memory that a machine could go on with.
        let manifest = try SnapshotChain.whole(try store.find(snapshot), in: store)
        if let problem = store.verify(manifest) {
            throw Failure("the snapshot \(manifest.id.prefix(12)) is damaged: \(problem)")
        }
        return ("\(store.directory(of: manifest.id))/memory", String(manifest.id.prefix(12)))
    }

    private func defaultSocket(_ name: String) throws -> String {
        let directory = HostPaths.ofThisUser().runtime
        try Files.makeDirectories(directory, permissions: 0o700)
        return "\(directory)/memory-\(name).sock"
    }
}
