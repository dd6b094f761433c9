// SPDX-License-Identifier: Apache-2.0

package import Packet

/// Who asked: where an answer goes.
package struct NameClient: Equatable, Sendable {
    package enum Way: Equatable, Sendable {
        case datagram(isIPv6: Bool, port: UInt16)
        /// The number of a stream of the shell's.
        case stream(Int)
    }

    package var endpoint: EndpointID
    package var way: Way

    package init(endpoint: EndpointID, way: Way) {
        self.endpoint = endpoint
        self.way = way
    }
}

/// What the shell is to do for the forwarder.
package enum NameAction: Equatable, Sendable {
    /// Send the message to an upstream server: from a socket of its own, with a port that nobody can guess.
    case ask(ExchangeID, upstream: IPAddress, message: [UInt8], overTCP: Bool)
    /// Give up what was begun for an exchange: its sockets are of no use any more.
    case end(ExchangeID)
    case answer(NameClient, [UInt8])
}

/// One attempt to have a question answered by one server.
package struct ExchangeID: Hashable, Sendable {
    package let pending: Int
    package let attempt: Int
}

/// Asks the host's servers on behalf of machines: a pure core. Servers are raced: the one that has been fastest is asked
/// first, the next one after a moment without an answer, so that one that is dead costs a moment once. What is being
/// asked already is not asked twice. A truncated answer is asked for again over TCP.
package struct NameForwarder {
    package static let pendingLimit = 1024
    package static let waiterLimit = 32
    /// A machine's share of what is pending.
    package static let pendingLimitOfOne = 128
    static let timeoutInNanoseconds: UInt64 = 5_000_000_000
    static let serverLimit = 6

    private struct Waiter {
        let client: NameClient
        /// The query as it came: its identifier and its question, letter by letter.
        let query: [UInt8]
    }

    private struct Attempt {
        let server: Int
        let overTCP: Bool
        /// Without EDNS, for a server that does not know it (RFC 6891 §7).
        let isPlain: Bool
        let at: UInt64
        var isOver = false
    }

    private struct Pending {
        let key: NameCache.Key
        let owner: EndpointID
        var waiters: [Waiter]
        let started: UInt64
        let identifier: UInt16
        /// In the order in which they are asked.
        var order: [Int]
        /// When each attempt was begun.
        var attempts: [Attempt] = []
        var nextAttempt: UInt64
        var message: [UInt8]
        var lastFailure: [UInt8]?
    }

    private struct Server {
        var address: IPAddress
        /// Smoothed, in nanoseconds; 0 where nothing is known.
        var roundTrip: UInt64 = 0
        var failures = 0
    }

    private var servers: [Server] = []
    private var pending: [Pending?] = []
    private var byKey: [NameCache.Key: Int] = [:]
    private var cache = NameCache()
    private var random: UInt64
    package private(set) var hits: UInt64 = 0
    package private(set) var misses: UInt64 = 0

    /// - Parameter seed: random; of it the identifiers of queries are made.
    package init(seed: UInt64) { random = seed }

    package var pendingCount: Int { byKey.count }

    /// The host's servers have changed. What is under way goes on.
    package mutating func setServers(_ addresses: [IPAddress]) {
        let known = servers
        servers = addresses.prefix(NameForwarder.serverLimit).map { address in
            known.first { $0.address == address } ?? Server(address: address)
        }
        for index in pending.indices where pending[index] != nil {
            pending[index]?.order.removeAll { $0 >= servers.count }
        }
    }

    /// SplitMix64 over a random seed.
    private mutating func nextRandom() -> UInt64 {
        random &+= 0x9E37_79B9_7F4A_7C15
        var value = random
        value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
        return value ^ value >> 31
    }

    // MARK: - Events

    /// A machine asks; the message is a query for the outside, as `NameServer` found.
    package mutating func ask(_ message: [UInt8], from client: NameClient, now: UInt64) -> [NameAction] {
        let span = message.span
        guard let view = DNSView(unsafe span.bytes), view.questionCount == 1 else { return [] }
        let wantsDNSSEC = view.extensionRecord?.wantsDNSSEC ?? false
        let key = NameCache.Key(
            question: view.question, options: (wantsDNSSEC ? 1 : 0) | (view.checkingDisabled ? 2 : 0))
        let waiter = Waiter(client: client, query: message)
        if let known = cache.find(key, now: now) {
            hits &+= 1
            return answer(waiter, known)
        }
        misses &+= 1
        if let index = byKey[key], let count = pending[index]?.waiters.count {
            guard count < NameForwarder.waiterLimit else { return fail(waiter, DNSCode.serverFailure) }
            pending[index]?.waiters.append(waiter)
            return []
        }
        let share = pending.count { $0?.owner == client.endpoint }
        guard !servers.isEmpty, byKey.count < NameForwarder.pendingLimit, share < NameForwarder.pendingLimitOfOne else {
            return fail(waiter, DNSCode.serverFailure)
        }
        let order = servers.indices.sorted {
            (servers[$0].failures, servers[$0].roundTrip, $0) < (servers[$1].failures, servers[$1].roundTrip, $1)
        }
        let identifier = UInt16(truncatingIfNeeded: nextRandom())
        guard let query = NameForwarder.query(key, identifier: identifier) else { return [] }
        let entry = Pending(
            key: key, owner: client.endpoint, waiters: [waiter], started: now, identifier: identifier, order: order,
            nextAttempt: now, message: query)
        let index = pending.firstIndex { $0 == nil } ?? pending.count
        if index == pending.count { pending.append(entry) } else { pending[index] = entry }
        byKey[key] = index
        return attemptNext(index, now)
    }

    /// A server's answer has come.
    package mutating func receive(_ message: [UInt8], for exchange: ExchangeID, now: UInt64) -> [NameAction] {
        guard let entry = lookUp(exchange) else { return [] }
        let attempt = entry.attempts[exchange.attempt]
        let span = message.span
        guard let view = DNSView(unsafe span.bytes), view.isResponse, view.identifier == entry.identifier else {
            return []
        }
        // Who does not understand a question may answer with a header alone.
        let isHeader = view.code == DNSCode.formatError && view.questionCount == 0
        guard isHeader || view.questionCount == 1 && view.question == entry.key.question else { return [] }
        let elapsed = now &- attempt.at
        if servers.indices.contains(attempt.server) {
            let old = servers[attempt.server].roundTrip
            servers[attempt.server].roundTrip = old == 0 ? elapsed : (old * 7 + elapsed) / 8
        }
        if view.isTruncated, !attempt.overTCP {
            pending[exchange.pending]?.attempts[exchange.attempt].isOver = true
            return [.end(exchange)]
                + begin(exchange.pending, attempt.server, overTCP: true, isPlain: attempt.isPlain, now)
        }
        if view.code == DNSCode.formatError, !attempt.isPlain {
            pending[exchange.pending]?.attempts[exchange.attempt].isOver = true
            return [.end(exchange)]
                + begin(exchange.pending, attempt.server, overTCP: attempt.overTCP, isPlain: true, now)
        }
        if view.code == DNSCode.noError || view.code == DNSCode.noSuchName {
            if servers.indices.contains(attempt.server) { servers[attempt.server].failures = 0 }
            cache.store(message, for: entry.key, now: now)
            return finish(exchange.pending, message)
        }
        if !isHeader { pending[exchange.pending]?.lastFailure = message }
        return failed(exchange, now)
    }

    /// A server cannot be asked: its port is closed, its stream has ended.
    package mutating func fail(_ exchange: ExchangeID, now: UInt64) -> [NameAction] {
        guard lookUp(exchange) != nil else { return [] }
        return failed(exchange, now)
    }

    /// Does what is due.
    package mutating func advance(now: UInt64) -> [NameAction] {
        var actions: [NameAction] = []
        for index in pending.indices {
            guard let entry = pending[index] else { continue }
            if now &- entry.started >= NameForwarder.timeoutInNanoseconds {
                for attempt in entry.attempts where !attempt.isOver && servers.indices.contains(attempt.server) {
                    servers[attempt.server].failures = min(servers[attempt.server].failures + 1, 8)
                }
                actions += finish(index, entry.lastFailure)
            } else if entry.nextAttempt <= now {
                actions += attemptNext(index, now)
            }
        }
        return actions
    }

    /// When `advance` has something to do.
    package var deadline: UInt64? {
        var least: UInt64?
        for case let entry? in pending {
            let next = min(entry.nextAttempt, entry.started &+ NameForwarder.timeoutInNanoseconds)
            least = min(least ?? next, next)
        }
        return least
    }

    // MARK: - Attempts

    private func lookUp(_ exchange: ExchangeID) -> Pending? {
        guard pending.indices.contains(exchange.pending), let entry = pending[exchange.pending],
            entry.attempts.indices.contains(exchange.attempt), !entry.attempts[exchange.attempt].isOver
        else { return nil }
        return entry
    }

    private mutating func attemptNext(_ index: Int, _ now: UInt64) -> [NameAction] {
        guard let entry = pending[index] else { return [] }
        let asked = entry.attempts.count { !$0.overTCP && !$0.isPlain }
        // Each server is asked up to three times within the timeout: datagrams get lost.
        guard !entry.order.isEmpty, asked < entry.order.count * 3 else {
            pending[index]?.nextAttempt = .max
            return []
        }
        let server = entry.order[asked % entry.order.count]
        let patience = servers.indices.contains(server) ? servers[server].roundTrip * 2 : 0
        let wait = asked + 1 < entry.order.count ? min(max(patience, 60_000_000), 400_000_000) : 1_000_000_000
        pending[index]?.nextAttempt = now &+ wait
        return begin(index, server, overTCP: false, isPlain: false, now)
    }

    private mutating func begin(
        _ index: Int, _ server: Int, overTCP: Bool, isPlain: Bool, _ now: UInt64
    ) -> [NameAction] {
        guard let entry = pending[index], servers.indices.contains(server) else { return [] }
        let exchange = ExchangeID(pending: index, attempt: entry.attempts.count)
        pending[index]?.attempts.append(Attempt(server: server, overTCP: overTCP, isPlain: isPlain, at: now))
        var message = entry.message
        if isPlain { message = NameForwarder.query(entry.key, identifier: entry.identifier, isPlain: true) ?? message }
        return [.ask(exchange, upstream: servers[server].address, message: message, overTCP: overTCP)]
    }

    private mutating func failed(_ exchange: ExchangeID, _ now: UInt64) -> [NameAction] {
        guard let entry = pending[exchange.pending] else { return [] }
        pending[exchange.pending]?.attempts[exchange.attempt].isOver = true
        let server = entry.attempts[exchange.attempt].server
        if servers.indices.contains(server) { servers[server].failures = min(servers[server].failures + 1, 8) }
        var actions: [NameAction] = [.end(exchange)]
        let tried = Set(entry.attempts.map(\.server))
        let isUnderWay = entry.attempts.enumerated().contains { $0.offset != exchange.attempt && !$0.element.isOver }
        if entry.order.contains(where: { !tried.contains($0) }) {
            actions += attemptNext(exchange.pending, now)
        } else if !isUnderWay {
            actions += finish(exchange.pending, pending[exchange.pending]?.lastFailure)
        }
        return actions
    }

    /// Answers all who wait, with a message or with the failure to have one.
    private mutating func finish(_ index: Int, _ message: [UInt8]?) -> [NameAction] {
        guard let entry = pending[index] else { return [] }
        pending[index] = nil
        byKey[entry.key] = nil
        var actions: [NameAction] = []
        for (number, attempt) in entry.attempts.enumerated() where !attempt.isOver {
            actions.append(.end(ExchangeID(pending: index, attempt: number)))
        }
        for waiter in entry.waiters {
            if let message {
                actions += answer(waiter, message)
            } else {
                actions += fail(waiter, DNSCode.serverFailure)
            }
        }
        return actions
    }

    // MARK: - Messages

    /// The question as it is asked of a server.
    private static func query(_ key: NameCache.Key, identifier: UInt16, isPlain: Bool = false) -> [UInt8]? {
        var message = [UInt8](repeating: 0, count: 12 + DNSName.limit + 4 + 11)
        var length: Int?
        do {
            var space = message.mutableSpan
            var bytes = unsafe space.mutableBytes
            var builder = DNSBuilder(
                identifier: identifier, flags: 0x0100 | (key.options & 2 != 0 ? 0x0010 : 0), at: 0,
                limit: bytes.byteCount)
            builder.add(key.question, to: &bytes)
            if !isPlain {
                builder.extend(
                    payloadSize: UInt16(NameServer.datagramLimit), wantsDNSSEC: key.options & 1 != 0, to: &bytes)
            }
            length = builder.finish(&bytes)
        }
        return length.map { Array(message[..<$0]) }
    }

    /// A server's message for a client: with its identifier and its question, and cut where it takes no more.
    private func answer(_ waiter: Waiter, _ message: [UInt8]) -> [NameAction] {
        let asked = waiter.query.span
        let given = message.span
        guard let query = DNSView(unsafe asked.bytes), let view = DNSView(unsafe given.bytes) else { return [] }
        var limit = 65_535
        if case .datagram = waiter.client.way { limit = NameServer.datagramSize(query.extensionRecord) }
        // The question has the same length, whatever its letters: the name is not compressed in either.
        guard query.recordsOffset == view.recordsOffset else { return fail(waiter, DNSCode.serverFailure) }
        var result = message
        // Who has said nothing of EDNS does not hear of it (RFC 6891 §6.1.1).
        if query.extensionRecord == nil { NameForwarder.removeExtension(view, from: &result) }
        result[0] = waiter.query[0]
        result[1] = waiter.query[1]
        for index in DNSView.headerLength..<query.recordsOffset { result[index] = waiter.query[index] }
        // We do not validate: nothing is authentic data on our word.
        result[3] &= ~0x20
        result[2] &= ~0x04
        if result.count > limit {
            result.removeSubrange(view.recordsOffset...)
            result[2] |= 0x02
            for index in 6..<12 { result[index] = 0 }
        }
        return [.answer(waiter.client, result)]
    }

    /// Takes the OPT record out of a message, and what additional records come after it, whose names may point beyond.
    private static func removeExtension(_ view: borrowing DNSView, from message: inout [UInt8]) {
        var records = view.records
        var record = DNSRecord()
        var end = view.recordsOffset
        var kept: UInt16 = 0
        while records.next(&record) {
            if record.section == .additional {
                if record.type == DNSType.opt {
                    message.removeSubrange(end...)
                    message[10] = UInt8(kept >> 8)
                    message[11] = UInt8(truncatingIfNeeded: kept)
                    return
                }
                kept += 1
            }
            end = record.dataOffset + record.dataLength
        }
    }

    private func fail(_ waiter: Waiter, _ code: UInt8) -> [NameAction] {
        let asked = waiter.query.span
        guard let query = DNSView(unsafe asked.bytes) else { return [] }
        var result = Array(waiter.query[..<query.recordsOffset])
        result[2] = 0x80 | (query.recursionDesired ? 1 : 0)
        result[3] = 0x80 | code
        for index in 6..<12 { result[index] = 0 }
        return [.answer(waiter.client, result)]
    }
}
