// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform
internal import Virtio

/// The two ports that tell a stream from all others; the guest's CID and the host's never change.
struct VsockKey: Hashable, Sendable {
    let hostPort: UInt32
    let guestPort: UInt32
}

/// A stream's socket and what belongs to it. The loop thread's alone.
@safe final class VsockStream {
    enum Phase: Equatable {
        /// The host's program has connected and is to say which port it wants.
        case greeting
        /// The guest knows of it.
        case open
        /// Gone for the guest; the socket still gets what the guest sent before.
        case lingering
        case closed
    }

    let socket: Descriptor
    let slot: Int
    var phase: Phase
    var key = VsockKey(hostPort: 0, guestPort: 0)
    var connection = VsockConnection()
    var registration: EventRegistration?
    /// The socket may have data; known again only after it said that it has none.
    var isReadable = true
    /// The socket may take data; known again only after it said that it does not.
    var isWritable = true
    /// The next stream that has something for the guest; see `VsockReadyList`.
    var nextReady: VsockStream?
    var isInReadyList = false
    /// When it is given up, if it is not open by then; nanoseconds of the monotonic clock.
    var deadline: UInt64?
    var hasShutSending = false

    // What the socket did not take yet: a ring of the size that we tell the guest.
    private var ring: UnsafeMutableRawPointer?
    private var ringStart = 0
    private(set) var held = 0
    static let ringSize = Int(VsockConnection.bufferSize)

    init(_ socket: consuming Descriptor, slot: Int, phase: Phase) {
        self.socket = socket
        self.slot = slot
        self.phase = phase
    }

    deinit {
        freeRing()
    }

    var hasRing: Bool { unsafe ring != nil }

    private func freeRing() {
        if let ring = unsafe ring { unsafe free(ring) }
        unsafe ring = nil
        ringStart = 0
        held = 0
    }

    // MARK: - To the socket

    enum WriteResult {
        case done
        /// The socket takes no more; what is left is in the ring or is to be put there.
        case full
        /// Nobody reads there any more.
        case broken
    }

    /// Writes guest memory to the socket, as much as that takes now.
    func write(_ data: inout BufferCursor) -> WriteResult {
        let fd = socket.raw
        while data.byteCount > 0 {
            let count = retryingInterrupts {
                unsafe writev(fd, data.vectors.baseAddress, Int32(data.vectors.count))
            }
            guard count >= 0 else {
                return writeFailed()
            }
            data.dropFirst(count)
        }
        return .done
    }

    private func writeFailed() -> WriteResult {
        guard clinux_errno() == EAGAIN else { return .broken }
        isWritable = false
        return .full
    }

    /// Keeps what the socket did not take. The connection's credit sees to it that there is room.
    /// - Returns: false when there is no memory.
    func hold(_ data: inout BufferCursor) -> Bool {
        if unsafe ring == nil { unsafe ring = malloc(Self.ringSize) }
        guard let ring = unsafe ring, data.byteCount <= Self.ringSize - held else { return false }
        while data.byteCount > 0 {
            let start = (ringStart + held) % Self.ringSize
            let space = min(Self.ringSize - start, Self.ringSize - held)
            let piece = unsafe UnsafeMutableRawBufferPointer(start: ring + start, count: min(space, data.byteCount))
            held += unsafe data.copy(into: piece)
        }
        return true
    }

    /// Writes what was kept; gives the number of bytes that left.
    func flush() -> (result: WriteResult, count: Int) {
        guard let ring = unsafe ring else { return (.done, 0) }
        let fd = socket.raw
        var total = 0
        while held > 0 {
            let piece = min(held, Self.ringSize - ringStart)
            let start = ringStart
            let count = retryingInterrupts { unsafe Glibc.write(fd, ring + start, piece) }
            guard count >= 0 else { return (writeFailed(), total) }
            ringStart = (ringStart + count) % Self.ringSize
            held -= count
            total += count
        }
        freeRing()
        return (.done, total)
    }

    /// Drops what was kept; gives the number of bytes.
    func dropHeld() -> Int {
        let count = held
        freeRing()
        return count
    }

    /// The socket's other side gets no more; it has all that came before.
    func shutSending() {
        guard !hasShutSending else { return }
        hasShutSending = true
        _ = shutdown(socket.raw, Int32(SHUT_WR))
    }

    /// Nothing more is read from the socket: its other side's writes fail.
    func shutReceiving() {
        isReadable = false
        _ = shutdown(socket.raw, Int32(SHUT_RD))
    }
}

/// The streams that have something for the guest, each once, first come, first served.
struct VsockReadyList {
    private var first: VsockStream?
    private var last: VsockStream?

    var isEmpty: Bool { first == nil }

    mutating func append(_ stream: VsockStream) {
        guard !stream.isInReadyList else { return }
        stream.isInReadyList = true
        if let last { last.nextReady = stream } else { first = stream }
        last = stream
    }

    mutating func popFirst() -> VsockStream? {
        guard let stream = first else { return nil }
        first = stream.nextReady
        if first == nil { last = nil }
        stream.nextReady = nil
        stream.isInReadyList = false
        return stream
    }

    mutating func removeAll() {
        while popFirst() != nil {}
    }
}
