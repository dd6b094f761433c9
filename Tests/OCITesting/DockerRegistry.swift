// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import OCI
package import Platform

/// Debian's `docker-registry` on a free port of loopback, with its storage in a directory of the test's.
package final class DockerRegistry: Sendable {
    private let process: ChildProcess
    private let errors: Descriptor
    package let port: Int

    package var host: String { "127.0.0.1:\(port)" }

    /// Starts it and returns when it listens.
    /// - Parameter htpasswd: the content of a password file; without it there is no login.
    package init(directory: String, htpasswd: String? = nil) throws {
        var configuration = """
            version: 0.1
            log: {level: info, formatter: text}
            storage:
              filesystem: {rootdirectory: \(directory)/storage}
            http: {addr: "127.0.0.1:0"}

            """
        if let htpasswd {
            try Files.writeAtomically(Array(htpasswd.utf8), to: directory + "/htpasswd")
            configuration += "auth:\n  htpasswd: {realm: test, path: \(directory)/htpasswd}\n"
        }
        try Files.writeAtomically(Array(configuration.utf8), to: directory + "/registry.yml")
        let pair = try UnixSocket.pair()
        var specification = ProcessSpecification(
            "/usr/bin/docker-registry", ["docker-registry", "serve", directory + "/registry.yml"],
            environment: ["HOME=\(directory)", "OTEL_TRACES_EXPORTER=none"])
        specification.descriptors = [-1, pair.second.raw, pair.second.raw]
        let process = try ChildProcess(specification)
        let errors = try pair.first.duplicate()
        var log = ""
        var port: Int?
        var chunk = [UInt8](repeating: 0, count: 4096)
        while port == nil {
            // Its end, too, ends the wait: the test's end of the socket is then readable no more.
            var ready = [
                pollfd(fd: errors.raw, events: Int16(POLLIN), revents: 0),
                pollfd(fd: process.ended.raw, events: Int16(POLLIN), revents: 0),
            ]
            _ = poll(&ready, 2, 20_000)
            let count = recv(errors.raw, &chunk, chunk.count, Int32(MSG_DONTWAIT))
            guard count > 0 else { throw RegistryFailure(log: log) }
            log += String(decoding: chunk[..<count], as: UTF8.self)
            for line in log.split(separator: "\n", omittingEmptySubsequences: false).dropLast() {
                if let found = line.firstRange(of: "listening on 127.0.0.1:") {
                    port = Int(line[found.upperBound...].prefix { $0.isNumber })
                }
            }
        }
        guard let port else { throw RegistryFailure(log: log) }
        self.process = process
        self.errors = errors
        self.port = port
        // What it logs from now on is read and forgotten: a full socket must not stop it.
        Task.detached {
            await onOwnThread { [self] in
                var chunk = [UInt8](repeating: 0, count: 65536)
                while recv(self.errors.raw, &chunk, chunk.count, 0) > 0 {}
            }
        }
    }

    package func stop() {
        _ = try? process.killAndWait()
    }
}

package struct RegistryFailure: Error {
    package let log: String
}

/// Runs a program to its end; its status and what it wrote.
package func runProgram(_ path: String, _ arguments: [String]) async throws -> (ProcessEnd, String) {
    let result = await onOwnThread {
        Result { () throws(SystemError) in
            let output = try Descriptor.memoryFile("output")
            var specification = ProcessSpecification(
                path, [path] + arguments, environment: ["HOME=/proc/none", "PATH=/usr/bin:/bin", "TMPDIR=/tmp"])
            specification.descriptors = [-1, output.raw, output.raw]
            let end = try ChildProcess(specification).wait()
            lseek(output.raw, 0, SEEK_SET)
            return (end, String(decoding: try output.readAll(limit: 1 << 20), as: UTF8.self))
        }
    }
    return try result.get()
}

/// A directory for a test, removed with all that is in it when the test is done.
package func withTemporaryDirectory<Result>(
    _ body: (String) async throws -> Result
) async throws -> Result {
    var template = Array("/tmp/martlet-test-XXXXXX\u{0}".utf8CString)
    guard mkdtemp(&template) != nil else { throw SystemError("mkdtemp") }
    let path = String(decoding: template.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    defer { try? Files.removeTree(path) }
    return try await body(path)
}
