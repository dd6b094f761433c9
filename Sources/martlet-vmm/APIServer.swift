// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import MachineAPI
internal import Platform

// Zone 1: one plain thread. Requests are served one after another, in the order in which they came; while one is served
// no other is read. A client that is slow, or sends half a request, holds up nobody: only whole requests are served,
// and answers are written as far as their socket takes them.

/// Listens at a unix socket and serves what comes there.
final class APIServer {
    /// The most connections at a time; one more is told so and closed.
    static let connectionLimit = 64
    /// So long without a request is a pause between requests.
    private static let quietInMilliseconds: Int32 = 20
    /// So long nobody is taken when one could not be: what is missing may be there again then.
    private static let restInMilliseconds: UInt64 = 100
    private static let listenerToken: UInt64 = 0
    private static let stopToken: UInt64 = 1
    private static let restToken: UInt64 = 2

    private let listener: Descriptor
    private let stop: SharedSignal
    private let epoll: Epoll
    private let bodyLimit: Int
    /// Answers a request; the Boolean says whether the process is to end once the answer is written.
    private let serve: (HTTPRequest) -> (response: HTTPResponse, ends: Bool)
    private let log: MessageLog

    private var connections: [UInt64: APIConnection] = [:]
    private var nextToken: UInt64 = 3
    private var isListening = false
    /// The end of a rest.
    private let rest: Timer
    /// The last attempt to take a connection failed, which was said.
    private var hasFailed = false
    /// Requests were served since memory was last given back.
    private var isWarm = false

    /// - Parameter stop: ends `run`.
    init(
        listener: consuming Descriptor, stop: SharedSignal, bodyLimit: Int, log: MessageLog,
        serve: @escaping (HTTPRequest) -> (response: HTTPResponse, ends: Bool)
    ) throws(SystemError) {
        self.listener = listener
        self.stop = stop
        self.bodyLimit = bodyLimit
        self.log = log
        self.serve = serve
        epoll = try Epoll()
        rest = try Timer()
        try epoll.add(rest.descriptor.raw, .readable, token: Self.restToken)
        try epoll.add(stop.counter.descriptor.raw, .readable, token: Self.stopToken)
        try listen()
    }

    /// Serves until it is told to stop, or a request ended the process.
    func run() throws(SystemError) {
        var events = EpollEvents(capacity: 16)
        var buffer = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            let count = try epoll.wait(&events, timeoutInMilliseconds: isWarm ? Self.quietInMilliseconds : nil)
            if count == 0 {
                // What requests needed of the program is not kept in memory until the next ones.
                isWarm = false
                dropProgramPages()
            }
            var hasNew = false
            for index in 0..<count {
                let (token, _) = events[index]
                switch token {
                case Self.listenerToken: hasNew = true
                case Self.stopToken: return flush()
                case Self.restToken: if rest.drain() { try listen() }
                default:
                    guard let connection = connections[token] else { continue }
                    if handle(connection, &buffer) { return flush() }
                    try settle(connection, token)
                }
            }
            // Those that end make room for new ones: where there is none, others that have something to say come first.
            if hasNew, connections.count < Self.connectionLimit || count == 1 { try accept() }
        }
    }

    // MARK: - Connections

    private func listen() throws(SystemError) {
        guard !isListening else { return }
        try epoll.add(listener.raw, .readable, token: Self.listenerToken)
        isListening = true
    }

    private func accept() throws(SystemError) {
        do throws(SystemError) {
            guard let socket = try UnixSocket.accept(on: listener) else { return }
            try take(socket)
            hasFailed = false
        } catch {
            // No descriptor is free, or no memory: whoever waits is taken when a connection has ended, or somewhat later.
            if !hasFailed { log.write(.error, "a connection to the API cannot be taken: \(error.reason)") }
            hasFailed = true
            guard isListening else { return }
            try epoll.remove(listener.raw)
            isListening = false
            try rest.arm(afterMilliseconds: Self.restInMilliseconds)
        }
    }

    private func take(_ socket: consuming Descriptor) throws(SystemError) {
        guard connections.count < Self.connectionLimit else {
            let bytes = HTTPResponse.busy.bytes
            _ = unsafe bytes.withUnsafeBytes { try? unsafe socket.write($0) }
            return
        }
        let token = nextToken
        nextToken += 1
        try epoll.add(socket.raw, .readable, token: token)
        connections[token] = APIConnection(socket, bodyLimit: bodyLimit)
    }

    /// Reads, serves and writes what there is; whether the process is to end.
    private func handle(_ connection: APIConnection, _ buffer: inout [UInt8]) -> Bool {
        connection.read(&buffer)
        // What was written may make room for requests that came before.
        connection.write()
        while let request = connection.nextRequest() {
            isWarm = true
            let (response, ends) = serve(request)
            connection.answer(response, closing: request.closesConnection)
            if ends { return true }
            connection.write()
        }
        connection.write()
        return false
    }

    /// Watches for what the connection waits for next, or ends it.
    private func settle(_ connection: APIConnection, _ token: UInt64) throws(SystemError) {
        if connection.hasEnded {
            connections[token] = nil
            try listen()
        } else if connection.interest != connection.watched {
            try epoll.modify(connection.socket.raw, connection.interest, token: token)
            connection.watched = connection.interest
        }
    }

    /// Writes what is left to say, without waiting for those who do not listen.
    private func flush() {
        for connection in connections.values { connection.write() }
    }
}

/// An event counter that several owners share.
final class SharedSignal: Sendable {
    let counter: EventCounter
    init() throws(SystemError) { counter = try EventCounter() }
}
