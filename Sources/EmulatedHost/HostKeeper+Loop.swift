// SPDX-License-Identifier: Apache-2.0

internal import GuestProtocol
internal import Platform
internal import Sessions

extension HostKeeper {
    /// Serves until `ending` is set.
    func loop() throws(EmulatedHostError) {
        var events = EpollEvents()
        while ending == nil {
            try platform { () throws(SystemError) in
                _ = try epoll.wait(&events)
                for index in 0..<events.count {
                    let (token, readiness) = events[index]
                    try handle(token, readiness)
                }
                try flushGuest()
            }
        }
    }

    private func handle(_ token: UInt64, _ readiness: Readiness) throws(SystemError) {
        switch token {
        case Token.listener: try acceptClients()
        case Token.guest: try readGuest()
        case Token.console: try readConsole()
        case Token.emulator:
            try drainConsole()
            if let end = try emulator.poll() { ending = .emulatorEnded(end) }
        case Token.signals:
            while signals.next() != nil { try stop("by a signal") }
        case Token.emulatorFrames, Token.fabricFrames: try network?.carry(epoll)
        case Token.fabricLease, Token.networkTimer: try network?.restore(epoll)
        case Token.timer:
            if timer.drain() { try timeIsUp() }
        default: try serveClient(token, readiness)
        }
    }

    private func timeIsUp() throws(SystemError) {
        switch phase {
        case .booting, .configuring, .preparing:
            ending = .failed("it did not come up within \(HostKeeper.startLimitInSeconds) s")
        case .serving:
            if relay.isIdle { try stop("idle for \(configuration.idleInSeconds) s") }
        case .stopping:
            HostKeeper.say("it did not end within \(HostKeeper.stopLimitInSeconds) s: ended by force")
            try emulator.send(9)
        }
    }

    /// Begins the orderly end: nobody finds this host any more, and it is told to write all to its disk. A second word
    /// to stop does not wait for that.
    func stop(_ why: String) throws(SystemError) {
        if case .stopping = phase { return try emulator.send(9) }
        HostKeeper.say("stopping: \(why)")
        let isConfigured = if case .serving = phase { true } else { false }
        phase = .stopping
        HostKeeper.removeRemains(configuration.paths)
        if let listener = listener.take() {
            try epoll.remove(listener.raw)
            listener.close()
        }
        guard isConfigured else { return try emulator.send(9) }
        guest.queue(Frame(.shutDown))
        try timer.arm(afterMilliseconds: HostKeeper.stopLimitInSeconds * 1000)
    }

    /// To be called whenever a client, a session or a process came or went.
    func watchIdleness() throws(SystemError) {
        guard case .serving = phase else { return }
        let limit =
            hasHadClient
            ? configuration.idleInSeconds : max(configuration.idleInSeconds, HostKeeper.starterLimitInSeconds)
        try timer.arm(afterMilliseconds: relay.isIdle ? UInt64(limit) * 1000 : nil)
    }

    // MARK: The console

    private func readConsole() throws(SystemError) {
        if try readConsoleOnce() == .endOfFile { try epoll.remove(console.raw) }
    }

    private func drainConsole() throws(SystemError) {
        while case .bytes = try readConsoleOnce() {}
    }

    private func readConsoleOnce() throws(SystemError) -> Transfer {
        var space = [UInt8](repeating: 0, count: 16_384)
        let transfer = try unsafe space.withUnsafeMutableBufferPointer { buffer throws(SystemError) in
            try unsafe console.read(into: UnsafeMutableRawBufferPointer(buffer))
        }
        if case .bytes(let count) = transfer { log.append(space[..<count]) }
        return transfer
    }

    // MARK: Clients

    private func acceptClients() throws(SystemError) {
        while let socket = try acceptOne() {
            guard connections.count < HostKeeper.clientLimit else { continue }
            let connection = Connection(try FrameSocket(socket))
            let token = nextToken
            nextToken += 1
            connection.watched = areClientsPaused ? [] : [.readable]
            try epoll.add(connection.socket.raw, connection.watched, token: token)
            connections[token] = connection
            relay.clientConnected(token)
            hasHadClient = true
        }
        try watchIdleness()
    }

    private func acceptOne() throws(SystemError) -> Descriptor? {
        switch listener {
        case .some(let listener): return try UnixSocket.accept(on: listener)
        case .none: return nil
        }
    }

    private func serveClient(_ token: UInt64, _ readiness: Readiness) throws(SystemError) {
        guard let connection = connections[token] else { return }
        if !readiness.isDisjoint(with: [.readable, .hungUp, .failed]) && !areClientsPaused {
            switch try? connection.socket.receive() {
            case .received:
                while connections[token] != nil, let frame = try? connection.socket.next() {
                    try perform(relay.receive(frame, from: token))
                }
                if connections[token] != nil, connection.socket.isBroken {
                    try perform([.cutOff(token, "a frame longer than its kind allows")])
                }
            case .wouldBlock: break
            case .closed, nil: return try drop(token)
            }
        } else if areClientsPaused && !readiness.isDisjoint(with: [.hungUp, .failed]) {
            return try drop(token)
        }
        try flush(token)
    }

    private func drop(_ token: UInt64) throws(SystemError) {
        guard let connection = connections.removeValue(forKey: token) else { return }
        try epoll.remove(connection.socket.raw)
        try perform(relay.clientGone(token))
        try watchIdleness()
    }

    /// Sends what waits for a client and watches for room as long as something does.
    private func flush(_ token: UInt64) throws(SystemError) {
        guard let connection = connections[token] else { return }
        do throws(SystemError) {
            try connection.socket.flush()
        } catch {
            return try drop(token)
        }
        guard connection.socket.pendingByteCount <= HostKeeper.clientBacklogLimit else { return try drop(token) }
        var wanted: Readiness = areClientsPaused ? [] : [.readable]
        if connection.socket.pendingByteCount > 0 { wanted.insert(.writable) }
        guard wanted != connection.watched else { return }
        connection.watched = wanted
        try epoll.modify(connection.socket.raw, wanted, token: token)
    }

    // MARK: The guest

    private func readGuest() throws(SystemError) {
        guard case .received = try guest.receive() else {
            // QEMU has closed its end: its own end is about to be told.
            return
        }
        do throws(SessionError) {
            while let frame = try guest.next() {
                try receiveFromGuest(frame)
                if ending != nil { return }
            }
        } catch {
            ending = .failed("\(error)")
        }
    }

    private func flushGuest() throws(SystemError) {
        try guest.flush()
        let pending = guest.pendingByteCount
        let wanted: Readiness = pending > 0 ? [.readable, .writable] : [.readable]
        if wanted != guestWatched {
            guestWatched = wanted
            try epoll.modify(guest.raw, wanted, token: Token.guest)
        }
        let shouldPause = pending > (areClientsPaused ? HostKeeper.guestBacklogLimit / 4 : HostKeeper.guestBacklogLimit)
        guard shouldPause != areClientsPaused else { return }
        areClientsPaused = shouldPause
        for token in Array(connections.keys) { try flush(token) }
    }

    /// Does what the relay decided.
    func perform(_ actions: [SessionRelay.Action]) throws(SystemError) {
        for action in actions {
            switch action {
            case .toGuest(let frame): guest.queue(frame)
            case .toClient(let client, let frame):
                connections[client]?.socket.queue(frame)
                try flush(client)
            case .cutOff(let client, let why):
                HostKeeper.say("a client is cut off: \(why)")
                let refusal = Refusal(exitCode: 125, message: Array(why.utf8))
                connections[client]?.socket.queue(Frame(.failure, payload: refusal.payload))
                try? connections[client]?.socket.flush()
                try drop(client)
            case .shutDown: try stop("as asked")
            case .guestFailed(let why): ending = .failed(why)
            }
        }
    }
}
