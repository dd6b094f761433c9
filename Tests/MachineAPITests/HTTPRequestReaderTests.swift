// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

@testable import MachineAPI

@Suite struct HTTPRequestReaderTests {
    private func steps(_ text: String, limit: Int = 51200) -> ([HTTPRequestReader.Step], HTTPSyntaxError?) {
        var reader = HTTPRequestReader(bodyLimit: limit)
        reader.append(Array(text.utf8))
        return Self.drain(&reader)
    }

    static func drain(_ reader: inout HTTPRequestReader) -> ([HTTPRequestReader.Step], HTTPSyntaxError?) {
        var steps: [HTTPRequestReader.Step] = []
        do throws(HTTPSyntaxError) {
            while true {
                let step = try reader.next()
                if step == .incomplete { return (steps, nil) }
                steps.append(step)
            }
        } catch { return (steps, error) }
    }

    static let stream =
        "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"
        + "PUT /actions HTTP/1.1\r\nContent-Type: application/json\r\ncontent-length:  9 \r\n\r\n{\"a\":\"b\"}"
        + "\r\nPATCH http://localhost/vm HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
        + "DELETE /drives/a HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
    static let requests: [HTTPRequest] = {
        var patch = HTTPRequest(.patch, "/vm", body: Array("{}".utf8))
        patch.closesConnection = true
        return [
            HTTPRequest(.get, "/"), HTTPRequest(.put, "/actions", body: Array(#"{"a":"b"}"#.utf8)), patch,
            HTTPRequest(.delete, "/drives/a"),
        ]
    }()

    @Test func requestsComeOneAfterAnother() {
        let (steps, error) = steps(Self.stream)
        #expect(error == nil)
        #expect(steps == Self.requests.map { .request($0) })
    }

    /// Wherever a stream is cut, the same requests come of it.
    @Test func piecesMakeNoDifference() {
        let bytes = Array(Self.stream.utf8)
        for first in 0...bytes.count {
            for second in stride(from: first, through: bytes.count, by: 17) {
                var reader = HTTPRequestReader(bodyLimit: 100)
                var got: [HTTPRequestReader.Step] = []
                for piece in [bytes[..<first], bytes[first..<second], bytes[second...]] {
                    reader.append(piece)
                    let (steps, error) = Self.drain(&reader)
                    #expect(error == nil)
                    got += steps
                }
                #expect(got == Self.requests.map { .request($0) })
                #expect(!reader.isWithinRequest)
            }
        }
    }

    @Test func leaveIsAskedForOnceAndOnlyWhereTheBodyIsMissing() throws {
        var reader = HTTPRequestReader(bodyLimit: 100)
        reader.append(Array("PUT /vsock HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n".utf8))
        #expect(try reader.next() == .expectsLeave)
        #expect(try reader.next() == .incomplete)
        reader.append(Array("nul".utf8))
        #expect(try reader.next() == .incomplete)
        reader.append(Array("l".utf8))
        #expect(try reader.next() == .request(HTTPRequest(.put, "/vsock", body: Array("null".utf8))))
        reader.append(Array("PUT /vsock HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n1".utf8))
        #expect(try reader.next() == .request(HTTPRequest(.put, "/vsock", body: Array("1".utf8))))
    }

    static let bad: [(String, String)] = [
        ("POST / HTTP/1.1\r\n\r\n", "Invalid HTTP Method: Unsupported HTTP method."),
        ("get / HTTP/1.1\r\n\r\n", "Invalid HTTP Method: Unsupported HTTP method."),
        ("GET / HTTP/2\r\n\r\n", "Invalid HTTP Version: Unsupported HTTP version."),
        ("GET  HTTP/1.1\r\n\r\n", "Invalid URI: Empty URI not allowed."), ("GET /\r\n\r\n", "Invalid request."),
        ("nonsense\r\n\r\n", "Invalid request."),
        (
            "GET / HTTP/1.1\r\nnonsense\r\n\r\n",
            "Invalid header. Reason: Header is incorrectly formatted. Key: nonsense"
        ),
        (
            "PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "Invalid header. Reason: Invalid value. Key:Content-Length; Value:-1"
        ),
        (
            "PUT / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
            "Invalid header. Reason: Invalid value. Key:Content-Length; Value:99999999999"
        ),
        (
            "PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "Invalid header. Reason: Invalid value. Key:Content-Length; Value:2"
        ),
        (
            "PUT / HTTP/1.1\r\nContent-Length: 101\r\n\r\n",
            "Request payload with size 101 is larger than the limit of 100 allowed by server."
        ),
        (
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "Invalid header. Reason: Unsupported feature. Key: Transfer-Encoding; Value: chunked"
        ),
        (
            "GET / HTTP/1.1\r\nAccept-Encoding: gzip, identity;q=0\r\n\r\n",
            "Invalid header. Reason: Invalid value. Key:Accept-Encoding; Value:identity;q=0"
        ),
        ("GET /" + String(repeating: "a", count: 17 << 10), "Invalid request."),
    ]

    @Test(arguments: bad) func badInputIsNamed(text: String, problem: String) {
        let (steps, error) = steps(text, limit: 100)
        #expect(steps.isEmpty)
        #expect(error?.description == problem)
    }

    @Test func headsAndBodiesAreBounded() {
        var reader = HTTPRequestReader(bodyLimit: 1000)
        reader.append(Array("GET / HTTP/1.1\r\n".utf8))
        var count = 0
        while true {
            reader.append(Array("X-Something: more\r\n".utf8))
            count += 1
            if Self.drain(&reader).1 != nil { break }
        }
        #expect(count < 1000)
    }

    /// Whatever comes, reading ends, never traps and never gives a body beyond the limit.
    @Test func fuzz() {
        var generator = SeededGenerator(7)
        let corpus = Self.bad.map(\.0) + [Self.stream, "GET / HTTP/1.1\r\n\r\n"]
        for _ in 0..<4000 {
            var bytes = Array((corpus.randomElement(using: &generator) ?? "").utf8.prefix(2000))
            for _ in 0..<Int.random(in: 0...6, using: &generator) where !bytes.isEmpty {
                let place = Int.random(in: 0..<bytes.count, using: &generator)
                switch Int.random(in: 0...3, using: &generator) {
                case 0: bytes[place] = UInt8.random(in: 0...255, using: &generator)
                case 1: bytes.remove(at: place)
                case 2:
                    bytes.insert([0x0d, 0x0a, 0x20, 0x3a, 0x00, 0xff].randomElement(using: &generator) ?? 0, at: place)
                default: bytes.append(contentsOf: bytes[place...].prefix(100))
                }
            }
            var reader = HTTPRequestReader(bodyLimit: 100)
            var rest = bytes[...]
            while !rest.isEmpty {
                let count = Int.random(in: 1...rest.count, using: &generator)
                reader.append(rest.prefix(count))
                rest = rest.dropFirst(count)
                let (steps, error) = Self.drain(&reader)
                for case .request(let request) in steps { #expect(request.body?.count ?? 0 <= 100) }
                if error != nil { break }
            }
        }
    }

    @Test func responsesAsTheyAreSent() {
        var empty = HTTPResponse(.noContent)
        #expect(
            String(decoding: empty.bytes, as: UTF8.self)
                == "HTTP/1.1 204 No Content\r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n")
        empty.isDeprecated = true
        #expect(String(decoding: empty.bytes, as: UTF8.self).contains("\r\nDeprecation: true\r\n"))
        let fault = String(decoding: HTTPResponse.fault("x").bytes, as: UTF8.self)
        #expect(
            fault
                == "HTTP/1.1 400 Bad Request\r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"
                + "Content-Type: application/json\r\nContent-Length: 21\r\n\r\n{\"fault_message\":\"x\"}")
    }
}
