// SPDX-License-Identifier: Apache-2.0

import CLinux
import Glibc
import Machine
import MachineAPI
import Platform

struct ScriptError: Error, CustomStringConvertible {
    let description: String
}

/// The steps and the machine that they are about.
final class Script {
    private var words: ArraySlice<String>
    private var machine: Machine?
    let console: Console
    private var stepStart = monotonicNanoseconds()

    init(_ words: [String]) throws {
        self.words = words[...]
        console = try Console()
    }

    private func next() throws -> String {
        guard let word = words.popFirst() else { throw ScriptError(description: "a word is missing") }
        return word
    }

    func running() throws -> Machine {
        guard let machine else { throw ScriptError(description: "there is no machine yet") }
        return machine
    }

    func run() throws {
        while let step = words.popFirst() {
            stepStart = monotonicNanoseconds()
            let result = try perform(step)
            let time = (monotonicNanoseconds() - stepStart) / 1000
            say("step \(step) \(time) us\(result.isEmpty ? "" : ": \(result)")")
        }
        if let machine { say("ended: \(machine.finish())") }
        console.remove()
    }

    private func perform(_ step: String) throws -> String {
        switch step {
        case "boot":
            var configuration = try MachineConfiguration(parsing: try Files.read(try next(), limit: 1 << 20))
            configuration.serial.outputPath = console.path
            machine = try Machine(configuration, observer: observer())
            try running().start()
        case "restore":
            try restore(SnapshotFiles(state: try next(), memory: try next()))
        case "snapshot": try running().createSnapshot(state: try next(), memory: try next(), kind: .full)
        case "diff": try running().createSnapshot(state: try next(), memory: try next(), kind: .diff)
        case "live":
            let report = try running().createLiveSnapshot(state: try next(), memory: try next())
            return "\(report)"
        case "join":
            let base = SnapshotFiles(state: try next(), memory: try next())
            let diff = SnapshotFiles(state: try next(), memory: try next())
            try SnapshotFiles.join(base, [diff], to: SnapshotFiles(state: try next(), memory: try next()))
        case "fork":
            let children = Int(try next()) ?? 1
            return try fork(children)
        case "end":
            return try end()
        case "until": return try console.line(with: try next())
        case "lines":
            var last = ""
            for _ in 0..<(Int(try next()) ?? 0) { last = try console.line(with: "") }
            return last
        case "pause": try running().pause()
        case "resume": try running().resume()
        case "torture":
            guard let seed = UInt64(try next()), let rounds = Int(try next()) else {
                throw ScriptError(description: "torture SEED ROUNDS DISK|-")
            }
            let disk = try next()
            return try torture(seed: seed, rounds: rounds, disk: disk == "-" ? nil : disk)
        case "attach-drive":
            let drive = Drive(identifier: try next(), content: .path(try next()))
            return "slot \(try running().attach(drive))"
        default: throw ScriptError(description: "\(step): no such step")
        }
        return ""
    }

    func restore(_ files: SnapshotFiles, tracksDirtyPages: Bool = false) throws {
        var request = RestoreRequest(state: .path(files.state), memory: .file(.path(files.memory)))
        request.serial = Serial(outputPath: console.path)
        request.tracksDirtyPages = tracksDirtyPages
        machine = try Machine(restoring: request, observer: observer())
        try running().start(paused: true)
    }

    /// Ends the machine; gives how.
    @discardableResult
    func end() throws -> String {
        let exit = try running().finish()
        machine = nil
        return "\(exit)"
    }

    /// Forks; each child writes three lines of its console with its number, and ends. It has copies of the disks.
    func fork(_ count: Int) throws -> String {
        var children: [MachineOverrides] = []
        let consoles = try (0..<count).map { _ in try Console() }
        var copies: [String] = []
        for console in consoles {
            var child = MachineOverrides()
            child.serial = Serial(outputPath: console.path)
            if try running().configuration.vsock != nil { child.vsockPath = "\(console.path).vsock" }
            for drive in try running().configuration.drives where !drive.isReadOnly {
                let copy = "\(console.path).\(drive.identifier)"
                child.drives.append(
                    MachineOverrides.Drive(identifier: drive.identifier, content: .path(copy), isCopied: true))
                copies.append(copy)
            }
            children.append(child)
        }
        let observer = observer()
        let start = monotonicNanoseconds()
        let report = try running().fork(children, keeping: consoles.map(\.descriptor)) { child throws(MachineError) in
            let machine = try child.makeMachine(observer: observer)
            let made = (monotonicNanoseconds() - start) / 1000
            try machine.start()
            let console = consoles[child.index]
            return {
                do {
                    let first = try console.line(with: "tick")
                    let time = (monotonicNanoseconds() - start) / 1000
                    say("child \(child.index): made after \(made) us, first line after \(time) us: \(first)")
                    var last = ""
                    for _ in 0..<3 { last = try console.line(with: "tick") }
                    // The next one has copies of what this one wrote.
                    machine.noteForkWorkingSet()
                    machine.finish()
                    say("child \(child.index): done: \(last)")
                } catch {
                    say("child \(child.index): FAILED: \(error)")
                }
                exit(0)
            }
        }
        // Each child that was made has its own open.
        for console in consoles { console.remove() }
        for copy in copies { Files.remove(copy) }
        return "\(report)"
    }

    private func observer() -> MachineObserver {
        var observer = MachineObserver()
        observer.log = { level, text in say("log: \(level): \(text)") }
        return observer
    }
}

/// What the guest writes, line by line, through a named pipe.
///
/// `@unchecked Sendable`: of one thread in each process.
final class Console: @unchecked Sendable {
    let path: String
    private let pipe: Descriptor
    private var pending: [UInt8] = []

    init() throws {
        path = "/tmp/machine-console-\(getpid())-\(monotonicNanoseconds())"
        guard mkfifo(path, 0o600) == 0 else { throw SystemError("mkfifo", path) }
        // Open for both, so that it does not end with a machine.
        pipe = try Descriptor.open(path, .readWrite)
    }

    func remove() { Files.remove(path) }

    var descriptor: Int32 { pipe.raw }

    /// The next line that has a text in it. A fault that the guest reports ends everything.
    func line(with text: String) throws -> String {
        while true {
            let line = try nextLine()
            if ["FAULT", "Kernel panic", "BUG", "lockup"].contains(where: { line.contains($0) }) {
                throw ScriptError(description: "the guest says: \(line)")
            }
            if line.contains(text) { return line }
        }
    }

    private func nextLine() throws -> String {
        while true {
            if let end = pending.firstIndex(of: 0x0a) {
                let line = String(decoding: pending[..<end].filter { $0 >= 0x20 }, as: UTF8.self)
                pending.removeFirst(end + 1)
                return line
            }
            var watched = pollfd(fd: pipe.raw, events: Int16(POLLIN), revents: 0)
            // Long enough for a host that has much else to do.
            guard poll(&watched, 1, 120_000) == 1 else {
                throw ScriptError(description: "the guest says nothing for two minutes")
            }
            var bytes = [UInt8](repeating: 0, count: 4096)
            let count = bytes.withUnsafeMutableBytes { read(pipe.raw, $0.baseAddress, $0.count) }
            guard count > 0 else { throw SystemError("read", path) }
            pending += bytes[..<count]
        }
    }
}

/// One line to standard output, at once.
func say(_ text: String) {
    let line = Array("\(text)\n".utf8)
    _ = line.withUnsafeBytes { write(STDOUT_FILENO, $0.baseAddress, $0.count) }
}
