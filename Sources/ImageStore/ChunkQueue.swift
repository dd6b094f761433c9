// SPDX-License-Identifier: Apache-2.0
//
// Between two zones: Swift concurrency, where a download gives chunks, and a plain thread that takes them. At most one
// of each.

internal import Dispatch
internal import NIOCore
internal import Synchronization

/// Chunks on their way to a thread, bounded: who gives too fast waits.
final class ChunkQueue: Sendable {
    private struct State {
        var chunks: [ByteBuffer] = []
        var bytes = 0
        var hasEnded = false
        var isComplete = false
        var isAbandoned = false
        var giver: CheckedContinuation<Void, Never>?
    }

    private let state = Mutex(State())
    /// Counts the chunks, and the end.
    private let available = DispatchSemaphore(value: 0)
    private let limit: Int

    /// - Parameter limit: bytes from which on the giver waits.
    init(limit: Int = 4 << 20) {
        self.limit = limit
    }

    // MARK: The giver

    /// Gives a chunk, and waits while too many are on their way.
    /// - Returns: false when nobody takes them any more.
    func push(_ chunk: ByteBuffer) async -> Bool {
        let isFull: Bool? = state.withLock { state in
            if state.isAbandoned { return nil }
            state.chunks.append(chunk)
            state.bytes += chunk.readableBytes
            return state.bytes >= limit
        }
        guard let isFull else { return false }
        available.signal()
        guard isFull else { return true }
        await withCheckedContinuation { continuation in
            let goOn = state.withLock { state in
                if state.bytes < limit || state.isAbandoned { return true }
                state.giver = continuation
                return false
            }
            if goOn { continuation.resume() }
        }
        return !state.withLock { $0.isAbandoned }
    }

    /// - Parameter complete: all has been given; else the taker is to give up.
    func end(complete: Bool) {
        state.withLock { state in
            state.hasEnded = true
            state.isComplete = complete
        }
        available.signal()
    }

    // MARK: The taker, which may block

    /// The next chunk, or nil after the last.
    func next() -> ByteBuffer? {
        available.wait()
        let (chunk, giver) = state.withLock { state in
            guard !state.chunks.isEmpty else { return (ByteBuffer?.none, CheckedContinuation<Void, Never>?.none) }
            let chunk = state.chunks.removeFirst()
            state.bytes -= chunk.readableBytes
            guard state.bytes < limit / 2 else { return (chunk, nil) }
            defer { state.giver = nil }
            return (chunk, state.giver)
        }
        giver?.resume()
        return chunk
    }

    /// Whether all was given; after `next` gave nil.
    var isComplete: Bool { state.withLock { $0.isComplete } }

    /// Takes nothing more.
    func abandon() {
        let giver = state.withLock { state in
            state.isAbandoned = true
            state.chunks = []
            state.bytes = 0
            defer { state.giver = nil }
            return state.giver
        }
        giver?.resume()
    }
}
