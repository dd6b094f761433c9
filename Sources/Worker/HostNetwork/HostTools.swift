// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform

/// The programs that change the host's network: `ip` (iproute2) and `nft` (nftables). They work in the calling thread's
/// network namespace.
enum HostTools {
    private static let directories = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"]

    /// Does what the lines say, one after another, until one fails.
    static func ip(_ lines: [String]) throws(HostNetworkError) {
        guard !lines.isEmpty else { return }
        try run("ip", package: "iproute2", ["-batch", "-"], lines)
    }

    /// Does what of the lines can be done.
    static func ipAsFarAsPossible(_ lines: [String]) {
        try? run("ip", package: "iproute2", ["-force", "-batch", "-"], lines)
    }

    /// Takes over rules, all or none.
    static func nft(_ text: String) throws(HostNetworkError) {
        try run("nft", package: "nftables", ["-f", "-"], [text])
    }

    private static func run(
        _ name: String, package: String, _ arguments: [String], _ lines: [String]
    ) throws(HostNetworkError) {
        guard let program = directories.lazy.map({ "\($0)/\(name)" }).first(where: Files.exists) else {
            throw HostNetworkError("the program \(name) is missing; the package \(package) has it")
        }
        let (end, output) = try hostNetwork(name) { () throws(SystemError) in
            // A file, and not a pipe: neither side waits for the other.
            let input = try Descriptor.memoryFile(name)
            try input.writeAll(Array((lines.joined(separator: "\n") + "\n").utf8))
            _ = lseek(input.raw, 0, SEEK_SET)
            let output = try Descriptor.memoryFile(name)
            var specification = ProcessSpecification(program, [name] + arguments)
            specification.descriptors = [input.raw, output.raw, output.raw]
            let end = try ChildProcess(specification).wait()
            _ = lseek(output.raw, 0, SEEK_SET)
            return (end, try output.readAll(limit: 1 << 20))
        }
        guard end != .exited(0) else { return }
        let said = output.split(separator: 10).map { printable(Array($0)) }.filter { !$0.isEmpty }
        throw HostNetworkError("\(name): \(said.first ?? "it ended without a word (\(end))")")
    }
}
