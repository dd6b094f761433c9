// SPDX-License-Identifier: Apache-2.0

internal import CLinux
package import FabricAPI
internal import Glibc
internal import Packet
package import Platform
internal import Wire

/// A connection to a network's fabric. It is a lease: what was attached through it is detached when it is closed, however
/// that comes about.
package struct FabricConnection: ~Copyable, Sendable {
    private let socket: Descriptor
    /// The network's, for messages.
    private let name: String
    private var unread: [UInt8] = []

    /// Connects to the fabric of a network, and starts it where it does not run.
    /// - Parameter program: `martlet-fabric`.
    package init(to name: String, of store: NetworkStore, program: String) throws(NetworkError) {
        self.name = name
        let control = "\(store.directory(name))/control"
        // A fabric may be found just as it ends; then the next one is started.
        for _ in 0..<3 {
            if let socket = try Self.connect(control) {
                self.socket = socket
                return
            }
            try StartedFabric(name, of: store, program: program).wait()
        }
        throw .cannotStart(name, "it ends before it answers; \(store.directory(name))/log may say why")
    }

    /// The fabric's connection, or nil where none runs.
    package init?(toRunning name: String, of store: NetworkStore) throws(NetworkError) {
        guard let socket = try Self.connect("\(store.directory(name))/control") else { return nil }
        self.socket = socket
        self.name = name
    }

    /// Connects to the fabric that this host is attached to as a machine, and says so.
    package static func asMachine(of outer: OuterHost) throws(NetworkError) -> FabricConnection {
        var connection = FabricConnection(socket: try call(outer), name: "outside")
        _ = try connection.ask(.present(token: outer.token))
        return connection
    }

    private init(socket: consuming Descriptor, name: String) {
        self.socket = socket
        self.name = name
    }

    private static func call(_ outer: OuterHost) throws(NetworkError) -> Descriptor {
        do throws(SystemError) { return try dial(outer) } catch { throw .system(error) }
    }

    private static func dial(_ outer: OuterHost) throws(SystemError) -> Descriptor {
        let socket = try InternetSocket.make(.stream, ipv4: true)
        let way = try InternetSocket.connect(socket, to: SocketAddress(ipv4: outer.gateway.value, port: outer.port))
        if way == .underway {
            try Self.wait(for: socket, POLLOUT)
            let code = InternetSocket.takeError(socket)
            guard code == 0 else { throw SystemError("connect", "\(outer.gateway)", code: code) }
        }
        // Whoever asks for nothing for a while still wants to know that the fabric there was started anew.
        InternetSocket.tune(socket, keepaliveInSeconds: 6)
        try socket.setNonBlocking(false)
        return socket
    }

    private static func connect(_ path: String) throws(NetworkError) -> Descriptor? {
        do throws(SystemError) {
            return try UnixSocket.connect(to: path)
        } catch {
            if error.code == ENOENT || error.code == ECONNREFUSED { return nil }
            throw .system(error)
        }
    }

    /// Readable when the fabric has ended: nothing else comes unasked.
    package var descriptor: Int32 { socket.raw }

    /// Whether the other side has gone; to be asked when `descriptor` is readable.
    package var isLost: Bool {
        var byte: UInt8 = 0
        let raw = socket.raw
        let count = retryingInterrupts { unsafe recv(raw, &byte, 1, Int32(MSG_PEEK) | Int32(MSG_DONTWAIT)) }
        return count == 0 || count < 0 && clinux_errno() != EAGAIN
    }

    /// Asks and waits for the reply.
    package mutating func ask(_ request: FabricRequest) throws(NetworkError) -> FabricReply {
        try send(request)
        return try receive()
    }

    /// Asks, together with a descriptor for it to write to, and waits for the reply.
    package mutating func ask(
        _ request: FabricRequest, giving descriptor: borrowing Descriptor
    ) throws(NetworkError) -> FabricReply {
        let line = request.json.encoded() + [10]
        var raw = descriptor.raw
        let sent = unsafe clinux_send_descriptors(socket.raw, line, line.count, &raw, 1)
        guard sent == line.count else { throw .system(SystemError("sendmsg", name)) }
        return try receive()
    }

    /// Asks. The reply is taken by `receive`.
    package func send(_ request: FabricRequest) throws(NetworkError) {
        do throws(SystemError) { try socket.writeAll(request.json.encoded() + [10]) } catch { throw .system(error) }
    }

    /// Waits for the reply to what was asked first of what has no reply yet.
    package mutating func receive() throws(NetworkError) -> FabricReply {
        let line: [UInt8]
        do throws(SystemError) { line = try readLine() } catch { throw .system(error) }
        let reply: FabricReply
        do {
            reply = try FabricReply(JSON(parsing: line, limits: Self.limits))
        } catch {
            throw .malformed("the answer of network \(name)", "\(error)")
        }
        if case .refused(let refusal, let reason) = reply { throw .refused(refusal, reason) }
        return reply
    }

    private static var limits: JSONLimits {
        var limits = JSONLimits()
        limits.sizeInBytes = FabricReply.sizeLimit
        return limits
    }

    private mutating func readLine() throws(SystemError) -> [UInt8] {
        var space = [UInt8](repeating: 0, count: 65_536)
        while true {
            if let end = unread.firstIndex(of: 10) {
                let line = Array(unread[..<end])
                unread.removeFirst(end + 1)
                return line
            }
            guard unread.count <= FabricReply.sizeLimit else { throw SystemError("read", name, code: EMSGSIZE) }
            try Self.wait(for: socket, POLLIN)
            let transfer = unsafe space.withUnsafeMutableBytes { buffer in
                Result { () throws(SystemError) in try unsafe socket.read(into: buffer) }
            }
            guard case .bytes(let count) = try transfer.get() else {
                throw SystemError("read", "the fabric of network \(name)", code: ECONNRESET)
            }
            unread.append(contentsOf: space[..<count])
        }
    }

    /// A fabric that does not answer is stopped or stuck: nobody waits for it for ever.
    private static func wait(for socket: borrowing Descriptor, _ event: Int32) throws(SystemError) {
        var entry = pollfd(fd: socket.raw, events: Int16(truncatingIfNeeded: event), revents: 0)
        let count = retryingInterrupts { unsafe Int(poll(&entry, 1, answerLimit)) }
        guard count > 0 else { throw SystemError("poll", "the fabric", code: count == 0 ? ETIMEDOUT : clinux_errno()) }
    }

    /// In milliseconds.
    private static let answerLimit: Int32 = 60_000
}
