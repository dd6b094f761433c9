// SPDX-License-Identifier: Apache-2.0

/// Integers in network byte order. Every access is checked: one beyond the end traps, so a view proves its lengths when
/// it is made, and what it reads afterwards lies inside. Inlined wherever they are used: everything else stands on them.
extension RawSpan {
    /// The byte at an offset.
    @inlinable @inline(__always)
    package func byte(_ offset: Int) -> UInt8 { unsafe unsafeLoad(fromByteOffset: offset, as: UInt8.self) }

    /// The 16 bits at an offset, highest byte first.
    @inlinable @inline(__always)
    package func u16(_ offset: Int) -> UInt16 {
        UInt16(bigEndian: unsafe unsafeLoadUnaligned(fromByteOffset: offset, as: UInt16.self))
    }

    /// The 32 bits at an offset, highest byte first.
    @inlinable @inline(__always)
    package func u32(_ offset: Int) -> UInt32 {
        UInt32(bigEndian: unsafe unsafeLoadUnaligned(fromByteOffset: offset, as: UInt32.self))
    }

    /// The 64 bits at an offset, highest byte first.
    @inlinable @inline(__always)
    package func u64(_ offset: Int) -> UInt64 {
        UInt64(bigEndian: unsafe unsafeLoadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }

    /// What follows the first `count` bytes.
    @inlinable @inline(__always)
    @_lifetime(copy self)
    package func dropping(_ count: Int) -> RawSpan { extracting(count..<byteCount) }

    /// `count` bytes from an offset.
    @inlinable @inline(__always)
    @_lifetime(copy self)
    package func slice(_ offset: Int, _ count: Int) -> RawSpan { extracting(offset..<(offset + count)) }

    /// A copy that outlives the span.
    package var array: [UInt8] {
        unsafe withUnsafeBytes { unsafe Array($0) }
    }

    /// Whether both hold the same bytes.
    package func equals(_ other: RawSpan) -> Bool {
        guard byteCount == other.byteCount else { return false }
        for index in 0..<byteCount where byte(index) != other.byte(index) { return false }
        return true
    }
}

/// Writing in network byte order. Room is the caller's to see to: a write beyond the end traps.
extension MutableRawSpan {
    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    package mutating func put(_ value: UInt8, at offset: Int) {
        storeBytes(of: value, toByteOffset: offset, as: UInt8.self)
    }

    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    package mutating func put(_ value: UInt16, at offset: Int) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt16.self)
    }

    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    package mutating func put(_ value: UInt32, at offset: Int) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt32.self)
    }

    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    package mutating func put(_ value: UInt64, at offset: Int) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt64.self)
    }

    /// Copies bytes that do not overlap with these.
    @inlinable @inline(__always)
    @_lifetime(self: copy self)
    package mutating func put(_ bytes: RawSpan, at offset: Int) {
        precondition(offset >= 0 && bytes.byteCount <= byteCount - offset, "no room for the bytes")
        unsafe withUnsafeMutableBytes { space in
            unsafe bytes.withUnsafeBytes { source in
                guard let base = space.baseAddress, let from = source.baseAddress else { return }
                unsafe (base + offset).copyMemory(from: from, byteCount: source.count)
            }
        }
    }

    @_lifetime(self: copy self)
    package mutating func put(_ bytes: [UInt8], at offset: Int) {
        let span = bytes.span
        put(unsafe span.bytes, at: offset)
    }

    /// Sets `count` bytes from an offset to zero.
    @_lifetime(self: copy self)
    package mutating func zero(at offset: Int, count: Int) {
        precondition(offset >= 0 && count >= 0 && count <= byteCount - offset, "no room for the bytes")
        for index in offset..<(offset + count) { put(0 as UInt8, at: index) }
    }
}
