// SPDX-License-Identifier: Apache-2.0

/// Why bytes are no request. After one, what follows on the connection cannot be understood either.
package struct HTTPSyntaxError: Error, Equatable, Sendable, CustomStringConvertible {
    package let description: String

    init(_ description: String) { self.description = description }

    static let invalid = HTTPSyntaxError("Invalid request.")

    static func header(_ problem: String) -> HTTPSyntaxError { HTTPSyntaxError("Invalid header. Reason: \(problem)") }
}

/// Reads the requests of one connection (HTTP/1.1, RFC 9112), in whatever pieces their bytes come.
///
/// The states are the head, of which `scanned` bytes hold no end, and the body, of which `pending` is the request and
/// `bodySize` the length. Illegal input ends the connection: a head that is no head or longer than `headLimit`, a body
/// longer than allowed, a body whose length is not given by Content-Length.
package struct HTTPRequestReader: Sendable {
    package enum Step: Equatable, Sendable {
        case request(HTTPRequest)
        /// The client waits for leave to send the body.
        case expectsLeave
        /// More bytes must come first.
        case incomplete
    }

    /// The most bytes of a request line with its header fields.
    package static let headLimit = 16 << 10

    private let bodyLimit: Int
    private var buffer: [UInt8] = []
    private var start = 0
    /// How much of the buffer is known to have no line's end.
    private var scanned = 0
    private var pending: HTTPRequest?
    private var bodySize = 0

    /// - Parameter bodyLimit: the most bytes of a request's body.
    package init(bodyLimit: Int) { self.bodyLimit = bodyLimit }

    /// Whether a request has begun and not ended.
    package var isWithinRequest: Bool { pending != nil || start < buffer.count }

    package mutating func append(_ bytes: some Collection<UInt8>) {
        if start > 0 {
            buffer.removeSubrange(..<start)
            scanned -= start
            start = 0
        }
        buffer.append(contentsOf: bytes)
    }

    /// The next thing that the bytes so far make.
    package mutating func next() throws(HTTPSyntaxError) -> Step {
        if pending == nil {
            guard let head = try takeHead() else { return .incomplete }
            let expectsLeave = try readHead(head)
            if expectsLeave, bodySize > 0, buffer.count - start < bodySize { return .expectsLeave }
        }
        guard buffer.count - start >= bodySize, var request = pending else { return .incomplete }
        if bodySize > 0 { request.body = Array(buffer[start..<start + bodySize]) }
        start += bodySize
        scanned = start
        pending = nil
        return .request(request)
    }

    // MARK: - The head

    /// The bytes up to the empty line, without it.
    private mutating func takeHead() throws(HTTPSyntaxError) -> ArraySlice<UInt8>? {
        // Empty lines before a request are passed over (RFC 9112 §2.2).
        while buffer.count - start >= 2, buffer[start] == 0x0d, buffer[start + 1] == 0x0a { start += 2 }
        var index = max(scanned, start)
        while index + 3 < buffer.count {
            if buffer[index] == 0x0d, buffer[index + 1] == 0x0a, buffer[index + 2] == 0x0d, buffer[index + 3] == 0x0a {
                guard index - start <= Self.headLimit else { throw .invalid }
                let head = buffer[start..<index]
                start = index + 4
                scanned = start
                return head
            }
            index += 1
        }
        scanned = index
        guard buffer.count - start <= Self.headLimit else { throw .invalid }
        return nil
    }

    /// Whether the client waits for leave to send the body.
    private mutating func readHead(_ head: ArraySlice<UInt8>) throws(HTTPSyntaxError) -> Bool {
        var lines = Lines(rest: head)
        guard let first = lines.next() else { throw .invalid }
        var request = try Self.requestLine(first)
        var size: Int?
        var expectsLeave = false
        while let line = lines.next() {
            guard let (name, value) = Self.field(line) else {
                throw .header("Header is incorrectly formatted. Key: \(Self.text(line))")
            }
            switch name {
            case "content-length":
                guard let length = Self.length(value), size == nil || size == length else {
                    throw .header("Invalid value. Key:Content-Length; Value:\(Self.text(value))")
                }
                size = length
            case "transfer-encoding":
                guard Self.text(value).lowercased() == "identity" else {
                    throw .header("Unsupported feature. Key: Transfer-Encoding; Value: \(Self.text(value))")
                }
            case "expect":
                expectsLeave = Self.text(value).lowercased() == "100-continue"
            case "connection":
                for option in Self.text(value).lowercased().split(separator: ",") where Self.trimmed(option) == "close"
                {
                    request.closesConnection = true
                }
            case "accept-encoding":
                try Self.checkEncodings(Self.text(value))
            default: break
            }
        }
        bodySize = size ?? 0
        guard bodySize <= bodyLimit else {
            throw HTTPSyntaxError(
                "Request payload with size \(bodySize) is larger than the limit of \(bodyLimit) allowed by server.")
        }
        pending = request
        return expectsLeave
    }

    private static func requestLine(_ line: ArraySlice<UInt8>) throws(HTTPSyntaxError) -> HTTPRequest {
        let words = line.split(separator: 0x20, maxSplits: 2, omittingEmptySubsequences: false)
        guard words.count == 3 else { throw .invalid }
        guard let method = HTTPMethod(rawValue: text(words[0])) else {
            throw HTTPSyntaxError("Invalid HTTP Method: Unsupported HTTP method.")
        }
        guard !words[1].isEmpty else { throw HTTPSyntaxError("Invalid URI: Empty URI not allowed.") }
        guard let target = String(validating: words[1], as: UTF8.self) else {
            throw HTTPSyntaxError("Invalid URI: Cannot parse URI as UTF-8.")
        }
        let version = text(words[2])
        guard version == "HTTP/1.1" || version == "HTTP/1.0" else {
            throw HTTPSyntaxError("Invalid HTTP Version: Unsupported HTTP version.")
        }
        var request = HTTPRequest(method, path(of: target))
        request.closesConnection = version == "HTTP/1.0"
        return request
    }

    /// The path of a request's target in its origin or absolute form (RFC 9112 §3.2).
    private static func path(of target: String) -> String {
        guard target.hasPrefix("http://") else { return target.hasPrefix("/") ? target : "" }
        let rest = target.utf8.dropFirst("http://".utf8.count)
        guard let slash = rest.firstIndex(of: UInt8(ascii: "/")) else { return "" }
        return String(target[slash...])
    }

    /// A header field's name in lower case, and its value without the space around it.
    private static func field(_ line: ArraySlice<UInt8>) -> (name: String, value: ArraySlice<UInt8>)? {
        guard let colon = line.firstIndex(of: UInt8(ascii: ":")), colon > line.startIndex else { return nil }
        var value = line[(colon + 1)...]
        while let byte = value.first, byte == 0x20 || byte == 0x09 { value.removeFirst() }
        while let byte = value.last, byte == 0x20 || byte == 0x09 { value.removeLast() }
        return (text(line[..<colon]).lowercased(), value)
    }

    /// A length in decimal digits, at most those of a 32-bit number.
    private static func length(_ value: ArraySlice<UInt8>) -> Int? {
        guard !value.isEmpty, value.count <= 10, value.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }) else { return nil }
        return UInt32(text(value)).map(Int.init)
    }

    /// A client that refuses bodies as they are cannot be answered (RFC 9110 §12.5.3).
    private static func checkEncodings(_ value: String) throws(HTTPSyntaxError) {
        for encoding in value.split(separator: ",") {
            let encoding = trimmed(encoding)
            if encoding == "identity;q=0" || encoding == "*;q=0" && !value.contains("identity") {
                throw .header("Invalid value. Key:Accept-Encoding; Value:\(encoding)")
            }
        }
    }

    private static func trimmed(_ text: Substring) -> String {
        var text = text
        while text.first == " " { text.removeFirst() }
        while text.last == " " { text.removeLast() }
        return String(text)
    }

    private static func text(_ bytes: ArraySlice<UInt8>) -> String { String(decoding: bytes, as: UTF8.self) }
}

/// The lines of a head, which end with CR and LF.
private struct Lines {
    var rest: ArraySlice<UInt8>

    mutating func next() -> ArraySlice<UInt8>? {
        guard !rest.isEmpty else { return nil }
        var index = rest.startIndex
        while index + 1 < rest.endIndex {
            if rest[index] == 0x0d, rest[index + 1] == 0x0a {
                let line = rest[..<index]
                rest = rest[(index + 2)...]
                return line
            }
            index += 1
        }
        defer { rest = [] }
        return rest
    }
}
