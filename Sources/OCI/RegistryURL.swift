// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// A URL as far as registries, token services and proxies need it; no more is accepted.
struct RegistryURL: Hashable, Sendable, CustomStringConvertible {
    let scheme: String
    /// In lower case, an IPv6 address without brackets.
    let host: String
    let port: Int?
    let user: String?
    let password: String?
    /// Path and query, from the slash.
    let target: String

    var isSecure: Bool { scheme == "https" }
    var effectivePort: Int { port ?? (isSecure ? 443 : 80) }
    /// Where connections go, for comparing and for errors.
    var authority: String {
        let name = host.contains(":") ? "[\(host)]" : host
        return port.map { "\(name):\($0)" } ?? name
    }
    var origin: String { "\(scheme)://\(host):\(effectivePort)" }
    /// Without the user's part: that travels in a header, if at all.
    var description: String { "\(scheme)://\(authority)\(target)" }

    init(scheme: String, host: String, port: Int?, target: String) {
        self.scheme = scheme
        self.host = host.lowercased()
        self.port = port
        self.user = nil
        self.password = nil
        self.target = target
    }

    /// Reads an absolute URL of printable ASCII, at most 16 KiB.
    init?(_ text: String, anyScheme: Bool = false) {
        guard text.utf8.count <= 16384, text.utf8.allSatisfy({ (0x21...0x7e).contains($0) }),
            let separator = text.firstRange(of: "://")
        else { return nil }
        let scheme = text[..<separator.lowerBound].lowercased()
        guard anyScheme || scheme == "http" || scheme == "https" else { return nil }
        let rest = text[separator.upperBound...]
        let end = rest.firstIndex { $0 == "/" || $0 == "?" || $0 == "#" } ?? rest.endIndex
        var authority = rest[..<end]
        var target = rest[end...].prefix { $0 != "#" }
        if target.first == "?" { target = "/" + target }
        var user: String?
        var password: String?
        if let at = authority.lastIndex(of: "@") {
            let parts = authority[..<at].split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            user = RegistryURL.unescape(parts[0])
            password = parts.count == 2 ? RegistryURL.unescape(parts[1]) : nil
            authority = authority[authority.index(after: at)...]
        }
        guard let (host, port) = HostName.split(authority) else { return nil }
        self.scheme = scheme
        self.host = host
        self.port = port
        self.user = user
        self.password = password
        self.target = target.isEmpty ? "/" : String(target)
    }

    /// What a `Location` header leads to from here.
    func resolving(_ location: String) -> RegistryURL? {
        if location.hasPrefix("//") { return RegistryURL("\(scheme):\(location)") }
        if location.hasPrefix("/") { return RegistryURL("\(scheme)://\(authority)\(location)") }
        if let absolute = RegistryURL(location) { return absolute }
        guard !location.contains("://") else { return nil }
        let path = target.prefix { $0 != "?" }
        let directory = path[...(path.lastIndex(of: "/") ?? path.startIndex)]
        return RegistryURL("\(scheme)://\(authority)\(directory)\(location)")
    }

    /// A query's value with all but the unreserved characters escaped (RFC 3986, section 2.3).
    static func escape(_ text: String) -> String {
        var result = ""
        for byte in text.utf8 {
            if ReferenceGrammar.isAlphanumeric(byte) || "-._~".utf8.contains(byte) {
                result.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                result += "%" + hexadecimal([byte]).uppercased()
            }
        }
        return result
    }

    static func unescape(_ text: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "%"), rest.count >= 2,
                let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16)
            {
                bytes.append(value)
                rest = rest.dropFirst(2)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// Names and addresses of hosts.
package enum HostName {
    /// Splits `host`, `host:port` or `[v6]:port`; the host in lower case without brackets.
    static func split(_ text: Substring) -> (host: String, port: Int?)? {
        guard ReferenceGrammar.isDomain(text) else { return nil }
        if text.first == "[" {
            guard let end = text.firstIndex(of: "]") else { return nil }
            let rest = text[text.index(after: end)...]
            return (text[text.index(after: text.startIndex)..<end].lowercased(), Int(rest.dropFirst()))
        }
        let parts = text.split(separator: ":", maxSplits: 1)
        guard let host = parts.first else { return nil }
        return (host.lowercased(), parts.count == 2 ? Int(parts[1]) : nil)
    }

    /// 127.0.0.0/8, ::1 and localhost.
    package static func isLoopback(_ host: String) -> Bool {
        if host == "localhost" || host == "::1" { return true }
        var address = in_addr()
        return inet_pton(AF_INET, host, &address) == 1 && UInt32(bigEndian: address.s_addr) >> 24 == 127
    }

    /// Whether an IPv4 address lies in a network such as `10.0.0.0/8`.
    static func isAddress(_ host: String, within network: String) -> Bool {
        let parts = network.split(separator: "/")
        var address = in_addr()
        var base = in_addr()
        guard parts.count == 2, let bits = UInt32(parts[1]), bits <= 32, inet_pton(AF_INET, host, &address) == 1,
            inet_pton(AF_INET, String(parts[0]), &base) == 1
        else { return false }
        let mask: UInt32 = bits == 0 ? 0 : ~UInt32(0) << (32 - bits)
        return UInt32(bigEndian: address.s_addr) & mask == UInt32(bigEndian: base.s_addr) & mask
    }
}
