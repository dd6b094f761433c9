// SPDX-License-Identifier: Apache-2.0

/// The checksum of `CRC32C`, eight bytes at a time: for all of a machine's memory.
enum FastCRC32C {
    static func of(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        tables.withUnsafeBufferPointer { tables in
            var register = UInt32.max
            var position = 0
            while position + 8 <= bytes.count {
                let word = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: position, as: UInt64.self))
                let mixed = word ^ UInt64(register)
                var next: UInt32 = 0
                for index in 0..<8 {
                    next ^= tables[(7 - index) << 8 | Int(mixed >> UInt64(8 * index) & 0xff)]
                }
                register = next
                position += 8
            }
            while position < bytes.count {
                register = register >> 8 ^ tables[Int((register ^ UInt32(bytes[position])) & 0xff)]
                position += 1
            }
            return ~register
        }
    }

    /// Eight tables of 256: what a byte comes to when 0 to 7 bytes follow it.
    private static let tables: [UInt32] = {
        var tables = [UInt32](repeating: 0, count: 8 << 8)
        for byte in 0..<256 {
            var value = UInt32(byte)
            for _ in 0..<8 { value = value >> 1 ^ (value & 1 == 0 ? 0 : 0x82f6_3b78) }
            tables[byte] = value
        }
        for index in 256..<2048 {
            let before = tables[index - 256]
            tables[index] = before >> 8 ^ tables[Int(before & 0xff)]
        }
        return tables
    }()
}
