// SPDX-License-Identifier: Apache-2.0
//
// The only file that imports swift-crypto, which brings Foundation with it on Linux.

internal import Crypto

/// A SHA-256 in the making.
struct Digester {
    private var hash = SHA256()

    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        unsafe hash.update(bufferPointer: bytes)
    }

    mutating func update(_ bytes: Span<UInt8>) {
        unsafe bytes.withUnsafeBytes { unsafe hash.update(bufferPointer: $0) }
    }

    /// The 32 bytes of the digest.
    func finish() -> [UInt8] {
        Array(hash.finalize())
    }

    /// A digest as OCI writes it: `sha256:` and 64 hexadecimal digits.
    static func text(_ digest: [UInt8]) -> String {
        var text: [UInt8] = Array("sha256:".utf8)
        let digits: [UInt8] = Array("0123456789abcdef".utf8)
        for byte in digest {
            text.append(digits[Int(byte >> 4)])
            text.append(digits[Int(byte & 15)])
        }
        return String(decoding: text, as: UTF8.self)
    }
}
