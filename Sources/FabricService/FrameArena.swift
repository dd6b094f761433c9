// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Fabric
internal import Glibc
internal import Platform

/// Room for a batch of records, allocated once; the pages of those that were never long are never touched.
@safe final class FrameArena {
    static let slotCount = Int(clinux_message_limit)
    /// A record and a byte, so that one that is too long is seen.
    static let slotLimit = FrameLayout.longest + 1
    private static let slotSize = (slotLimit + slotOffset + 4095) / 4096 * 4096
    /// Where in its pages a slot begins. The kernel has a record's greater part in whole pages: copied to a few bytes
    /// further into a page than it came from, as a record of 65,546 bytes would be from the page's start, it takes six
    /// times as long on processors with fast string instructions (12 GB/s become 2; Zen 3).
    private static let slotOffset = 1024

    private let base: UnsafeMutableRawPointer

    init() throws(SystemError) {
        let length = FrameArena.slotCount * FrameArena.slotSize
        let mapped = unsafe mmap(nil, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let mapped = unsafe mapped, unsafe mapped != MAP_FAILED else { throw SystemError("mmap") }
        unsafe base = unsafe mapped
    }

    deinit { unsafe munmap(base, FrameArena.slotCount * FrameArena.slotSize) }

    /// The first `count` bytes of a slot.
    func slot(_ index: Int, count: Int = FrameLayout.longest) -> UnsafeMutableRawBufferPointer {
        precondition(index >= 0 && index < FrameArena.slotCount && count <= FrameArena.slotLimit)
        return unsafe UnsafeMutableRawBufferPointer(
            start: base + index * FrameArena.slotSize + FrameArena.slotOffset, count: count)
    }
}

/// Moves records between an arena and sockets, many with one call.
@safe final class RecordBatch {
    private let vectors: UnsafeMutablePointer<iovec>
    private let messages: UnsafeMutablePointer<clinux_message>
    static let limit = Int(clinux_message_limit)
    private static let piecesOfOne = 3

    init() {
        unsafe vectors = UnsafeMutablePointer<iovec>.allocate(capacity: RecordBatch.limit * RecordBatch.piecesOfOne)
        unsafe messages = UnsafeMutablePointer<clinux_message>.allocate(capacity: RecordBatch.limit)
        unsafe vectors.initialize(repeating: iovec(), count: RecordBatch.limit * RecordBatch.piecesOfOne)
        unsafe messages.initialize(repeating: clinux_message(), count: RecordBatch.limit)
    }

    deinit {
        unsafe vectors.deallocate()
        unsafe messages.deallocate()
    }

    /// Receives into the arena's slots; gives how many records came, 0 for none now, nil when the socket failed.
    func receive(from socket: Int32, into arena: FrameArena) -> Int? {
        for index in 0..<RecordBatch.limit {
            let slot = unsafe arena.slot(index, count: FrameArena.slotLimit)
            unsafe vectors[index] = iovec(iov_base: slot.baseAddress, iov_len: slot.count)
            unsafe messages[index] = clinux_message(
                vectors: vectors + index, vector_count: 1, length: 0, truncated: false)
        }
        let count = unsafe clinux_receive_messages(socket, messages, RecordBatch.limit)
        if count >= 0 { return Int(count) }
        let code = clinux_errno()
        return code == EAGAIN || code == EINTR ? 0 : nil
    }

    /// The length of a record that was received.
    func length(_ index: Int) -> Int { unsafe messages[index].length }

    /// Notes a record to be sent as number `index` of a batch, made of up to three pieces.
    func set(
        _ index: Int, _ first: UnsafeRawBufferPointer,
        _ second: UnsafeRawBufferPointer? = nil, _ third: UnsafeRawBufferPointer? = nil
    ) {
        precondition(index < RecordBatch.limit)
        let place = unsafe vectors + index * RecordBatch.piecesOfOne
        var count = 0
        func add(_ piece: UnsafeRawBufferPointer?) {
            guard let piece = unsafe piece, piece.count > 0 else { return }
            unsafe place[count] = iovec(
                iov_base: UnsafeMutableRawPointer(mutating: piece.baseAddress), iov_len: piece.count)
            count += 1
        }
        unsafe add(first)
        unsafe add(second)
        unsafe add(third)
        unsafe messages[index] = clinux_message(vectors: place, vector_count: count, length: 0, truncated: false)
    }

    /// Sends records `range`; gives how many were taken, or nil when the socket failed.
    func send(_ range: Range<Int>, to socket: Int32) -> Int? {
        let count = unsafe clinux_send_messages(socket, messages + range.lowerBound, range.count)
        if count >= 0 { return Int(count) }
        let code = clinux_errno()
        return code == EAGAIN || code == ENOBUFS || code == EINTR ? 0 : nil
    }
}
