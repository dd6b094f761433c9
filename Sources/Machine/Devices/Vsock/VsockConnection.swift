// SPDX-License-Identifier: Apache-2.0

/// One stream between a port of the guest's and one of the host's, as a value: what may be sent, what is owed, what has
/// ended. It knows neither sockets nor queues.
///
/// States: `requested` (the host asked, the guest has not answered) → `established` → gone, which is whoever holds the
/// value letting it go. In `established` either side may end either direction, once, for good.
///
/// Illegal input from the guest is of two kinds:
/// - breach of the protocol: data beyond our buffer, data after it said that it sends no more, an answer that was not
///   asked for, an unknown operation: `.breach`, and the stream is to be reset;
/// - nonsense that harms itself only: a forwarded count that runs ahead of what was sent leaves no credit.
struct VsockConnection: Equatable, Sendable {
    /// What a packet of the guest's means for the socket.
    enum Action: Equatable {
        case none
        /// The guest has accepted.
        case established
        /// The packet's data goes to the socket; `forwarded` tells when it has.
        case deliver
        /// The guest has ended one direction or both; see `guestSends` and `guestReceives`.
        case shutdown
        /// The guest has dropped the stream.
        case reset
        /// The guest broke the protocol: reset it.
        case breach
    }

    /// Our buffer for the guest's data, in bytes.
    static let bufferSize: UInt32 = 128 * 1024

    private(set) var isEstablished: Bool
    /// The guest may still send.
    private(set) var guestSends = true
    /// The guest still takes data.
    private(set) var guestReceives = true
    /// The socket may still have data for the guest.
    private(set) var hostSends = true
    /// The socket still takes data.
    private(set) var hostReceives = true

    // Data for the guest.
    private var guestBufferSize: UInt32 = 0
    private var guestForwarded: UInt32 = 0
    private var sent: UInt32 = 0
    /// The guest was asked for credit since it last had some: an answer of none is not asked about again, since it
    /// tells by itself when it has room.
    private var hasAskedForCredit = false

    // Data from the guest.
    private var received: UInt32 = 0
    private var forwardedCount: UInt32 = 0
    /// The count that the guest knows.
    private var announced: UInt32 = 0

    // What the guest is owed.
    private var owesRequest = false
    private var owesResponse = false
    private var owesCredit = false
    private var owesShutdown = false

    /// The host wants a stream.
    init(requesting: Void = ()) {
        isEstablished = false
        owesRequest = true
    }

    /// The guest wants a stream, which the host has accepted.
    init(accepting header: VsockHeader) {
        isEstablished = true
        owesResponse = true
        noteCredit(header)
    }

    // MARK: - From the guest

    private mutating func noteCredit(_ header: VsockHeader) {
        guestBufferSize = header.bufferSize
        guestForwarded = header.forwarded
    }

    /// A packet for this stream has come, with `header.count` bytes of data.
    mutating func receive(_ header: VsockHeader) -> Action {
        if header.operation == VsockHeader.Operation.reset { return .reset }
        guard isEstablished else {
            guard header.operation == VsockHeader.Operation.response else { return .breach }
            noteCredit(header)
            isEstablished = true
            return .established
        }
        noteCredit(header)
        switch header.operation {
        case VsockHeader.Operation.data:
            guard guestSends, header.count <= Self.bufferSize - (received &- forwardedCount) else { return .breach }
            received &+= header.count
            return header.count > 0 ? .deliver : .none
        case VsockHeader.Operation.creditUpdate:
            return .none
        case VsockHeader.Operation.creditRequest:
            owesCredit = true
            return .none
        case VsockHeader.Operation.shutdown:
            if header.flags & VsockHeader.Shutdown.send != 0 { guestSends = false }
            if header.flags & VsockHeader.Shutdown.receive != 0 { guestReceives = false }
            return .shutdown
        default:
            return .breach
        }
    }

    /// Bytes of the guest's that are with us still.
    var held: UInt32 { received &- forwardedCount }

    // MARK: - From the socket

    /// So many bytes of the guest's have left our buffer.
    mutating func forwarded(_ count: Int) {
        precondition(count >= 0 && count <= Int(held), "no more leaves than came")
        forwardedCount &+= UInt32(count)
        // Told when half the buffer is free that the guest does not know of: rarely enough, and never too late, since
        // until then it knows of half a buffer at least.
        if forwardedCount &- announced >= Self.bufferSize / 2 { owesCredit = guestSends }
    }

    /// The socket will give no more data, will take no more, or both.
    mutating func hostEnded(sending: Bool, receiving: Bool) {
        let ends = sending && hostSends || receiving && hostReceives
        if sending { hostSends = false }
        if receiving { hostReceives = false }
        if ends { owesShutdown = true }
    }

    // MARK: - To the guest

    /// How many bytes the guest has room for.
    var credit: Int {
        guard isEstablished, hostSends, guestReceives else { return 0 }
        let inFlight = sent &- guestForwarded
        return inFlight < guestBufferSize ? Int(guestBufferSize - inFlight) : 0
    }

    /// Whether data waits for the guest's answer about its room.
    var isOutOfCredit: Bool { isEstablished && hostSends && guestReceives && credit == 0 }

    /// Whether there is use for data of the socket's: the guest has room for it, or is yet to be asked.
    var wantsData: Bool { credit > 0 || (isOutOfCredit && !hasAskedForCredit) }

    /// Whether the guest is owed a packet without data.
    var owesControl: Bool {
        owesRequest || owesResponse || (isEstablished && (owesCredit || owesShutdown))
    }

    /// Takes the next packet without data that the guest is owed.
    mutating func nextControl() -> VsockHeader? {
        if owesRequest {
            owesRequest = false
            return header(VsockHeader.Operation.request)
        }
        if owesResponse {
            owesResponse = false
            return header(VsockHeader.Operation.response)
        }
        guard isEstablished else { return nil }
        if owesShutdown {
            owesShutdown = false
            var header = header(VsockHeader.Operation.shutdown)
            if !hostSends { header.flags |= VsockHeader.Shutdown.send }
            if !hostReceives { header.flags |= VsockHeader.Shutdown.receive }
            return header
        }
        return owesCredit ? header(VsockHeader.Operation.creditUpdate) : nil
    }

    /// A packet that asks the guest for its room; nil where it was asked already.
    mutating func creditRequest() -> VsockHeader? {
        guard isOutOfCredit, !hasAskedForCredit else { return nil }
        hasAskedForCredit = true
        return header(VsockHeader.Operation.creditRequest)
    }

    /// A packet with `count` bytes of data, at most `credit`.
    mutating func data(_ count: Int) -> VsockHeader {
        precondition(count > 0 && count <= credit, "nothing is sent beyond the guest's room")
        sent &+= UInt32(count)
        hasAskedForCredit = false
        var header = header(VsockHeader.Operation.data)
        header.count = UInt32(count)
        return header
    }

    /// Every packet tells of our buffer.
    private mutating func header(_ operation: UInt16) -> VsockHeader {
        owesCredit = false
        announced = forwardedCount
        var header = VsockHeader()
        header.operation = operation
        header.bufferSize = Self.bufferSize
        header.forwarded = forwardedCount
        return header
    }
}
