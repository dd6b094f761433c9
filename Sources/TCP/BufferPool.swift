// SPDX-License-Identifier: Apache-2.0

/// Memory for the buffers of many streams, within one limit. For one thread.
@safe package final class BufferPool {
    /// What there is to be had; the last is the largest that a stream can have.
    package static let sizes: [Int] = [16 << 10, 64 << 10, 256 << 10, 1 << 20]
    /// How much unused memory is kept for the next stream, of each size.
    private static let keptInBytes = 2 << 20

    package let limitInBytes: Int
    /// Handed out now.
    package private(set) var usedInBytes = 0
    // Allocations of `sizes[index]` bytes, owned by the pool.
    private var kept: [[UnsafeMutableRawPointer]]

    package init(limitInBytes: Int) {
        self.limitInBytes = limitInBytes
        unsafe kept = Array(repeating: [], count: Self.sizes.count)
    }

    deinit {
        for index in Self.sizes.indices {
            while let pointer = unsafe kept[index].popLast() { unsafe pointer.deallocate() }
        }
    }

    /// What is left below the limit.
    package var leftInBytes: Int { max(0, limitInBytes - usedInBytes) }

    /// Memory of `sizes[index]` bytes, not initialised; nil at the limit.
    func take(_ index: Int) -> UnsafeMutableRawPointer? {
        let size = Self.sizes[index]
        guard size <= leftInBytes else { return nil }
        usedInBytes += size
        if let pointer = unsafe kept[index].popLast() { return unsafe pointer }
        return UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 64)
    }

    func giveBack(_ pointer: UnsafeMutableRawPointer, _ index: Int) {
        usedInBytes -= Self.sizes[index]
        if unsafe kept[index].count * Self.sizes[index] < Self.keptInBytes {
            unsafe kept[index].append(pointer)
        } else {
            unsafe pointer.deallocate()
        }
    }
}
