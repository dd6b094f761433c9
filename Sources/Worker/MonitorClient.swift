// SPDX-License-Identifier: Apache-2.0

internal import Platform
internal import Wire

/// A monitor's API, as its supervisor asks it: one request at a time, in order, never waiting. Each request is followed
/// by what is to be done with its answer.
final class MonitorClient {
    /// What came of a request; the text is the monitor's, or says why there is no answer.
    enum Answer: Equatable {
        case done([UInt8])
        case refused(String)
    }

    private let path: String
    private let token: UInt64
    private var socket: Descriptor?
    private var reader = HTTPResponseReader()
    private var outgoing: [UInt8] = []
    private var waiting: [(request: [UInt8], then: (Answer) -> Void)] = []
    private var isAsking = false
    private var isWatchedForWriting = false

    /// - Parameter path: of the monitor's API socket. It is looked for with the first request.
    init(path: String, token: UInt64) {
        self.path = path
        self.token = token
    }

    /// Queues a request. `then` is called from `handle`, or from here where the monitor cannot be reached.
    /// - Parameter body: nil for a request without one.
    func ask(
        _ method: String, _ target: String, _ body: JSON?, epoll: borrowing Epoll, then: @escaping (Answer) -> Void
    ) {
        let bytes = body?.encoded() ?? []
        var head = "\(method) \(target) HTTP/1.1\r\nHost: localhost\r\n"
        if body != nil { head += "Content-Type: application/json\r\nContent-Length: \(bytes.count)\r\n" }
        head += "\r\n"
        waiting.append((Array(head.utf8) + bytes, then))
        if !isAsking { askNext(epoll) }
    }

    private func askNext(_ epoll: borrowing Epoll) {
        guard let next = waiting.first else { return }
        isAsking = true
        do {
            if socket == nil {
                let connection = try UnixSocket.connect(to: path)
                try connection.setNonBlocking()
                try epoll.add(connection.raw, .readable, token: token)
                socket = consume connection
            }
        } catch {
            return fail("\(error)", epoll)
        }
        outgoing = next.request
        flush(epoll)
    }

    /// The socket is ready for something.
    func handle(_ epoll: borrowing Epoll) {
        flush(epoll)
        var space = [UInt8](repeating: 0, count: 16_384)
        while socket != nil {
            let transfer = unsafe space.withUnsafeMutableBytes { unsafe try? socket?.read(into: $0) }
            switch transfer {
            case .bytes(let count): reader.append(space[..<count])
            case .wouldBlock: return
            default: return fail("the monitor closed its API", epoll)
            }
            do {
                while let response = try reader.next() { take(response, epoll) }
            } catch {
                return fail("the monitor's API gave no answer that can be read", epoll)
            }
        }
    }

    private func take(_ response: HTTPResponseReader.Response, _ epoll: borrowing Epoll) {
        guard isAsking, !waiting.isEmpty else { return }
        isAsking = false
        let done = waiting.removeFirst()
        if response.isSuccess {
            done.then(.done(response.body))
        } else {
            let json = try? JSON(parsing: response.body)
            let text = json?["fault_message"]?.stringValue ?? "status \(response.status)"
            done.then(.refused(printable(Array(text.utf8))))
        }
        if !isAsking { askNext(epoll) }
    }

    /// Nothing more comes: all that was asked is answered with that.
    private func fail(_ reason: String, _ epoll: borrowing Epoll) {
        if let raw = socket?.raw { try? epoll.remove(raw) }
        socket = nil
        reader = HTTPResponseReader()
        outgoing = []
        isAsking = false
        let unanswered = waiting
        waiting = []
        for entry in unanswered { entry.then(.refused(reason)) }
    }

    private func flush(_ epoll: borrowing Epoll) {
        guard let raw = socket?.raw else { return }
        while !outgoing.isEmpty {
            let transfer = unsafe outgoing.withUnsafeBytes { unsafe try? socket?.write($0) }
            guard case .bytes(let count) = transfer else {
                if transfer != .wouldBlock { return fail("the monitor's API was lost", epoll) }
                break
            }
            outgoing.removeFirst(count)
        }
        let wantsWriting = !outgoing.isEmpty
        guard wantsWriting != isWatchedForWriting else { return }
        try? epoll.modify(raw, wantsWriting ? [.readable, .writable] : .readable, token: token)
        isWatchedForWriting = wantsWriting
    }

    /// Lets go of the connection: the monitor is gone.
    func end(_ epoll: borrowing Epoll) { fail("the monitor is gone", epoll) }
}
