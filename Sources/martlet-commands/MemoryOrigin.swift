// SPDX-License-Identifier: Apache-2.0

internal import EmulatedHost
internal import Glibc
internal import Launch
internal import Platform

/// Where memory comes from that this host has not: a stream to the host that has it.
enum MemoryOrigin: Equatable {
    case ssh(SSHDestination)
    /// A unix socket, behind which somebody has put the other host.
    case socket(String)
    case standardStreams

    static let forms = "ssh://[USER@]HOST[:PORT], unix:SOCKET, or - for standard input and output"

    init(_ text: String) throws(Failure) {
        if text == "-" {
            self = .standardStreams
        } else if text.hasPrefix("unix:"), text.utf8.count > 5 {
            self = .socket(String(text.dropFirst(5)))
        } else if text.hasPrefix("ssh://"), let destination = SSHDestination(text.dropFirst(6)) {
            self = .ssh(destination)
        } else {
            throw Failure("--from: '\(text)' is no place that memory can come from: \(Self.forms)")
        }
    }

    /// How to bring a snapshot here without its memory.
    func command(bringing snapshot: String) -> String {
        let there =
            if case .ssh(let destination) = self { "ssh \(destination.words.joined(separator: " "))" } else {
                "ssh HOST"
            }
        return "\(there) martlet snapshot export --without-memory \(snapshot) | martlet snapshot import"
    }

    /// Opens the stream.
    /// - Parameters:
    ///   - ssh: the program that reaches other hosts, and its first arguments, with blanks between them.
    ///   - martlet: where our command is there.
    func open(ssh: String, martlet: String) throws -> MemoryStream {
        switch self {
        case .standardStreams:
            guard isatty(STDIN_FILENO) == 0, isatty(STDOUT_FILENO) == 0 else {
                throw Failure("--from -: the stream is nothing for a terminal")
            }
            return MemoryStream(
                input: try Descriptor(duplicating: STDIN_FILENO), output: try Descriptor(duplicating: STDOUT_FILENO))
        case .socket(let path):
            let socket = try UnixSocket.connect(to: path)
            return MemoryStream(input: try socket.duplicate(), output: socket)
        case .ssh(let destination):
            let ends = try UnixSocket.pair()
            try destination.start(ssh, "\(martlet) serve-memory --stream", stream: ends.second.raw)
            let own = ends.first
            return MemoryStream(input: try own.duplicate(), output: own)
        }
    }
}

struct MemoryStream: ~Copyable {
    let input: Descriptor
    let output: Descriptor
}

/// A host that ssh(1) reaches, which may be an alias of its configuration.
struct SSHDestination: Equatable {
    let user: String?
    let host: String
    let port: UInt16?

    /// - Parameter text: `[USER@]HOST[:PORT]`, an address of IPv6 in brackets. Nil for what is none: nothing in it is
    ///   to be taken for an option, or for words of a shell.
    init?(_ text: Substring) {
        var rest = text
        if let at = rest.lastIndex(of: "@") {
            user = String(rest[..<at])
            rest = rest[rest.index(after: at)...]
        } else {
            user = nil
        }
        var number: Substring?
        if rest.hasPrefix("["), let end = rest.firstIndex(of: "]") {
            host = String(rest[rest.index(after: rest.startIndex)..<end])
            let behind = rest[rest.index(after: end)...]
            guard behind.isEmpty || behind.hasPrefix(":") else { return nil }
            number = behind.isEmpty ? nil : behind.dropFirst()
        } else {
            let parts = rest.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            host = String(parts.first ?? "")
            number = parts.count > 1 ? parts[1] : nil
        }
        port = number.flatMap { UInt16($0) }
        guard (number == nil) == (port == nil), port != 0, isPlain(host, besides: ":%"),
            user.map({ isPlain($0) }) ?? true
        else { return nil }
    }

    /// The arguments that name it.
    var words: [String] {
        (port.map { ["-p", "\($0)"] } ?? []) + (user.map { ["-l", $0] } ?? []) + [host]
    }

    /// Starts ssh, which ends with this process, whatever that becomes.
    /// - Parameter stream: its standard input and output.
    func start(_ ssh: String, _ command: String, stream: Int32) throws {
        let program = ssh.split(separator: " ").map(String.init)
        guard let name = program.first else { throw Failure("--ssh: it names no program") }
        guard let path = name.contains("/") ? name : findProgram(name) else {
            throw Failure("\(name) is not on the PATH: install it (openssh-client), or name another with --ssh")
        }
        // No terminal and nothing of this host there; and a host that has vanished is noticed.
        let options = ["-T", "-a", "-x", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
        var specification = ProcessSpecification(
            path, program + options + words + [command], environment: processEnvironment())
        specification.descriptors = [stream, stream, STDERR_FILENO]
        specification.parentDeathSignal = SIGTERM
        _ = try ChildProcess(specification)
    }
}

/// Letters, digits, `_`, `.`, `-`, and what else is allowed; no option.
func isPlain(_ text: String, besides more: String = "") -> Bool {
    !text.isEmpty && !text.hasPrefix("-")
        && text.unicodeScalars.allSatisfy { scalar in
            switch scalar {
            case "a"..."z", "A"..."Z", "0"..."9", "_", ".", "-": true
            default: more.unicodeScalars.contains(scalar)
            }
        }
}
