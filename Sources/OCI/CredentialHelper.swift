// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform

extension CredentialStore {
    /// Asks `docker-credential-NAME get` for a server's login; nil where it knows none.
    func askHelper(_ name: String, server: String) async throws(OCIError) -> Credentials? {
        let allowed = name.utf8.allSatisfy { ReferenceGrammar.isWord($0) || $0 == 0x2d || $0 == 0x2e }
        guard allowed, name.utf8.count <= 128 else {
            throw .credentialHelper(printable(name), reason: "that is not a program's name")
        }
        guard let program = findProgram("docker-credential-\(name)") else {
            throw .credentialHelper(name, reason: "it is not in PATH; install it, or take it out of the configuration")
        }
        let result = await onOwnThread { [environment, helperTimeoutInSeconds] in
            Result { () throws(SystemError) in
                try runHelper(
                    program, environment: environment, input: Array((server + "\n").utf8),
                    timeoutInSeconds: helperTimeoutInSeconds)
            }
        }
        let output: [UInt8]
        switch result {
        case .success(.answer(let bytes)): output = bytes
        case .success(.failed(let text)):
            let lowered = text.lowercased()
            if lowered.contains("credentials not found") || lowered.contains("no credentials") { return nil }
            throw .credentialHelper(name, reason: text.isEmpty ? "it says not why" : text)
        case .success(.noAnswer):
            throw .credentialHelper(
                name, reason: "no answer within \(helperTimeoutInSeconds) s, or one beyond \(helperOutputLimit) bytes")
        case .failure(let error): throw .system(error)
        }
        let answer = try decodeJSON(HelperAnswer.self, output, what: "the answer of \(program)")
        guard let secret = answer.Secret, !secret.isEmpty else { return nil }
        if answer.Username == "<token>" { return .identityToken(secret) }
        return .password(user: answer.Username ?? "", password: secret)
    }

    private func findProgram(_ name: String) -> String? {
        let path = environment.first { $0.hasPrefix("PATH=") }?.dropFirst(5) ?? "/usr/local/bin:/usr/bin:/bin"
        for directory in path.split(separator: ":") where directory.hasPrefix("/") {
            let candidate = "\(directory)/\(name)"
            if access(candidate, X_OK) == 0 { return candidate }
        }
        return nil
    }
}

private struct HelperAnswer: Decodable {
    var Username: String?
    var Secret: String?
}

private let helperOutputLimit = 64 * 1024

private enum HelperOutcome: Sendable {
    case answer([UInt8])
    /// It ended with a status that is no success; what it wrote.
    case failed(String)
    case noAnswer
}

/// Runs a helper with bounded output and time. It blocks.
private func runHelper(
    _ program: String, environment: [String], input: [UInt8], timeoutInSeconds: Int
) throws(SystemError) -> HelperOutcome {
    // The question is a file in memory: it can be written whole, whether the helper reads it or not.
    let question = try Descriptor.memoryFile("question")
    try question.writeAll(input)
    lseek(question.raw, 0, SEEK_SET)
    let output = try UnixSocket.pair()
    var specification = ProcessSpecification(program, [program, "get"], environment: environment)
    specification.descriptors = [question.raw, output.second.raw, -1]
    let child = try ChildProcess(specification)
    let deadline = monotonicNanoseconds() + UInt64(timeoutInSeconds) * 1_000_000_000
    guard let bytes = readUntilExit(output.first, child, deadline) else {
        try child.killAndWait()
        return .noAnswer
    }
    let end = try child.wait()
    return end == .exited(0) ? .answer(bytes) : .failed(printable(String(decoding: bytes, as: UTF8.self)))
}

/// What the child wrote until it ended; nil when it wrote too much or did not end in time.
private func readUntilExit(
    _ source: borrowing Descriptor, _ child: borrowing ChildProcess, _ deadline: UInt64
) -> [UInt8]? {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 4096)
    while true {
        let now = monotonicNanoseconds()
        guard now < deadline else { return nil }
        var ready = [
            pollfd(fd: source.raw, events: Int16(POLLIN), revents: 0),
            pollfd(fd: child.ended.raw, events: Int16(POLLIN), revents: 0),
        ]
        let milliseconds = Int32(clamping: (deadline - now) / 1_000_000 + 1)
        guard poll(&ready, nfds_t(ready.count), milliseconds) >= 0 || errno == EINTR else { return nil }
        // Asked after the poll: what it wrote before it ended is there to be read now.
        let ended = ready[1].revents != 0
        while true {
            let count = recv(source.raw, &chunk, chunk.count, Int32(MSG_DONTWAIT))
            guard count > 0 else { break }
            bytes += chunk[..<count]
            guard bytes.count <= helperOutputLimit else { return nil }
        }
        if ended { return bytes }
    }
}
