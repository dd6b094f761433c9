// SPDX-License-Identifier: Apache-2.0

/// The bytes of one direction of a stream: a ring that has memory only while it holds something, and grows by the
/// steps of its pool.
///
/// `count` bytes are in order; bytes may be placed beyond them, and become part of them when the hole is filled.
@safe package struct StreamBuffer: ~Copyable {
    private let pool: BufferPool
    // From the pool; nil while nothing is held.
    private var memory: UnsafeMutableRawPointer?
    private var sizeIndex = 0
    private var head = 0
    package private(set) var count = 0
    /// The largest it may become; one of the pool's sizes.
    package let limitInBytes: Int

    package init(pool: BufferPool, limitInBytes: Int) {
        self.pool = pool
        self.limitInBytes = limitInBytes
    }

    deinit {
        if let memory = unsafe memory { unsafe pool.giveBack(memory, sizeIndex) }
    }

    package var isEmpty: Bool { count == 0 }

    /// How many bytes it has memory for.
    package var capacity: Int { unsafe memory == nil ? 0 : BufferPool.sizes[sizeIndex] }

    /// How many bytes could be placed after the in-order ones now, growth included.
    package var room: Int {
        var best = capacity
        for size in BufferPool.sizes where size > best && size <= limitInBytes && size <= pool.leftInBytes {
            best = size
        }
        return best - count
    }

    /// Gets memory for `wanted` bytes after the in-order ones, of which `kept` hold something already.
    /// - Returns: false when there is none; all is then as before.
    private mutating func reserve(_ wanted: Int, keeping kept: Int) -> Bool {
        if count + wanted <= capacity { return true }
        guard let index = BufferPool.sizes.firstIndex(where: { $0 >= count + wanted }),
            BufferPool.sizes[index] <= limitInBytes, let larger = unsafe pool.take(index)
        else { return false }
        if let memory = unsafe memory {
            let held = min(capacity, count + kept)
            let first = min(held, capacity - head)
            unsafe larger.copyMemory(from: memory + head, byteCount: first)
            unsafe (larger + first).copyMemory(from: memory, byteCount: held - first)
            unsafe pool.giveBack(memory, sizeIndex)
        }
        unsafe memory = larger
        sizeIndex = index
        head = 0
        return true
    }

    /// Puts bytes at `placement` after the in-order ones. Those in between, placed earlier or not, are kept.
    /// - Returns: false when there is no memory for them.
    package mutating func place(_ bytes: UnsafeRawBufferPointer, at placement: Int) -> Bool {
        guard bytes.count > 0 else { return true }
        // All that lies beyond the in-order bytes may be something that was placed before.
        guard reserve(placement + bytes.count, keeping: capacity - count), let memory = unsafe memory,
            let source = bytes.baseAddress
        else { return false }
        let capacity = capacity
        let start = (head + count + placement) & (capacity - 1)
        let first = min(bytes.count, capacity - start)
        unsafe (memory + start).copyMemory(from: source, byteCount: first)
        unsafe memory.copyMemory(from: source + first, byteCount: bytes.count - first)
        return true
    }

    /// Bytes that were placed are in order now.
    package mutating func extend(by bytes: Int) {
        precondition(bytes >= 0 && count + bytes <= capacity)
        count += bytes
    }

    /// Forgets bytes at the front. A ring without bytes has no memory, unless some are placed beyond a hole.
    package mutating func drop(_ bytes: Int, keepsMemory: Bool = false) {
        precondition(bytes >= 0 && bytes <= count)
        count -= bytes
        guard let memory = unsafe memory else { return }
        if count == 0 && !keepsMemory {
            unsafe pool.giveBack(memory, sizeIndex)
            unsafe self.memory = nil
            head = 0
        } else {
            head = (head + bytes) & (capacity - 1)
        }
    }

    /// In-order bytes from `offset` on, in one piece or two. Valid until the ring changes.
    package func pieces(
        from offset: Int, count wanted: Int
    ) -> (UnsafeRawBufferPointer, UnsafeRawBufferPointer) {
        precondition(offset >= 0 && wanted >= 0 && offset + wanted <= count)
        guard let memory = unsafe memory, wanted > 0 else {
            return unsafe (UnsafeRawBufferPointer(start: nil, count: 0), UnsafeRawBufferPointer(start: nil, count: 0))
        }
        let start = (head + offset) & (capacity - 1)
        let first = min(wanted, capacity - start)
        return unsafe (
            UnsafeRawBufferPointer(start: memory + start, count: first),
            UnsafeRawBufferPointer(start: memory, count: wanted - first)
        )
    }

    /// Free memory after the in-order bytes, in one piece or two, of up to `wanted` bytes, to be filled and then
    /// `extend`ed over; empty when there is none. Valid until the ring changes.
    package mutating func space(
        _ wanted: Int
    ) -> (UnsafeMutableRawBufferPointer, UnsafeMutableRawBufferPointer) {
        let possible = min(wanted, room)
        guard possible > 0, reserve(possible, keeping: 0), let memory = unsafe memory else {
            return unsafe (
                UnsafeMutableRawBufferPointer(start: nil, count: 0),
                UnsafeMutableRawBufferPointer(start: nil, count: 0)
            )
        }
        let start = (head + count) & (capacity - 1)
        let first = min(possible, capacity - start)
        return unsafe (
            UnsafeMutableRawBufferPointer(start: memory + start, count: first),
            UnsafeMutableRawBufferPointer(start: memory, count: possible - first)
        )
    }

    /// Gives back memory that `space` got and nothing came into.
    package mutating func trim() {
        guard count == 0, let memory = unsafe memory else { return }
        unsafe pool.giveBack(memory, sizeIndex)
        unsafe self.memory = nil
        head = 0
    }
}
