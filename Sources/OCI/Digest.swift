// SPDX-License-Identifier: Apache-2.0

internal import Crypto
package import NIOCore

/// The address of content: an algorithm and its value in hexadecimal (OCI image specification, descriptor.md).
package struct Digest: Hashable, Sendable, CustomStringConvertible {
    package enum Algorithm: String, Sendable {
        case sha256
        case sha512

        /// The number of hexadecimal digits of a value.
        var digits: Int { self == .sha256 ? 64 : 128 }
    }

    package let algorithm: Algorithm
    /// Lower-case hexadecimal.
    package let hex: String

    package var description: String { "\(algorithm.rawValue):\(hex)" }

    /// Reads `sha256:…` or `sha512:…`; nil for anything else.
    package init?(_ text: String) {
        let utf8 = text.utf8
        guard utf8.count <= 160, let colon = utf8.firstIndex(of: UInt8(ascii: ":")),
            let algorithm = Algorithm(rawValue: String(text[..<colon])),
            let value = Digest.hex(text[text.index(after: colon)...], count: algorithm.digits)
        else { return nil }
        self.algorithm = algorithm
        self.hex = value
    }

    /// A SHA-256 digest by its 64 hexadecimal digits.
    package init?(sha256Hex text: some StringProtocol) {
        guard let value = Digest.hex(text, count: Algorithm.sha256.digits) else { return nil }
        self.algorithm = .sha256
        self.hex = value
    }

    init(_ algorithm: Algorithm, bytes: some Sequence<UInt8>) {
        self.algorithm = algorithm
        self.hex = hexadecimal(bytes)
    }

    /// The SHA-256 digest of some bytes.
    package init(sha256Of bytes: [UInt8]) {
        var hasher = DigestHasher(.sha256)
        hasher.update(bytes)
        self = hasher.finish()
    }

    private static func hex(_ text: some StringProtocol, count: Int) -> String? {
        guard text.utf8.count == count, text.utf8.allSatisfy(isLowerHex) else { return nil }
        return String(text)
    }
}

/// Whether a byte is one of `0-9a-f`.
package func isLowerHex(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte)
}

/// Bytes as lower-case hexadecimal.
package func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in bytes {
        text.append(digits[Int(byte >> 4)])
        text.append(digits[Int(byte & 15)])
    }
    return String(decoding: text, as: UTF8.self)
}

/// Computes a digest of bytes as they come.
package struct DigestHasher: Sendable {
    private enum State: Sendable {
        case sha256(SHA256)
        case sha512(SHA512)
    }
    private var state: State

    package init(_ algorithm: Digest.Algorithm) {
        state = algorithm == .sha256 ? .sha256(SHA256()) : .sha512(SHA512())
    }

    package mutating func update(bufferPointer bytes: UnsafeRawBufferPointer) {
        switch state {
        case .sha256(var hash):
            state = .sha256(SHA256())
            hash.update(bufferPointer: bytes)
            state = .sha256(hash)
        case .sha512(var hash):
            state = .sha512(SHA512())
            hash.update(bufferPointer: bytes)
            state = .sha512(hash)
        }
    }

    package mutating func update(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { update(bufferPointer: $0) }
    }

    package mutating func update(_ buffer: ByteBuffer) {
        buffer.withUnsafeReadableBytes { update(bufferPointer: $0) }
    }

    package func finish() -> Digest {
        switch state {
        case .sha256(let hash): Digest(.sha256, bytes: hash.finalize())
        case .sha512(let hash): Digest(.sha512, bytes: hash.finalize())
        }
    }
}
