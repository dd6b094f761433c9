// SPDX-License-Identifier: Apache-2.0

/// Blocks of a capture file (draft-ietf-opsawg-pcapng), little-endian, times in nanoseconds.
package enum PCAPNG {
    /// Where a frame was seen, as the flags of an enhanced packet block say it.
    package enum Direction: UInt32, Sendable {
        case unknown = 0
        case inbound = 1
        case outbound = 2
    }

    /// The file's first block, and one for each interface.
    package static func begin(application: String) -> [UInt8] {
        var body: [UInt8] = [0x4D, 0x3C, 0x2B, 0x1A, 1, 0, 0, 0] + [UInt8](repeating: 0xFF, count: 8)
        option(4, Array(application.utf8), &body)
        option(0, [], &body)
        return block(0x0A0D_0D0A, body)
    }

    /// As many bytes of a frame as our captures keep.
    package static let frameLimit: UInt32 = 65_536

    /// An Ethernet interface; they are numbered in the order in which they come.
    package static func interface(name: String, description: String? = nil, lengthLimit: UInt32) -> [UInt8] {
        var body: [UInt8] = [1, 0, 0, 0] + little(lengthLimit)
        option(2, Array(name.utf8), &body)
        if let description { option(3, Array(description.utf8), &body) }
        option(9, [9], &body)
        option(0, [], &body)
        return block(1, body)
    }

    /// A frame, of which there may be only the first bytes.
    package static func packet(
        _ bytes: RawSpan, originalLength: Int, interface: UInt32, nanoseconds: UInt64, direction: Direction,
        comment: String? = nil
    ) -> [UInt8] {
        var body = little(interface)
        body += little(UInt32(truncatingIfNeeded: nanoseconds >> 32))
        body += little(UInt32(truncatingIfNeeded: nanoseconds))
        body += little(UInt32(truncatingIfNeeded: bytes.byteCount))
        body += little(UInt32(truncatingIfNeeded: originalLength))
        body += bytes.array
        pad(&body)
        if let comment { option(1, Array(comment.utf8), &body) }
        option(2, little(direction.rawValue), &body)
        option(0, [], &body)
        return block(6, body)
    }

    private static func block(_ type: UInt32, _ body: [UInt8]) -> [UInt8] {
        let length = little(UInt32(truncatingIfNeeded: body.count + 12))
        return little(type) + length + body + length
    }

    private static func option(_ code: UInt16, _ value: [UInt8], _ body: inout [UInt8]) {
        let value = value.prefix(65_535)
        body += [UInt8(code & 255), UInt8(code >> 8), UInt8(value.count & 255), UInt8(value.count >> 8)]
        body += value
        pad(&body)
    }

    private static func pad(_ body: inout [UInt8]) {
        while !body.count.isMultiple(of: 4) { body.append(0) }
    }

    static func word(_ bytes: [UInt8], at offset: Int) -> UInt32 {
        (0..<4).reduce(0) { $0 | UInt32(bytes[offset + $1]) << UInt32(8 * $1) }
    }

    static func little(_ value: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32($0 * 8)) }
    }
}
