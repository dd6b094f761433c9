// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import Platform

/// A guest's memory: ranges of guest physical addresses, backed by one mapping of this process.
///
/// The only way to the guest's bytes. Every access is checked against the ranges, without overflow, and every write of
/// the monitor's own is noted in the dirty map where one is kept. The guest changes the bytes at any time: what is to
/// be judged is copied first and judged in the copy.
///
/// `@unchecked Sendable`: the ranges never change after init, the dirty map only while nobody uses the memory; the bytes are shared with the guest's vCPUs anyway.
@safe package final class GuestMemory: @unchecked Sendable {
    /// A range of guest physical addresses and where it is mapped.
    @safe package struct Region: @unchecked Sendable {  // Plain addresses, valid as long as the memory they came from.
        /// The first guest physical address.
        package let guestStart: UInt64
        /// In bytes.
        package let count: UInt64
        /// Where the region starts in the backing mapping (and in its file, where it has one).
        package let offset: UInt64
        /// Where the region starts in this process.
        package let hostStart: UnsafeMutableRawPointer
    }

    /// Ascending, without overlap.
    package let regions: [Region]
    /// The pages that the monitor wrote; nil where nobody asked.
    package private(set) var dirtyPages: DirtyPages?

    /// Where files are mapped into the memory, by offset in the backing mapping: what was not touched there is not
    /// zero. Written before the guest runs only.
    package private(set) var mappedFiles: [Range<UInt64>] = []

    /// What is mapped apart from the rest, by offset in the backing mapping. Written before the guest runs only.
    package private(set) var rangesApart: [Range<UInt64>] = []

    private let mapping: MemoryMapping
    // The first region again: nearly every access is in it.
    private let firstStart: UInt64
    private let firstCount: UInt64
    private let firstHost: UnsafeMutableRawPointer

    /// Carves a mapping into regions, which take its bytes in order.
    /// - Parameters:
    ///   - mapping: at least as long as all the ranges together.
    ///   - ranges: guest physical ranges, ascending, without overlap, each of whole pages, none empty.
    ///   - tracksWrites: keeps a map of the pages that the monitor itself writes.
    package init(_ mapping: consuming MemoryMapping, ranges: [Range<UInt64>], tracksWrites: Bool = false) {
        precondition(!ranges.isEmpty, "a guest has memory")
        var regions: [Region] = []
        var offset: UInt64 = 0
        var lowest: UInt64 = 0
        for range in ranges {
            precondition(range.lowerBound >= lowest && !range.isEmpty, "ascending ranges without overlap")
            precondition((range.lowerBound | range.upperBound) % DirtyPages.pageSize == 0, "whole pages")
            let count = range.upperBound - range.lowerBound
            precondition(UInt64(mapping.count) - offset >= count, "the mapping is as long as its ranges")
            unsafe regions.append(
                Region(
                    guestStart: range.lowerBound, count: count, offset: offset,
                    hostStart: mapping.start + Int(offset)))
            offset += count
            lowest = range.upperBound
        }
        self.regions = regions
        dirtyPages = tracksWrites ? DirtyPages(byteCount: offset) : nil
        firstStart = regions[0].guestStart
        firstCount = regions[0].count
        unsafe firstHost = regions[0].hostStart
        self.mapping = mapping
    }

    /// Fresh anonymous memory, all zero, of which pages are taken only when they are touched.
    package convenience init(anonymous ranges: [Range<UInt64>], tracksWrites: Bool = false) throws(SystemError) {
        let count = ranges.reduce(0) { $0 + Int($1.upperBound - $1.lowerBound) }
        self.init(
            try MemoryMapping(count: count, shared: false, noReserve: true), ranges: ranges,
            tracksWrites: tracksWrites)
    }

    /// The size of the host's pages that it is made of, in bytes.
    package var pageSize: UInt64 { mapping.pageSize }

    /// Tells the kernel how all of the memory is used (madvise(2)).
    package func advise(_ advice: Int32) throws(SystemError) { try mapping.advise(advice) }

    /// Has pages there before they are touched.
    /// - Parameters:
    ///   - range: of whole pages, by offset in the backing mapping.
    ///   - writing: as if they were written: a private mapping has copies of its own then.
    package func populate(_ range: Range<UInt64>, writing: Bool) throws(SystemError) {
        try mapping.populate(range, writing: writing)
    }

    /// Has ranges that are not expected to be written as mappings of their own. A fork of the process copies the page tables
    /// of a private mapping only if some of its pages were written, and takes all of the mapping from the guests that have
    /// it then (Linux, mm/memory.c, `vma_needs_copy`); of these it leaves everything as it is.
    /// - Parameter ranges: of whole pages, by offset in the backing mapping, of which nothing was touched yet.
    package func mapApart(_ ranges: [Range<UInt64>]) {
        for range in ranges where mapping.setApart(range) { rangesApart.append(range) }
    }

    /// A part of a file was mapped over a range, which lies in one region.
    package func noteMappedFile(at address: UInt64, count: UInt64) {
        for region in regions {
            let offset = address &- region.guestStart
            guard offset < region.count else { continue }
            mappedFiles.append(region.offset + offset..<region.offset + offset + count)
        }
    }

    /// The bytes at an offset of the backing mapping, all of which are guest memory.
    package func bytes(offset: UInt64, count: Int) -> UnsafeRawBufferPointer {
        precondition(offset <= byteCount && UInt64(count) <= byteCount - offset)
        return unsafe UnsafeRawBufferPointer(start: mapping.start + Int(offset), count: count)
    }

    /// All regions together, in bytes.
    package var byteCount: UInt64 { regions.reduce(0) { $0 + $1.count } }

    // MARK: - Addresses

    /// Where a range of guest memory is mapped, if all of it lies in one region; nil otherwise.
    @inline(__always)
    func contiguous(_ address: UInt64, _ count: UInt64) -> UnsafeMutableRawPointer? {
        let offset = address &- firstStart
        if offset < firstCount, count <= firstCount - offset { return unsafe firstHost + Int(offset) }
        return unsafe contiguousBeyondFirst(address, count)
    }

    @inline(never)
    private func contiguousBeyondFirst(_ address: UInt64, _ count: UInt64) -> UnsafeMutableRawPointer? {
        for region in regions {
            let offset = address &- region.guestStart
            if offset < region.count, count <= region.count - offset { return unsafe region.hostStart + Int(offset) }
        }
        return nil
    }

    /// The mapped bytes from an address to the end of its region, at most `limit` of them; nil where there is none.
    func piece(at address: UInt64, limit: UInt64) -> UnsafeMutableRawBufferPointer? {
        for region in regions {
            let offset = address &- region.guestStart
            guard offset < region.count else { continue }
            return unsafe UnsafeMutableRawBufferPointer(
                start: region.hostStart + Int(offset), count: Int(min(limit, region.count - offset)))
        }
        return nil
    }

    /// Whether all of a range is guest memory.
    package func contains(_ address: UInt64, count: UInt64) -> Bool {
        if unsafe contiguous(address, count) != nil { return true }
        do throws(VirtioError) {
            try unsafe withRange(address, count: count) { _ in }
            return true
        } catch {
            return false
        }
    }

    /// Hands out the host memory of a range, in as many pieces as it has regions, in order. Pieces that are handed out
    /// for writing count as written. Nothing is handed out unless all of the range is guest memory.
    package func withRange(
        _ address: UInt64, count: UInt64, writing: Bool = false, _ body: (UnsafeMutableRawBufferPointer) -> Void
    ) throws(VirtioError) {
        guard count > 0 else { return }
        let (end, overflow) = address.addingReportingOverflow(count)
        guard !overflow else { throw .outOfRange(address: address, count: count) }
        var next = address
        while next < end {
            guard let piece = unsafe piece(at: next, limit: end - next) else {
                throw .outOfRange(address: address, count: count)
            }
            next += UInt64(piece.count)
        }
        if writing { noteWrite(address, count: count) }
        next = address
        while next < end {
            guard let piece = unsafe piece(at: next, limit: end - next) else { return }
            unsafe body(piece)
            next += UInt64(piece.count)
        }
    }

    // MARK: - Bytes

    /// Copies guest memory into a buffer, which is filled.
    package func read(_ address: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(VirtioError) {
        var done = 0
        try unsafe withRange(address, count: UInt64(buffer.count)) { piece in
            unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done...]).copyMemory(
                from: UnsafeRawBufferPointer(piece))
            done += piece.count
        }
    }

    /// Copies a buffer into guest memory.
    package func write(_ buffer: UnsafeRawBufferPointer, at address: UInt64) throws(VirtioError) {
        var done = 0
        try unsafe withRange(address, count: UInt64(buffer.count), writing: true) { piece in
            unsafe piece.copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer[done..<(done + piece.count)]))
            done += piece.count
        }
    }

    package func read(_ address: UInt64, count: Int) throws(VirtioError) -> [UInt8] {
        guard contains(address, count: UInt64(count)) else {
            throw .outOfRange(address: address, count: UInt64(count))
        }
        var result: [UInt8] = []
        result.reserveCapacity(count)
        try unsafe withRange(address, count: UInt64(count)) { unsafe result.append(contentsOf: $0) }
        return result
    }

    package func write(_ bytes: [UInt8], at address: UInt64) throws(VirtioError) {
        var done = 0
        try unsafe withRange(address, count: UInt64(bytes.count), writing: true) { piece in
            unsafe bytes.withUnsafeBytes { all in
                unsafe piece.copyMemory(from: UnsafeRawBufferPointer(rebasing: all[done..<(done + piece.count)]))
            }
            done += piece.count
        }
    }

    // MARK: - Integers

    /// A little-endian integer; the address need not be aligned.
    @inline(__always)
    package func load<Value: FixedWidthInteger & BitwiseCopyable>(
        _ type: Value.Type, at address: UInt64
    ) throws(VirtioError) -> Value {
        let size = MemoryLayout<Value>.size
        if let host = unsafe contiguous(address, UInt64(size)) {
            return unsafe Value(littleEndian: UnsafeRawPointer(host).loadUnaligned(as: type))
        }
        var value: Value = 0
        try unsafe withUnsafeMutableBytes(of: &value) { bytes throws(VirtioError) in
            try unsafe read(address, into: bytes)
        }
        return Value(littleEndian: value)
    }

    /// Stores a little-endian integer; the address need not be aligned.
    @inline(__always)
    package func store<Value: FixedWidthInteger & BitwiseCopyable>(
        _ value: Value, at address: UInt64
    ) throws(VirtioError) {
        var value = value.littleEndian
        if let host = unsafe contiguous(address, UInt64(MemoryLayout<Value>.size)) {
            noteWrite(address, count: UInt64(MemoryLayout<Value>.size))
            unsafe host.storeBytes(of: value, as: Value.self)
            return
        }
        try unsafe withUnsafeBytes(of: &value) { bytes throws(VirtioError) in try unsafe write(bytes, at: address) }
    }

    // MARK: - Dirty pages

    /// Keeps a map of the pages that the monitor itself writes from now on, or none any more. Whoever calls this sees to
    /// it that nobody uses the memory meanwhile.
    package func trackWrites(_ isOn: Bool) {
        dirtyPages = isOn ? DirtyPages(byteCount: byteCount) : nil
    }

    /// Notes that the monitor writes a range, which is guest memory. All writes come by here.
    ///
    /// Memory that is handed out for writing is noted then, not when the write ends: whoever takes the dirty map
    /// does so with the devices quiescent.
    @inline(__always)
    func noteWrite(_ address: UInt64, count: UInt64) {
        guard let dirtyPages else { return }
        note(address, count, in: dirtyPages)
    }

    @inline(never)
    private func note(_ address: UInt64, _ count: UInt64, in pages: DirtyPages) {
        var next = address
        var rest = count
        for region in regions where rest > 0 {
            let offset = next &- region.guestStart
            guard offset < region.count else { continue }
            let here = min(rest, region.count - offset)
            pages.mark(region.offset + offset, count: here)
            next &+= here
            rest -= here
        }
    }
}
