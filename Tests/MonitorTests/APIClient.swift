// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing

/// A monitor that waits for requests, in a directory of its own.
final class WaitingMonitor {
    let directory: String
    let child: ChildProcess
    private let output: Descriptor
    private var hasEnded = false

    var socketPath: String { "\(directory)/api.sock" }

    /// Starts it and returns once it is ready for requests.
    init(_ arguments: [String] = []) throws {
        directory = "/tmp/martlet-api-\(getpid())-\(monotonicNanoseconds())"
        try Files.makeDirectories(directory)
        let status = try Pipe()
        output = try Descriptor.open("\(directory)/output", .append)
        var specification = ProcessSpecification(
            try MonitorProgram().path,
            ["martlet-vmm", "--api-sock", "api.sock", "--status-fd", "3", "--id", "test"] + arguments)
        specification.directory = directory
        specification.descriptors = [-1, output.raw, output.raw, status.writing.raw]
        child = try ChildProcess(specification)
        status.writing.close()
        var line = [UInt8](repeating: 0, count: 4096)
        let reading = status.reading
        let transfer = try line.withUnsafeMutableBytes { try reading.read(into: $0) }
        guard case .bytes(let count) = transfer, String(decoding: line[..<count], as: UTF8.self).contains("api-ready")
        else { throw SystemError("read", "the monitor's status", code: EPIPE) }
    }

    deinit {
        if !hasEnded { _ = try? child.killAndWait() }
        try? Files.removeTree(directory)
    }

    func wait() throws -> ProcessEnd {
        hasEnded = true
        return try child.wait()
    }

    var log: String {
        (try? Files.read("\(directory)/output", limit: 1 << 22)).map { String(decoding: $0, as: UTF8.self) } ?? ""
    }

    /// Sends a request on a connection of its own.
    func send(_ method: String, _ path: String, _ body: String = "") throws -> APIAnswer {
        let connection = try APIStream(socketPath)
        try connection.write(APIStream.request(method, path, body))
        return try connection.read()
    }
}

struct APIAnswer: Equatable {
    var status: Int
    var head: String
    var body: String
}

/// A client's connection, byte by byte.
final class APIStream {
    let socket: Descriptor
    private var buffer: [UInt8] = []

    init(_ path: String) throws { socket = try UnixSocket.connect(to: path) }

    // To close it is not enough: children that other tests forked meanwhile have it too, and then it has not ended.
    deinit { _ = shutdown(socket.raw, Int32(SHUT_RDWR)) }

    static func request(_ method: String, _ path: String, _ body: String = "", more: String = "") -> String {
        let length = body.isEmpty ? "" : "Content-Type: application/json\r\nContent-Length: \(body.utf8.count)\r\n"
        return "\(method) \(path) HTTP/1.1\r\nHost: localhost\r\n\(length)\(more)\r\n\(body)"
    }

    func write(_ text: String) throws { try socket.writeAll(Array(text.utf8)) }

    /// The next answer, whole.
    func read() throws -> APIAnswer {
        let head = try text(until: "\r\n\r\n")
        var length = 0
        for line in head.split(separator: "\r\n") where line.lowercased().hasPrefix("content-length: ") {
            length = Int(line.dropFirst("content-length: ".count)) ?? 0
        }
        while buffer.count < length { guard try more() else { break } }
        let body = String(decoding: buffer.prefix(length), as: UTF8.self)
        buffer.removeFirst(min(length, buffer.count))
        return APIAnswer(status: Int(head.split(separator: " ").dropFirst().first ?? "") ?? 0, head: head, body: body)
    }

    /// Whether the other side has ended, all it said being read.
    func isAtEnd() throws -> Bool {
        guard buffer.isEmpty else { return false }
        return try !more()
    }

    private func text(until end: String) throws -> String {
        let end = Array(end.utf8)
        while true {
            for index in buffer.indices where buffer[index...].starts(with: end) {
                let text = String(decoding: buffer[..<index], as: UTF8.self)
                buffer.removeFirst(index + end.count)
                return text
            }
            guard try more() else { throw SystemError("read", "an answer", code: EPIPE) }
        }
    }

    private func more() throws -> Bool {
        var chunk = [UInt8](repeating: 0, count: 65536)
        guard case .bytes(let count) = try chunk.withUnsafeMutableBytes({ try socket.read(into: $0) }) else {
            return false
        }
        buffer += chunk[..<count]
        return true
    }
}
