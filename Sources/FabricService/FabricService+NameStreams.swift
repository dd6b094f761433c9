// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Fabric
internal import Glibc
internal import Packet
internal import Platform

/// A machine's connection to the name server: the gateway ends its TCP, and this is the other end of it.
final class NameStream {
    let socket: Descriptor
    let endpoint: EndpointID
    private var input = DNSStream()
    private var output: [UInt8] = []
    /// Questions that are being asked upstream.
    var pending = 0
    private(set) var hasEnded = false

    /// Of answers that the machine does not read.
    static let outputLimit = 256 << 10
    static let pendingLimit = 32

    init(_ socket: consuming Descriptor, endpoint: EndpointID) {
        self.socket = socket
        self.endpoint = endpoint
    }

    /// Reads what has come; gives the questions that are whole.
    func read() -> [[UInt8]] {
        var messages: [[UInt8]] = []
        var space = [UInt8](repeating: 0, count: 16_384)
        let count = unsafe space.withUnsafeMutableBytes {
            unsafe Glibc.read(socket.raw, $0.baseAddress, $0.count)
        }
        if count == 0 || count < 0 && clinux_errno() != EAGAIN { hasEnded = true }
        var taken = 0
        while taken < count {
            let rest = Array(space[taken..<count])
            let span = rest.span
            taken += input.append(unsafe span.bytes)
            while let message = input.next() { messages.append(message) }
        }
        return messages
    }

    func write(_ message: [UInt8]) {
        output += [UInt8(message.count >> 8), UInt8(message.count & 255)] + message
        flush()
    }

    func flush() {
        while !output.isEmpty {
            let count = unsafe output.withUnsafeBytes {
                unsafe Glibc.send(socket.raw, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else {
                if clinux_errno() != EAGAIN {
                    hasEnded = true
                    output = []
                }
                return
            }
            output.removeFirst(count)
        }
    }

    var isBlocked: Bool { !output.isEmpty }
    /// Nothing more will be asked, and all is answered; or the machine does not read.
    var isOver: Bool {
        hasEnded && pending == 0 && output.isEmpty || output.count > NameStream.outputLimit
    }
    var takesQuestions: Bool { !hasEnded && pending < NameStream.pendingLimit }
}

extension FabricService {
    static var streamLimit: Int { 512 }
    static var streamLimitOfOne: Int { 32 }

    /// Takes a machine's connection to port 53 of the gateway.
    func acceptStream(_ socket: consuming Descriptor, from endpoint: EndpointID) {
        let own = streams.values.count { $0.endpoint == endpoint }
        guard streams.count < FabricService.streamLimit, own < FabricService.streamLimitOfOne else { return }
        let stream = NameStream(socket, endpoint: endpoint)
        nextStream = (nextStream + 1) & 0x7FFF_FFFF
        guard
            (try? epoll.add(stream.socket.raw, .readable, token: Token.stream(nextStream).value)) != nil
        else { return }
        streams[nextStream] = stream
    }

    func serve(stream number: Int, _ readiness: Readiness) {
        guard let stream = streams[number] else { return }
        if readiness.contains(.writable) { stream.flush() }
        if !readiness.isDisjoint(with: [.readable, .hungUp, .failed]) {
            for message in stream.read() { answer(message, on: number, stream) }
        }
        settle(stream: number)
    }

    private func answer(_ message: [UInt8], on number: Int, _ stream: NameStream) {
        var output = [UInt8](repeating: 0, count: 65_535)
        var outcome = NameOutcome.ignored
        do {
            var space = output.mutableSpan
            var bytes = unsafe space.mutableBytes
            let question = message.span
            names.turn &+= 1
            outcome = NameServer.answer(
                unsafe question.bytes, network: 0, table: state.table, elsewhere: elsewhere(stream.endpoint),
                turn: names.turn, overTCP: true, to: &bytes, at: 0)
        }
        switch outcome {
        case .answered(let length): stream.write(Array(output[..<length]))
        case .ignored: break
        case .forward:
            guard stream.takesQuestions, let target = router.port(of: stream.endpoint), let port = ports[target.index]
            else { return }
            let question = message.span
            guard mayAsk(unsafe question.bytes, port) else {
                var length: Int?
                do {
                    var space = output.mutableSpan
                    var bytes = unsafe space.mutableBytes
                    length = NameServer.deny(unsafe question.bytes, to: &bytes, at: 0)
                }
                if let length { stream.write(Array(output[..<length])) }
                return
            }
            stream.pending += 1
            let client = NameClient(endpoint: stream.endpoint, way: .stream(number))
            perform(names.ask(message, from: client, now: monotonicNanoseconds()))
        }
    }

    private func elsewhere(_ endpoint: EndpointID) -> NamesElsewhere? {
        router.port(of: endpoint).flatMap { ports[$0.index]?.elsewhere }
    }

    /// An answer from upstream.
    func deliver(_ message: [UInt8], toStream number: Int) {
        guard let stream = streams[number] else { return }
        stream.pending -= 1
        stream.write(message)
        settle(stream: number)
    }

    /// Watches a stream for what it waits for, or ends it.
    private func settle(stream number: Int) {
        guard let stream = streams[number] else { return }
        guard !stream.isOver else {
            try? epoll.remove(stream.socket.raw)
            streams[number] = nil
            return
        }
        var readiness: Readiness = []
        if stream.takesQuestions { readiness.insert(.readable) }
        if stream.isBlocked { readiness.insert(.writable) }
        // One that has hung up would be reported until its last answer is there.
        if stream.hasEnded { readiness.insert(.edgeTriggered) }
        try? epoll.modify(stream.socket.raw, readiness, token: Token.stream(number).value)
    }

    /// Ends the streams of a machine that has gone.
    func endStreams(of endpoint: EndpointID) {
        for (number, stream) in streams where stream.endpoint == endpoint {
            try? epoll.remove(stream.socket.raw)
            streams[number] = nil
        }
    }
}
