// SPDX-License-Identifier: Apache-2.0

import Glibc
import GuestProtocol
import Platform
import Sessions
import Testing
import Wire

@testable import Worker

/// Supervisors of machines that are forked: the parent's, whose monitor's API this test plays, and a child's, which
/// waits for a monitor that another one becomes.
@Suite(.serialized) struct ForkTests {
    /// Connects to the child's supervisor as a forked monitor does, says that it runs, and ends with the connection.
    private static let forkedMonitor = """
        use IO::Socket::UNIX;
        $SIG{PIPE} = "IGNORE";
        my $s = IO::Socket::UNIX->new(Peer => "monitor.sock") or die "no supervisor: $!";
        syswrite $s, "{\\"event\\":\\"started\\",\\"cpu_us\\":1,\\"monotonic_ns\\":1}\\n";
        sysread $s, my $rest, 1;
        """

    private struct Child: ~Copyable {
        let store: MachineStore
        let id: String
        let directory: String
        let supervisor: ChildProcess
        var client: SessionClient
        let clientSocket: Int32

        init(_ root: String, originalSample: String? = nil) throws {
            let store = MachineStore(root: root)
            var generator = SystemRandomNumberGenerator()
            let machine = try store.create(id: MachineIdentity.makeID(using: &generator), name: "child")
            var configuration = configuration(id: machine.id, name: "child", monitor: "/nothing/there")
            configuration.forkOf = String(repeating: "a", count: 64)
            configuration.originalSample = originalSample
            configuration.isDetached = true
            try Files.writeAtomically(
                configuration.json.encoded(), to: "\(machine.directory)/\(MachineFile.configuration)")
            let sockets = try UnixSocket.pair()
            let programs = splitPath(try Files.readSymbolicLink("/proc/self/exe")).directory
            var specification = ProcessSpecification(
                "\(programs)/martlet-supervisor", ["martlet-supervisor", root])
            specification.directory = machine.directory
            specification.descriptors = [-1, -1, -1, sockets.second.raw, machine.lock.descriptor.raw]
            let supervisor = try ChildProcess(specification)
            let clientSocket = sockets.first.raw
            var client = try SessionClient(socket: sockets.first)
            // It is ready for its monitor.
            #expect(try client.receive()?.kind == .hello)
            self.store = store
            id = machine.id
            directory = machine.directory
            self.supervisor = supervisor
            self.clientSocket = clientSocket
            self.client = client
        }

        func startMonitor() throws -> ChildProcess {
            var specification = ProcessSpecification("/usr/bin/perl", ["perl", "-e", ForkTests.forkedMonitor])
            specification.directory = directory
            return try ChildProcess(specification)
        }

        func connectGuest() throws -> FrameSocket {
            try FrameSocket(
                try UnixSocket.connect(to: "\(directory)/\(MachineFile.vsock)_\(Supervisor.guestPort)"))
        }
    }

    private static func receive(_ guest: inout FrameSocket) throws -> Frame {
        while true {
            if let frame = try guest.next() { return frame }
            var entry = pollfd(fd: guest.raw, events: Int16(POLLIN), revents: 0)
            _ = poll(&entry, 1, -1)
            if try guest.receive() == .closed { throw SessionError.connectionLost }
        }
    }

    private static func send(_ guest: inout FrameSocket, _ frames: Frame...) throws {
        for frame in frames { guest.queue(frame) }
        while guest.pendingByteCount > 0 { try guest.flush() }
    }

    /// The guest of a forked machine greets, and becomes one of its own.
    private static func becomeAnother(_ guest: inout FrameSocket) throws {
        var hello = Hello()
        hello.generation = 1
        try send(&guest, Frame(.hello, payload: hello.payload))
        var identity: Identity?
        for kind in [FrameKind.hello, .identify, .thaw] {
            let frame = try receive(&guest)
            #expect(frame.kind == kind)
            if kind == .identify { identity = Identity(frame.payload) }
        }
        #expect(identity?.isClone == true)
        var report = StepReport()
        report.sample = [UInt8](repeating: 1, count: 16)
        try send(
            &guest, Frame(.running, session: 1, payload: RunningSession().payload),
            Frame(.identified, payload: report.payload), Frame(.thawed, payload: StepReport().payload))
    }

    @Test func aChildTakesOverItsMonitorAndGreetsItsGuest() throws {
        try withDirectory { root in
            var child = try Child(root)
            let monitor = try child.startMonitor()
            var guest = try child.connectGuest()
            try Self.becomeAnother(&guest)
            #expect(try child.client.receive()?.kind == .accepted)
            #expect(try child.client.receive()?.kind == .started)
            let record = try child.store.find("child")
            #expect(record.condition == .running && record.state.origin == "fork")
            #expect(record.state.monitor?.pid == monitor.pid)
            #expect(record.state.timings.contains { $0.step == "monitor" })
            #expect(!Files.exists("\(child.directory)/\(MachineFile.monitor)"))
            // Its supervisor is no parent of it, and yet it ends with that.
            try child.supervisor.killAndWait()
            let end = try monitor.wait()
            #expect(end == .exited(0))
        }
    }

    @Test func aChildsMonitorThatIsKilledIsNoticed() throws {
        try withDirectory { root in
            var child = try Child(root)
            let monitor = try child.startMonitor()
            var guest = try child.connectGuest()
            try Self.becomeAnother(&guest)
            #expect(try child.client.receive()?.kind == .accepted)
            #expect(try child.client.receive()?.kind == .started)
            try monitor.killAndWait()
            #expect(try child.client.receive()?.kind == .failure)
            #expect(try child.supervisor.wait() == .exited(0))
            #expect(try child.store.find("child").condition == .exited)
        }
    }

    @Test func aGuestWithItsOriginalsRandomNumbersIsEnded() throws {
        try withDirectory { root in
            let sample = [UInt8](repeating: 1, count: 16)
            var child = try Child(root, originalSample: RandomSample.text(sample))
            let monitor = try child.startMonitor()
            var guest = try child.connectGuest()
            try Self.becomeAnother(&guest)
            let frame = try child.client.receive()
            let reason = frame.flatMap { Refusal($0.payload) }.map { String(decoding: $0.message, as: UTF8.self) }
            #expect(frame?.kind == .failure && reason?.contains("random numbers") == true, "\(reason ?? "")")
            #expect(try monitor.wait() == .signaled(SIGKILL))
            #expect(try child.supervisor.wait() == .exited(0))
            #expect(!Files.exists(child.directory))
        }
    }

    @Test func aGuestThatNoticedNothingIsEnded() throws {
        try withDirectory { root in
            var child = try Child(root)
            let monitor = try child.startMonitor()
            var guest = try child.connectGuest()
            try Self.send(&guest, Frame(.hello, payload: Hello().payload))
            #expect(try child.client.receive()?.kind == .failure)
            #expect(try monitor.wait() == .signaled(SIGKILL))
            #expect(try child.supervisor.wait() == .exited(0))
            #expect(!Files.exists(child.directory))
        }
    }

    @Test(arguments: [false, true]) func aChildThatNobodyWaitsForLeavesNothing(isSignaled: Bool) throws {
        try withDirectory { root in
            let child = try Child(root)
            if isSignaled {
                try child.supervisor.send(SIGTERM)
            } else {
                _ = shutdown(child.clientSocket, Int32(SHUT_RDWR))
            }
            #expect(try child.supervisor.wait() == .exited(1))
            #expect(!Files.exists(child.directory))
            #expect(try Files.list("\(root)/names").isEmpty)
        }
    }
}
