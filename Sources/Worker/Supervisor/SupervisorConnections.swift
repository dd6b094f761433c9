// SPDX-License-Identifier: Apache-2.0

internal import GuestProtocol
internal import Platform
internal import Sessions

/// A connection of the supervisor, watched for what it can do now.
final class Connection {
    private var socket: FrameSocket
    private let token: UInt64
    private var isWatchedForWriting = false
    /// It failed or was ended: nothing more comes, nothing more goes.
    private(set) var isLost = false

    init(_ descriptor: consuming Descriptor, token: UInt64, epoll: borrowing Epoll) throws(SystemError) {
        socket = try FrameSocket(descriptor)
        self.token = token
        try epoll.add(socket.raw, .readable, token: token)
    }

    /// Reads what is there and hands over the whole frames; gives false once the connection is lost.
    /// - Parameter turns: reads at most; a connection that never falls silent leaves others their turn.
    func receive(turns: Int = 8, _ body: (Frame) -> Void) -> Bool {
        for _ in 0..<turns {
            do {
                switch try socket.receive() {
                case .received: while let frame = try socket.next() { body(frame) }
                case .wouldBlock: return true
                case .closed: isLost = true
                }
            } catch {
                isLost = true
            }
            if isLost { return false }
        }
        return true
    }

    func queue(_ frame: Frame) {
        if !isLost { socket.queue(frame) }
    }

    var pendingByteCount: Int { isLost ? 0 : socket.pendingByteCount }

    /// Sends what goes, and asks to be told when more does.
    func flush(_ epoll: borrowing Epoll) {
        guard !isLost else { return }
        do {
            try socket.flush()
            let wantsWriting = socket.pendingByteCount > 0
            if wantsWriting != isWatchedForWriting {
                try epoll.modify(socket.raw, wantsWriting ? [.readable, .writable] : .readable, token: token)
                isWatchedForWriting = wantsWriting
            }
        } catch {
            // What the other side sent last may still be read; its end comes as the end of reading.
            stopWatching(epoll)
            isLost = true
        }
    }

    func stopWatching(_ epoll: borrowing Epoll) {
        try? epoll.remove(socket.raw)
    }
}
