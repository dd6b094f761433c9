// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// One bit a page of 4 KiB of a guest's memory, by offset in the backing mapping. Marked by any thread.
///
/// `@unchecked Sendable`: the words are atomics, allocated at init and freed at deinit.
@safe package final class DirtyPages: @unchecked Sendable {
    /// In bytes.
    package static let pageSize: UInt64 = 4096

    /// The number of pages.
    package let count: Int
    private let words: UnsafeMutableBufferPointer<Atomic<UInt64>>

    init(byteCount: UInt64) {
        count = Int((byteCount + Self.pageSize - 1) / Self.pageSize)
        let wordCount = (count + 63) / 64
        let start = UnsafeMutablePointer<Atomic<UInt64>>.allocate(capacity: wordCount)
        for index in 0..<wordCount { unsafe (start + index).initialize(to: Atomic(0)) }
        unsafe words = unsafe UnsafeMutableBufferPointer(start: start, count: wordCount)
    }

    deinit {
        unsafe words.deinitialize()
        unsafe words.deallocate()
    }

    func mark(_ offset: UInt64, count: UInt64) {
        guard count > 0 else { return }
        let first = Int(offset / Self.pageSize)
        let last = Int((offset + count - 1) / Self.pageSize)
        precondition(last < self.count)
        for page in first...last {
            let bit: UInt64 = 1 << UInt64(page % 64)
            // A page is mostly dirty already: a look is cheaper than the exclusive cache line.
            if unsafe words[page / 64].load(ordering: .relaxed) & bit == 0 {
                unsafe words[page / 64].bitwiseOr(bit, ordering: .relaxed)
            }
        }
    }

    /// Takes 64 pages' bits, which are clear afterwards; `word` counts from 0 to `wordCount`.
    package func take(word: Int) -> UInt64 {
        precondition(word < wordCount)
        return unsafe words[word].exchange(0, ordering: .acquiringAndReleasing)
    }

    package var wordCount: Int { unsafe words.count }
}
