// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Platform
internal import Virtio

/// Records for one call to the kernel, up to 32. The loop thread's.
@safe final class MessageBatch {
    static let limit = Int(clinux_message_limit)

    private let messages = UnsafeMutablePointer<clinux_message>.allocate(capacity: limit)
    private(set) var count = 0

    deinit {
        unsafe messages.deallocate()
    }

    func removeAll() { count = 0 }

    /// Adds what the cursor has not consumed; its pieces stay valid until the batch is sent.
    func append(_ cursor: BufferCursor) {
        precondition(count < Self.limit)
        unsafe messages[count] = clinux_message(
            vectors: cursor.vectors.baseAddress, vector_count: cursor.vectors.count, length: 0, truncated: false)
        count += 1
    }

    /// Sends them; the number that was, or -1 when not even the first, with errno.
    func send(_ link: NetLink) -> Int {
        let fd = link.raw
        return Int(
            retryingInterrupts {
                link.isTap
                    ? unsafe clinux_write_messages(fd, messages, count)
                    : unsafe clinux_send_messages(fd, messages, count)
            })
    }
}

/// Records that came and are not the guest's yet. The loop thread's.
@safe final class ReceivedMessages {
    /// How many are taken from the socket at once.
    static let capacity = 16
    private static let slotSize = 17 * 4096
    /// Not at a page's start: see `FrameArena.slotOffset` of the fabric, where the same records are received.
    private static let slotOffset = 1024

    // Touched only as far as records are long.
    private let space: MemoryMapping
    private let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: capacity)
    private let messages = UnsafeMutablePointer<clinux_message>.allocate(capacity: capacity)
    private var next = 0
    private var count = 0

    init() throws(SystemError) {
        space = try MemoryMapping(count: Self.capacity * Self.slotSize, shared: false)
    }

    deinit {
        unsafe vectors.deallocate()
        unsafe messages.deallocate()
    }

    var isEmpty: Bool { next == count }

    func removeAll() {
        next = 0
        count = 0
    }

    /// Takes what the link has; the number of records, or -1 with errno.
    func receive(_ link: NetLink) -> Int {
        precondition(isEmpty)
        for index in 0..<Self.capacity {
            unsafe vectors[index] = unsafe iovec(
                iov_base: space.start + index * Self.slotSize + Self.slotOffset, iov_len: NetRecord.limit)
            unsafe messages[index] = unsafe clinux_message(
                vectors: vectors + index, vector_count: 1, length: 0, truncated: false)
        }
        let fd = link.raw
        let result = Int(
            retryingInterrupts {
                link.isTap
                    ? unsafe clinux_read_messages(fd, messages, Self.capacity)
                    : unsafe clinux_receive_messages(fd, messages, Self.capacity)
            })
        next = 0
        count = max(0, result)
        return result
    }

    /// The next record; empty at the socket's end, nil when it was too long.
    func peek() -> UnsafeMutableRawBufferPointer? {
        precondition(!isEmpty)
        guard unsafe !messages[next].truncated else { return nil }
        return unsafe UnsafeMutableRawBufferPointer(
            start: space.start + next * Self.slotSize + Self.slotOffset, count: messages[next].length)
    }

    func removeFirst() {
        next += 1
    }
}
