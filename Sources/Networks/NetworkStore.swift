// SPDX-License-Identifier: Apache-2.0

package import FabricAPI
internal import Glibc
internal import Packet
internal import Platform
internal import Wire

/// The networks of this user on this host (Docs/FABRIC-CONTROL.md).
package struct NetworkStore: Sendable {
    /// Where definitions are kept.
    package let definitions: String
    /// Where the fabrics that run have their directories.
    package let running: String

    package init(definitions: String, running: String) {
        self.definitions = definitions
        self.running = running
    }

    /// Where the XDG base directory specification puts them.
    package static func ofUser(lookUp: (String) -> String?) throws(NetworkError) -> NetworkStore {
        func absolute(_ name: String) -> String? { lookUp(name).flatMap { $0.hasPrefix("/") ? $0 : nil } }
        guard let data = absolute("XDG_DATA_HOME") ?? absolute("HOME").map({ "\($0)/.local/share" }) else {
            throw .invalid("there is no place for networks: set HOME or XDG_DATA_HOME to an absolute path")
        }
        let running = absolute("XDG_RUNTIME_DIR").map { "\($0)/martlet" } ?? "/tmp/martlet-\(geteuid())"
        return NetworkStore(definitions: "\(data)/martlet/networks", running: "\(running)/networks")
    }

    package func definitionPath(_ name: String) -> String { "\(definitions)/\(name).json" }
    package func directory(_ name: String) -> String { "\(running)/\(name)" }

    // MARK: - Definitions

    /// The names of all networks, sorted.
    package func names() -> [String] {
        let files = (try? Files.list(definitions)) ?? []
        return files.filter { $0.hasSuffix(".json") }.map { String($0.dropLast(5)) }
            .filter(NetworkDefinition.isName).sorted()
    }

    package func load(_ name: String) throws(NetworkError) -> NetworkDefinition {
        guard NetworkDefinition.isName(name) else { throw .noSuchNetwork(name) }
        let path = definitionPath(name)
        let bytes: [UInt8]
        do throws(SystemError) {
            bytes = try Files.read(path, limit: 65_536)
        } catch {
            if error.code == ENOENT { throw .noSuchNetwork(name) }
            throw .system(error)
        }
        do {
            let definition = try NetworkDefinition(JSON(parsing: bytes))
            guard definition.name == name else { throw NetworkError.malformed(path, "it is of \(definition.name)") }
            return definition
        } catch let error as NetworkError {
            throw error
        } catch {
            throw .malformed(path, "\(error)")
        }
    }

    /// Makes a network; addresses that are missing in the wish are chosen.
    /// - Parameter random: for the IPv6 prefix, where one is to be chosen.
    package func create(
        _ wish: NetworkDefinition, choosesIPv6: Bool, random: UInt64
    ) throws(NetworkError) -> NetworkDefinition {
        guard NetworkDefinition.isName(wish.name) else {
            throw .invalid(
                "'\(wish.name)' is not a network's name: 1 to 63 letters, digits, '_', '.', '-', a letter or digit first, "
                    + "no '-' at the end and none beside a '.'")
        }
        guard !NetworkDefinition.reservedNames.contains(wish.name) else {
            throw .invalid("'\(wish.name)' says something else to --network: choose another name")
        }
        let lock = try lock()
        guard !Files.exists(definitionPath(wish.name)) else { throw .exists(wish.name) }
        let definition = try completed(wish, choosesIPv6: choosesIPv6, random: random)
        try write(definition)
        lock.end()
        return definition
    }

    /// Held while a network is made: of two that are made at once, neither gets the other's subnet.
    private func lock() throws(NetworkError) -> FileLock {
        do throws(SystemError) {
            try Files.makeDirectories(definitions, permissions: 0o700)
            return try FileLock(waitingAt: "\(definitions)/lock")
        } catch {
            throw .system(error)
        }
    }

    private func completed(
        _ wish: NetworkDefinition, choosesIPv6: Bool, random: UInt64
    ) throws(NetworkError) -> NetworkDefinition {
        var definition = wish
        if definition.subnet == nil && definition.subnet6 == nil {
            let taken = names().compactMap { (try? load($0))?.subnet }
            guard let subnet = SubnetChoice.next(in: SubnetChoice.pool, length: 20, taken: taken) else {
                throw .invalid("all of \(SubnetChoice.pool) is taken by networks: give this one a --subnet")
            }
            definition.subnet = subnet
        }
        if choosesIPv6, definition.subnet6 == nil { definition.subnet6 = SubnetChoice.uniqueLocal(random: random) }
        if let subnet = definition.subnet, definition.gateway == nil {
            definition.gateway = IPv4Address(subnet.network.value &+ 1)
        }
        if let subnet = definition.subnet6, definition.gateway6 == nil {
            definition.gateway6 = IPv6Address(high: subnet.network.high, low: subnet.network.low | 1)
        }
        if let problem = definition.problem { throw .invalid(problem) }
        return definition
    }

    /// The network of machines for which none is named, made when it is first wanted.
    package func loadOrCreateDefault(now: UInt64, random: UInt64) throws(NetworkError) -> NetworkDefinition {
        do throws(NetworkError) {
            return try load(NetworkDefinition.defaultName)
        } catch {
            guard case .noSuchNetwork = error else { throw error }
        }
        var wish = NetworkDefinition(name: NetworkDefinition.defaultName)
        wish.createdAt = now
        do throws(NetworkError) {
            return try create(wish, choosesIPv6: true, random: random)
        } catch {
            // Another command made it meanwhile.
            guard case .exists = error else { throw error }
            return try load(NetworkDefinition.defaultName)
        }
    }

    /// Replaces what a network's file says of it, beside its name and addresses.
    package func change(
        _ name: String, _ body: (inout NetworkDefinition) -> Void
    ) throws(NetworkError) -> NetworkDefinition {
        let lock = try lock()
        var definition = try load(name)
        body(&definition)
        try write(definition)
        lock.end()
        return definition
    }

    private func write(_ definition: NetworkDefinition) throws(NetworkError) {
        do throws(SystemError) {
            try Files.writeAtomically(
                definition.json.encoded(indented: true), to: definitionPath(definition.name), permissions: 0o600,
                durable: true)
        } catch {
            throw .system(error)
        }
    }

    /// Has the fabric of a network end, which stays for a while after its last machine, and gives its lock.
    private func endIdle(_ name: String) throws(NetworkError) -> FileLock {
        do throws(NetworkError) {
            if var connection = try FabricConnection(toRunning: name, of: self) { _ = try connection.ask(.end) }
        } catch {
            guard case .refused(.taken, _) = error else { throw error }
            throw .inUse(name)
        }
        do throws(SystemError) { return try FileLock(waitingAt: "\(directory(name))/lock") } catch {
            throw .system(error)
        }
    }

    /// Removes a network that nobody uses.
    package func remove(_ name: String) throws(NetworkError) {
        _ = try load(name)
        let directory = directory(name)
        if Files.exists(directory) {
            // The fabric holds the lock for as long as it lives.
            var attempt: FileLock?
            do throws(SystemError) { attempt = try FileLock.attempt(at: "\(directory)/lock") } catch {
                throw .system(error)
            }
            let lock: FileLock
            if let free = attempt.take() { lock = free } else { lock = try endIdle(name) }
            do throws(SystemError) { try Files.removeTree(directory) } catch { throw .system(error) }
            lock.end()
        }
        Files.remove(definitionPath(name))
    }
}
