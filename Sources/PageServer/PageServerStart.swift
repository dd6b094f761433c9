// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform

/// `martlet-pages --memory FILE --listen SOCKET`
package struct PageServerStart: Equatable, Sendable {
    package static let usage = "usage: martlet-pages --memory FILE --listen SOCKET"

    package var memory: String
    package var socket: String

    package init(arguments: [String]) throws(PageServerError) {
        var values: [String: String] = [:]
        var rest = arguments[...]
        while let name = rest.popFirst() {
            guard ["--memory", "--listen"].contains(name) else {
                throw .usage("there is no option \(name)\n\(Self.usage)")
            }
            guard let value = rest.popFirst() else { throw .usage("\(name) wants a value\n\(Self.usage)") }
            values[name] = value
        }
        guard let memory = values["--memory"] else { throw .usage("--memory is missing\n\(Self.usage)") }
        guard let socket = values["--listen"] else { throw .usage("--listen is missing\n\(Self.usage)") }
        (self.memory, self.socket) = (memory, socket)
    }

    /// Serves until SIGTERM, SIGINT or SIGHUP. Writes the socket's path to standard output once clients can connect.
    package func run() throws(PageServerError) {
        let image = try MemoryImage(path: memory)
        let listener = try listen()
        defer { Files.remove(socket) }
        do throws(SystemError) {
            ignoreBrokenPipes()
            raiseDescriptorLimit()
            let signals = try SignalQueue([SIGTERM, SIGINT, SIGHUP])
            let server = try PageServer(image, listener: listener, stop: signals.descriptor.raw) { line in
                Self.say("martlet-pages: \(line)", to: STDERR_FILENO)
            }
            _ = try Confinement.enter(removable: [splitPath(socket).directory], calls: .pageServer)
            Self.say(socket, to: STDOUT_FILENO)
            try server.run()
        } catch {
            throw .system(error)
        }
    }

    /// A machine's memory is for its owner alone, and so is the socket. One that a killed server left is replaced.
    private func listen() throws(PageServerError) -> Descriptor {
        let mask = umask(0o077)
        defer { umask(mask) }
        do throws(SystemError) {
            return try UnixSocket.listen(at: socket)
        } catch {
            guard error.code == EADDRINUSE else { throw .system(error) }
        }
        do throws(SystemError) {
            try UnixSocket.connect(to: socket, nonBlocking: true).close()
        } catch {
            guard error.code == ECONNREFUSED else { throw .taken(socket) }
            Files.remove(socket)
            do throws(SystemError) { return try UnixSocket.listen(at: socket) } catch { throw .system(error) }
        }
        throw .taken(socket)
    }

    /// A line, in one write; a reader that has gone is told nothing.
    private static func say(_ text: String, to raw: Int32) {
        let line = Array("\(text)\n".utf8)
        _ = unsafe line.withUnsafeBytes { unsafe write(raw, $0.baseAddress, $0.count) }
    }
}
