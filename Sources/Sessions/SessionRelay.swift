// SPDX-License-Identifier: Apache-2.0

package import GuestProtocol

/// Many clients' sessions over the one connection to the guest. Pure: frames in, actions out.
///
/// Each client numbers its sessions as it likes; towards the guest they get numbers of the relay's. A client that breaks
/// the protocol is cut off and its processes are ended; a guest that does is lost with all that runs in it.
package struct SessionRelay {
    package typealias Client = UInt64

    package enum Action: Equatable {
        case toGuest(Frame)
        case toClient(Client, Frame)
        /// Tell it why with `failure`, then close; `clientGone` is called by whoever does so.
        case cutOff(Client, String)
        /// A client wants the host to end.
        case shutDown(Client)
        case guestFailed(String)
    }

    /// A client may have this many sessions at a time.
    package static let sessionLimit = 16

    private struct Entry {
        var session: RelayedSession
        /// Nil once it is gone.
        var client: Client?
        var clientNumber: UInt32
    }

    /// What the keeper says in its `hello`.
    let identity: String
    private var greeted: [Client: Bool] = [:]
    /// By the guest's number.
    private var entries: [UInt32: Entry] = [:]
    /// From the client's number to the guest's.
    private var numbers: [Client: [UInt32: UInt32]] = [:]
    private var lastNumber: UInt32
    /// Processes in the guest, those that outlived their session included, as it told last.
    package private(set) var guestActivity: UInt64 = 0

    /// - Parameter lastNumber: the guest's numbers up to this one were used already.
    package init(identity: String, lastNumber: UInt32 = 0) {
        self.identity = identity
        self.lastNumber = lastNumber
    }

    package var clientCount: Int { greeted.count }
    package var sessionCount: Int { entries.count }
    package var isIdle: Bool { greeted.isEmpty && entries.isEmpty && guestActivity == 0 }

    package mutating func clientConnected(_ client: Client) {
        greeted[client] = false
    }

    package mutating func clientGone(_ client: Client) -> [Action] {
        greeted[client] = nil
        guard let sessions = numbers.removeValue(forKey: client) else { return [] }
        var actions: [Action] = []
        for number in sessions.values.sorted() {
            entries[number]?.client = nil
            actions.append(.toGuest(Frame(.hangUp, session: number)))
            for stream in [StreamKind.output, .errors] {
                guard let limit = entries[number]?.session.creditForDropped(stream) else { continue }
                actions.append(.toGuest(Frame(.credit, session: number, stream: stream, offset: limit)))
            }
        }
        return actions
    }

    package mutating func receive(_ frame: Frame, from client: Client) -> [Action] {
        guard let isGreeted = greeted[client] else { return [] }
        guard isGreeted else { return greet(client, frame) }
        // What a newer program may say is not for this relay to know.
        guard let kind = frame.kind else { return [] }
        switch kind {
        case .request: return open(frame, client)
        case .shutDown: return [.shutDown(client)]
        case .activity:
            let answer = NumberMessage(max(guestActivity, UInt64(entries.count)))
            return [.toClient(client, Frame(.activity, payload: answer.payload))]
        case .go, .data, .end, .credit, .signal, .hangUp:
            // An unknown number is that of a session which ended while the frame was under way.
            guard let number = numbers[client]?[frame.header.session], var entry = entries[number] else { return [] }
            let verdict = entry.session.receiveFromClient(frame)
            guard verdict == .relay else { return [.cutOff(client, "a frame out of its place")] }
            entries[number] = entry
            return [.toGuest(frame.withSession(number))]
        default: return [.cutOff(client, "a frame of kind \(frame.header.kind), which no client sends")]
        }
    }

    package mutating func receiveFromGuest(_ frame: Frame) -> [Action] {
        guard let kind = frame.kind else { return [] }
        switch kind {
        case .activity:
            guard let message = NumberMessage(payload: frame.payload) else {
                return [.guestFailed("an activity report that cannot be read")]
            }
            guestActivity = message.number
            return []
        case .failure:
            let reason = Refusal(frame.payload).map { String(decoding: $0.message, as: UTF8.self) }
            return [.guestFailed(reason ?? "it gave up the connection")]
        default: break
        }
        let number = frame.header.session
        guard var entry = entries[number] else { return [.guestFailed("a frame of a session that nobody opened")] }
        let verdict = entry.session.receiveFromGuest(frame.header)
        guard verdict != .illegal else {
            return [.guestFailed("a frame of kind \(frame.header.kind) out of its place")]
        }
        entries[number] = entry
        if verdict == .last {
            entries[number] = nil
            if let client = entry.client { numbers[client]?[entry.clientNumber] = nil }
        }
        if let client = entry.client { return [.toClient(client, frame.withSession(entry.clientNumber))] }
        guard kind == .data, let stream = frame.stream, entries[number] != nil else { return [] }
        let limit = entries[number]?.session.creditForDropped(stream) ?? 0
        return [.toGuest(Frame(.credit, session: number, stream: stream, offset: limit))]
    }

    private mutating func greet(_ client: Client, _ frame: Frame) -> [Action] {
        guard frame.kind == .hello, let hello = Hello(frame.payload) else {
            return [.cutOff(client, "something other than hello first")]
        }
        guard hello.major == ProtocolVersion.major else {
            return [.cutOff(client, "it speaks version \(ProtocolVersion.major) of the protocol, not \(hello.major)")]
        }
        greeted[client] = true
        var own = Hello()
        own.program = Array(identity.utf8)
        return [.toClient(client, Frame(.hello, payload: own.payload))]
    }

    private mutating func open(_ frame: Frame, _ client: Client) -> [Action] {
        guard let request = ProcessRequest(frame.payload) else {
            return [.cutOff(client, "a request without a command")]
        }
        let own = numbers[client, default: [:]]
        guard own[frame.header.session] == nil else { return [.cutOff(client, "a session number used twice")] }
        guard own.count < SessionRelay.sessionLimit else {
            let refusal = Refusal(exitCode: 125, message: Array("too many sessions at a time".utf8))
            return [.toClient(client, Frame(.refused, session: frame.header.session, payload: refusal.payload))]
        }
        repeat { lastNumber = lastNumber == .max ? 1 : lastNumber + 1 } while entries[lastNumber] != nil
        numbers[client, default: [:]][frame.header.session] = lastNumber
        entries[lastNumber] = Entry(
            session: RelayedSession(hasInput: request.hasInput, startsAtOnce: request.startsAtOnce), client: client,
            clientNumber: frame.header.session)
        return [.toGuest(frame.withSession(lastNumber))]
    }
}

extension Frame {
    fileprivate func withSession(_ number: UInt32) -> Frame {
        var frame = self
        frame.header.session = number
        return frame
    }
}
