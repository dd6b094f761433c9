// SPDX-License-Identifier: Apache-2.0

package import Platform

/// What can go wrong between an image's name and its bytes. Each text says what, where and how to mend it.
package enum OCIError: Error, Equatable, Sendable {
    /// The text is not an image reference.
    case badReference(String, reason: String)
    /// The text does not say where an image is.
    case badSource(String, reason: String)
    /// The registry has no such image.
    case notFound(image: String, registry: String)
    /// The registry does not let us have the image; it may not exist, as most registries do not tell.
    case loginNeeded(image: String, registry: String, hadCredentials: Bool, detail: String)
    /// The registry answered with an HTTP status that is no success.
    case refused(host: String, what: String, status: Int, detail: String)
    /// No connection could be made, or it broke more often than we try.
    case unreachable(host: String, reason: String)
    /// The other side's TLS certificate cannot be trusted.
    case untrusted(host: String, reason: String)
    /// Nothing came for so many seconds.
    case stalled(host: String, what: String, seconds: Int)
    /// The answer is none that a registry gives.
    case notRegistry(host: String, what: String, came: String)
    case wrongDigest(what: String, expected: String, found: String)
    case wrongSize(what: String, expected: Int64, found: Int64)
    case tooLarge(what: String, limit: Int64)
    /// A document of the image cannot be understood.
    case malformed(what: String, reason: String)
    case noPlatform(image: String, wanted: String, available: [String])
    case unsupported(what: String, reason: String)
    case noSuchFile(what: String, path: String)
    case credentialHelper(String, reason: String)
    case system(SystemError)
    /// The consumer of the bytes, or the task, has given up.
    case cancelled
}

extension OCIError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .badReference(let text, let reason):
            "\"\(printable(text))\" is not an image's name: \(reason)"
        case .badSource(let text, let reason):
            "\"\(printable(text))\" does not say where an image is: \(reason)"
        case .notFound(let image, let registry):
            "\(registry) has no image \(image): check its name and its tag"
        case .loginNeeded(let image, let registry, let hadCredentials, let detail):
            "\(registry) does not give out \(image)\(detail.isEmpty ? "" : " (\(detail))"): "
                + (hadCredentials
                    ? "the image does not exist, or the stored login may not read it; check the name, or log in anew"
                    : "the image does not exist, or it needs a login (docker login \(registry))")
        case .refused(let host, let what, let status, let detail):
            "\(host) answered \(status) to the request for \(what)\(detail.isEmpty ? "" : ": \(detail)")"
        case .unreachable(let host, let reason):
            "cannot talk to \(host): \(reason)"
        case .untrusted(let host, let reason):
            "the certificate of \(host) is not to be trusted (\(reason)); "
                + "if that is known and accepted, give --insecure-registry \(host)"
        case .stalled(let host, let what, let seconds):
            "\(host) sent nothing of \(what) for \(seconds) s; try again later"
        case .notRegistry(let host, let what, let came):
            "\(host) does not answer like a registry: asked for \(what), got \(came)"
        case .wrongDigest(let what, let expected, let found):
            "\(what) is not what was promised: its digest is \(found), it should be \(expected)"
        case .wrongSize(let what, let expected, let found):
            "\(what) is not what was promised: it has \(found) bytes, it should have \(expected)"
        case .tooLarge(let what, let limit):
            "\(what) is larger than the \(limit) bytes that are allowed"
        case .malformed(let what, let reason):
            "\(what) cannot be understood: \(reason)"
        case .noPlatform(let image, let wanted, let available):
            "\(image) is not there for \(wanted)"
                + (available.isEmpty ? "" : "; it is there for \(available.joined(separator: ", "))")
        case .unsupported(let what, let reason):
            "\(what) cannot be used: \(reason)"
        case .noSuchFile(let what, let path):
            "\(what) is missing: \(printable(path, limit: 300))"
        case .credentialHelper(let name, let reason):
            "docker-credential-\(name), which the docker configuration names, failed: \(reason)"
        case .system(let error):
            error.description
        case .cancelled:
            "cancelled"
        }
    }
}

/// Text from outside, made fit for a terminal: no control characters, bounded.
package func printable(_ text: String, limit: Int = 160) -> String {
    var result = ""
    var count = 0
    for scalar in text.unicodeScalars {
        guard count < limit else { return result + "…" }
        let control = scalar.value < 0x20 || (0x7f...0x9f).contains(scalar.value)
        // Marks that turn the writing direction could make a text look like another.
        let turning = (0x202a...0x202e).contains(scalar.value) || (0x2066...0x2069).contains(scalar.value)
        result.unicodeScalars.append(control ? " " : turning ? "?" : scalar)
        count += 1
    }
    return result
}

extension OCIError {
    /// Makes a call of the system and tells of its failure in this module's terms.
    static func wrapping<Result: ~Copyable>(
        _ body: () throws(SystemError) -> Result
    ) throws(OCIError) -> Result {
        do { return try body() } catch { throw .system(error) }
    }
}
