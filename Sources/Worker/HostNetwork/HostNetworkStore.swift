// SPDX-License-Identifier: Apache-2.0

internal import FabricAPI
internal import Glibc
internal import Packet
internal import Platform
internal import Wire

/// What machines have of the host's network, and what was made for it: one directory for each network namespace, which
/// is gone after a start of the host, as all that was made is (Docs/HOST-NETWORK.md).
///
///     lock                  held while anything is changed
///     state.json            the bridge, and settings of the kernel that were others before
///     machines/ID.json      what was made for a machine
///     machines/ID.lock      held by its supervisor for as long as it lives
///
/// Everything is written down before it is made. Whoever finds a machine's lock free takes away what was made for it.
package struct HostNetworkStore: Sendable {
    package let root: String

    package init(root: String) { self.root = root }

    /// That of the calling thread's network namespace.
    package static func ofThisHost() throws(HostNetworkError) -> HostNetworkStore {
        let name = try hostNetwork("this network namespace") { () throws(SystemError) in
            try Files.readSymbolicLink("/proc/thread-self/ns/net")
        }
        let number = name.utf8.filter { $0 >= 0x30 && $0 <= 0x39 }
        return HostNetworkStore(root: "/run/martlet/host-network/\(String(decoding: number, as: UTF8.self))")
    }

    private var statePath: String { "\(root)/state.json" }
    private func recordPath(_ id: String) -> String { "\(root)/machines/\(id).json" }
    private func lockPath(_ id: String) -> String { "\(root)/machines/\(id).lock" }

    /// Runs a body that changes something.
    func locked<Result: ~Copyable>(
        _ body: () throws(HostNetworkError) -> Result
    ) throws(HostNetworkError) -> Result {
        let lock = try hostNetwork("the host's network") { () throws(SystemError) in
            try Files.makeDirectories("\(root)/machines", permissions: 0o700)
            return try FileLock(waitingAt: "\(root)/lock")
        }
        let result = try body()
        lock.end()
        return result
    }

    // MARK: - Records

    func loadState() throws(HostNetworkError) -> HostNetworkState {
        guard let json = try load(statePath) else { return HostNetworkState() }
        do throws(JSONMismatch) { return try HostNetworkState(json) } catch {
            throw HostNetworkError("\(statePath): \(error)")
        }
    }

    func save(_ state: HostNetworkState) throws(HostNetworkError) {
        try save(state.json, statePath)
    }

    func save(_ machine: HostMachine) throws(HostNetworkError) {
        try save(machine.json, recordPath(machine.id))
    }

    private func save(_ json: JSON, _ path: String) throws(HostNetworkError) {
        try hostNetwork("the host's network") { () throws(SystemError) in
            try Files.writeAtomically(json.encoded(), to: path, permissions: 0o600)
        }
    }

    private func load(_ path: String) throws(HostNetworkError) -> JSON? {
        do throws(WorkerError) { return try MachineStore.readJSON(path) } catch {
            throw HostNetworkError("\(error)")
        }
    }

    /// Those that have a record.
    func machines() throws(HostNetworkError) -> [HostMachine] {
        var result: [HostMachine] = []
        for name in ((try? Files.list("\(root)/machines")) ?? []).sorted() where name.hasSuffix(".json") {
            let path = "\(root)/machines/\(name)"
            guard let json = try load(path) else { continue }
            do throws(JSONMismatch) { result.append(try HostMachine(json)) } catch {
                throw HostNetworkError("\(path): \(error)")
            }
        }
        return result
    }

    /// The lock of a machine, or nil where its supervisor lives.
    func claim(_ id: String) throws(HostNetworkError) -> FileLock? {
        try hostNetwork("the host's network") { () throws(SystemError) in try FileLock.attempt(at: lockPath(id)) }
    }

    /// The lock of a machine that has no record, and is to have none.
    func forget(_ id: String) {
        if !Files.exists(recordPath(id)) { Files.remove(lockPath(id)) }
    }

    // MARK: - Taking away

    /// Takes away what was made for machines whose supervisors are gone.
    package func sweep() throws(HostNetworkError) {
        guard Files.exists(statePath) else { return }
        try locked { () throws(HostNetworkError) in try sweepLocked() }
    }

    /// The same, for commands that clear up in passing. Who is not root finds nothing to do.
    package static func sweepAsFarAsPossible() {
        guard geteuid() == 0, let store = try? ofThisHost() else { return }
        try? store.sweep()
    }

    /// The store's lock is held.
    func sweepLocked() throws(HostNetworkError) {
        var dead: [String] = []
        for machine in try machines() {
            guard let lock = try claim(machine.id) else { continue }
            dead.append(machine.id)
            lock.end()
        }
        let isUnused = try machines().count == dead.count
        guard !dead.isEmpty || isUnused && Files.exists(statePath) else { return }
        try remove(dead)
    }

    /// Takes away what was made for a machine; its own lock is the caller's.
    func leave(_ id: String) throws(HostNetworkError) {
        try locked { () throws(HostNetworkError) in
            try sweepLocked()
            try remove([id])
        }
    }

    /// The store's lock is held, and the machines' are free or the caller's.
    private func remove(_ ids: [String]) throws(HostNetworkError) {
        let all = try machines()
        let left = all.filter { !ids.contains($0.id) }
        HostTools.ipAsFarAsPossible(all.filter { ids.contains($0.id) }.flatMap(Self.undoing))
        var state = try loadState()
        let needsBridge = left.contains(where: \.isBridged)
        try HostTools.nft(NetfilterRules(machines: left, bridge: needsBridge ? state.bridge : nil).text)
        if state.bridge != nil, !needsBridge {
            HostTools.ipAsFarAsPossible(["link del dev \(HostBridge.name)"])
            state.bridge = nil
            try save(state)
        }
        for id in ids {
            Files.remove(recordPath(id))
            Files.remove(lockPath(id))
        }
        guard left.isEmpty else { return }
        KernelSettings.restore(state.settings)
        // The last: whoever finds it does all of this again.
        Files.remove(statePath)
    }

    /// The TAP device goes with its last descriptor; a monitor that was killed may take its time to be gone.
    private static func undoing(_ machine: HostMachine) -> [String] {
        var lines = ["link del dev \(machine.device)"]
        if let uplink = machine.uplink, let address = machine.address {
            lines.append("neigh del proxy \(address) dev \(uplink)")
        }
        if let uplink = machine.uplink6, let address = machine.address6 {
            lines.append("neigh del proxy \(address) dev \(uplink)")
        }
        return lines
    }
}
