// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing
import Wire

@testable import Worker

/// A directory for a test, removed at its end.
func withDirectory<Result>(_ body: (String) throws -> Result) throws -> Result {
    let path = "/tmp/martlet-worker-test-\(monotonicNanoseconds())-\(UInt32.random(in: 0...UInt32.max))"
    try Files.makeDirectory(path, permissions: 0o700)
    defer { try? Files.removeTree(path) }
    return try body(path)
}

/// Waits until nobody holds a lock: one that was let go is still held by children of other tests that are between their
/// fork and their exec.
func waitUntilFree(_ lock: String) throws {
    if Files.exists(lock) { try FileLock(waitingAt: lock).end() }
}

func configuration(id: String, name: String, monitor: String = "/bin/true") -> ContainerConfiguration {
    ContainerConfiguration(
        id: id, name: name, createdAt: 1, image: "image", imageID: "sha256:0",
        process: ContainerSpecification(
            arguments: ["sh", "-c", "\u{1F426} \"quoted\"\n"], environment: ["A=b"], hostname: "h"),
        processors: 1, memoryInMiB: 128, monitor: monitor, commandStartedAt: monotonicNanoseconds())
}

@Suite struct MachineIdentityTests {
    @Test func ids() {
        var generator = SystemRandomNumberGenerator()
        var seen: Set<String> = []
        for _ in 0..<1000 {
            let id = MachineIdentity.makeID(using: &generator)
            #expect(MachineIdentity.isID(id))
            #expect(id.prefix(12).contains { $0.isLetter })
            seen.insert(id)
        }
        #expect(seen.count == 1000)
    }

    @Test func names() {
        var generator = SystemRandomNumberGenerator()
        for attempt in 0..<1000 {
            #expect(MachineIdentity.isName(MachineIdentity.makeName(attempt: attempt, using: &generator)))
        }
        for good in ["ab", "a.b", "A_1-x", String(repeating: "a", count: 128)] { #expect(MachineIdentity.isName(good)) }
        for bad in ["", "a", ".a", "-ab", "_ab", "a/b", "a b", "ä1", "..", String(repeating: "a", count: 129)] {
            #expect(!MachineIdentity.isName(bad))
        }
    }

    @Test func resolution() throws {
        let ids = ["abc1", "abd2", "ffff"].map { $0 + String(repeating: "0", count: 60) }
        let names = ["abc": ids[2], "gone": "nothing"]
        var listings = 0
        func resolve(_ text: String) throws -> String {
            func list() -> [String] {
                listings += 1
                return ids
            }
            return try MachineIdentity.resolve(text, isThere: ids.contains, ids: list, named: { names[$0] })
        }
        #expect(try resolve(ids[1]) == ids[1])
        // A name comes before the beginning of an id.
        #expect(try resolve("abc") == ids[2])
        // However many there are.
        #expect(listings == 0)
        #expect(try resolve("abd") == ids[1])
        #expect(throws: WorkerError.ambiguous("ab", matches: [ids[0], ids[1]])) { try resolve("ab") }
        for unknown in ["gone", "", "0", "xyz", "../lock"] {
            #expect(throws: WorkerError.noSuchMachine(unknown)) { try resolve(unknown) }
        }
    }
}

@Suite struct MachineStoreTests {
    @Test func lifeOfADirectory() throws {
        try withDirectory { root in
            let store = MachineStore(root: "\(root)/deep/er")
            var generator = SystemRandomNumberGenerator()
            let id = MachineIdentity.makeID(using: &generator)
            do {
                let machine = try store.create(id: id, name: "web")
                // Nothing is known of it yet, and nobody takes it for a ruin.
                #expect(try store.record(id)?.id == nil)
                store.sweep()
                #expect(Files.exists(machine.directory))
                try write(configuration(id: id, name: "web").json, machine.directory, MachineFile.configuration)
                let record = try store.find("web")
                #expect(record.condition == .created)
                #expect(try store.remove(id) == false)
                #expect(throws: WorkerError.nameInUse("web", by: id)) {
                    _ = try store.create(id: MachineIdentity.makeID(using: &generator), name: "web")
                }
            }
            try waitUntilFree("\(store.directory(of: id))/\(MachineFile.lock)")
            // The lock is free now, and the state says nothing.
            #expect(try store.find(String(id.prefix(5))).condition == .crashed)
            // Nor does one that a host left empty that went down.
            try Files.writeAtomically([], to: "\(store.directory(of: id))/\(MachineFile.state)")
            #expect(try store.find("web").condition == .crashed)
            store.sweep()
            #expect(try store.remove(id))
            #expect(throws: WorkerError.noSuchMachine("web")) { try store.find("web") }
            // The name is free again.
            let again = try store.create(id: MachineIdentity.makeID(using: &generator), name: "web")
            #expect(again.name == "web")
        }
    }

    @Test func whatComesToNothingLeavesNoName() throws {
        try withDirectory { root in
            let store = MachineStore(root: root)
            var generator = SystemRandomNumberGenerator()
            let machine = try store.create(id: MachineIdentity.makeID(using: &generator), name: nil)
            #expect(try Files.list("\(root)/names") == [machine.name])
            store.abandon(machine)
            #expect(try Files.list("\(root)/names").isEmpty)
            #expect(try Files.list("\(root)/machines").isEmpty)
        }
    }

    @Test func sweepsWhatWasToRemoveItself() throws {
        try withDirectory { root in
            let store = MachineStore(root: root)
            var generator = SystemRandomNumberGenerator()
            var kept: [String] = []
            for number in 0..<5 {
                let id = MachineIdentity.makeID(using: &generator)
                let machine = try store.create(id: id, name: "m\(number)")
                var configuration = configuration(id: id, name: machine.name)
                configuration.removesItself = number % 2 == 0
                if number < 3 { try write(configuration.json, machine.directory, MachineFile.configuration) }
                // Its maker was lost before it had written that.
                if number == 4 {
                    try Files.writeAtomically([], to: "\(machine.directory)/\(MachineFile.configuration)")
                }
                if number == 1 {
                    var state = MachineState()
                    state.status = .running
                    state.startedAt = 1
                    try write(state.json, machine.directory, MachineFile.state)
                    kept.append(id)
                }
            }
            for id in store.ids() { try waitUntilFree("\(store.directory(of: id))/\(MachineFile.lock)") }
            store.sweep()
            #expect(store.ids() == kept)
            #expect(try Files.list("\(root)/names") == ["m1"])
        }
    }

    /// Its command or its supervisor was killed before its process was started.
    @Test(arguments: [false, true]) func whatNeverRanIsNothing(hasState: Bool) throws {
        try withDirectory { root in
            let store = MachineStore(root: root)
            var generator = SystemRandomNumberGenerator()
            func make() throws -> String {
                let machine = try store.create(id: MachineIdentity.makeID(using: &generator), name: "web")
                try write(
                    configuration(id: machine.id, name: "web").json, machine.directory, MachineFile.configuration)
                if hasState { try write(MachineState().json, machine.directory, MachineFile.state) }
                // While its lock is held it is just being started.
                store.sweep()
                #expect(store.ids() == [machine.id])
                return machine.id
            }
            let first = try make()
            try waitUntilFree("\(store.directory(of: first))/\(MachineFile.lock)")
            // Its name is not taken,
            let second = try make()
            #expect(first != second && store.ids() == [second])
            try waitUntilFree("\(store.directory(of: second))/\(MachineFile.lock)")
            // and who looks at all removes it.
            store.sweep()
            #expect(store.ids() == [])
            #expect(try Files.list("\(root)/names") == [])
        }
    }

    @Test func aNameOfAMachineThatIsGoneIsFree() throws {
        try withDirectory { root in
            let store = MachineStore(root: root)
            try Files.makeDirectories("\(root)/names")
            for content in ["", "half an id", String(repeating: "a", count: 64)] {
                try Files.writeAtomically(Array(content.utf8), to: "\(root)/names/web")
                var generator = SystemRandomNumberGenerator()
                let machine = try store.create(id: MachineIdentity.makeID(using: &generator), name: "web")
                #expect(machine.name == "web")
                try store.removeOwn(machine.id)
                // Whoever was killed in the middle of that leaves the name, which goes as well.
                try Files.writeAtomically(Array(content.utf8), to: "\(root)/names/web")
                store.sweep()
                #expect(try Files.list("\(root)/names") == [])
            }
        }
    }

    @Test func damagedFilesAreTold() throws {
        try withDirectory { root in
            let store = MachineStore(root: root)
            var generator = SystemRandomNumberGenerator()
            let id = MachineIdentity.makeID(using: &generator)
            let directory = try store.create(id: id, name: nil).directory
            try waitUntilFree("\(directory)/\(MachineFile.lock)")
            try Files.writeAtomically(Array("{".utf8), to: "\(directory)/\(MachineFile.configuration)")
            #expect(throws: WorkerError.self) { try store.record(id) }
            #expect(store.list().isEmpty)
            #expect(try store.remove(id))
        }
    }

    @Test func formatsReadWhatTheyWrite() throws {
        var plain = configuration(id: "x", name: "y")
        #expect(try ContainerConfiguration(JSON(parsing: plain.json.encoded())) == plain)
        plain.runTimeout = 5
        plain.isDetached = true
        plain.hasInput = true
        plain.forkOf = "z"
        plain.forkCount = 50
        #expect(try ContainerConfiguration(JSON(parsing: plain.json.encoded())) == plain)
        var state = MachineState()
        #expect(try MachineState(JSON(parsing: state.json.encoded())) == state)
        state.status = .exited
        state.supervisor = ProcessIdentity.current
        state.exitCode = 137
        state.reason = "why\u{7}"
        state.finishedAt = 7
        state.timings = [("a", 1), ("b", 2)]
        #expect(try MachineState(JSON(parsing: state.json.encoded())) == state)
        #expect(throws: JSONMismatch.self) { try MachineState(["version": 1, "status": "flying"]) }
        #expect(throws: JSONMismatch.self) { try ContainerConfiguration(["version": 2]) }
    }

    @Test func processesAreToldApart() throws {
        let own = try #require(ProcessIdentity.current)
        #expect(own.isAlive)
        var other = own
        other.startTime += 1
        #expect(!other.isAlive)
        #expect(other.waitForEnd(milliseconds: 0))
        let child = try ChildProcess(ProcessSpecification("/bin/cat", ["cat"]))
        let identity = ProcessIdentity(pid: child.pid)
        try child.killAndWait()
        #expect(identity?.isAlive != true)
        #expect(ProcessIdentity(pid: -1) == nil)
    }

    private func write(_ json: JSON, _ directory: String, _ name: String) throws {
        try Files.writeAtomically(json.encoded(), to: "\(directory)/\(name)")
    }
}
