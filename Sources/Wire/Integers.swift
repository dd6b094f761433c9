// SPDX-License-Identifier: Apache-2.0

/// Little-endian integers in arrays of bytes. Reads are checked and give nil past the end; writes append.
/// This module is built as Embedded Swift too: no existentials, no Foundation, no Unicode.
extension Array where Element == UInt8 {
    @inlinable
    package mutating func appendInteger<T: FixedWidthInteger & UnsignedInteger>(_ value: T) {
        var rest = value
        for _ in 0..<(T.bitWidth / 8) {
            append(UInt8(truncatingIfNeeded: rest))
            rest = T.bitWidth > 8 ? rest >> 8 : 0
        }
    }

    @inlinable
    package func integer<T: FixedWidthInteger & UnsignedInteger>(at offset: Int, as type: T.Type = T.self) -> T? {
        let width = T.bitWidth / 8
        guard offset >= 0, offset <= count, count - offset >= width else { return nil }
        var value: T = 0
        for index in 0..<width {
            value |= T(truncatingIfNeeded: self[offset + index]) << T(truncatingIfNeeded: index * 8)
        }
        return value
    }

    @inlinable
    package mutating func setInteger<T: FixedWidthInteger & UnsignedInteger>(_ value: T, at offset: Int) {
        for index in 0..<(T.bitWidth / 8) {
            self[offset + index] = UInt8(truncatingIfNeeded: value >> T(truncatingIfNeeded: index * 8))
        }
    }
}
