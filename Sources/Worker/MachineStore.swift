// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
package import Platform
internal import Wire

/// The machines of this user on this host: a directory each, and names that point to them (Docs/STATE.md).
///
///     $XDG_STATE_HOME/martlet/lock              held while machines are made and removed
///     $XDG_STATE_HOME/martlet/names/NAME        a file that holds an id
///     $XDG_STATE_HOME/martlet/machines/ID/      a machine; MachineFile names what is in it
package struct MachineStore: Sendable {
    package let root: String

    package init(root: String) {
        self.root = root
    }

    /// Where the XDG base directory specification puts a user's state.
    package static func ofUser(lookUp: (String) -> String?) throws(WorkerError) -> MachineStore {
        // Relative paths in these variables are invalid, says the specification.
        if let base = lookUp("XDG_STATE_HOME"), base.hasPrefix("/") { return MachineStore(root: "\(base)/martlet") }
        guard let home = lookUp("HOME"), home.hasPrefix("/") else {
            throw .invalid("there is no place for the machines' state: set HOME or XDG_STATE_HOME to an absolute path")
        }
        return MachineStore(root: "\(home)/.local/state/martlet")
    }

    package func directory(of id: String) -> String { "\(root)/machines/\(id)" }
    private func namePath(_ name: String) -> String { "\(root)/names/\(name)" }

    /// Makes and removes one at a time: held for microseconds.
    private func lock() throws(WorkerError) -> FileLock {
        try system { () throws(SystemError) in
            try Files.makeDirectories("\(root)/machines", permissions: 0o700)
            try Files.makeDirectories("\(root)/names", permissions: 0o700)
            return try FileLock(waitingAt: "\(root)/lock")
        }
    }

    /// Makes a machine's directory with its lock held; no command takes it for one that crashed.
    /// - Parameter name: nil for one of our choice.
    package func create(id: String, name: String?) throws(WorkerError) -> NewMachine {
        if let name, !MachineIdentity.isName(name) {
            throw .invalid(
                "\(quoted(name)) is not a name: 2 to 128 letters, digits, '_', '.', '-', a letter or digit first")
        }
        let lock = try lock()
        let chosen = try reserveName(name, for: id)
        let directory = directory(of: id)
        do throws(SystemError) {
            try Files.makeDirectory(directory, permissions: 0o700)
            // It is free, or held for a moment by another command that looks whether it is.
            let held = try FileLock(waitingAt: "\(directory)/\(MachineFile.lock)")
            lock.end()
            return NewMachine(id: id, name: chosen, directory: directory, lock: held)
        } catch {
            Files.remove(namePath(chosen))
            try? Files.removeTree(directory)
            throw .system(error)
        }
    }

    /// Writes the name's file; the store's lock is held.
    private func reserveName(_ wanted: String?, for id: String) throws(WorkerError) -> String {
        var generator = SystemRandomNumberGenerator()
        for attempt in 0..<100 {
            let name = wanted ?? MachineIdentity.makeName(attempt: attempt, using: &generator)
            let path = namePath(name)
            if let other = self.id(named: name) {
                // What is left of a machine that was never to be seen keeps nobody from its name.
                if isRemains(other) { try removeHoldingStoreLock(other) }
                if Files.exists(directory(of: other)) {
                    if wanted == nil { continue }
                    throw .nameInUse(name, by: other)
                }
                Files.remove(path)
            }
            // Whole, or not there: a full disk keeps no name.
            try system { () throws(SystemError) in
                try Files.writeAtomically(Array(id.utf8), to: path, permissions: 0o600)
            }
            return name
        }
        throw .invalid("no free name was found: give one with --name")
    }

    /// The id that a name's file holds; the machine may be gone.
    private func id(named name: String) -> String? {
        guard let bytes = try? Files.read(namePath(name), limit: MachineIdentity.idLength) else { return nil }
        let id = String(decoding: bytes, as: UTF8.self)
        // A file that was not written to its end belongs to nobody.
        return MachineIdentity.isID(id) ? id : String(repeating: "0", count: MachineIdentity.idLength)
    }

    /// The ids of all machines, those included that are just being made.
    package func ids() -> [String] {
        ((try? Files.list("\(root)/machines")) ?? []).filter(MachineIdentity.isID)
    }

    /// Finds the machine that a name, an id or the beginning of an id means.
    package func find(_ reference: String) throws(WorkerError) -> MachineRecord {
        let id = try MachineIdentity.resolve(
            reference, isThere: { Files.exists(directory(of: $0)) }, ids: ids, named: self.id(named:))
        guard let record = try record(id) else { throw .noSuchMachine(reference) }
        return record
    }

    /// All machines that can be read, the newest first.
    package func list() -> [MachineRecord] {
        ids().compactMap { id in (try? record(id)) ?? nil }
            .sorted { ($0.configuration.createdAt, $0.id) > ($1.configuration.createdAt, $1.id) }
    }

    /// What a machine's directory says; nil where there is none, or only the beginning of one.
    package func record(_ id: String) throws(WorkerError) -> MachineRecord? {
        let directory = directory(of: id)
        // The lock first: a machine that ends between the two looks is then read as ended.
        let isHeld = isLockHeld(directory)
        guard let configuration = try Self.readJSON("\(directory)/\(MachineFile.configuration)") else { return nil }
        // Empty as a host that went down may leave it, it says no more than one that is missing.
        let state = try Self.readJSON("\(directory)/\(MachineFile.state)", unlessEmpty: true)
        do throws(JSONMismatch) {
            return MachineRecord(
                directory: directory, configuration: try ContainerConfiguration(configuration),
                state: try state.map { json throws(JSONMismatch) in try MachineState(json) } ?? MachineState(),
                isHeld: isHeld)
        } catch {
            throw .malformed(path: directory, reason: "\(error)")
        }
    }

    /// Of a file that is read as JSON, in bytes.
    static let fileLimit = 8 << 20

    /// - Parameter unlessEmpty: a file without content is none.
    static func readJSON(_ path: String, unlessEmpty: Bool = false) throws(WorkerError) -> JSON? {
        let bytes: [UInt8]
        do throws(SystemError) {
            bytes = try Files.read(path, limit: fileLimit)
        } catch {
            if error.code == ENOENT { return nil }
            throw .system(error)
        }
        return unlessEmpty && bytes.isEmpty ? nil : try parse(bytes, of: path)
    }

    /// What a file of up to `fileLimit` bytes says.
    static func parse(_ bytes: [UInt8], of path: String) throws(WorkerError) -> JSON {
        var limits = JSONLimits()
        limits.sizeInBytes = fileLimit
        do throws(JSONSyntaxError) {
            return try JSON(parsing: bytes, limits: limits)
        } catch {
            throw .malformed(path: path, reason: "\(error)")
        }
    }

    /// Whether a supervisor lives there. Others that look at the same time are not in the way: they share the lock.
    private func isLockHeld(_ directory: String) -> Bool {
        guard let file = try? Descriptor.open("\(directory)/\(MachineFile.lock)", .readOnly) else { return false }
        let raw = file.raw
        let result = retryingInterrupts { flock(raw, LOCK_SH | LOCK_NB) }
        file.close()
        return result != 0
    }

    /// Removes a machine that has no supervisor; false where it has one. A machine that is gone already counts as
    /// removed.
    package func remove(_ id: String) throws(WorkerError) -> Bool {
        let lock = try lock()
        let directory = directory(of: id)
        guard Files.exists(directory) else { return true }
        guard !isLockHeld(directory) else { return false }
        try removeHoldingStoreLock(id)
        lock.end()
        return true
    }

    /// Removes the machine whose lock the caller holds.
    package func removeOwn(_ id: String) throws(WorkerError) {
        let lock = try lock()
        try removeHoldingStoreLock(id)
        lock.end()
    }

    /// Gives up a machine that comes to nothing; its directory may say nothing yet, not even its name.
    package func abandon(_ machine: borrowing NewMachine) {
        guard let lock = try? lock() else { return }
        try? removeHoldingStoreLock(machine.id, named: machine.name)
        lock.end()
    }

    /// - Parameter name: nil for the one that its directory says.
    private func removeHoldingStoreLock(_ id: String, named name: String? = nil) throws(WorkerError) {
        let directory = directory(of: id)
        if let name = name ?? nameSaid(in: directory), MachineIdentity.isName(name), self.id(named: name) == id {
            Files.remove(namePath(name))
        }
        try system { () throws(SystemError) in try Files.removeTree(directory) }
    }

    private func nameSaid(in directory: String) -> String? {
        let json = (try? Self.readJSON("\(directory)/\(MachineFile.configuration)")) ?? nil
        return json?["name"]?.stringValue
    }

    /// Whether a machine's directory is one that its command or its supervisor would have removed, had it not been
    /// killed: of a machine of `--rm`, of one whose process was never started, one that was never finished.
    private func isRemains(_ id: String) -> Bool {
        let directory = directory(of: id)
        guard Files.exists(directory), !isLockHeld(directory) else { return false }
        guard let json = (try? Self.readJSON("\(directory)/\(MachineFile.configuration)")) ?? nil else {
            return Self.saysNothing("\(directory)/\(MachineFile.configuration)")
        }
        if json["removesItself"]?.boolValue == true { return true }
        guard let state = (try? Self.readJSON("\(directory)/\(MachineFile.state)")) ?? nil else {
            return !Files.exists("\(directory)/\(MachineFile.state)")
        }
        return state["startedAt"] == nil
    }

    /// Whether a file is missing, or empty as a host that went down may leave it.
    private static func saysNothing(_ path: String) -> Bool {
        do throws(SystemError) { return try Files.read(path, limit: 1).isEmpty } catch { return error.code == ENOENT }
    }

    /// Names whose machines are not there.
    private var namesOfNone: [String] {
        ((try? Files.list("\(root)/names")) ?? []).filter { name in
            self.id(named: name).map { !Files.exists(directory(of: $0)) } ?? false
        }
    }

    /// Clears away what was to go and could not, because its command or its supervisor was killed: machines of `--rm`,
    /// machines that never ran, directories that were never finished, names of machines that are gone. Failures do not
    /// matter here.
    package func sweep() {
        let stale = ids().filter(isRemains)
        guard !stale.isEmpty || !namesOfNone.isEmpty, let lock = try? lock() else { return }
        // Looked at again under the lock: what was just being made by another command is held by now.
        for id in stale where isRemains(id) { try? removeHoldingStoreLock(id) }
        for name in namesOfNone { Files.remove(namePath(name)) }
        lock.end()
    }
}

/// The files in a machine's directory.
package enum MachineFile {
    /// Held by the supervisor for as long as it lives.
    package static let lock = "lock"
    package static let configuration = "config.json"
    package static let state = "state.json"
    /// The monitor's configuration, for a machine that boots.
    package static let monitorConfiguration = "vmm.json"
    /// The same for one that makes a template, or comes from one.
    package static let templateConfiguration = "vmm-template.json"
    /// Where the supervisor of a machine that is being forked waits for its monitor.
    package static let monitor = "monitor.sock"
    /// The monitor's API.
    package static let api = "vmm.sock"
    /// The process's output, as records.
    package static let output = "output.log"
    /// The guest's serial console.
    package static let console = "console.log"
    /// What monitor and supervisor say when they fail.
    package static let diagnostics = "diagnostics.log"
    /// Where the supervisor takes orders.
    package static let control = "supervisor.sock"
    /// The monitor's end of the guest's vsock device.
    package static let vsock = "vsock.sock"
}

/// A machine's directory, just made, and the lock that its supervisor will hold.
package struct NewMachine: ~Copyable {
    package let id: String
    package let name: String
    package let directory: String
    package let lock: FileLock
}

/// A machine as its directory shows it.
package struct MachineRecord: Sendable {
    package let directory: String
    package let configuration: ContainerConfiguration
    package let state: MachineState
    /// A supervisor lives.
    package let isHeld: Bool

    package var id: String { configuration.id }
    package var shortID: String { String(id.prefix(MachineIdentity.shortIDLength)) }
    package var name: String { configuration.name }

    package enum Condition: String, Sendable {
        case created
        case running
        case exited
        /// Its supervisor was lost: it ended, but nobody saw how.
        case crashed
    }

    package var condition: Condition {
        if isHeld { return state.status == .created ? .created : state.status == .running ? .running : .exited }
        return state.status == .exited ? .exited : .crashed
    }
}
