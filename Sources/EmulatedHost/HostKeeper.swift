// SPDX-License-Identifier: Apache-2.0

// Zone 1: one thread, one epoll loop, no locks.

internal import Glibc
internal import GuestProtocol
internal import Platform
internal import Sessions

/// The process that keeps an emulated host: it holds the host's lock for as long as it lives, runs QEMU as its child
/// (which dies with it, however it dies), and carries the sessions of all commands into the host.
///
///     booting ──hello──▶ configuring ──configured──▶ preparing ──set-up done──▶ serving ──▶ stopping ──▶ ended
///        └─────────────────┴───── anything wrong, or too late ─┴──▶ ended        (idle, asked, signal)
package final class HostKeeper {
    enum Phase {
        case booting
        case configuring
        /// A first process makes the user's directories inside.
        case preparing(ClientSession)
        case serving
        case stopping
    }

    /// How long a host may take from QEMU's start to serving, and from the word to stop until QEMU has ended.
    static let startLimitInSeconds: UInt64 = 180
    static let stopLimitInSeconds: UInt64 = 60
    /// How long the starter may take to come after it was told that the host serves, at least.
    static let starterLimitInSeconds = 30
    /// So much may wait for the guest before clients are no longer read.
    static let guestBacklogLimit = 1_048_576
    /// A client that lets so much wait is cut off: its windows bound what a client that keeps the protocol leaves here.
    static let clientBacklogLimit = 16_777_216
    static let clientLimit = 256

    enum Token {
        static let listener: UInt64 = 1
        static let guest: UInt64 = 2
        static let console: UInt64 = 3
        static let emulator: UInt64 = 4
        static let signals: UInt64 = 5
        static let timer: UInt64 = 6
        static let emulatorFrames: UInt64 = 7
        static let fabricFrames: UInt64 = 8
        static let fabricLease: UInt64 = 9
        static let networkTimer: UInt64 = 10
        static let firstClient: UInt64 = 16
    }

    /// A connected command. A class, so that it can stand in a dictionary.
    final class Connection {
        var socket: FrameSocket
        var watched: Readiness = [.readable]
        init(_ socket: consuming FrameSocket) { self.socket = socket }
    }

    let configuration: HostConfiguration
    let epoll: Epoll
    let timer: Timer
    let signals: SignalQueue
    var guest: FrameSocket
    var guestWatched: Readiness = [.readable]
    let console: Descriptor
    let emulator: ChildProcess
    /// nil where QEMU's own has to do.
    let network: HostNetwork?
    var log: ConsoleLog
    var relay: SessionRelay
    var phase = Phase.booting
    var listener: Descriptor?
    var connections: [UInt64: Connection] = [:]
    var nextToken = Token.firstClient
    var areClientsPaused = false
    /// Whoever started this has not come yet, but will.
    var hasHadClient = false
    var setupOutput = Tail(limit: 2000)
    /// To whoever started this; nil once it knows.
    var report: Descriptor?
    /// Held for the starter until this host serves or has failed; others who want to start one wait for it.
    var startLock: Descriptor?
    /// Why the loop is to end, set once.
    var ending: Ending?

    enum Ending {
        case emulatorEnded(ProcessEnd)
        case failed(String)
    }

    /// The keeper's whole life. `arguments` are those after the subcommand; gives the exit status.
    package static func run(arguments: [String]) -> Int32 {
        ignoreBrokenPipes()
        umask(0o077)
        var report: Descriptor? = Descriptor(owning: StartReport.pipeDescriptor)
        var startLock: Descriptor? = Descriptor(owning: StartReport.lockDescriptor)
        _ = try? report?.setInherited(false)
        _ = try? startLock?.setInherited(false)
        do throws(EmulatedHostError) {
            let configuration = try HostConfiguration(keeperArguments: arguments)
            try configuration.paths.prepare()
            // A host that is about to end is waited for: its time for that is bounded.
            let life = try platform { () throws(SystemError) in try FileLock(waitingAt: configuration.paths.lifeLock) }
            removeRemains(configuration.paths)
            try StateDisk(path: configuration.paths.disk).prepare { text in tell(.progress(text), report) }
            tell(.progress("starting the emulated host"), report)
            let keeper = try HostKeeper(configuration, report: report.take(), startLock: startLock.take())
            try keeper.loop()
            let status = keeper.end()
            withExtendedLifetime(life) {}
            return status
        } catch {
            say("\(error)")
            tell(.failed("\(error)"), report)
            return 125
        }
    }

    private init(
        _ configuration: HostConfiguration, report: consuming Descriptor?, startLock: consuming Descriptor?
    ) throws(EmulatedHostError) {
        let started = try platform { () throws(SystemError) in try StartedEmulator(configuration) }
        let epoll = started.epoll
        // While the guest boots.
        let network: HostNetwork?
        if configuration.fabric.isEmpty {
            network = nil
        } else {
            let made = try HostNetwork(
                program: configuration.fabric, directory: configuration.paths.network, emulator: started.frames)
            try platform { () throws(SystemError) in try made.watch(epoll) }
            network = made
        }
        self.configuration = configuration
        self.epoll = epoll
        self.network = network
        timer = started.timer
        signals = started.signals
        console = started.console
        emulator = started.emulator
        guest = started.guest
        self.report = report
        self.startLock = startLock
        log = ConsoleLog(path: configuration.paths.consoleLog)
        relay = SessionRelay(identity: configuration.identity, lastNumber: HostKeeper.setupSession)
    }

    static func removeRemains(_ paths: HostPaths) {
        if let old = HostRecord(at: paths.record) { Files.remove(old.socket) }
        Files.remove(paths.record)
        Files.remove(paths.socket)
    }

    static func tell(_ what: StartReport, _ report: borrowing Descriptor?) {
        switch report {
        case .some(let pipe): try? pipe.writeAll(Array(what.line.utf8))
        case .none: break
        }
    }

    /// A line in the keeper's log, which is its standard error.
    static func say(_ text: String) {
        let line = "\(wallClockNanoseconds() / 1_000_000_000) keeper \(getpid()): \(text)\n"
        _ = unsafe line.withCString { start in unsafe write(2, start, strlen(start)) }
    }

    /// Says goodbye to whoever is still there and removes what stands for a running host.
    private func end() -> Int32 {
        let reason: String
        var status: Int32 = 125
        switch (ending, phase) {
        case (.emulatorEnded, .stopping):
            reason = "the emulated host was stopped"
            status = 0
        case (.emulatorEnded(let how), _):
            reason = "the emulated host ended unexpectedly (QEMU: \(how)); its last words:\n  \(log.lastLines)"
        case (.failed(let why), _):
            reason = "\(why); the emulated host's last words:\n  \(log.lastLines)"
            _ = try? emulator.killAndWait()
        case (nil, _): reason = "the emulated host ended"
        }
        HostKeeper.say(reason)
        network?.end()
        HostKeeper.removeRemains(configuration.paths)
        HostKeeper.tell(.failed(reason), report)
        let refusal = Refusal(exitCode: 125, message: Array(reason.utf8))
        for connection in connections.values {
            connection.socket.queue(Frame(.failure, payload: refusal.payload))
            try? connection.socket.flush()
        }
        connections = [:]
        return status
    }
}
