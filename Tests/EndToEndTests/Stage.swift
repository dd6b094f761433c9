// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing

/// All tests that start microVMs: one after another, because an emulated host has one processor.
@Suite(.serialized, LeavesNothing()) struct EndToEnd {}

/// After each test, with all its cases, nothing of it is left.
struct LeavesNothing: SuiteTrait, TestTrait, TestScoping {
    var isRecursive: Bool { true }

    func scopeProvider(for test: Test, testCase: Test.Case?) -> Self? {
        testCase == nil && !test.isSuite ? self : nil
    }

    func provideScope(
        for test: Test, testCase: Test.Case?, performing function: @Sendable () async throws -> Void
    ) async throws {
        try await function()
        try Stage.shared.expectNothingLeft(sourceLocation: test.sourceLocation)
    }
}

/// What came of a command.
struct CommandResult: CustomStringConvertible {
    var status: Int32
    var output: [UInt8]
    var errors: [UInt8]

    var text: String { String(decoding: output, as: UTF8.self) }
    var errorText: String { String(decoding: errors, as: UTF8.self) }
    var description: String {
        "status \(status)\n--- stdout\n\(text.prefix(2000))\n--- stderr\n\(errorText.prefix(2000))"
    }
}

/// The assembled programs, used as their users do, with directories of the tests' own: another store, another state,
/// and, where KVM is unusable, another emulated host, which ends with the tests.
struct Stage: Sendable {
    let tree: String
    /// Everything that the tests write.
    let root: String
    var variables: [String: String]
    /// The user and group that commands run as; nil for this process's.
    var user: UInt32?

    static let shared = make()

    /// The directory of the sources.
    static let package = splitPath(splitPath(splitPath(#filePath).directory).directory).directory

    private static func make() -> Stage {
        let tree = environmentVariable("MARTLET_TREE") ?? "\(package)/.build/martlet"
        let root = "/tmp/martlet-tests-\(getpid())"
        let stage = Stage(tree: tree, root: root, variables: directories(root))
        do { try Files.makeDirectories(root) } catch { fatalError("\(error)") }
        atexit { Stage.shared.strike() }
        return stage
    }

    private static func directories(_ root: String) -> [String: String] {
        [
            "HOME": "\(root)/home", "XDG_DATA_HOME": "\(root)/data", "XDG_STATE_HOME": "\(root)/state",
            "XDG_CACHE_HOME": "\(root)/cache", "XDG_RUNTIME_DIR": "\(root)/run",
            "PATH": environmentVariable("PATH") ?? "/usr/bin:/bin",
        ]
    }

    /// The same programs for an ordinary user with directories of its own.
    func asUser(_ user: UInt32) throws -> Stage {
        let root = "\(root)/user-\(user)"
        try Files.makeDirectories(root)
        guard chown(root, user, user) == 0 else { throw SystemError("chown", root) }
        var stage = Stage(tree: tree, root: root, variables: Self.directories(root))
        stage.user = user
        return stage
    }

    /// The same programs on another host, as far as that can be had on one machine: another store, other directories, and
    /// another emulated host where there is one.
    func another(_ name: String) throws -> Stage {
        let root = "\(root)/\(name)"
        try Files.makeDirectories(root)
        var stage = Stage(tree: tree, root: root, variables: Self.directories(root))
        stage.variables["MARTLET_HOST_MEMORY"] = "1536"
        return stage
    }

    func strike() {
        _ = try? run(["host", "stop"])
        try? Files.removeTree(root)
    }

    // MARK: Commands

    /// Runs `martlet` with arguments to its end.
    @discardableResult
    func run(
        _ arguments: [String], input: [UInt8]? = nil, variables more: [String: String] = [:], seconds: Int = 240
    ) throws -> CommandResult {
        try start(arguments, hasInput: input != nil, variables: more).finish(input: input ?? [], seconds: seconds)
    }

    func start(
        _ arguments: [String], hasInput: Bool = false, variables more: [String: String] = [:]
    ) throws -> RunningCommand {
        try RunningCommand(
            "\(tree)/bin/martlet", arguments, variables: variables.merging(more) { $1 }, hasInput: hasInput, user: user)
    }

    /// Runs a shell's line on this machine.
    func shell(_ line: String, seconds: Int = 120) throws -> CommandResult {
        try RunningCommand("/bin/sh", ["-ec", line], variables: variables, hasInput: false, user: user)
            .finish(input: [], seconds: seconds)
    }

    /// Runs a shell's line where the containers run: here, or in the emulated host.
    func onHost(_ line: String) throws -> String {
        let result =
            isKVMUsable
            ? try RunningCommand("/bin/sh", ["-c", line], variables: variables, hasInput: false, user: user)
                .finish(input: [], seconds: 60)
            : try run(["host", "exec", "--", "sh", "-c", line])
        return result.text
    }

    var isKVMUsable: Bool { Self.kvm }
    private static let kvm = (try? Stage.shared.run(["kvm", "check"]).status) == 0

    /// Nothing of any container is there any more: where it ran no process, mount, socket or file, and here no process.
    func expectNothingLeft(sourceLocation: SourceLocation = #_sourceLocation) throws {
        // What is just ending is waited for, but not what goes on.
        let left = try onHost(
            """
            for p in /proc/[0-9]*; do
                read -r name < $p/comm 2>/dev/null || continue
                case $name in martlet-vmm | martlet-superv*) timeout 5 tail --pid="${p#/proc/}" -f /dev/null;; esac
                [ -e $p ] && case $name in martlet-vmm | martlet-superv*) echo "process $name";; esac
            done
            grep -E ' erofs |/martlet/machines/' /proc/mounts | sed 's/^/mount /'
            grep -oE '[^ ]*(supervisor|vsock)\\.sock.*' /proc/net/unix | sed 's/^/socket /'
            for d in machines names; do
                find "$XDG_STATE_HOME/martlet/$d" -mindepth 1 2>/dev/null | sed 's/^/file /'
            done
            find /dev/shm -name '*martlet*' | sed 's/^/file /'; true
            """)
        #expect(left == "", sourceLocation: sourceLocation)
        // The keeper of an emulated host, with its QEMU, stays.
        let here = try shell(
            """
            for p in $(grep -lsz '^XDG_STATE_HOME=\(root)/state$' /proc/[0-9]*/environ); do
                cat "${p%environ}comm" 2>/dev/null || true
            done | grep -vE '^(sh|grep|qemu-system-.*)$' || true
            """)
        #expect(here.text == "" || here.text == "martlet-command\n", sourceLocation: sourceLocation)
    }

    // MARK: Images

    /// Debian's busybox as an OCI layout, made once.
    static let busybox = Result {
        let path = "\(Stage.shared.root)/busybox"
        let result = try RunningCommand(
            "\(Stage.package)/Examples/busybox-image", [path], variables: Stage.shared.variables, hasInput: false,
            user: nil
        ).finish(input: [], seconds: 300)
        #expect(result.status == 0, "\(result)")
        return path
    }

    var image: String { get throws { "oci:\(try Stage.busybox.get()):latest" } }
}

/// A command that runs, its output read as it comes.
final class RunningCommand {
    let child: Int32
    private let process: ChildBox
    private var input: Descriptor?
    private let output: Descriptor
    private let errors: Descriptor
    private(set) var outputBytes: [UInt8] = []
    private(set) var errorBytes: [UInt8] = []
    private var isOutputOpen = true
    private var isErrorsOpen = true

    private final class ChildBox {
        let process: ChildProcess
        init(_ process: consuming ChildProcess) { self.process = process }
    }

    init(_ program: String, _ arguments: [String], variables: [String: String], hasInput: Bool, user: UInt32?) throws {
        let outputs = try Pipe()
        let errors = try Pipe()
        let inputs = try Pipe()
        var path = program
        var all = [program] + arguments
        if let user {
            path = "/usr/bin/setpriv"
            all = ["setpriv", "--reuid=\(user)", "--regid=\(user)", "--clear-groups"] + all
        }
        var specification = ProcessSpecification(path, all, environment: variables.map { "\($0.key)=\($0.value)" })
        specification.descriptors = [hasInput ? inputs.reading.raw : -1, outputs.writing.raw, errors.writing.raw]
        // A test that dies takes its commands along.
        let process = try ChildProcess(specification)
        child = process.pid
        self.process = ChildBox(process)
        if hasInput {
            let writing = inputs.writing
            input = consume writing
        } else {
            input = nil
        }
        output = outputs.reading
        self.errors = errors.reading
        ignoreBrokenPipes()
        try output.setNonBlocking()
        try self.errors.setNonBlocking()
    }

    func signal(_ number: Int32) { _ = kill(child, number) }

    /// Readable once the process has ended, which is still to be waited for.
    var ended: Int32 { process.process.ended.raw }

    /// Writes all input, ends it, and reads until both outputs and the process have ended.
    func finish(input bytes: [UInt8], seconds: Int) throws -> CommandResult {
        var written = 0
        if let raw = input?.raw { _ = fcntl(raw, F_SETFL, O_NONBLOCK) }
        try pump(seconds) {
            if let raw = self.input?.raw {
                while written < bytes.count {
                    let count = bytes.withUnsafeBytes {
                        write(raw, $0.baseAddress.map { $0 + written }, $0.count - written)
                    }
                    if count <= 0 { break }
                    written += count
                }
                if written == bytes.count || errno == EPIPE { self.input = nil }
            }
            return !self.isOutputOpen && !self.isErrorsOpen
        }
        let end = try process.process.wait()
        return CommandResult(status: end.shellStatus, output: outputBytes, errors: errorBytes)
    }

    /// Reads until standard output holds a text.
    func waitForOutput(_ text: String, seconds: Int = 120) throws {
        try pump(seconds) {
            guard self.isOutputOpen else { throw Trouble("the output ended without \(text): \(self.state)") }
            return Self.contains(self.outputBytes, text)
        }
    }

    /// Reads until standard error holds a text.
    func waitForErrors(_ text: String, seconds: Int = 120) throws {
        try pump(seconds) {
            guard self.isErrorsOpen else { throw Trouble("the errors ended without \(text): \(self.state)") }
            return Self.contains(self.errorBytes, text)
        }
    }

    private static func contains(_ bytes: [UInt8], _ text: String) -> Bool {
        let wanted = Array(text.utf8)
        return bytes.count >= wanted.count && bytes.indices.contains { bytes[$0...].starts(with: wanted) }
    }

    func closeInput() { input = nil }

    /// Takes no more output, as `head` does.
    func send(_ bytes: [UInt8]) throws {
        guard let raw = input?.raw else { return }
        _ = bytes.withUnsafeBytes { write(raw, $0.baseAddress, $0.count) }
    }

    /// Writes all of it, however long that takes; input goes on.
    func sendAll(_ bytes: [UInt8]) throws {
        var rest = bytes[...]
        if let raw = input?.raw { _ = fcntl(raw, F_SETFL, O_NONBLOCK) }
        try pump(60) {
            guard let raw = self.input?.raw, !rest.isEmpty else { return true }
            let count = rest.withUnsafeBytes { write(raw, $0.baseAddress, $0.count) }
            if count > 0 { rest = rest.dropFirst(count) }
            return rest.isEmpty
        }
    }

    private var state: String {
        "\(CommandResult(status: -1, output: outputBytes, errors: errorBytes))"
    }

    private func pump(_ seconds: Int, _ isDone: () throws -> Bool) throws {
        let deadline = monotonicNanoseconds() + UInt64(seconds) * 1_000_000_000
        while try !isDone() {
            let now = monotonicNanoseconds()
            guard now < deadline else {
                kill(child, SIGKILL)
                throw Trouble("nothing after \(seconds) s: \(state)")
            }
            var entries = [
                pollfd(fd: isOutputOpen ? output.raw : -1, events: Int16(POLLIN), revents: 0),
                pollfd(fd: isErrorsOpen ? errors.raw : -1, events: Int16(POLLIN), revents: 0),
                pollfd(fd: input?.raw ?? -1, events: Int16(POLLOUT), revents: 0),
            ]
            _ = poll(&entries, 3, Int32(clamping: (deadline - now) / 1_000_000 + 1))
            if entries[0].revents != 0 { isOutputOpen = try read(output, &outputBytes) }
            if entries[1].revents != 0 { isErrorsOpen = try read(errors, &errorBytes) }
        }
    }

    private func read(_ descriptor: borrowing Descriptor, _ bytes: inout [UInt8]) throws -> Bool {
        var space = [UInt8](repeating: 0, count: 65_536)
        switch try space.withUnsafeMutableBytes({ try descriptor.read(into: $0) }) {
        case .bytes(let count): bytes += space[..<count]
        case .endOfFile: return false
        case .wouldBlock: break
        }
        return true
    }
}

struct Trouble: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}
