// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import MachineAPI
internal import Platform
internal import Wire

/// Machines that have booted and become nothing yet, saved so that others go on from there (Docs/TEMPLATES.md).
///
///     $XDG_CACHE_HOME/martlet/templates/KEY/              a template
///         manifest.json                                   what it is of, and its files' lengths; written last
///         state, memory                                   the monitor's snapshot
///     $XDG_CACHE_HOME/martlet/templates/KEY.lock          held by who makes it
///     $XDG_CACHE_HOME/martlet/templates/.new-KEY-PID      one that is being made
package struct TemplateStore: Sendable {
    /// How many are kept: those that were used last.
    static let capacity = 8
    static let manifestVersion: UInt64 = 1

    package let root: String

    package init(root: String) { self.root = root }

    /// Where the XDG base directory specification puts what can be made again; nil where there is no such place.
    package static func rootOfUser(lookUp: (String) -> String?) -> String? {
        if let base = lookUp("XDG_CACHE_HOME"), base.hasPrefix("/") { return "\(base)/martlet/templates" }
        guard let home = lookUp("HOME"), home.hasPrefix("/") else { return nil }
        return "\(home)/.cache/martlet/templates"
    }

    private func directory(_ key: TemplateKey) -> String { "\(root)/\(key.name)" }

    /// The template of a key, if there is a whole one.
    func find(_ key: TemplateKey) -> Template? {
        let directory = directory(key)
        guard let bytes = try? Files.read("\(directory)/manifest.json", limit: 65_536),
            let json = try? JSON(parsing: bytes), json["version"]?.unsignedValue == Self.manifestVersion,
            // Two keys may have the same name; what they are of tells them apart.
            json["of"]?.stringValue == key.text,
            let state = json["stateInBytes"]?.unsignedValue, let memory = json["memoryInBytes"]?.unsignedValue
        else { return nil }
        let template = Template(directory: directory)
        guard Self.length(template.state) == state, Self.length(template.memory) == memory else { return nil }
        return template
    }

    /// Begins to make a template; nil where another process does just now, or where one was made meanwhile.
    func begin(_ key: TemplateKey) throws(SystemError) -> NewTemplate? {
        try Files.makeDirectories(root, permissions: 0o700)
        guard let lock = try FileLock.attempt(at: "\(root)/\(key.name).lock") else { return nil }
        if find(key) != nil { return nil }
        sweep(besides: key)
        let directory = "\(root)/.new-\(key.name)-\(getpid())"
        try Files.makeDirectory(directory, permissions: 0o700)
        return NewTemplate(key: key, template: Template(directory: directory), lock: lock)
    }

    /// Removes what processes left that were killed: nobody holds the lock of what they made. That of `key` is held by
    /// the caller.
    private func sweep(besides key: TemplateKey) {
        for name in (try? Files.list(root)) ?? [] where name.hasPrefix(".new-") {
            let other = name.dropFirst(5).prefix { $0 != "-" }
            if other == key.name {
                try? Files.removeTree("\(root)/\(name)")
            } else if let lock = (try? FileLock.attempt(at: "\(root)/\(other).lock")) ?? nil as FileLock? {
                try? Files.removeTree("\(root)/\(name)")
                lock.end()
            }
        }
    }

    /// Makes a template known whose files are written.
    func finish(_ new: NewTemplate) throws(SystemError) {
        let directory = new.template.directory
        guard let state = Self.length(new.template.state), let memory = Self.length(new.template.memory) else {
            throw SystemError("stat", directory, code: ENOENT)
        }
        let manifest = JSON(members: [
            ("version", .number(Self.manifestVersion)), ("of", .string(new.key.text)),
            ("stateInBytes", .number(state)), ("memoryInBytes", .number(memory)),
        ])
        // Not forced to the disk: what a crash of the host leaves of it has other lengths, or is refused and made again.
        try Files.writeAtomically(
            manifest.encoded(indented: true), to: "\(directory)/manifest.json", permissions: 0o600)
        let final = self.directory(new.key)
        try Files.removeTree(final)
        try Files.rename(directory, to: final)
        evict(besides: new.key)
    }

    /// Gives up one that is being made.
    func abandon(_ new: NewTemplate) {
        try? Files.removeTree(new.template.directory)
    }

    /// Forgets a template that is no good. Machines that use it keep their files until they end.
    func remove(_ key: TemplateKey) {
        try? Files.removeTree(directory(key))
    }

    /// Notes that a template was used.
    func touch(_ key: TemplateKey) {
        _ = unsafe utimensat(AT_FDCWD, "\(directory(key))/manifest.json", nil, 0)
    }

    /// Removes those that were not used for the longest time.
    private func evict(besides key: TemplateKey) {
        var known: [(name: String, used: Int)] = []
        for name in (try? Files.list(root)) ?? [] where !name.hasPrefix(".") && !name.hasSuffix(".lock") {
            guard name != key.name else { continue }
            var status = stat()
            let isWhole = unsafe stat("\(root)/\(name)/manifest.json", &status) == 0
            known.append((name, isWhole ? status.st_mtim.tv_sec : 0))
        }
        known.sort { $0.used > $1.used }
        for (name, _) in known.dropFirst(Self.capacity - 1) {
            try? Files.removeTree("\(root)/\(name)")
            Files.remove("\(root)/\(name).lock")
        }
    }

    private static func length(_ path: String) -> UInt64? {
        var status = stat()
        guard unsafe stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return nil }
        return UInt64(max(0, status.st_size))
    }
}

/// A template's files.
struct Template: Equatable, Sendable {
    let directory: String
    var state: String { "\(directory)/state" }
    var memory: String { "\(directory)/memory" }
    /// Which pages machines of it touch first; there once one has (Docs/TEMPLATES.md).
    var workingSet: String { "\(directory)/working-set" }
}

/// A template that is being made, with the lock that keeps others from making it as well.
final class NewTemplate {
    let key: TemplateKey
    let template: Template
    private let lock: FileLock

    init(key: TemplateKey, template: Template, lock: consuming FileLock) {
        self.key = key
        self.template = template
        self.lock = lock
    }
}

/// All that a template depends on. A template of another key is another machine.
struct TemplateKey: Equatable, Sendable {
    /// Changes when the supervisor or the guest's agent expects something else of a template.
    private static let format = 1

    let text: String
    /// A name for the directory: a hash, which need not be unique.
    let name: String

    init(text: String) {
        self.text = text
        // FNV-1a, twice with different beginnings.
        var one: UInt64 = 0xcbf2_9ce4_8422_2325
        var other: UInt64 = 0x6c62_272e_07bb_0142
        for byte in text.utf8 {
            one = (one ^ UInt64(byte)) &* 0x100_0000_01b3
            other = (other ^ UInt64(byte)) &* 0x100_0000_01b3
        }
        name = [one, other].map { value in
            let digits = String(value, radix: 16)
            return String(repeating: "0", count: 16 - digits.utf8.count) + digits
        }.joined()
    }

    /// - Parameter machine: as it is to be started, its drives left out of account.
    /// - Throws: where a file that it is made of cannot be looked at.
    init(_ machine: MachineConfiguration, monitor: String) throws(SystemError) {
        var lines = [
            "format \(Self.format)", "version \(monitorVersion)",
            "arguments \(machine.bootSource.arguments ?? "")",
            "processors \(machine.machine.vcpuCount)", "memory \(machine.machine.memoryInMiB)",
        ]
        for interface in machine.networkInterfaces {
            lines.append(
                "interface \(interface.identifier) mtu \(interface.mtu ?? 0) pairs \(interface.queuePairs ?? 0)")
        }
        for path in [monitor, machine.bootSource.kernel.path, machine.bootSource.initrd?.path] {
            guard let path else { continue }
            lines.append("file \(try Self.fingerprint(path)) \(path)")
        }
        self.init(text: lines.joined(separator: "\n"))
    }

    /// Changes with the file's contents. To read them all would take longer than what a template saves.
    private static func fingerprint(_ path: String) throws(SystemError) -> String {
        var status = stat()
        guard unsafe stat(path, &status) == 0 else { throw SystemError("stat", path) }
        return "\(status.st_size) \(status.st_mtim.tv_sec).\(status.st_mtim.tv_nsec) "
            + "\(status.st_ctim.tv_sec).\(status.st_ctim.tv_nsec)"
    }
}
