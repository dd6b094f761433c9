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
        /// Two a client: its connection, its faults.
        static let firstClient: UInt64 = 16
    }

    private let image: MemoryImage
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
    ///   - listener: a non-blocking unix stream socket that listens.
    ///   - stop: readable when the server is to end.
    ///   - clientLimit: how many are served at a time; more wait to be taken.
    ///   - log: a line about a client that was given up.
    package init(
        _ image: consuming MemoryImage, listener: consuming Descriptor, stop: Int32, clientLimit: Int = 1024,
        log: @escaping (String) -> Void
    ) throws(SystemError) {
        self.image = image
        self.listener = listener
        self.stop = stop
        self.clientLimit = clientLimit
        self.log = log
        epoll = try Epoll()
        timer = try Timer()
        try epoll.add(stop, .readable, token: Token.stop)
        try epoll.add(timer.descriptor.raw, .readable, token: Token.timer)
        try listen()
    }

    /// Serves until it is told to stop.
    package func run() throws(SystemError) {
        var events = EpollEvents()
        while true {
            for index in 0..<(try epoll.wait(&events)) {
                let (token, readiness) = events[index]
                switch token {
                case Token.listener: try accept()
                case Token.stop: return
                case Token.timer: handleTimer()
                default: handle(token, readiness)
                }
            }
            try armTimer()
        }
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
                try client.serve(image)
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
        try client.serve(image)
    }

    private func giveUp(_ client: PageClient, _ reason: ClientFailure) {
        if case .otherSnapshot = reason { client.say(reason) }
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
        guard isTimerArmed || !timed.isEmpty else { return }
        var next: UInt64?
        let now = monotonicNanoseconds()
        for number in timed {
            guard let client = clients[number] else { continue }
            let rest = client.deadline > now ? (client.deadline - now) / 1_000_000 + 1 : 0
            let time = client.isWaiting ? Self.againInMilliseconds : rest
            next = min(next ?? time, time)
        }
        try timer.arm(afterMilliseconds: next)
        isTimerArmed = next != nil
    }

    private func handleTimer() {
        _ = timer.drain()
        let now = monotonicNanoseconds()
        for number in timed {
            guard let client = clients[number] else { continue }
            do throws(ClientFailure) {
                if client.isGreeting, client.deadline <= now { throw .silent }
                if client.isWaiting { try client.serve(image) }
                note(client)
            } catch {
                giveUp(client, error)
            }
        }
    }
}
