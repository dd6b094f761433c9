// SPDX-License-Identifier: Apache-2.0

/// A 512-byte header block of an archive (POSIX ustar; GNU tar's format where it differs).
struct TarHeader {
    static let blockInBytes = 512

    private let block: [UInt8]

    /// - Parameter block: 512 bytes.
    init(_ block: [UInt8]) {
        precondition(block.count == Self.blockInBytes, "a header is one block")
        self.block = block
    }

    var isZero: Bool { block.allSatisfy { $0 == 0 } }

    /// The sum of all bytes with the checksum field as spaces; writers of old summed signed bytes.
    var hasValidChecksum: Bool {
        guard let stored = number(148, 8) else { return false }
        var unsigned: Int64 = 8 * 0x20
        var signed: Int64 = 8 * 0x20
        for (index, byte) in block.enumerated() where !(148..<156).contains(index) {
            unsigned += Int64(byte)
            signed += Int64(Int8(bitPattern: byte))
        }
        return stored == unsigned || stored == signed
    }

    var type: UInt8 { block[156] }
    var isGNU: Bool { block[257..<265].elementsEqual("ustar  \0".utf8) }
    var isPOSIX: Bool { block[257..<263].elementsEqual("ustar\0".utf8) }

    /// The name, with the prefix field before it where the format has one.
    var name: [UInt8] {
        let name = text(0, 100)
        guard isPOSIX else { return name }
        let prefix = text(345, 155)
        return prefix.isEmpty ? name : prefix + [0x2F] + name
    }

    var linkTarget: [UInt8] { text(157, 100) }

    func text(_ start: Int, _ count: Int) -> [UInt8] {
        let field = block[start..<start + count]
        return Array(field.prefix { $0 != 0 })
    }

    /// A numeric field: octal digits, or GNU's big-endian binary where the first bit is set; nil where it is neither.
    func number(_ start: Int, _ count: Int) -> Int64? {
        let field = block[start..<start + count]
        guard let first = field.first else { return nil }
        if first & 0x80 != 0 {
            // Two's complement; bit 7 of the first byte is the mark, bit 6 the sign.
            var value: Int64 = first & 0x40 != 0 ? -1 : 0
            for (index, byte) in field.enumerated() {
                let digit = index == 0 ? (first & 0x40 != 0 ? byte | 0x80 : byte & 0x7F) : byte
                if index == 0 && digit != 0 && digit != 0xFF { return nil }
                if index == 0 { continue }
                let (shifted, overflow) = value.multipliedReportingOverflow(by: 256)
                if overflow { return nil }
                value = shifted | Int64(digit)
            }
            return value
        }
        var value: Int64 = 0
        var digits = false
        for byte in field {
            switch byte {
            case 0x30...0x37:
                let (shifted, overflow) = value.multipliedReportingOverflow(by: 8)
                if overflow { return nil }
                value = shifted | Int64(byte - 0x30)
                digits = true
            case 0x20, 0:
                if digits { return value }
                if byte == 0 { return 0 }
            default: return nil
            }
        }
        return value
    }

    /// Segments of GNU tar's old sparse format, from a header (4 at 386) or an extension block (21 at 0), up to the
    /// first empty one; nil where a number is wrong.
    func segments(at start: Int, count: Int) -> [SparseMap.Segment]? {
        var segments: [SparseMap.Segment] = []
        for index in 0..<count {
            let position = start + 24 * index
            if block[position] == 0 { break }
            guard let offset = number(position, 12), let length = number(position + 12, 12), offset >= 0, length >= 0
            else { return nil }
            segments.append(SparseMap.Segment(offset: UInt64(offset), count: UInt64(length)))
        }
        return segments
    }

    /// Whether an extension block follows: of a header at 482, of an extension block at 504.
    func isExtended(at position: Int) -> Bool { block[position] != 0 }
}
