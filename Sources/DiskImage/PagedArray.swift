// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// An array of plain values in a pool's pages. A page holds whole elements.
@safe final class PagedArray<Element: BitwiseCopyable> {
    private static var perPage: Int { PagePool.pageInBytes / MemoryLayout<Element>.stride }

    private let pool: PagePool
    private var pages: [UInt32] = []
    private(set) var count = 0

    init(_ pool: PagePool) { self.pool = pool }

    /// - Parameter zeros: elements that are there from the start, all their bytes zero.
    init(_ pool: PagePool, zeros: Int) throws(DiskImageError) {
        self.pool = pool
        while pages.count * Self.perPage < zeros { pages.append(try pool.makePage()) }
        count = zeros
    }

    deinit { pool.release(pages) }

    subscript(index: Int) -> Element {
        @inline(__always) get throws(DiskImageError) {
            precondition(index >= 0 && index < count, "an index of our own")
            let (page, place) = index.quotientAndRemainder(dividingBy: Self.perPage)
            let start = try unsafe pool.address(of: pages[page], changing: false)
            return unsafe start.load(fromByteOffset: place * MemoryLayout<Element>.stride, as: Element.self)
        }
    }

    @inline(__always)
    func set(_ index: Int, to element: Element) throws(DiskImageError) {
        precondition(index >= 0 && index < count, "an index of our own")
        let (page, place) = index.quotientAndRemainder(dividingBy: Self.perPage)
        let start = try unsafe pool.address(of: pages[page], changing: true)
        unsafe start.storeBytes(of: element, toByteOffset: place * MemoryLayout<Element>.stride, as: Element.self)
    }

    /// Changes an element in place.
    @inline(__always)
    func update(_ index: Int, _ change: (inout Element) -> Void) throws(DiskImageError) {
        var element = try self[index]
        change(&element)
        try set(index, to: element)
    }

    func append(_ element: Element) throws(DiskImageError) {
        if count == pages.count * Self.perPage { pages.append(try pool.makePage()) }
        count += 1
        try set(count - 1, to: element)
    }

    func popLast() throws(DiskImageError) -> Element? {
        guard count > 0 else { return nil }
        let element = try self[count - 1]
        count -= 1
        if count == (pages.count - 1) * Self.perPage { pool.release([pages.removeLast()]) }
        return element
    }

    func removeAll() {
        pool.release(pages)
        pages = []
        count = 0
    }
}

/// Strings of bytes in a pool's pages, each found again by the place where it begins.
///
/// One that fits into a page lies within one; a longer one begins with a page.
@safe final class PagedBytes {
    private let pool: PagePool
    private var pages: [UInt32] = []
    private var end = 0

    init(_ pool: PagePool) { self.pool = pool }

    deinit { pool.release(pages) }

    /// The place of the bytes that are added.
    func append(_ bytes: Span<UInt8>) throws(DiskImageError) -> UInt32 {
        let left = pages.count * PagePool.pageInBytes - end
        if bytes.count > left { end += left }
        let start = end
        while pages.count * PagePool.pageInBytes < start + bytes.count { pages.append(try pool.makePage()) }
        var done = 0
        while done < bytes.count {
            let within = (start + done) % PagePool.pageInBytes
            let piece = min(bytes.count - done, PagePool.pageInBytes - within)
            let target = try unsafe pool.address(of: pages[(start + done) / PagePool.pageInBytes], changing: true)
            unsafe bytes.extracting(done..<done + piece).withUnsafeBytes { source in
                if let base = source.baseAddress { unsafe (target + within).copyMemory(from: base, byteCount: piece) }
            }
            done += piece
        }
        end = start + bytes.count
        guard let place = UInt32(exactly: start) else {
            throw .limit(entry: "image", limit: .metadata, maximum: UInt64(UInt32.max))
        }
        return place
    }

    /// Gives the bytes, in more than one piece where they do not fit into a page. A piece is lent until `body` returns.
    func forEachPiece(
        at place: UInt32, count: Int, _ body: (UnsafeRawBufferPointer) -> Void
    ) throws(DiskImageError) {
        precondition(Int(place) + count <= end, "a place of our own")
        var done = 0
        while done < count {
            let position = Int(place) + done
            let within = position % PagePool.pageInBytes
            let piece = min(count - done, PagePool.pageInBytes - within)
            let start = try unsafe pool.address(of: pages[position / PagePool.pageInBytes], changing: false)
            unsafe body(UnsafeRawBufferPointer(start: start + within, count: piece))
            done += piece
        }
    }

    func bytes(at place: UInt32, count: Int) throws(DiskImageError) -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(count)
        try unsafe forEachPiece(at: place, count: count) { unsafe result.append(contentsOf: $0) }
        return result
    }

    /// Whether bytes that fit into a page are these.
    func equals(at place: UInt32, _ bytes: Span<UInt8>) throws(DiskImageError) -> Bool {
        var isEqual = true
        try unsafe forEachPiece(at: place, count: bytes.count) { piece in
            for index in bytes.indices where unsafe piece[index] != bytes[index] { isEqual = false }
        }
        return isEqual
    }

    /// Whether some bytes come before others; both fit into a page.
    func precedes(_ one: (place: UInt32, count: Int), _ other: (place: UInt32, count: Int)) throws(DiskImageError)
        -> Bool
    {
        let onePage = pages[Int(one.place) / PagePool.pageInBytes]
        let otherPage = pages[Int(other.place) / PagePool.pageInBytes]
        var left = try unsafe pool.address(of: onePage, changing: false)
        var right = try unsafe pool.address(of: otherPage, changing: false, keeping: onePage)
        unsafe left += Int(one.place) % PagePool.pageInBytes
        unsafe right += Int(other.place) % PagePool.pageInBytes
        let result = unsafe memcmp(left, right, min(one.count, other.count))
        return result != 0 ? result < 0 : one.count < other.count
    }
}
