// SPDX-License-Identifier: Apache-2.0

/// An image in a registry by name: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, by the grammar that docker uses
/// (github.com/distribution/reference): without a host it is docker.io, there without a path `library/`, and without
/// tag and digest the tag `latest`.
package struct ImageReference: Hashable, Sendable, CustomStringConvertible {
    /// The registry's name with its port, as written; `docker.io` for Docker's own.
    package let registry: String
    /// The path within the registry, for example `library/alpine`.
    package let repository: String
    /// nil only where there is a digest.
    package let tag: String?
    /// Where there is one, it alone says which image is meant.
    package let digest: Digest?

    /// The full name: `docker.io/library/alpine:3.20`.
    package var description: String {
        "\(registry)/\(repository)" + (tag.map { ":\($0)" } ?? "") + (digest.map { "@\($0)" } ?? "")
    }

    /// What the registry's API calls this image: the digest, else the tag.
    package var manifestName: String { digest?.description ?? tag ?? "latest" }

    /// The host to talk to, with its port if it is not the scheme's own.
    package var host: String { registry == "docker.io" ? "registry-1.docker.io" : registry }

    package init(_ text: String) throws(OCIError) {
        func bad(_ reason: String) -> OCIError { .badReference(text, reason: reason) }
        guard !text.isEmpty else { throw bad("it is empty") }
        guard text.utf8.count <= 1024 else { throw bad("it is longer than 1024 bytes") }
        if let schemeEnd = text.firstRange(of: "://") {
            let rest = text[schemeEnd.upperBound...]
            throw bad(
                "leave out \"\(printable(String(text[..<schemeEnd.upperBound])))\" and write \(printable(String(rest)))"
            )
        }
        var name = text[...]
        var digest: Digest?
        if let at = name.firstIndex(of: "@") {
            guard let parsed = Digest(String(name[name.index(after: at)...])) else {
                throw bad("after @ comes sha256: and 64 digits of 0-9a-f")
            }
            digest = parsed
            name = name[..<at]
        }
        var tag: String?
        // A colon after the last slash begins the tag; one before it a port.
        let lastSlash = name.lastIndex(of: "/")
        if let colon = name.lastIndex(of: ":"), lastSlash.map({ $0 < colon }) ?? true {
            let candidate = name[name.index(after: colon)...]
            guard ReferenceGrammar.isTag(candidate) else {
                throw bad("a tag has 1 to 128 of A-Z a-z 0-9 _ . - and begins with none of . -")
            }
            tag = String(candidate)
            name = name[..<colon]
        }
        let (registry, path) = try ImageReference.split(name, bad)
        guard path.utf8.count <= 255 else { throw bad("its path is longer than 255 bytes") }
        guard !path.isEmpty else { throw bad("the path is missing") }
        guard ReferenceGrammar.isPath(path[...]) else {
            throw bad(
                path.contains(where: \.isUppercase)
                    ? "the path must be in lower case"
                    : "the path's parts are of a-z 0-9, with single . _ or __ or - between")
        }
        guard digest != nil || tag != nil || !ReferenceGrammar.isImageID(text[...]) else {
            throw bad("it is an image's id; write sha256:\(text)")
        }
        self.registry = registry
        self.repository = path
        self.digest = digest
        self.tag = tag ?? (digest == nil ? "latest" : nil)
    }

    /// Splits the host off; the first part is one if it has a dot or a colon, is `localhost`, or has upper case.
    private static func split(
        _ name: Substring, _ bad: (String) -> OCIError
    ) throws(OCIError) -> (registry: String, path: String) {
        var registry = "docker.io"
        var path = String(name)
        if let slash = name.firstIndex(of: "/") {
            let first = name[..<slash]
            if first.contains(".") || first.contains(":") || first == "localhost"
                || first.contains(where: \.isUppercase)
            {
                guard ReferenceGrammar.isDomain(first) else {
                    throw bad("\"\(printable(String(first)))\" is not a registry's host name")
                }
                registry = first == "index.docker.io" ? "docker.io" : String(first)
                path = String(name[name.index(after: slash)...])
            }
        }
        if registry == "docker.io" && !path.isEmpty && !path.contains("/") { path = "library/" + path }
        return (registry, path)
    }
}

/// The parts of a reference, each checked over its bytes.
enum ReferenceGrammar {
    static func isTag(_ text: Substring) -> Bool {
        let bytes = text.utf8
        guard let first = bytes.first, bytes.count <= 128, isWord(first) else { return false }
        return bytes.allSatisfy { isWord($0) || $0 == UInt8(ascii: ".") || $0 == UInt8(ascii: "-") }
    }

    /// Components between slashes: runs of a-z0-9, separated by one `.`, one or two `_`, or any number of `-`.
    static func isPath(_ text: Substring) -> Bool {
        text.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).allSatisfy { component in
            guard let first = component.first, let last = component.last, isLowerAlphanumeric(first),
                isLowerAlphanumeric(last)
            else { return false }
            var separator: [UInt8] = []
            for byte in component {
                if isLowerAlphanumeric(byte) {
                    separator.removeAll(keepingCapacity: true)
                } else {
                    separator.append(byte)
                    let dashes = byte == UInt8(ascii: "-") && separator.allSatisfy { $0 == UInt8(ascii: "-") }
                    guard dashes || separator == [0x2e] || separator == [0x5f] || separator == [0x5f, 0x5f] else {
                        return false
                    }
                }
            }
            return true
        }
    }

    static func isDomain(_ text: Substring) -> Bool {
        var host = text
        if host.first == "[" {
            guard let end = host.firstIndex(of: "]") else { return false }
            let address = host[host.index(after: host.startIndex)..<end].utf8
            guard !address.isEmpty, address.allSatisfy({ isHexDigit($0) || $0 == UInt8(ascii: ":") }) else {
                return false
            }
            let rest = host[host.index(after: end)...]
            return rest.isEmpty || (rest.first == ":" && isPort(rest.dropFirst()))
        }
        if let colon = host.firstIndex(of: ":") {
            guard isPort(host[host.index(after: colon)...]) else { return false }
            host = host[..<colon]
        }
        return host.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false).allSatisfy { label in
            guard let first = label.first, let last = label.last else { return false }
            return isAlphanumeric(first) && isAlphanumeric(last)
                && label.allSatisfy { isAlphanumeric($0) || $0 == UInt8(ascii: "-") }
        }
    }

    static func isPort(_ text: Substring) -> Bool {
        guard !text.isEmpty, text.utf8.allSatisfy(isDigit), let port = Int(text) else { return false }
        return (1...65535).contains(port)
    }

    /// 64 digits of 0-9a-f, which docker takes for an image's id, never for a name.
    static func isImageID(_ text: Substring) -> Bool { text.utf8.count == 64 && text.utf8.allSatisfy(isLowerHex) }

    static func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }
    static func isLowerAlphanumeric(_ byte: UInt8) -> Bool { isDigit(byte) || (0x61...0x7a).contains(byte) }
    static func isAlphanumeric(_ byte: UInt8) -> Bool { isLowerAlphanumeric(byte) || (0x41...0x5a).contains(byte) }
    static func isWord(_ byte: UInt8) -> Bool { isAlphanumeric(byte) || byte == UInt8(ascii: "_") }
    static func isHexDigit(_ byte: UInt8) -> Bool { isLowerHex(byte) || (0x41...0x46).contains(byte) }
}
