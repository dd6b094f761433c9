// SPDX-License-Identifier: Apache-2.0

/// One self-describing field: a tag, a length, bytes. A reader skips the tags that it does not know, so that a newer
/// writer can say more; a tag may come several times where it stands for a list.
///
///     0      2            6
///     | tag  | length n   | n bytes |        all integers little-endian
package struct Field: Sendable {
    package let tag: UInt16
    package let bytes: [UInt8]

    /// The bytes as an integer of at most their length; a longer field is read by its low 8 bytes.
    package var number: UInt64 {
        var value: UInt64 = 0
        for (index, byte) in bytes.prefix(8).enumerated() { value |= UInt64(byte) << UInt64(index * 8) }
        return value
    }
}

/// Builds a message's payload.
package struct FieldWriter: Sendable {
    package private(set) var bytes: [UInt8] = []

    package init() {}

    package mutating func append(_ tag: UInt16, _ value: [UInt8]) {
        bytes.appendInteger(tag)
        bytes.appendInteger(UInt32(truncatingIfNeeded: value.count))
        bytes.append(contentsOf: value)
    }

    @inlinable
    package mutating func append<T: FixedWidthInteger & UnsignedInteger>(_ tag: UInt16, number: T) {
        bytes.appendInteger(tag)
        bytes.appendInteger(UInt32(T.bitWidth / 8))
        bytes.appendInteger(number)
    }
}

/// Reads a message's payload, field by field.
package struct FieldReader: Sendable {
    private let bytes: [UInt8]
    private var position = 0
    /// A field's length goes beyond the payload: the message is not whole and must be refused.
    package private(set) var isMalformed = false

    package init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    /// The next field, or nil at the end and when the rest is malformed.
    package mutating func next() -> Field? {
        guard position < bytes.count, !isMalformed else { return nil }
        guard let tag: UInt16 = bytes.integer(at: position), let length: UInt32 = bytes.integer(at: position + 2),
            Int(length) <= bytes.count - position - 6
        else {
            isMalformed = true
            return nil
        }
        let start = position + 6
        position = start + Int(length)
        return Field(tag: tag, bytes: Array(bytes[start..<position]))
    }
}
