// SPDX-License-Identifier: Apache-2.0

/// The Castagnoli checksum (RFC 3720, appendix B.4): finds every burst of up to 32 wrong bits.
package struct CRC32C: Sendable {
    private var register: UInt32 = .max

    package init() {}

    /// The checksum of all bytes so far.
    package var value: UInt32 { ~register }

    package mutating func append(_ bytes: [UInt8]) { append(bytes[...]) }

    // Of one kind of bytes, not of any sequence: that is made for another module's kind only where the compiler chooses
    // to; where it does not, each byte takes several calls.
    package mutating func append(_ bytes: ArraySlice<UInt8>) {
        var register = register
        for byte in bytes {
            register = register >> 8 ^ Self.table[Int((register ^ UInt32(byte)) & 0xff)]
        }
        self.register = register
    }

    package static func of(_ bytes: [UInt8]) -> UInt32 { of(bytes[...]) }

    package static func of(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        var checksum = CRC32C()
        checksum.append(bytes)
        return checksum.value
    }

    private static let table: [UInt32] = (0..<256).map { byte in
        var value = UInt32(byte)
        for _ in 0..<8 { value = value >> 1 ^ (value & 1 == 0 ? 0 : 0x82f6_3b78) }
        return value
    }
}
