// SPDX-License-Identifier: Apache-2.0

extension Array<UInt8> {
    /// Adds an integer, lowest byte first.
    mutating func append<Value: FixedWidthInteger>(little value: Value) {
        for shift in stride(from: 0, to: Value.bitWidth, by: 8) { append(UInt8(truncatingIfNeeded: value >> shift)) }
    }

    /// Puts an integer at a place that exists, lowest byte first.
    mutating func put<Value: FixedWidthInteger>(_ value: Value, at offset: Int) {
        for (index, shift) in stride(from: 0, to: Value.bitWidth, by: 8).enumerated() {
            self[offset + index] = UInt8(truncatingIfNeeded: value >> shift)
        }
    }

    /// The integer at an offset, lowest byte first, or nil where the bytes end before it does.
    func little<Value: FixedWidthInteger>(_ type: Value.Type, at offset: Int) -> Value? {
        let size = Value.bitWidth / 8
        guard offset >= 0, offset <= count - size else { return nil }
        var value: Value = 0
        for index in stride(from: size - 1, through: 0, by: -1) {
            value = value << 8 | Value(truncatingIfNeeded: self[offset + index])
        }
        return value
    }

    /// Adds zero bytes up to a multiple of `alignment`.
    mutating func pad(to alignment: Int) {
        while !count.isMultiple(of: alignment) { append(0) }
    }

    /// The byte that makes the sum of all bytes zero.
    var balancingByte: UInt8 { 0 &- reduce(0, &+) }
}
