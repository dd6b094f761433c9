// SPDX-License-Identifier: Apache-2.0

/// The Internet checksum (RFC 1071), summed up piece by piece.
package struct Checksum: Sendable {
    /// Words as they lie in memory; the sum does not care for byte order until the end (RFC 1071 §2 (B)).
    var sum: UInt64

    package init() { sum = 0 }

    /// Begins with the pseudo header of IPv4 (RFC 9293 §3.1, RFC 768).
    package init(_ source: IPv4Address, _ destination: IPv4Address, protocolNumber: UInt8, length: Int) {
        sum = 0
        add(source.value)
        add(destination.value)
        add(UInt16(protocolNumber))
        add(UInt32(truncatingIfNeeded: length))
    }

    /// Begins with the pseudo header of IPv6 (RFC 8200 §8.1).
    package init(_ source: IPv6Address, _ destination: IPv6Address, protocolNumber: UInt8, length: Int) {
        sum = 0
        add(source)
        add(destination)
        add(UInt16(protocolNumber))
        add(UInt32(truncatingIfNeeded: length))
    }

    package mutating func add(_ value: UInt16) { sum &+= UInt64(value.bigEndian) }

    package mutating func add(_ value: UInt32) { sum &+= UInt64(value.bigEndian) }

    package mutating func add(_ value: UInt64) {
        let value = value.bigEndian
        sum &+= (value & 0xFFFF_FFFF) &+ value >> 32
    }

    package mutating func add(_ address: IPv6Address) {
        add(address.high)
        add(address.low)
    }

    /// Adds bytes. A piece of odd length counts as filled up with a zero, so only the last piece may be one.
    package mutating func add(_ bytes: RawSpan) {
        let count = bytes.byteCount
        // 2^32 words of 32 bits fit into the sum; a span of a packet has at most 2^14.
        var total: UInt64 = 0
        var index = 0
        unsafe bytes.withUnsafeBytes { buffer in
            while index &+ 4 <= count {
                unsafe total &+= UInt64(buffer.loadUnaligned(fromByteOffset: index, as: UInt32.self))
                index &+= 4
            }
            if index &+ 2 <= count {
                unsafe total &+= UInt64(buffer.loadUnaligned(fromByteOffset: index, as: UInt16.self))
                index &+= 2
            }
            if index < count { unsafe total &+= UInt64(UInt16(buffer[index]).littleEndian) }
        }
        let (partial, carry) = sum.addingReportingOverflow(total)
        sum = partial &+ (carry ? 1 : 0)
    }

    /// The one's complement sum of the words, in host order.
    package var folded: UInt16 {
        var rest = (sum & 0xFFFF_FFFF) &+ sum >> 32
        rest = (rest & 0xFFFF_FFFF) &+ rest >> 32
        rest = (rest & 0xFFFF) &+ rest >> 16
        rest = (rest & 0xFFFF) &+ rest >> 16
        rest = (rest & 0xFFFF) &+ rest >> 16
        return UInt16(truncatingIfNeeded: rest).bigEndian
    }

    /// What goes into a header's field. UDP sends 0xFFFF instead of zero.
    package var value: UInt16 { ~folded }

    /// The checksum after one word that it covers changed (RFC 1624 §3, equation 3).
    package static func adjust(_ checksum: UInt16, from old: UInt16, to new: UInt16) -> UInt16 {
        var sum = UInt32(~checksum) &+ UInt32(~old) &+ UInt32(new)
        sum = (sum & 0xFFFF) &+ sum >> 16
        sum = (sum & 0xFFFF) &+ sum >> 16
        return ~UInt16(truncatingIfNeeded: sum)
    }

    package static func adjust(_ checksum: UInt16, from old: UInt32, to new: UInt32) -> UInt16 {
        let first = adjust(
            checksum, from: UInt16(truncatingIfNeeded: old >> 16), to: UInt16(truncatingIfNeeded: new >> 16))
        return adjust(first, from: UInt16(truncatingIfNeeded: old), to: UInt16(truncatingIfNeeded: new))
    }

    /// The checksum of all the bytes.
    package static func of(_ bytes: RawSpan) -> UInt16 {
        var checksum = Checksum()
        checksum.add(bytes)
        return checksum.value
    }
}
