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
    /// What has been read and does not fit into `input` until questions are taken out of it.
    private var rest: [UInt8] = []
    private var output: [UInt8] = []
    /// Questions that are being asked upstream.
    var pending = 0
    /// Questions are being taken out.
    var isDraining = false
    /// When a question came last, or the machine read an answer, in nanoseconds.
    private(set) var lastUsed: UInt64
    private(set) var hasEnded = false

    /// Of answers that the machine does not read.
    static let outputLimit = 256 << 10
    static let pendingLimit = 32
    static let readSize = 16_384

    init(_ socket: consuming Descriptor, endpoint: EndpointID, now: UInt64) {
        self.socket = socket
        self.endpoint = endpoint
        lastUsed = now
    }

    /// Reads what has come, unless there is something left of what came before.
    func read() {
        guard rest.isEmpty, !hasEnded else { return }
        var space = [UInt8](repeating: 0, count: NameStream.readSize)
        let count = unsafe space.withUnsafeMutableBytes {
            unsafe Glibc.read(socket.raw, $0.baseAddress, $0.count)
        }
        if count == 0 || count < 0 && clinux_errno() != EAGAIN { hasEnded = true }
        if count > 0 { rest = Array(space[..<count]) }
    }

    /// Takes the next whole question; nil where there is none, or as many are under way as may be. Those behind it stay
    /// where they are, in the end with the machine, until answers have gone out.
    func next(now: UInt64) -> [UInt8]? {
        while takesQuestions {
            if let message = input.next() {
                lastUsed = now
                return message
            }
            guard !rest.isEmpty else { return nil }
            let bytes = rest
            let span = bytes.span
            rest.removeFirst(input.append(unsafe span.bytes))
        }
        return nil
    }

    /// Takes nothing more from the machine.
    func end() {
        hasEnded = true
        rest = []
        input = DNSStream()
    }

    func write(_ message: [UInt8], now: UInt64) {
        output += [UInt8(message.count >> 8), UInt8(message.count & 255)] + message
        flush(now: now)
    }

    func flush(now: UInt64) {
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
            lastUsed = now
        }
    }

    var isBlocked: Bool { !output.isEmpty }
    /// Nothing more will be asked, and all is answered; or the machine does not read.
    var isOver: Bool {
        hasEnded && pending == 0 && output.isEmpty || output.count > NameStream.outputLimit
    }
    /// One more question may be taken. A machine that does not read its answers asks no more.
    var takesQuestions: Bool { pending < NameStream.pendingLimit && output.isEmpty }
    /// What comes next from the machine is wanted.
    var wantsInput: Bool { !hasEnded && rest.isEmpty && takesQuestions }
}

extension FabricService {
    static var streamLimit: Int { 512 }
    static var streamLimitOfOne: Int { 32 }

    /// Takes a machine's connection to port 53 of the gateway.
    func acceptStream(_ socket: consuming Descriptor, from endpoint: EndpointID) {
        guard let target = router.port(of: endpoint) else { return }
        let own = streams.values.count { $0.endpoint == endpoint }
        guard streams.count < FabricService.streamLimit, own < FabricService.streamLimitOfOne else {
            return router.countDrop(.streamLimit, at: target)
        }
        let now = monotonicNanoseconds()
        let stream = NameStream(socket, endpoint: endpoint, now: now)
        nextStream = (nextStream + 1) & 0x7FFF_FFFF
        guard
            (try? epoll.add(stream.socket.raw, .readable, token: Token.stream(nextStream).value)) != nil
        else { return router.countDrop(.streamLimit, at: target) }
        streams[nextStream] = stream
        streamsDue = streamsDue ?? now + configuration.streamIdleTimeInNanoseconds
    }

    func serve(stream number: Int, _ readiness: Readiness) {
        guard let stream = streams[number] else { return }
        if readiness.contains(.writable) { stream.flush(now: monotonicNanoseconds()) }
        if !readiness.isDisjoint(with: [.readable, .hungUp, .failed]) { stream.read() }
        drain(stream, number)
        settle(stream: number)
    }

    /// Answers the questions that have come, as many as may be under way.
    private func drain(_ stream: NameStream, _ number: Int) {
        // What an answer from memory makes room for is taken by the loop that is at it.
        guard !stream.isDraining else { return }
        stream.isDraining = true
        let now = monotonicNanoseconds()
        while let message = stream.next(now: now) { answer(message, on: number, stream, now) }
        stream.isDraining = false
    }

    private func answer(_ message: [UInt8], on number: Int, _ stream: NameStream, _ now: UInt64) {
        guard let target = router.port(of: stream.endpoint), let port = ports[target.index],
            router.takeQuery(at: target, now: now)
        else { return stream.end() }
        var output = [UInt8](repeating: 0, count: 65_535)
        var outcome = NameOutcome.ignored
        do {
            var space = output.mutableSpan
            var bytes = unsafe space.mutableBytes
            let question = message.span
            names.turn &+= 1
            outcome = NameServer.answer(
                unsafe question.bytes, network: 0, table: state.table, elsewhere: port.elsewhere,
                foreign: foreignNames, denied: &port.deniedNames, now: now, turn: names.turn, overTCP: true, to: &bytes,
                at: 0)
        }
        switch outcome {
        case .answered(let length): stream.write(Array(output[..<length]), now: now)
        case .ignored: router.countDrop(.notForUs, at: target)
        case .forward:
            let question = message.span
            guard mayAsk(unsafe question.bytes, port) else {
                var length: Int?
                do {
                    var space = output.mutableSpan
                    var bytes = unsafe space.mutableBytes
                    length = NameServer.deny(unsafe question.bytes, to: &bytes, at: 0)
                }
                if let length { stream.write(Array(output[..<length]), now: now) }
                return
            }
            stream.pending += 1
            let client = NameClient(endpoint: stream.endpoint, way: .stream(number))
            perform(names.ask(message, from: client, now: now))
        }
    }

    /// An answer from upstream.
    func deliver(_ message: [UInt8], toStream number: Int) {
        guard let stream = streams[number] else { return }
        stream.pending -= 1
        stream.write(message, now: monotonicNanoseconds())
        guard !stream.isDraining else { return }
        drain(stream, number)
        settle(stream: number)
    }

    /// Watches a stream for what it waits for, or ends it.
    private func settle(stream number: Int) {
        guard let stream = streams[number] else { return }
        guard !stream.isOver else { return end(stream: number) }
        var readiness: Readiness = []
        if stream.wantsInput { readiness.insert(.readable) }
        if stream.isBlocked { readiness.insert(.writable) }
        // One that has hung up would be reported until its last answer is there.
        if stream.hasEnded { readiness.insert(.edgeTriggered) }
        try? epoll.modify(stream.socket.raw, readiness, token: Token.stream(number).value)
    }

    private func end(stream number: Int) {
        guard let stream = streams.removeValue(forKey: number) else { return }
        try? epoll.remove(stream.socket.raw)
    }

    /// Ends streams by which nothing whole has come or gone for a while.
    func endIdleStreams(now: UInt64) {
        var next: UInt64?
        for (number, stream) in streams {
            let due = stream.lastUsed + configuration.streamIdleTimeInNanoseconds
            if due <= now { end(stream: number) } else { next = min(next ?? due, due) }
        }
        streamsDue = next
    }

    /// Ends the streams of a machine that has gone.
    func endStreams(of endpoint: EndpointID) {
        for (number, stream) in streams where stream.endpoint == endpoint { end(stream: number) }
    }
}
