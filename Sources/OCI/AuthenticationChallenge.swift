// SPDX-License-Identifier: Apache-2.0

/// One challenge of a `WWW-Authenticate` header (RFC 9110, sections 11.2 to 11.6.1).
struct AuthenticationChallenge: Equatable, Sendable {
    /// In lower case: `bearer`, `basic`.
    let scheme: String
    /// Names in lower case.
    let parameters: [String: String]

    /// Reads all challenges of a header's value. What cannot be read ends the list; never more than 16 are read.
    static func parse(_ header: String) -> [AuthenticationChallenge] {
        guard header.utf8.count <= 16384 else { return [] }
        var reader = HeaderReader(bytes: Array(header.utf8))
        var challenges: [AuthenticationChallenge] = []
        reader.skipSeparators()
        while let scheme = reader.token(), challenges.count < 16 {
            var parameters: [String: String] = [:]
            reader.skipSpace()
            reader.skipToken68()
            while let (name, value) = reader.parameter() {
                if parameters.count < 32 && parameters[name] == nil { parameters[name] = value }
                reader.skipSeparators()
            }
            challenges.append(AuthenticationChallenge(scheme: scheme.lowercased(), parameters: parameters))
            reader.skipSeparators()
        }
        return challenges
    }
}

private struct HeaderReader {
    let bytes: [UInt8]
    var position = 0

    private var current: UInt8? { position < bytes.count ? bytes[position] : nil }

    mutating func skipSpace() {
        while let byte = current, byte == 0x20 || byte == 0x09 { position += 1 }
    }

    mutating func skipSeparators() {
        while let byte = current, byte == 0x20 || byte == 0x09 || byte == UInt8(ascii: ",") { position += 1 }
    }

    mutating func token() -> String? {
        let start = position
        while let byte = current, HeaderReader.isTokenByte(byte) { position += 1 }
        return position > start ? String(decoding: bytes[start..<position], as: UTF8.self) : nil
    }

    /// Credentials-like text such as `Negotiate abc==`, which no scheme of registries has.
    mutating func skipToken68() {
        let start = position
        while let byte = current, HeaderReader.isToken68Byte(byte) { position += 1 }
        while current == UInt8(ascii: "=") { position += 1 }
        skipSpace()
        // Anything else was the beginning of a parameter, or of the next challenge.
        if let byte = current, byte != UInt8(ascii: ",") { position = start }
    }

    /// `name=value` or `name="value"`; nothing is taken if there is none here.
    mutating func parameter() -> (String, String)? {
        let start = position
        guard let name = token() else { return nil }
        skipSpace()
        guard current == UInt8(ascii: "=") else {
            position = start
            return nil
        }
        position += 1
        skipSpace()
        if current == UInt8(ascii: "\"") {
            position += 1
            var value: [UInt8] = []
            while let byte = current {
                position += 1
                if byte == UInt8(ascii: "\"") { return (name.lowercased(), String(decoding: value, as: UTF8.self)) }
                if byte == UInt8(ascii: "\\"), let escaped = current {
                    position += 1
                    value.append(escaped)
                } else {
                    value.append(byte)
                }
            }
            return nil
        }
        return (name.lowercased(), token() ?? "")
    }

    static func isTokenByte(_ byte: UInt8) -> Bool {
        ReferenceGrammar.isAlphanumeric(byte) || "!#$%&'*+-.^_`|~".utf8.contains(byte)
    }

    static func isToken68Byte(_ byte: UInt8) -> Bool {
        ReferenceGrammar.isAlphanumeric(byte) || "-._~+/".utf8.contains(byte)
    }
}
