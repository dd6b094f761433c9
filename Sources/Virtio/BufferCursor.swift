// SPDX-License-Identifier: Apache-2.0

package import CLinux
internal import Glibc

/// Host memory in pieces, consumed from the front: one direction of a descriptor chain. The pieces live in the chain
/// the cursor came from and are valid until that is filled again; consuming a part of a piece shortens it there.
@safe package struct BufferCursor {
    /// The pieces not yet consumed, as readv(2) and writev(2) take them.
    package private(set) var vectors: UnsafeMutableBufferPointer<iovec>
    /// Bytes not yet consumed.
    package private(set) var byteCount: Int

    package init() {
        unsafe vectors = UnsafeMutableBufferPointer(start: nil, count: 0)
        byteCount = 0
    }

    init(_ vectors: UnsafeMutableBufferPointer<iovec>, byteCount: Int) {
        unsafe self.vectors = unsafe vectors
        self.byteCount = byteCount
    }

    /// Skips `count` bytes, or all there are.
    package mutating func dropFirst(_ count: Int) {
        var rest = min(count, byteCount)
        byteCount -= rest
        while unsafe vectors.count > 0 {
            let length = unsafe vectors[0].iov_len
            if rest < length {
                if rest > 0 {
                    unsafe vectors[0].iov_base += rest
                    unsafe vectors[0].iov_len = length - rest
                }
                return
            }
            rest -= length
            unsafe vectors = UnsafeMutableBufferPointer(rebasing: vectors[1...])
        }
    }

    /// Cuts the end off so that at most `count` bytes remain.
    package mutating func limit(to count: Int) {
        while byteCount > count, let last = unsafe vectors.indices.last {
            let length = unsafe vectors[last].iov_len
            let excess = byteCount - count
            if excess < length {
                unsafe vectors[last].iov_len = length - excess
                byteCount = count
                return
            }
            byteCount -= length
            unsafe vectors = UnsafeMutableBufferPointer(rebasing: vectors[..<last])
        }
    }

    /// Hands out pieces that make up the first `count` bytes at most, without consuming them.
    package func withPrefix<Result>(_ count: Int, _ body: (UnsafeMutableBufferPointer<iovec>) -> Result) -> Result {
        guard count < byteCount else { return unsafe body(vectors) }
        var rest = count
        var last = 0
        while unsafe last < vectors.count, unsafe vectors[last].iov_len < rest {
            unsafe rest -= vectors[last].iov_len
            last += 1
        }
        guard unsafe last < vectors.count else { return unsafe body(vectors) }
        let length = unsafe vectors[last].iov_len
        unsafe vectors[last].iov_len = rest
        defer { unsafe vectors[last].iov_len = length }
        return unsafe body(UnsafeMutableBufferPointer(rebasing: vectors[...last]))
    }

    /// Copies from the front into `buffer` without consuming anything; gives the number of bytes.
    package func peek(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        var done = 0
        for index in unsafe vectors.indices {
            guard done < buffer.count, let base = unsafe vectors[index].iov_base else { break }
            let here = unsafe min(vectors[index].iov_len, buffer.count - done)
            unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done...]).copyMemory(
                from: UnsafeRawBufferPointer(start: base, count: here))
            done += here
        }
        return done
    }

    /// Takes the last byte off; nil where there is none.
    package mutating func removeLastByte() -> UnsafeMutablePointer<UInt8>? {
        guard byteCount > 0, let last = unsafe vectors.indices.last, let base = unsafe vectors[last].iov_base else {
            return nil
        }
        let address = unsafe (base + vectors[last].iov_len - 1).assumingMemoryBound(to: UInt8.self)
        limit(to: byteCount - 1)
        return unsafe address
    }

    /// Copies from the front into `buffer`; gives the number of bytes, fewer than asked for where there are no more.
    package mutating func copy(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        var done = 0
        while done < buffer.count, unsafe vectors.count > 0, let base = unsafe vectors[0].iov_base {
            let here = unsafe min(vectors[0].iov_len, buffer.count - done)
            unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done...]).copyMemory(
                from: UnsafeRawBufferPointer(start: base, count: here))
            done += here
            dropFirst(here)
        }
        return done
    }

    /// Copies `buffer` to the front; gives the number of bytes, fewer than offered where there is no more room.
    package mutating func copy(from buffer: UnsafeRawBufferPointer) -> Int {
        var done = 0
        while done < buffer.count, unsafe vectors.count > 0, let base = unsafe vectors[0].iov_base {
            let here = unsafe min(vectors[0].iov_len, buffer.count - done)
            unsafe base.copyMemory(from: unsafe buffer.baseAddress.unsafelyUnwrapped + done, byteCount: here)
            done += here
            dropFirst(here)
        }
        return done
    }

    /// Sets `count` bytes at the front, or all there are, to zero.
    package mutating func zero(_ count: Int) {
        var rest = min(count, byteCount)
        while rest > 0, unsafe vectors.count > 0, let base = unsafe vectors[0].iov_base {
            let here = unsafe min(vectors[0].iov_len, rest)
            unsafe memset(base, 0, here)
            rest -= here
            dropFirst(here)
        }
    }
}

/// A descriptor chain that the driver made available: what the device reads, then what it writes. Made once with room
/// for the longest chain, filled again and again by `VirtQueue.pop`.
///
/// Not Sendable by itself; whoever moves one to another thread sees to it that only one uses it.
@safe package final class DescriptorChain {
    /// The number under which the chain is given back.
    package internal(set) var head: UInt16 = 0
    /// What the driver wrote for the device.
    package var readable = BufferCursor()
    /// Where the device may write.
    package var writable = BufferCursor()

    private let storage: UnsafeMutableBufferPointer<iovec>
    private var used = 0
    private var split = 0
    private var total: UInt64 = 0

    /// - Parameter capacity: the most pieces of host memory a chain may have; one beyond it counts as too long.
    package init(capacity: Int) {
        unsafe storage = UnsafeMutableBufferPointer.allocate(capacity: capacity)
    }

    deinit {
        unsafe storage.deallocate()
    }

    func begin(head: UInt16) {
        self.head = head
        used = 0
        split = -1
        total = 0
    }

    /// Adds a buffer of the guest's.
    func append(_ address: UInt64, _ count: UInt32, writable: Bool, _ memory: GuestMemory) throws(VirtioError) {
        if writable {
            if split < 0 { split = used }
        } else if split >= 0 {
            throw .badChain(.readableAfterWritable)
        }
        total += UInt64(count)
        guard total <= UInt64(UInt32.max) else { throw .badChain(.tooLarge) }
        guard count > 0 else { return }
        if let host = unsafe memory.contiguous(address, UInt64(count)) {
            if writable { memory.noteWrite(address, count: UInt64(count)) }
            guard unsafe used < storage.count else { throw .badChain(.tooLong) }
            unsafe storage[used] = unsafe iovec(iov_base: host, iov_len: Int(count))
            used += 1
            return
        }
        var overflow = false
        try unsafe memory.withRange(address, count: UInt64(count), writing: writable) { piece in
            guard unsafe used < storage.count else {
                overflow = true
                return
            }
            unsafe storage[used] = unsafe iovec(iov_base: piece.baseAddress, iov_len: piece.count)
            used += 1
        }
        guard !overflow else { throw .badChain(.tooLong) }
    }

    func finish() {
        if split < 0 { split = used }
        var readableCount = 0
        for index in 0..<split { unsafe readableCount += storage[index].iov_len }
        readable = unsafe BufferCursor(
            UnsafeMutableBufferPointer(rebasing: storage[0..<split]), byteCount: readableCount)
        writable = unsafe BufferCursor(
            UnsafeMutableBufferPointer(rebasing: storage[split..<used]), byteCount: Int(total) - readableCount)
    }
}
