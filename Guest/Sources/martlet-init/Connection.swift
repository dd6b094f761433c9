// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

/// The connection to the host: frames in, frames out, neither side waiting for the other. What is written is kept until
/// the host takes it. Streams look at `hasRoom` before they add to it; the other frames are few, and a host that lets a
/// megabyte of them pile up has broken the protocol.
final class Connection {
    /// Where streams stop adding, in bytes.
    static let streamLimit = 131_072
    private static let limit = 1_048_576 + streamLimit

    let descriptor: Descriptor
    /// There may be bytes to read; known to be false only after a read that found none.
    var isReadable = false
    private var isWritable = false
    /// The host's end is there. A virtio-serial port exists before anyone has opened its other side.
    private(set) var isEstablished: Bool
    private(set) var isLost = false

    private var outbox: [UInt8] = []
    private var sent = 0
    private var decoder = FrameDecoder()
    private let isPort: Bool

    init(_ descriptor: Descriptor, isPort: Bool, isEstablished: Bool) {
        self.descriptor = descriptor
        self.isPort = isPort
        self.isEstablished = isEstablished
        isReadable = isEstablished
        isWritable = isEstablished
        outbox.reserveCapacity(Connection.streamLimit + 65_536 + FrameHeader.byteCount)
    }

    var isBroken: Bool { decoder.isBroken }
    var isOverfull: Bool { outbox.count - sent > Connection.limit }
    /// Whether a stream may add a frame.
    var hasRoom: Bool { outbox.count - sent < Connection.streamLimit }
    var hasUnsent: Bool { sent < outbox.count }

    /// Takes note of what epoll says. Gives the error with which the connection could not be made.
    func notice(_ events: UInt32) -> Int32? {
        if isPort {
            // The hang-up is there as long as nobody holds the other side.
            if events & guest_hung_up != 0 {
                if isEstablished { isReadable = true }
                return nil
            }
            isEstablished = true
        } else if !isEstablished {
            guard events & (guest_writable | guest_error | guest_hung_up) != 0 else { return nil }
            let outcome = guest_socket_outcome(descriptor.raw)
            if outcome < 0 { return Int32(-outcome) }
            isEstablished = true
        }
        isReadable = true
        isWritable = true
        return nil
    }

    /// Reads once. False when there was nothing.
    func receive() -> Bool {
        guard isEstablished, isReadable, !isLost else { return false }
        let count = Scratch.withBytes { buffer in
            let count = guest_read(descriptor.raw, buffer.baseAddress, buffer.count)
            if count > 0 { decoder.append(UnsafeRawBufferPointer(rebasing: buffer[..<count])) }
            return count
        }
        if count > 0 { return true }
        isReadable = false
        if count != -Int(guest_eagain) { isLost = true }
        return false
    }

    func nextFrame() -> Frame? {
        decoder.next()
    }

    func send(
        _ kind: FrameKind, session: UInt32 = 0, stream: StreamKind = .input, offset: UInt64 = 0, _ payload: [UInt8] = []
    ) {
        Frame(kind, session: session, stream: stream, offset: offset, payload: payload).write(to: &outbox)
    }

    /// Adds a `data` frame.
    func send(_ bytes: UnsafeRawBufferPointer, session: UInt32, stream: StreamKind, offset: UInt64) {
        FrameHeader(.data, session: session, stream: stream, offset: offset, payloadLength: bytes.count)
            .write(to: &outbox)
        outbox.append(contentsOf: bytes)
    }

    /// Writes what the host takes now.
    func flush() {
        while isWritable, !isLost, sent < outbox.count {
            let count = outbox[sent...].withUnsafeBytes { guest_write(descriptor.raw, $0.baseAddress, $0.count) }
            if count > 0 {
                sent += count
            } else if count == 0 || count == -Int(guest_eagain) {
                isWritable = false
            } else {
                isLost = true
            }
        }
        if sent == outbox.count {
            outbox.removeAll(keepingCapacity: true)
            sent = 0
        } else if sent >= Connection.streamLimit {
            outbox.removeFirst(sent)
            sent = 0
        }
    }

    /// Writes everything and lets the host take it, for the last word before the end; a second of nothing is enough.
    func flushWaiting(untilClosed: Bool) {
        let epoll = Descriptor(Int32(guest_epoll()))
        let closed = guest_peer_closed | guest_hung_up
        guard isEstablished, guest_epoll_add(epoll.raw, descriptor.raw, guest_writable, 0) >= 0 else { return }
        var event = guest_event()
        isWritable = true
        flush()
        while hasUnsent, !isLost, guest_epoll_wait(epoll.raw, &event, 1, 1_000) > 0 {
            isWritable = true
            flush()
        }
        guard untilClosed, !isLost, guest_epoll_remove(epoll.raw, descriptor.raw) >= 0,
            guest_epoll_add(epoll.raw, descriptor.raw, closed, 0) >= 0
        else { return }
        _ = guest_epoll_wait(epoll.raw, &event, 1, 1_000)
    }
}

/// One buffer for all that is read to be passed on at once.
enum Scratch {
    static let byteCount = FrameHeader.payloadLimit
    nonisolated(unsafe) private static let bytes = UnsafeMutableRawBufferPointer.allocate(
        byteCount: byteCount, alignment: 16)

    static func withBytes<Result>(_ body: (UnsafeMutableRawBufferPointer) -> Result) -> Result {
        body(bytes)
    }
}
