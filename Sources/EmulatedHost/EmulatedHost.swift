// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import GuestProtocol
package import Platform
package import Sessions

/// The emulated host of this user, from the outside: finds it, starts it where it is missing, runs commands in it.
package struct EmulatedHost: Sendable {
    package let configuration: HostConfiguration

    package init(_ configuration: HostConfiguration) {
        self.configuration = configuration
    }

    private var paths: HostPaths { configuration.paths }

    /// A connection to the running host; where none runs, or only one of another build that has nothing to do, a new one
    /// is started. Of several commands that do so at the same time one starts it and all get it.
    /// - Parameter progress: told what is done, where that takes a while.
    package func connect(
        startIfNeeded: Bool = true, progress: (String) -> Void = { _ in }
    ) throws(EmulatedHostError) -> HostConnection {
        if startIfNeeded { try paths.prepare() }
        if let connection = try connectToRunning() { return connection }
        guard startIfNeeded else { throw .notRunning }
        // Waits for whoever is starting one now, which is told by the lock's release.
        let lock = try platform { () throws(SystemError) in try FileLock(waitingAt: paths.startLock) }
        if let connection = try connectToRunning() { return connection }
        try startKeeper(lock, progress)
        guard let connection = try connectToRunning() else {
            throw .notStarted("it ended as soon as it had started; \(paths.keeperLog) may say why")
        }
        return connection
    }

    /// Starts the host where it does not run yet.
    package func start(progress: (String) -> Void = { _ in }) throws(EmulatedHostError) {
        try connect(progress: progress).close()
    }

    /// Ends the host in order, with all that runs in it, and waits until it has. Whether there was one.
    @discardableResult
    package func stop() throws(EmulatedHostError) -> Bool {
        guard Files.exists(paths.lifeLock) else { return false }
        guard let connection = try open() else {
            // Not reachable, yet perhaps not gone: one that is about to end is waited for.
            return try !waitForEnd()
        }
        try connection.shutDown()
        _ = try waitForEnd()
        return true
    }

    /// Runs one command in the host: its exit status is the result's. The host is started where it does not run.
    /// - Parameters:
    ///   - command: the program, looked up on the PATH inside, and its arguments.
    ///   - signals: to be passed on, made before any thread.
    package func execute(
        _ command: [String], streams: SessionStreams = .standard, signals: borrowing SignalQueue,
        progress: (String) -> Void = { _ in }
    ) throws(EmulatedHostError) -> SessionResult {
        var connection = try connect(progress: progress)
        return try connection.run(request(for: command, hasInput: streams.input != nil), streams, signals)
    }

    /// The request for a command as this process's user, in this process's directory.
    package func request(for command: [String], hasInput: Bool) -> ProcessRequest {
        let directory = (try? Files.resolve(".")) ?? "/"
        let inside = InsideEnvironment(user: getuid(), group: getgid(), directory: directory, store: paths.store)
        return inside.request(command, outside: processEnvironment(), hasInput: hasInput)
    }

    // MARK: Finding it

    /// Connects without a look at what build it is of; nil where none serves.
    func open() throws(EmulatedHostError) -> HostConnection? {
        let path = HostRecord(at: paths.record)?.socket ?? paths.socket
        let socket: Descriptor
        do throws(SystemError) {
            socket = try UnixSocket.connect(to: path)
        } catch {
            // Nobody there: never started, or its keeper was killed.
            if error.code == ENOENT || error.code == ECONNREFUSED { return nil }
            throw .system(error)
        }
        do throws(SessionError) {
            var client = try SessionClient(socket: socket)
            let hello = try client.hello(timeoutInMilliseconds: 30_000)
            return HostConnection(client: client, identity: String(decoding: hello.program, as: UTF8.self))
        } catch {
            // It has just begun to end.
            if error == .connectionLost { return nil }
            throw .session(error)
        }
    }

    private func connectToRunning() throws(EmulatedHostError) -> HostConnection? {
        guard var connection = try open() else { return nil }
        if connection.identity == configuration.identity { return connection }
        let processes = try connection.activity()
        guard processes == 0 else { throw .otherBuild(processes: processes) }
        try connection.shutDown()
        _ = try waitForEnd()
        return nil
    }

    /// Waits until no keeper lives; whether there was none at once.
    private func waitForEnd() throws(EmulatedHostError) -> Bool {
        try platform { () throws(SystemError) in
            if try FileLock.attempt(at: paths.lifeLock) != nil { return true }
            _ = try FileLock(waitingAt: paths.lifeLock)
            return false
        }
    }

    private func startKeeper(
        _ lock: consuming FileLock, _ progress: (String) -> Void
    ) throws(EmulatedHostError) {
        try configuration.checkFiles()
        guard let program = configuration.keeper.first else { throw .badSetting("no command that keeps it is given") }
        let pipe = try platform { () throws(SystemError) in
            let log = try openLog()
            let pipe = try Pipe()
            var specification = ProcessSpecification(
                program, configuration.keeper + configuration.keeperArguments, environment: processEnvironment())
            specification.descriptors = [-1, log.raw, log.raw, pipe.writing.raw, lock.descriptor.raw]
            specification.directory = "/"
            specification.newSession = true
            _ = try ChildProcess(specification)
            return pipe
        }
        pipe.writing.close()
        // The keeper holds the lock now; letting go of this side's descriptor leaves it locked.
        drop(lock)
        try StartReport.await(on: pipe.reading, log: paths.keeperLog, progress: progress)
    }

    private func drop(_ lock: consuming FileLock) {}

    private func openLog() throws(SystemError) -> Descriptor {
        if let file = try? Descriptor.open(paths.keeperLog, .readOnly), let size = try? file.size(), size > 1_048_576 {
            try Files.rename(paths.keeperLog, to: "\(paths.keeperLog).1")
        }
        return try Descriptor.open(paths.keeperLog, .append, permissions: 0o600)
    }
}

/// A connection to the keeper of a running host.
package struct HostConnection: ~Copyable {
    private var client: SessionClient
    /// What the host was made of.
    package let identity: String

    init(client: consuming SessionClient, identity: String) {
        self.client = client
        self.identity = identity
    }

    /// Stands for a process inside until it ends.
    package mutating func run(
        _ request: ProcessRequest, _ streams: SessionStreams, _ signals: borrowing SignalQueue
    ) throws(EmulatedHostError) -> SessionResult {
        do throws(SessionError) {
            return try client.run(request, streams: streams, signals: signals)
        } catch {
            throw .session(error)
        }
    }

    /// How many processes there are inside.
    package mutating func activity() throws(EmulatedHostError) -> UInt64 {
        do throws(SessionError) {
            try client.send(Frame(.activity))
            while let frame = try client.receive(timeoutInMilliseconds: 30_000) {
                if frame.kind == .activity, let message = NumberMessage(payload: frame.payload) {
                    return message.number
                }
            }
            throw .system(SystemError("poll", "activity", code: ETIMEDOUT))
        } catch {
            throw .session(error)
        }
    }

    /// Tells it to end. It has ended when its life lock can be taken.
    consuming func shutDown() throws(EmulatedHostError) {
        var client = client
        do throws(SessionError) { try client.send(Frame(.shutDown)) } catch { throw .session(error) }
        // The keeper closes only at its own end: what it says until then is for others.
        while (try? client.receive()) != nil {}
    }

    package consuming func close() {}
}
