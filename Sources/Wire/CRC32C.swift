// SPDX-License-Identifier: Apache-2.0

/// The Castagnoli checksum (RFC 3720, appendix B.4): finds every burst of up to 32 wrong bits.
package struct CRC32C: Sendable {
    @usableFromInline
    var register: UInt32 = .max

    package init() {}

    /// The checksum of all bytes so far.
    package var value: UInt32 { ~register }

    /// Made anew for each kind of sequence, wherever it is called: the loop is nothing but a load and a table then.
    @inlinable
    package mutating func append(_ bytes: some Sequence<UInt8>) {
        var register = register
        for byte in bytes {
            register = register >> 8 ^ Self.table[Int((register ^ UInt32(byte)) & 0xff)]
        }
        self.register = register
    }

    @inlinable
    package static func of(_ bytes: some Sequence<UInt8>) -> UInt32 {
        var checksum = CRC32C()
        checksum.append(bytes)
        return checksum.value
    }

    @usableFromInline
    static let table: [UInt32] = (0..<256).map { byte in
        var value = UInt32(byte)
        for _ in 0..<8 { value = value >> 1 ^ (value & 1 == 0 ? 0 : 0x82f6_3b78) }
        return value
    }
}
