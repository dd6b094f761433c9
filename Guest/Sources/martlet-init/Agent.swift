// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

/// Init's loop: one thread, one epoll, every descriptor non-blocking and registered once, on change. What can be done is
/// remembered where it is known (`isReadable`, `isWritable`), so that credit or room that comes later needs no system
/// call to find out again.
final class Agent {
    static let sessionLimit = 64

    enum Role {
        /// PID 1 of a container's machine.
        case container
        /// PID 1 of the emulated host.
        case host
        /// An ordinary process, for tests: sessions only.
        case server
    }

    let role: Role
    let bootedAt: UInt64
    private(set) var connection: Connection
    /// The host's, to call it again.
    private let port: UInt32
    let epoll: Descriptor
    let childEvents: Descriptor

    var sessions: [Session] = []
    private var lastSerial: UInt64 = 0
    var hasHello = false
    /// How many connections were lost and made anew.
    private var generation: UInt64 = 0
    /// The host has said who this machine is, since the last connection was made.
    var isIdentified = false
    var machineID: [UInt8] = []
    /// What was drawn when it became the machine that it is.
    var randomSample = RandomSample()
    var configuredAt: UInt64 = 0
    var isConfigured = false
    var container: Container?
    /// The container's processes, to be stopped together; nil in other roles.
    let workload: Workload?
    /// None of them runs.
    var isFrozen = false
    var host = EmulatedHost()
    var hasHadMain = false
    /// The process id of a running main process.
    var mainProcess: Int32 = 0
    /// As the last wait for children has shown.
    var hasChildren = false
    private var lastActivity: UInt64 = 0

    private static let childToken: UInt64 = 1
    /// Each connection's is another, so that the last word of one that is gone is not taken for its successor's. Far
    /// from those of sessions.
    private var connectionToken: UInt64 { UInt64.max - generation }
    private static let callLimit: UInt64 = 1_000_000

    init(
        role: Role, bootedAt: UInt64, connection: Connection, port: UInt32, epoll: Descriptor, childEvents: Descriptor
    ) throws(SystemFailure) {
        self.role = role
        self.bootedAt = bootedAt
        self.connection = connection
        self.port = port
        self.epoll = epoll
        self.childEvents = childEvents
        isConfigured = role == .server
        workload = role == .container ? try Workload() : nil
        try watch(childEvents, guest_readable, Agent.childToken)
        try greet()
    }

    private func greet() throws(SystemFailure) {
        try watch(connection.descriptor, guest_readable | guest_writable | guest_peer_closed, connectionToken)
        var hello = Hello()
        hello.program = text("martlet-init")
        hello.generation = generation
        connection.send(.hello, hello.payload)
    }

    func watch(_ descriptor: Descriptor, _ events: UInt32, _ token: UInt64) throws(SystemFailure) {
        try System.check(guest_epoll_add(epoll.raw, descriptor.raw, events | guest_on_change, token), "epoll_ctl")
    }

    func makeSerial() -> UInt64 {
        lastSerial += 1
        return lastSerial
    }

    // MARK: The loop

    func run() -> Never {
        let capacity = 64
        let events = UnsafeMutablePointer<guest_event>.allocate(capacity: capacity)
        while true {
            let hasWork = pump()
            let count = guest_epoll_wait(epoll.raw, events, Int32(capacity), hasWork ? 0 : -1)
            if count < 0 { fail(text("epoll_wait: ") + System.errorText(Int32(-count))) }
            for index in 0..<count { take(events[index]) }
        }
    }

    private func take(_ event: guest_event) {
        switch event.token {
        case connectionToken:
            if let error = connection.notice(event.events) {
                System.say(text("the host cannot be reached: ") + System.errorText(error))
                Power.off(self)
            }
        case Agent.childToken:
            guest_clear_child_events(childEvents.raw)
            reap()
        default:
            guard let session = sessions.first(where: { $0.serial == event.token >> 2 }) else { return }
            switch SessionDescriptor(event.token) {
            case .status: readStatus(of: session)
            case .input: session.input.isWritable = true
            case .output: session.output.isReadable = true
            case .errors: session.errors.isReadable = true
            }
        }
    }

    /// Does what can be done now. True when there is more.
    private func pump() -> Bool {
        // A host that sends without end must not keep the processes' output from going, thus one read a turn.
        if connection.receive() {
            while let frame = connection.nextFrame() { handle(frame) }
            if connection.isBroken { fail(text("a frame is longer than its kind may be")) }
        }
        for session in sessions { pump(session) }
        sessions.removeAll { $0.machine.phase == .ended }
        reportActivity()
        connection.flush()
        if connection.isLost { lose() }
        if connection.isOverfull { fail(text("answers are not read")) }
        if connection.isEstablished && connection.isReadable { return true }
        return connection.hasRoom && sessions.contains { hasWork($0) }
    }

    /// The connection is gone. A machine that waits, with nothing of a container in it that runs, may have become
    /// another one meanwhile: that is what a restore looks like from inside. It calls its host, whoever that is now,
    /// and says which processes it has. Any other machine has nobody left to run for.
    private func lose() {
        guard role == .container, !isConfigured || isFrozen, generation < Agent.callLimit else { Power.off(self) }
        do throws(SystemFailure) {
            let next = try Transport.vsock(port: port)
            generation += 1
            hasHello = false
            isIdentified = false
            connection = next
            try greet()
            for session in sessions { announce(session) }
        } catch {
            System.say(error.message)
            Power.off(self)
        }
    }

    /// How many sessions there are, told when that changes; processes that nobody waits for any more and that are
    /// therefore init's count as one while there is no session.
    private func reportActivity() {
        guard role != .container else { return }
        let activity = sessions.isEmpty && hasChildren ? 1 : UInt64(sessions.count)
        guard activity != lastActivity else { return }
        lastActivity = activity
        connection.send(.activity, NumberMessage(activity).payload)
    }

    /// The host has said what cannot be understood.
    func fail(_ reason: [UInt8]) -> Never {
        System.say(reason)
        connection.send(.failure, Refusal(exitCode: 125, message: reason).payload)
        // A machine that is off may not have sent what its device was given.
        connection.flushWaiting(untilClosed: role != .server)
        Power.off(self)
    }
}

/// Which descriptor of a session an event is about, in the lowest bits of its token.
enum SessionDescriptor: UInt64 {
    case input = 0
    case output = 1
    case errors = 2
    case status = 3

    init(_ token: UInt64) {
        switch token & 3 {
        case 0: self = .input
        case 1: self = .output
        case 2: self = .errors
        default: self = .status
        }
    }

    /// Serial numbers begin with 1, so these are none of the loop's own tokens.
    func token(_ session: Session) -> UInt64 {
        session.serial << 2 | rawValue
    }
}
