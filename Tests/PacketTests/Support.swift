// SPDX-License-Identifier: Apache-2.0

import Packet
import Platform

/// What the checksum must come to, word by word (RFC 1071 §4.1).
func slowChecksum(_ bytes: [UInt8]) -> UInt16 {
    var sum: UInt32 = 0
    for index in stride(from: 0, to: bytes.count, by: 2) {
        sum += UInt32(bytes[index]) << 8 | (index + 1 < bytes.count ? UInt32(bytes[index + 1]) : 0)
        sum = (sum & 0xFFFF) + sum >> 16
    }
    return ~UInt16(sum)
}

/// A directory of a test's own, gone with its last use.
final class TemporaryDirectory {
    let path: String

    init() throws {
        var random = SystemRandomNumberGenerator()
        path = "/tmp/martlet-packet-\(String(random.next(), radix: 36))"
        try Files.makeDirectory(path, permissions: 0o700)
    }

    deinit { try? Files.removeTree(path) }
}
