// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform

/// What `martlet-pages` was asked for.
package struct PageServerStart: Equatable, Sendable {
    package static let usage = """
        usage: martlet-pages --memory FILE --listen SOCKET
               martlet-pages --memory FILE --stream [--first WORKING-SET]
               martlet-pages --from INPUT,OUTPUT --snapshot ID --size BYTES --cache DIRECTORY --listen SOCKET
        """

    enum Work: Equatable, Sendable {
        /// Serves a file to machines of this host.
        case serve(memory: String, socket: String)
        /// Hands a file to another host, over standard input and output.
        case send(memory: String, first: String?)
        /// Serves the memory that another host hands over to machines of this one.
        case fetch(from: StreamEnds, snapshot: String, size: UInt64, cache: String, socket: String)
    }

    /// Descriptors of a stream, which may be the same.
    struct StreamEnds: Equatable, Sendable {
        var input: Int32
        var output: Int32

        /// - Parameter text: two numbers with a comma between them.
        init?(_ text: String) {
            let numbers = text.split(separator: ",", omittingEmptySubsequences: false).map { Int32($0) ?? -1 }
            guard numbers.count == 2, numbers.allSatisfy({ $0 >= 0 }) else { return nil }
            (input, output) = (numbers[0], numbers[1])
        }
    }

    let work: Work

    package init(arguments: [String]) throws(PageServerError) {
        var values: [String: String] = [:]
        var rest = arguments[...]
        while let name = rest.popFirst() {
            guard
                ["--memory", "--listen", "--stream", "--first", "--from", "--snapshot", "--size", "--cache"]
                    .contains(name)
            else { throw .usage("there is no option \(name)\n\(Self.usage)") }
            guard name != "--stream" else {
                values[name] = ""
                continue
            }
            guard let value = rest.popFirst() else { throw .usage("\(name) wants a value\n\(Self.usage)") }
            values[name] = value
        }
        func need(_ name: String) throws(PageServerError) -> String {
            guard let value = values[name] else { throw .usage("\(name) is missing\n\(Self.usage)") }
            return value
        }
        if let ends = values["--from"] {
            guard let ends = StreamEnds(ends) else { throw .usage("--from wants two descriptors\n\(Self.usage)") }
            let page = PageStream.pageSize
            guard let size = UInt64(try need("--size")), size > 0, size % page == 0, size < 1 << 46 else {
                throw .usage("--size wants a number of whole pages, in bytes\n\(Self.usage)")
            }
            work = .fetch(
                from: ends, snapshot: try need("--snapshot"), size: size, cache: try need("--cache"),
                socket: try need("--listen"))
        } else if values["--stream"] != nil {
            work = .send(memory: try need("--memory"), first: values["--first"])
        } else {
            work = .serve(memory: try need("--memory"), socket: try need("--listen"))
        }
    }

    /// Serves until SIGTERM, SIGINT or SIGHUP, or until the stream ends where there is one. Writes the socket's path to
    /// standard output once clients can connect; where that is the stream, to standard error, as `socketLine` has it.
    package func run() throws(PageServerError) {
        ignoreBrokenPipes()
        switch work {
        case .serve(let memory, let socket):
            try Self.serve(try MemoryImage(path: memory), at: socket) { Self.say(socket, to: STDOUT_FILENO) }
        case .send(let memory, let first):
            try Self.send(try MemoryImage(path: memory), first: first)
        case .fetch(let ends, let snapshot, let size, let cache, let socket):
            let source = try Self.source(ends, snapshot: snapshot, size: size, cache: cache)
            let image: MemoryImage
            do throws(SystemError) { image = try source.makeImage() } catch { throw .system(error) }
            try Self.serve(image, source: source, at: socket) {
                if ends.output == STDOUT_FILENO {
                    Self.say(Self.socketLine + socket, to: STDERR_FILENO)
                } else {
                    Self.say(socket, to: STDOUT_FILENO)
                }
            }
        }
    }

    /// What stands before the socket's path on standard error.
    package static let socketLine = "martlet-pages: listens at "

    private static func serve(
        _ image: consuming MemoryImage, source: consuming PageSource? = nil, at socket: String, ready: () -> Void
    ) throws(PageServerError) {
        let listener = try listen(at: socket)
        defer { Files.remove(socket) }
        let calls: Confinement.Calls = source == nil ? .pageServer : .pageFetcher
        raiseDescriptorLimit()
        let signals = try makeSignals()
        let server: PageServer
        do throws(SystemError) {
            server = try PageServer(image, source: source, listener: listener, stop: signals.descriptor.raw) { line in
                say("martlet-pages: \(line)", to: STDERR_FILENO)
            }
            _ = try Confinement.enter(removable: [splitPath(socket).directory], calls: calls)
        } catch {
            throw .system(error)
        }
        try server.run(ready: ready)
    }

    private static func makeSignals() throws(PageServerError) -> SignalQueue {
        do throws(SystemError) { return try SignalQueue([SIGTERM, SIGINT, SIGHUP]) } catch { throw .system(error) }
    }

    /// Standard input and output are the stream. Whatever ends this process, nothing is left of it.
    private static func send(_ image: consuming MemoryImage, first: String?) throws(PageServerError) {
        let input = Descriptor(owning: STDIN_FILENO)
        let output = Descriptor(owning: STDOUT_FILENO)
        do throws(SystemError) {
            try input.setNonBlocking(false)
            try output.setNonBlocking(false)
        } catch {
            throw .system(error)
        }
        var sender = PageSender(image, first: first, input: input, output: output)
        do throws(SystemError) { _ = try Confinement.enter(calls: .pageSender) } catch { throw .system(error) }
        do throws(StreamFailure) { try sender.run() } catch {
            // Nobody is there any more to whom that would be news.
            guard error != .ended else { return }
            throw .stream(error)
        }
    }

    private static func source(
        _ ends: StreamEnds, snapshot: String, size: UInt64, cache: String
    ) throws(PageServerError) -> PageSource {
        do throws(SystemError) {
            let output = try Descriptor(duplicating: ends.output)
            return try PageSource(
                input: Descriptor(owning: ends.input), output: output, cacheIn: cache, snapshot: snapshot,
                memorySize: size)
        } catch {
            throw .system(error)
        }
    }

    /// A machine's memory is for its owner alone, and so is the socket. One that a killed server left is replaced.
    private static func listen(at socket: String) throws(PageServerError) -> Descriptor {
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
