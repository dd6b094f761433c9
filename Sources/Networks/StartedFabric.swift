// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// A fabric that was started and may not be ready yet.
package struct StartedFabric: ~Copyable {
    private let child: ChildProcess
    private let ready: Descriptor
    private let network: String
    private let log: String
    private let program: String

    /// Starts the process, and does not wait for it.
    /// - Parameter program: `martlet-fabric`.
    package init(_ network: String, of store: NetworkStore, program: String) throws(NetworkError) {
        self.network = network
        self.program = program
        let directory = store.directory(network)
        log = "\(directory)/log"
        do throws(SystemError) {
            try Files.makeDirectories(directory, permissions: 0o700)
            let output = try Descriptor.open(log, .append, permissions: 0o600)
            let pipe = try Pipe()
            var arguments = [
                "martlet-fabric", "--definition", store.definitionPath(network), "--directory", directory,
                "--ready-fd", "3",
            ]
            if let outer = store.outerHost { arguments += ["--host-loopback", "\(outer.loopback)"] }
            var specification = ProcessSpecification(program, arguments)
            specification.descriptors = [-1, output.raw, output.raw, pipe.writing.raw]
            specification.directory = "/"
            specification.newSession = true
            child = try ChildProcess(specification)
            ready = pipe.reading
        } catch {
            throw .cannotStart(network, "\(error)")
        }
    }

    /// Waits until it can be asked, or has ended.
    package consuming func wait() throws(NetworkError) {
        var word: UInt8 = 0
        // It closes its end when it listens, or by ending.
        _ = unsafe withUnsafeMutableBytes(of: &word) { space in try? unsafe ready.read(into: space) }
        let end: ProcessEnd?
        do throws(SystemError) { end = try child.poll() } catch { throw .system(error) }
        guard let end, end != .exited(0) else { return }
        throw .cannotStart(network, lastWords)
    }

    private var lastWords: String {
        let bytes = (try? Files.read(log, limit: 1 << 20)) ?? []
        let line = bytes.split(separator: 10).last.map { String(decoding: $0.suffix(1000), as: UTF8.self) }
        return line ?? "it said nothing; see \(log)"
    }
}
