// SPDX-License-Identifier: Apache-2.0

internal import CLinux
package import Fabric
internal import FabricAPI
internal import Gateway
internal import Glibc
package import Packet
internal import Platform
internal import Wire

/// `martlet-fabric --definition FILE --directory DIRECTORY [--ready-fd N] [--host-loopback ADDRESS]`
/// (Docs/FABRIC-CONTROL.md).
package struct FabricStart: Sendable {
    package var definition: String
    package var directory: String
    /// Closed when the fabric can be asked.
    package var ready: Int32?
    /// Where the host's loopback is reached, if that is another host's than this one's.
    package var hostLoopback: IPv4Address?

    package enum Problem: Error, Equatable, Sendable, CustomStringConvertible {
        case usage(String)
        case definition(String, String)
        case fabric(FabricError)

        package var description: String {
            switch self {
            case .usage(let text):
                "\(text)\nusage: martlet-fabric --definition FILE --directory DIRECTORY [--ready-fd N]"
                    + " [--host-loopback ADDRESS]"
            case .definition(let path, let reason): "\(path): \(reason)"
            case .fabric(let error): "\(error)"
            }
        }
    }

    package init(arguments: [String]) throws(Problem) {
        var values: [String: String] = [:]
        var rest = arguments[...]
        while let name = rest.popFirst() {
            guard ["--definition", "--directory", "--ready-fd", "--host-loopback"].contains(name) else {
                throw .usage("there is no option \(name)")
            }
            guard let value = rest.popFirst() else { throw .usage("\(name) wants a value") }
            values[name] = value
        }
        guard let definition = values["--definition"] else { throw .usage("--definition is missing") }
        guard let directory = values["--directory"] else { throw .usage("--directory is missing") }
        guard definition.hasPrefix("/"), directory.hasPrefix("/") else {
            throw .usage("--definition and --directory want absolute paths")
        }
        self.definition = definition
        self.directory = directory
        if let text = values["--ready-fd"] {
            guard let number = Int32(text), number > 2 else { throw .usage("--ready-fd wants a descriptor above 2") }
            ready = number
        }
        if let text = values["--host-loopback"] {
            guard let address = IPv4Address(text) else { throw .usage("--host-loopback wants an IPv4 address") }
            hostLoopback = address
        }
    }

    /// Serves the network until nobody needs it. Where another process does so already, comes back when that one can be
    /// asked.
    package func run() throws(Problem) {
        ignoreBrokenPipes()
        let definition = try read()
        do throws(FabricError) {
            try serve(definition)
        } catch {
            throw .fabric(error)
        }
    }

    private func read() throws(Problem) -> NetworkDefinition {
        do {
            return try NetworkDefinition(JSON(parsing: try Files.read(definition, limit: 65_536)))
        } catch {
            throw .definition(definition, "\(error)")
        }
    }

    /// The lock of the network's directory, and the control socket that listens.
    private struct Claim: ~Copyable {
        let lock: FileLock
        let control: Descriptor
        /// Machines' sockets that somebody left behind.
        let leftovers: Int
    }

    /// Takes the network's directory; nil where another has it.
    private func claim(_ path: String) throws(SystemError) -> Claim? {
        try Files.makeDirectories("\(directory)/ports", permissions: 0o700)
        guard let lock = try FileLock.attempt(at: "\(directory)/lock") else { return nil }
        // What one has left that was killed.
        let leftovers = try Files.list("\(directory)/ports")
        for name in leftovers { Files.remove("\(directory)/ports/\(name)") }
        let fresh = "\(path).new"
        Files.remove(fresh)
        let control = try UnixSocket.listen(at: fresh)
        // Whoever finds the name finds somebody who listens.
        try Files.rename(fresh, to: path)
        return Claim(lock: lock, control: control, leftovers: leftovers.count)
    }

    private func serve(_ definition: NetworkDefinition) throws(FabricError) {
        let path = "\(directory)/control"
        let attempt: Claim?
        do throws(SystemError) { attempt = try claim(path) } catch { throw .system(error) }
        guard let claimed = attempt else {
            do throws(SystemError) { return try waitForOther(path) } catch { throw .system(error) }
        }
        let leftovers = claimed.leftovers
        let lock = claimed.lock
        let control = claimed.control
        var configuration = FabricService.Configuration(definition: definition, directory: directory)
        configuration.definitions = splitPath(self.definition).directory
        configuration.followsAnother = leftovers > 0
        // Longer paths of sockets go by /proc, which it will not see.
        do throws(SystemError) { try ForkedProcess.changeDirectory(to: directory) } catch { throw .system(error) }
        configuration.ownDirectory = "."
        if let hostLoopback { configuration.hostLoopback = .at(IPv6Address(mapping: hostLoopback)) }
        // Each connection of a machine is a descriptor.
        raiseDescriptorLimit()
        let service = try FabricService(configuration, control: control)
        do throws(SystemError) { try confine(service, configuration) } catch { throw .system(error) }
        closeReady()
        defer { Files.remove(path) }
        try service.run()
        lock.end()
    }

    /// Gives up what the service does not need. What the system does not have is said, and the rest still holds.
    private func confine(_ service: FabricService, _ configuration: FabricService.Configuration) throws(SystemError) {
        let lists = Self.directories(leadingTo: configuration.resolverPath) + Self.resolverDirectories
        let readable = Set(lists + [splitPath(definition).directory]).sorted()
        // Asked before: then the call is one that the process has no use for.
        let version = Int(clinux_landlock_version())
        let namespaces = OwnNamespaces.enter(home: directory, readable: readable)
        let result = try Confinement.enter(writable: [directory], readable: readable)
        let confinement = FabricConfinement(
            namespaces: namespaces, landlock: result.files ? version : 0, seccomp: result.calls)
        service.confinement = confinement
        if let missing = confinement.missing { say("less confined than it should be: \(missing)") }
    }

    /// The directories of a file, and of what it is a link to, each as it is written there.
    private static func directories(leadingTo path: String) -> [String] {
        var (path, directories) = (path, [splitPath(path).directory])
        // As many links as the kernel follows (path_resolution(7)).
        for _ in 0..<40 {
            guard let target = try? Files.readSymbolicLink(path) else { break }
            path = target.hasPrefix("/") ? target : "\(splitPath(path).directory)/\(target)"
            directories.append(splitPath(path).directory)
        }
        return directories
    }

    /// Waits until the process that holds the lock can be asked, or has ended.
    private func waitForOther(_ path: String) throws(SystemError) {
        let watch = try DirectoryWatch()
        _ = try watch.add(directory)
        while true {
            if (try? UnixSocket.connect(to: path)) != nil { break }
            // It may have ended before it listened; then there is nobody to wait for.
            if let lock = try FileLock.attempt(at: "\(directory)/lock") {
                lock.end()
                break
            }
            var poller = pollfd(fd: watch.descriptor.raw, events: Int16(POLLIN), revents: 0)
            if unsafe poll(&poller, 1, 1000) > 0 { _ = watch.take() }
        }
        closeReady()
    }

    /// Where programs that write resolv.conf have it lead to: they may come while the fabric runs.
    private static let resolverDirectories = [
        "/etc", "/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf",
    ]

    private func closeReady() {
        if let ready { Glibc.close(ready) }
    }
}

/// Writes a line to the network's log.
func say(_ text: String) {
    let line = Array("martlet-fabric: \(text)\n".utf8)
    _ = unsafe line.withUnsafeBytes { unsafe Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
}
