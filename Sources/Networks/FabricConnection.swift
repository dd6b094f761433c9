// SPDX-License-Identifier: Apache-2.0

package import FabricAPI
internal import Glibc
internal import Platform
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
            try Self.start(name, store, program)
        }
        throw .cannotStart(name, "it ends before it answers; \(store.directory(name))/log may say why")
    }

    /// The fabric's connection, or nil where none runs.
    package init?(toRunning name: String, of store: NetworkStore) throws(NetworkError) {
        guard let socket = try Self.connect("\(store.directory(name))/control") else { return nil }
        self.socket = socket
        self.name = name
    }

    private static func connect(_ path: String) throws(NetworkError) -> Descriptor? {
        do throws(SystemError) {
            return try UnixSocket.connect(to: path)
        } catch {
            if error.code == ENOENT || error.code == ECONNREFUSED { return nil }
            throw .system(error)
        }
    }

    /// Starts the fabric, and waits until it can be asked or has ended.
    private static func start(_ name: String, _ store: NetworkStore, _ program: String) throws(NetworkError) {
        do throws(SystemError) {
            let directory = store.directory(name)
            try Files.makeDirectories(directory, permissions: 0o700)
            let log = try Descriptor.open("\(directory)/log", .append, permissions: 0o600)
            let ready = try Pipe()
            let reading = ready.reading
            let writing = ready.writing
            var specification = ProcessSpecification(
                program,
                [
                    "martlet-fabric", "--definition", store.definitionPath(name), "--directory", directory,
                    "--ready-fd", "3",
                ])
            specification.descriptors = [-1, log.raw, log.raw, writing.raw]
            specification.directory = "/"
            specification.newSession = true
            let child = try ChildProcess(specification)
            writing.close()
            var word: UInt8 = 0
            // It closes its end when it listens, or by ending.
            _ = unsafe withUnsafeMutableBytes(of: &word) { space in try? unsafe reading.read(into: space) }
            guard let end = try child.poll(), end != .exited(0) else { return }
            throw SystemError("exec", program, code: ECHILD)
        } catch {
            throw .cannotStart(name, error.code == ECHILD ? lastWords(store, name) : "\(error)")
        }
    }

    private static func lastWords(_ store: NetworkStore, _ name: String) -> String {
        let path = "\(store.directory(name))/log"
        let bytes = (try? Files.read(path, limit: 1 << 20)) ?? []
        let line = bytes.split(separator: 10).last.map { String(decoding: $0.suffix(1000), as: UTF8.self) }
        return line ?? "it said nothing; see \(path)"
    }

    /// Readable when the fabric has ended: nothing else comes unasked.
    package var descriptor: Int32 { socket.raw }

    /// Asks and waits for the reply.
    package mutating func ask(_ request: FabricRequest) throws(NetworkError) -> FabricReply {
        let line: [UInt8]
        do throws(SystemError) {
            try socket.writeAll(request.json.encoded() + [10])
            line = try readLine()
        } catch {
            throw .system(error)
        }
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
            let transfer = unsafe space.withUnsafeMutableBytes { buffer in
                Result { () throws(SystemError) in try unsafe socket.read(into: buffer) }
            }
            guard case .bytes(let count) = try transfer.get() else {
                throw SystemError("read", "the fabric of network \(name)", code: ECONNRESET)
            }
            unread.append(contentsOf: space[..<count])
        }
    }
}
