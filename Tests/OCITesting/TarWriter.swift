// SPDX-License-Identifier: Apache-2.0

/// Makes tar files (POSIX.1-1988 ustar) for tests.
package struct TarWriter: Sendable {
    package private(set) var bytes: [UInt8] = []

    package init() {}

    package mutating func file(_ name: String, _ content: [UInt8], mode: Int = 0o644) {
        header(name, type: "0", size: content.count, mode: mode)
        bytes += content
        bytes += [UInt8](repeating: 0, count: (512 - content.count % 512) % 512)
    }

    package mutating func directory(_ name: String, mode: Int = 0o755) { header(name, type: "5", mode: mode) }
    package mutating func symlink(_ name: String, to target: String) {
        header(name, type: "2", link: target, mode: 0o777)
    }
    package mutating func hardLink(_ name: String, to target: String) { header(name, type: "1", link: target) }

    /// An entry with any header, for hostile files.
    package mutating func header(
        _ name: String, type: Character, size: Int = 0, link: String = "", mode: Int = 0o644
    ) {
        var block = [UInt8](repeating: 0, count: 512)
        func put(_ text: String, at offset: Int, _ width: Int) {
            for (index, byte) in text.utf8.prefix(width).enumerated() { block[offset + index] = byte }
        }
        func octal(_ value: Int, at offset: Int, _ width: Int) {
            let digits = String(value, radix: 8)
            put(String(repeating: "0", count: max(0, width - 1 - digits.count)) + digits, at: offset, width - 1)
        }
        put(name, at: 0, 100)
        octal(mode, at: 100, 8)
        octal(0, at: 108, 8)
        octal(0, at: 116, 8)
        octal(size, at: 124, 12)
        octal(0, at: 136, 12)
        put(String(type), at: 156, 1)
        put(link, at: 157, 100)
        put("ustar\u{0}00", at: 257, 8)
        put("        ", at: 148, 8)
        let sum = block.reduce(0) { $0 + Int($1) }
        octal(sum, at: 148, 7)
        block[154] = 0
        block[155] = 0x20
        bytes += block
    }

    /// The file with its end mark.
    package func finished() -> [UInt8] { bytes + [UInt8](repeating: 0, count: 1024) }
}

/// Wraps bytes into a gzip file without compressing them (RFC 1951, section 3.2.4; RFC 1952).
package func gzipStored(_ bytes: [UInt8]) -> [UInt8] {
    var result: [UInt8] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]
    var offset = 0
    repeat {
        let count = min(65535, bytes.count - offset)
        let last: UInt8 = offset + count == bytes.count ? 1 : 0
        result += [last, UInt8(count & 255), UInt8(count >> 8), UInt8(~count & 255), UInt8(~count >> 8 & 255)]
        result += bytes[offset..<offset + count]
        offset += count
    } while offset < bytes.count
    var crc: UInt32 = 0xffff_ffff
    for byte in bytes { crc = crc >> 8 ^ crcTable[Int(UInt8(truncatingIfNeeded: crc) ^ byte)] }
    crc = ~crc
    for value in [crc, UInt32(truncatingIfNeeded: bytes.count)] {
        for shift in [0, 8, 16, 24] { result.append(UInt8(value >> UInt32(shift) & 255)) }
    }
    return result
}

private let crcTable: [UInt32] = (0..<256).map { byte in
    (0..<8).reduce(UInt32(byte)) { value, _ in value & 1 == 1 ? value >> 1 ^ 0xedb8_8320 : value >> 1 }
}
