// SPDX-License-Identifier: Apache-2.0

/// Reads the responses of a monitor's API (HTTP/1.1, RFC 9112), in whatever pieces their bytes come. Pure.
struct HTTPResponseReader: Sendable {
    struct Response: Equatable, Sendable {
        var status: Int
        var body: [UInt8]

        var isSuccess: Bool { (200..<300).contains(status) }
    }

    struct SyntaxError: Error, Equatable {}

    static let headLimit = 16 << 10
    static let bodyLimit = 1 << 20

    private var buffer: [UInt8] = []

    mutating func append(_ bytes: some Collection<UInt8>) { buffer.append(contentsOf: bytes) }

    /// The next whole response; nil until more bytes come. After an error nothing that follows can be understood.
    mutating func next() throws(SyntaxError) -> Response? {
        while true {
            guard let end = headEnd() else {
                guard buffer.count <= Self.headLimit else { throw SyntaxError() }
                return nil
            }
            let lines = buffer[..<end].split(separator: 0x0A).map { $0.last == 0x0D ? $0.dropLast() : $0 }
            guard let first = lines.first, let status = Self.status(first) else { throw SyntaxError() }
            var length = 0
            for line in lines.dropFirst() {
                guard let colon = line.firstIndex(of: UInt8(ascii: ":")) else { throw SyntaxError() }
                let name = String(decoding: line[..<colon], as: UTF8.self)
                guard name.lowercased() == "content-length" else { continue }
                let text = String(decoding: line[(colon + 1)...].filter { $0 != 0x20 && $0 != 0x09 }, as: UTF8.self)
                guard let value = Int(text), (0...Self.bodyLimit).contains(value) else { throw SyntaxError() }
                length = value
            }
            guard buffer.count - (end + 4) >= length else { return nil }
            let body = Array(buffer[(end + 4)..<(end + 4 + length)])
            buffer.removeFirst(end + 4 + length)
            // "100 Continue" and its like announce the response.
            if status >= 200 { return Response(status: status, body: body) }
        }
    }

    /// Where the empty line begins that ends the head.
    private func headEnd() -> Int? {
        guard buffer.count >= 4 else { return nil }
        for index in 0...min(buffer.count - 4, Self.headLimit)
        where buffer[index] == 0x0D && buffer[index + 1] == 0x0A && buffer[index + 2] == 0x0D
            && buffer[index + 3] == 0x0A
        { return index }
        return nil
    }

    private static func status(_ line: ArraySlice<UInt8>) -> Int? {
        let parts = line.split(separator: 0x20, maxSplits: 2)
        guard parts.count >= 2, parts[0].starts(with: Array("HTTP/1.".utf8)), parts[1].count == 3 else { return nil }
        return Int(String(decoding: parts[1], as: UTF8.self)).flatMap { (100..<600).contains($0) ? $0 : nil }
    }
}
