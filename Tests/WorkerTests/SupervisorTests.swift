// SPDX-License-Identifier: Apache-2.0

import Glibc
import GuestProtocol
import Platform
import Sessions
import Testing
import Wire

@testable import Worker

/// The supervisor's program with a monitor that only waits and a guest that this test plays.
@Suite(.serialized) struct SupervisorTests {
    /// Waits like a monitor; its lifeline is descriptor 4.
    private static let idleMonitor = "#!/bin/sh\necho $$ > pid.new\nmv pid.new monitor.pid\nread line <&4\n"

    private struct Stage: ~Copyable {
        let store: MachineStore
        let id: String
        let directory: String
        let supervisor: ChildProcess
        var client: SessionClient
        /// The client's socket, which stays the client's.
        let clientSocket: Int32
        var guest: FrameSocket

        mutating func guestSends(_ frames: Frame...) throws {
            for frame in frames { guest.queue(frame) }
            while guest.pendingByteCount > 0 { try guest.flush() }
        }

        /// The next frame that the guest gets.
        mutating func guestReceives() throws -> Frame {
            while true {
                if let frame = try guest.next() { return frame }
                var entry = pollfd(fd: guest.raw, events: Int16(POLLIN), revents: 0)
                _ = poll(&entry, 1, -1)
                if try guest.receive() == .closed { throw SessionError.connectionLost }
            }
        }

        mutating func boot() throws {
            var hello = Hello()
            hello.program = Array("test".utf8)
            try guestSends(Frame(.hello, payload: hello.payload))
            #expect(try guestReceives().kind == .hello)
            #expect(try guestReceives().kind == .identify)
            #expect(try guestReceives().kind == .configure)
            #expect(try guestReceives().kind == .request)
            var report = StepReport()
            report.sample = [UInt8](repeating: 1, count: 16)
            try guestSends(
                Frame(.identified, payload: report.payload), Frame(.configured), Frame(.accepted, session: 1))
            #expect(try guestReceives().kind == .go)
            try guestSends(Frame(.started, session: 1))
            #expect(try client.receive()?.kind == .accepted)
            #expect(try client.receive()?.kind == .started)
        }
    }

    private static func programDirectory() throws -> String {
        splitPath(try Files.readSymbolicLink("/proc/self/exe")).directory
    }

    private static func set(
        _ root: String, monitor: String = idleMonitor, _ change: (inout ContainerConfiguration) -> Void = { _ in }
    ) throws -> Stage {
        try Files.writeAtomically(Array(monitor.utf8), to: "\(root)/monitor", permissions: 0o755)
        let store = MachineStore(root: root)
        var generator = SystemRandomNumberGenerator()
        let machine = try store.create(id: MachineIdentity.makeID(using: &generator), name: "stage")
        var configuration = configuration(id: machine.id, name: "stage", monitor: "\(root)/monitor")
        change(&configuration)
        try Files.writeAtomically(
            configuration.json.encoded(), to: "\(machine.directory)/\(MachineFile.configuration)")
        let sockets = try UnixSocket.pair()
        var specification = ProcessSpecification(
            "\(try programDirectory())/martlet-supervisor", ["martlet-supervisor", root])
        specification.directory = machine.directory
        specification.descriptors = [-1, -1, 2, sockets.second.raw, machine.lock.descriptor.raw]
        let watch = try DirectoryWatch(machine.directory)
        let supervisor = try ChildProcess(specification)
        try watch.waitFor(MachineFile.state)
        let guest = try FrameSocket(
            try UnixSocket.connect(to: "\(machine.directory)/\(MachineFile.vsock)_\(Supervisor.guestPort)"))
        let clientSocket = sockets.first.raw
        return Stage(
            store: store, id: machine.id, directory: machine.directory, supervisor: supervisor,
            client: try SessionClient(socket: sockets.first),
            clientSocket: clientSocket, guest: guest)
    }

    private static func monitorPID(_ directory: String) throws -> Int32 {
        // The guest's part is played here, so it may be quicker than the monitor.
        try DirectoryWatch(directory).waitFor("monitor.pid")
        let bytes = try Files.read("\(directory)/monitor.pid", limit: 100)
        return try #require(Int32(String(decoding: bytes.prefix { $0 != 10 }, as: UTF8.self)))
    }

    @Test func outputLogStateAndEnd() throws {
        try withDirectory { root in
            var stage = try Self.set(root)
            try stage.boot()
            #expect(try stage.store.find("stage").condition == .running)
            let bytes = (0..<1000).map { UInt8(truncatingIfNeeded: $0) }
            var report = ExitReport()
            report.code = 3
            try stage.guestSends(
                Frame(.data, session: 1, stream: .output, payload: bytes),
                Frame(.data, session: 1, stream: .errors, payload: [1]),
                Frame(.exited, session: 1, payload: report.payload))
            #expect(try stage.client.receive()?.payload == bytes)
            #expect(try stage.client.receive()?.payload == [1])
            #expect(try stage.client.receive()?.kind == .exited)
            #expect(try stage.supervisor.wait() == .exited(0))
            let record = try stage.store.find("stage")
            #expect(record.condition == .exited)
            #expect(record.state.exitCode == 3)
            #expect(record.state.monitor?.isAlive == false)
            var reader = LogReader()
            reader.append(try Files.read("\(stage.directory)/\(MachineFile.output)", limit: 10_000))
            #expect(reader.next()?.bytes == bytes)
            #expect(reader.next()?.stream == .errors)
            #expect(reader.next() == nil)
            #expect(!Files.exists("\(stage.directory)/\(MachineFile.control)"))
        }
    }

    @Test func aLostClientLeavesNothing() throws {
        try withDirectory { root in
            var stage = try Self.set(root) { $0.removesItself = true }
            try stage.boot()
            let monitor = try Self.monitorPID(stage.directory)
            _ = shutdown(stage.clientSocket, Int32(SHUT_RDWR))
            #expect(try stage.supervisor.wait() == .exited(0))
            #expect(!Files.exists(stage.directory))
            #expect(try Files.list("\(root)/names").isEmpty)
            #expect(ProcessIdentity(pid: monitor) == nil)
        }
    }

    @Test func aKilledSupervisorTakesItsMonitorAlong() throws {
        try withDirectory { root in
            var stage = try Self.set(root)
            try stage.boot()
            let monitor = try #require(ProcessIdentity(pid: try Self.monitorPID(stage.directory)))
            try stage.supervisor.killAndWait()
            #expect(monitor.waitForEnd(milliseconds: 10_000))
            #expect(throws: SessionError.connectionLost) { _ = try stage.client.receive() }
            #expect(try stage.store.find("stage").condition == .crashed)
            #expect(try stage.store.remove(stage.id))
        }
    }

    @Test func aKilledMonitorIsTold() throws {
        try withDirectory { root in
            var stage = try Self.set(root)
            try stage.boot()
            _ = kill(try Self.monitorPID(stage.directory), SIGKILL)
            let refusal = try stage.client.receive().flatMap { Refusal($0.payload) }
            #expect(refusal?.exitCode == 125)
            #expect(try stage.supervisor.wait() == .exited(0))
            #expect(try stage.store.find("stage").state.reason == "the monitor was ended by SIGKILL")
        }
    }

    @Test func aMonitorThatFailsSaysWhy() throws {
        try withDirectory { root in
            // Whoever of the two comes first makes the fifo.
            let script =
                "mkfifo go 2>/dev/null\nread line < go\necho 'martlet-vmm: the kernel is no kernel' >&2\nexit 1\n"
            var stage = try Self.set(root, monitor: "#!/bin/sh\n\(script)")
            _ = mkfifo("\(stage.directory)/go", 0o600)
            // Open for both, which never waits.
            let fifo = try Descriptor.open("\(stage.directory)/go", .readWrite)
            try fifo.writeAll([10])
            let refusal = try stage.client.receive().flatMap { Refusal($0.payload) }
            #expect(
                refusal.map { String(decoding: $0.message, as: UTF8.self) } == "martlet-vmm: the kernel is no kernel")
            #expect(try stage.supervisor.wait() == .exited(0))
            // What never ran is not kept.
            #expect(!Files.exists(stage.directory))
        }
    }

    @Test func ordersByTheControlSocket() throws {
        try withDirectory { root in
            var stage = try Self.set(root)
            try stage.boot()
            var control = try SessionClient(
                socket: try UnixSocket.connect(to: "\(stage.directory)/\(MachineFile.control)"))
            #expect(try control.receive()?.kind == .hello)
            try control.send(Frame(.stop, payload: NumberMessage(60_000).payload))
            let signal = try stage.guestReceives()
            #expect(NumberMessage(payload: signal.payload) == NumberMessage(15))
            var report = ExitReport()
            report.code = 15
            report.wasSignaled = true
            try stage.guestSends(Frame(.exited, session: 1, payload: report.payload))
            let last = try control.receive()
            #expect(last.flatMap { ExitReport($0.payload) }?.shellStatus == 143)
            #expect(try stage.client.receive()?.kind == .exited)
            _ = try stage.supervisor.wait()
        }
    }

    @Test func aGuestThatFloodsIsEnded() throws {
        try withDirectory { root in
            var stage = try Self.set(root)
            try stage.boot()
            let chunk = [UInt8](repeating: 0, count: 65_536)
            for index in 0..<5 as Range<UInt64> {
                try? stage.guestSends(
                    Frame(.data, session: 1, stream: .output, offset: index * 65_536, payload: chunk))
            }
            var last: Frame?
            while let frame = try? stage.client.receive() { last = frame }
            #expect(last?.kind == .failure)
            #expect(try stage.supervisor.wait() == .exited(0))
        }
    }
}

/// Tells when a name appears in a directory (inotify(7)).
private struct DirectoryWatch: ~Copyable {
    private let descriptor: Descriptor
    private let path: String

    init(_ path: String) throws {
        descriptor = Descriptor(owning: inotify_init1(Int32(IN_CLOEXEC)))
        self.path = path
        _ = inotify_add_watch(descriptor.raw, path, UInt32(IN_CREATE | IN_MOVED_TO))
    }

    func waitFor(_ name: String) throws {
        var space = [UInt8](repeating: 0, count: 4096)
        while !Files.exists("\(path)/\(name)") {
            _ = try space.withUnsafeMutableBytes { try descriptor.read(into: $0) }
        }
    }
}
