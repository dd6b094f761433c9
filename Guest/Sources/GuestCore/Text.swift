// SPDX-License-Identifier: Apache-2.0

// Text is bytes here: what an image calls a path or a user need not be Unicode, and Embedded Swift's String would bring
// the tables of Unicode into a program that has no use for them.

/// The bytes of a literal.
package func text(_ literal: StaticString) -> [UInt8] {
    unsafe Array(UnsafeBufferPointer(start: literal.utf8Start, count: literal.utf8CodeUnitCount))
}

/// A number in decimal digits.
package func text<T: FixedWidthInteger>(_ number: T) -> [UInt8] {
    var digits: [UInt8] = []
    var rest = number.magnitude
    repeat {
        digits.append(UInt8(ascii: "0") + UInt8(truncatingIfNeeded: rest % 10))
        rest /= 10
    } while rest > 0
    if number < 0 { digits.append(UInt8(ascii: "-")) }
    return digits.reversed()
}

extension Array where Element == UInt8 {
    package func hasPrefix(_ prefix: [UInt8]) -> Bool {
        guard prefix.count <= count else { return false }
        for index in prefix.indices where self[index] != prefix[index] { return false }
        return true
    }

    package mutating func append(_ literal: StaticString) {
        append(contentsOf: text(literal))
    }

    /// The parts between the bytes that are `separator`; one more than there are such bytes.
    package func parts(separatedBy separator: UInt8) -> [[UInt8]] {
        var parts: [[UInt8]] = []
        var start = 0
        for index in indices where self[index] == separator {
            parts.append(Array(self[start..<index]))
            start = index + 1
        }
        parts.append(Array(self[start..<count]))
        return parts
    }

    /// The number that these decimal digits are, nothing else among them; nil too where it is more than `limit`.
    package func decimal(atMost limit: UInt64) -> UInt64? {
        guard count > 0 else { return nil }
        var value: UInt64 = 0
        for byte in self {
            guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") else { return nil }
            let (tens, isTooLarge) = value.multipliedReportingOverflow(by: 10)
            let (sum, isBeyond) = tens.addingReportingOverflow(UInt64(byte - UInt8(ascii: "0")))
            guard !isTooLarge, !isBeyond, sum <= limit else { return nil }
            value = sum
        }
        return value
    }
}
