// SPDX-License-Identifier: Apache-2.0

import Glibc
import GuestProtocol
import Packet
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

    /// A machine that is to be forked of another in a network.
    private static func child(of store: MachineStore, _ name: String) throws -> String {
        var generator = SystemRandomNumberGenerator()
        let machine = try store.create(id: MachineIdentity.makeID(using: &generator), name: name)
        var configuration = configuration(id: machine.id, name: name, monitor: "/nothing/there")
        var wish = NetworkWish(network: "blue", hardwareAddress: try #require(MACAddress("02:00:5e:00:53:02")))
        wish.formerHardwareAddress = MACAddress("02:00:5e:00:53:01")
        wish.running = "/run/networks"
        configuration.networks = [wish]
        try Files.writeAtomically(
            configuration.json.encoded(), to: "\(machine.directory)/\(MachineFile.configuration)")
        return machine.id
    }

    /// The container is thawed as soon as the monitor says that it goes on, and the client hears of it when the monitor
    /// has answered.
    @Test func aMachineIsForked() throws {
        try withDirectory { root in
            // Whoever of the two comes first makes the fifo.
            let script =
                "mkfifo go 2>/dev/null\nread line < go\necho '{\"event\":\"forked\",\"pause_us\":7}' >&3\nread line <&4\n"
            var stage = try Self.set(root, monitor: "#!/bin/sh\n\(script)")
            try stage.boot()
            _ = mkfifo("\(stage.directory)/go", 0o600)
            let listener = try UnixSocket.listen(at: "\(stage.directory)/\(MachineFile.api)", nonBlocking: false)
            var control = try SessionClient(
                socket: try UnixSocket.connect(to: "\(stage.directory)/\(MachineFile.control)"))
            #expect(try control.receive()?.kind == .hello)
            let ids = try ["bee", "cee"].map { try Self.child(of: stage.store, $0) }
            try control.send(Frame(.fork, payload: ForkOrder(machines: ids.map { Array($0.utf8) }).payload))
            #expect(try stage.guestReceives().kind == .freeze)
            try stage.guestSends(Frame(.frozen, payload: StepReport().payload))
            guard let api = try UnixSocket.accept(on: listener, nonBlocking: false) else {
                throw SystemError("accept", MachineFile.api, code: EAGAIN)
            }
            let request = try Self.request(api)
            #expect(request.head.hasPrefix("PUT /fork HTTP/1.1\r\n"))
            let children = try JSON(parsing: request.body)["children"]?.arrayValue ?? []
            #expect(children.compactMap { $0["id"]?.stringValue } == ids)
            #expect(children.last?["directory"]?.stringValue == stage.store.directory(of: ids[1]))
            // Each calls at a port of its own, as a station of its own.
            for (child, id) in zip(children, ids) {
                let interface = child["network_overrides"]?.arrayValue?.first
                #expect(interface?["iface_id"]?.stringValue == "eth0")
                #expect(interface?["socket_path"]?.stringValue == "/run/networks/blue/ports/\(id)")
                #expect(interface?["guest_mac"]?.stringValue == "02:00:5e:00:53:02")
                #expect(interface?["mtu"] == nil)
            }
            // Nobody but a thawed guest goes on; the monitor has not answered yet.
            let fifo = try Descriptor.open("\(stage.directory)/go", .readWrite)
            try fifo.writeAll([10])
            #expect(try stage.guestReceives().kind == .thaw)
            try stage.guestSends(Frame(.thawed, payload: StepReport().payload))
            let body =
                #"{"pause_us":7,"forks_us":5,"children":[{"id":"b","pid":1},{"id":"c","fault_message":"no room"}]}"#
            try api.writeAll(Array("HTTP/1.1 200 OK\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)".utf8))
            let answer = try #require(try control.receive())
            #expect(answer.kind == .forked)
            let report = try #require(ForkedReport(answer.payload))
            #expect(report.report.failure.isEmpty)
            #expect(report.failures == [ForkedReport.Failure(index: 1, reason: Array("no room".utf8))])
            #expect(report.report.steps.contains(StepReport.Step(Array("paused".utf8), nanoseconds: 7000)))
            #expect(try stage.store.find("stage").state.fork.map(\.step).contains("in all"))
        }
    }

    /// Reads a request whole.
    private static func request(_ socket: borrowing Descriptor) throws -> (head: String, body: [UInt8]) {
        var bytes: [UInt8] = []
        var space = [UInt8](repeating: 0, count: 65_536)
        while true {
            if let end = bytes.indices.first(where: { bytes[$0...].starts(with: Array("\r\n\r\n".utf8)) }) {
                let head = String(decoding: bytes[..<end], as: UTF8.self)
                let length = head.split(separator: "\r\n").compactMap { line in
                    line.hasPrefix("Content-Length: ") ? Int(line.dropFirst(16)) : nil
                }.first
                if let length, bytes.count - end - 4 >= length { return (head, Array(bytes[(end + 4)...])) }
            }
            guard case .bytes(let count) = try space.withUnsafeMutableBytes({ try socket.read(into: $0) }) else {
                throw SystemError("read", "a request", code: EPIPE)
            }
            bytes += space[..<count]
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
