// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import Platform

// Zone 1: one plain thread, one epoll loop, no locks.

/// Hands the pages of one memory file to any number of machines, each of which asks as Firecracker does: it connects,
/// says where its memory lies, sends a userfaultfd, and keeps the connection for as long as it lives.
package final class PageServer {
    /// How long a client may take to say what its memory is.
    private static let greetingInNanoseconds: UInt64 = 10_000_000_000
    /// A client that waits while its memory changes, without an event that would tell when it is done, is looked at again
    /// after so long.
    private static let againInMilliseconds: UInt64 = 1

    private enum Token {
        static let listener: UInt64 = 0
        static let stop: UInt64 = 1
        static let timer: UInt64 = 2
        /// From and to the other host, where the memory is there.
        static let input: UInt64 = 3
        static let output: UInt64 = 4
        /// Two a client: its connection, its faults.
        static let firstClient: UInt64 = 16
    }

    private var image: MemoryImage
    private var source: PageSource?
    private var isOutputWatched = false
    private let listener: Descriptor
    private let stop: Int32
    private let clientLimit: Int
    private let log: (String) -> Void
    private let epoll: Epoll
    private let timer: Timer
    private var isListening = false
    private var clients: [UInt64: PageClient] = [:]
    /// Those that the timer is for: they have not said what their memory is, or wait while it changes.
    private var timed: Set<UInt64> = []
    private var isTimerArmed = false
    private var nextNumber: UInt64 = 0

    /// - Parameters:
    ///   - source: where the memory comes from that is another host's, and was made by it; clients can connect once that
    ///     has said what it has.
    ///   - listener: a non-blocking unix stream socket that listens.
    ///   - stop: readable when the server is to end.
    ///   - clientLimit: how many are served at a time; more wait to be taken.
    ///   - log: a line about a client that was given up.
    package init(
        _ image: consuming MemoryImage, source: consuming PageSource? = nil, listener: consuming Descriptor,
        stop: Int32, clientLimit: Int = 1024, log: @escaping (String) -> Void
    ) throws(SystemError) {
        self.image = image
        self.source = source
        self.listener = listener
        self.stop = stop
        self.clientLimit = clientLimit
        self.log = log
        epoll = try Epoll()
        timer = try Timer()
        try epoll.add(stop, .readable, token: Token.stop)
        try epoll.add(timer.descriptor.raw, .readable, token: Token.timer)
        if let input = self.source?.input.raw { try epoll.add(input, .readable, token: Token.input) }
    }

    /// Serves until it is told to stop.
    /// - Parameter ready: called once clients can connect.
    package func run(ready: () -> Void = {}) throws(PageServerError) {
        do throws(PageServerError) {
            try serve(ready)
        } catch {
            // Whoever is served ends with this, and is to know why.
            for client in clients.values { client.say("\(error)") }
            throw error
        }
    }

    private func serve(_ ready: () -> Void) throws(PageServerError) {
        var events = EpollEvents()
        if source == nil { try system(listen) }
        if isListening { ready() }
        try ask()
        while true {
            let count = try system { () throws(SystemError) in try epoll.wait(&events) }
            // Ctrl-C ends what is at the other end of the stream as well: that is no failure of it.
            for index in 0..<count where events[index].token == Token.stop { return }
            for index in 0..<count {
                let (token, readiness) = events[index]
                switch token {
                case Token.listener: try system(accept)
                case Token.timer: try handleTimer()
                case Token.input: try receive(ready)
                // What is to be asked is, below.
                case Token.output: break
                default: handle(token, readiness)
                }
            }
            try ask()
            try system(armTimer)
        }
    }

    // MARK: - The other host

    private func receive(_ ready: () -> Void) throws(PageServerError) {
        let wasAnnounced = source?.isAnnounced ?? true
        do throws(StreamFailure) {
            guard let hasArrived = try source?.receive(&image), hasArrived else { return }
        } catch {
            throw .stream(error)
        }
        if !wasAnnounced {
            try system(listen)
            ready()
        }
        for client in clients.values {
            do throws(ClientFailure) {
                try client.serveArrived(&image)
                note(client)
            } catch {
                giveUp(client, error)
            }
        }
    }

    private func ask() throws(PageServerError) {
        do throws(StreamFailure) { try source?.ask(&image) } catch { throw .stream(error) }
        guard let raw = source?.output.raw, let isFull = source?.isOutputFull, isFull != isOutputWatched else { return }
        try system { () throws(SystemError) in
            if isFull { try epoll.add(raw, .writable, token: Token.output) } else { try epoll.remove(raw) }
        }
        isOutputWatched = isFull
    }

    private func system<Result>(_ body: () throws(SystemError) -> Result) throws(PageServerError) -> Result {
        do throws(SystemError) { return try body() } catch { throw .system(error) }
    }

    // MARK: - Clients

    private func listen() throws(SystemError) {
        guard !isListening else { return }
        try epoll.add(listener.raw, .readable, token: Token.listener)
        isListening = true
    }

    private func accept() throws(SystemError) {
        do throws(SystemError) {
            guard let connection = try UnixSocket.accept(on: listener) else { return }
            let number = nextNumber
            nextNumber += 1
            let client = PageClient(
                connection, number: number, deadline: monotonicNanoseconds() + Self.greetingInNanoseconds)
            try epoll.add(client.connection.raw, [.readable, .peerClosed], token: Token.firstClient + 2 * number)
            clients[number] = client
            timed.insert(number)
            guard clients.count >= clientLimit else { return }
        } catch {
            // No descriptor is free: whoever waits is taken when a client has ended.
            guard error.code == EMFILE || error.code == ENFILE, !clients.isEmpty else { throw error }
        }
        try epoll.remove(listener.raw)
        isListening = false
    }

    private func handle(_ token: UInt64, _ readiness: Readiness) {
        let number = (token - Token.firstClient) / 2
        // It may have been given up in this turn.
        guard let client = clients[number] else { return }
        do throws(ClientFailure) {
            if token % 2 == 1 {
                // So poll(2) answers for one that its owner has made blocking.
                if readiness.contains(.failed) { throw .supply("its userfaultfd does not tell of faults") }
                try client.serve(&image)
            } else {
                try greet(client)
            }
            note(client)
        } catch {
            giveUp(client, error)
        }
    }

    private func note(_ client: PageClient) {
        if client.isGreeting || client.isWaiting { timed.insert(client.number) } else { timed.remove(client.number) }
    }

    private func greet(_ client: PageClient) throws(ClientFailure) {
        let wasGreeting = client.isGreeting
        try client.readConnection(image)
        guard wasGreeting, let raw = client.faultDescriptor else { return }
        do throws(SystemError) {
            try epoll.add(raw, .readable, token: Token.firstClient + 2 * client.number + 1)
        } catch {
            throw .handshake("its userfaultfd cannot be watched: \(error)")
        }
        // Faults may have come before.
        try client.serve(&image)
    }

    private func giveUp(_ client: PageClient, _ reason: ClientFailure) {
        if case .otherSnapshot = reason { client.say("\(reason)") }
        if reason != .gone { log("a machine is given up: \(reason)") }
        // Before its descriptors are closed: of a userfaultfd others may have a copy, and epoll would go on watching.
        if let raw = client.faultDescriptor { try? epoll.remove(raw) }
        clients[client.number] = nil
        timed.remove(client.number)
        // What fails here fails again with the next one.
        try? listen()
    }

    // MARK: - Time

    private func armTimer() throws(SystemError) {
        let owed = source?.deadline(image)
        guard isTimerArmed || !timed.isEmpty || owed != nil else { return }
        let now = monotonicNanoseconds()
        var next = owed.map { Self.milliseconds(until: $0, now) }
        for number in timed {
            guard let client = clients[number] else { continue }
            let time = client.isWaiting ? Self.againInMilliseconds : Self.milliseconds(until: client.deadline, now)
            next = min(next ?? time, time)
        }
        try timer.arm(afterMilliseconds: next)
        isTimerArmed = next != nil
    }

    private static func milliseconds(until deadline: UInt64, _ now: UInt64) -> UInt64 {
        deadline > now ? (deadline - now) / 1_000_000 + 1 : 0
    }

    private func handleTimer() throws(PageServerError) {
        _ = timer.drain()
        let now = monotonicNanoseconds()
        if let deadline = source?.deadline(image), deadline <= now {
            throw .stream(.silent(seconds: source?.silenceInSeconds ?? 0))
        }
        for number in timed {
            guard let client = clients[number] else { continue }
            do throws(ClientFailure) {
                if client.isGreeting, client.deadline <= now { throw .silent }
                if client.isWaiting { try client.serve(&image) }
                note(client)
            } catch {
                giveUp(client, error)
            }
        }
    }
}
