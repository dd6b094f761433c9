// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform

/// Where the emulated host keeps its things. One host a user: what it is, is decided by its disk, so the locks are
/// beside that; the socket's place is told in the state file, so that commands with another runtime directory find it.
package struct HostPaths: Equatable, Sendable {
    /// What lasts: the disk and the locks. `$XDG_DATA_HOME/martlet/host`.
    package var data: String
    /// What ends with the host: the socket. `$XDG_RUNTIME_DIR/martlet`, or `/tmp/martlet-UID`.
    package var runtime: String
    /// Logs. `$XDG_STATE_HOME/martlet/host`.
    package var logs: String
    /// The image store outside, which the host reads through the share. `$XDG_DATA_HOME/martlet`.
    package var store: String

    package var disk: String { "\(data)/state.ext4" }
    /// Held by a keeper for as long as it lives.
    package var lifeLock: String { "\(data)/life.lock" }
    /// Held from the decision to start a host until it is ready or has failed.
    package var startLock: String { "\(data)/start.lock" }
    /// What the running keeper says of itself (`HostRecord`).
    package var record: String { "\(data)/running" }
    package var socket: String { "\(runtime)/host.sock" }
    /// Of the host's own network: its definition and the fabric's directory.
    package var network: String { "\(runtime)/host-network" }
    package var consoleLog: String { "\(logs)/console.log" }
    package var keeperLog: String { "\(logs)/keeper.log" }

    package init(data: String, runtime: String, logs: String, store: String) {
        self.data = data
        self.runtime = runtime
        self.logs = logs
        self.store = store
    }

    /// By the XDG base directory specification. Variables that are not absolute paths are ignored, as it demands.
    /// - Parameters:
    ///   - variable: a variable of the environment, or nil.
    package init(user: UInt32, variable: (String) -> String?) {
        func directory(_ name: String, or fallback: String) -> String {
            guard let value = variable(name), value.utf8.first == UInt8(ascii: "/") else { return fallback }
            return HostPaths.trimmed(value)
        }
        let home = directory("HOME", or: user == 0 ? "/root" : "/tmp/martlet-\(user)-home")
        let dataHome = directory("XDG_DATA_HOME", or: "\(home)/.local/share")
        let stateHome = directory("XDG_STATE_HOME", or: "\(home)/.local/state")
        let runtimeHome = directory("XDG_RUNTIME_DIR", or: "")
        self.init(
            data: "\(dataHome)/martlet/host",
            runtime: runtimeHome.isEmpty ? "/tmp/martlet-\(user)" : "\(runtimeHome)/martlet",
            logs: "\(stateHome)/martlet/host", store: "\(dataHome)/martlet")
    }

    /// This process's.
    package static func ofThisUser() -> HostPaths {
        HostPaths(user: getuid(), variable: { environmentVariable($0) })
    }

    /// Makes the directories. The runtime directory may be under /tmp, where others could have made it first.
    func prepare() throws(EmulatedHostError) {
        try platform { () throws(SystemError) in
            try Files.makeDirectories(data, permissions: 0o700)
            try Files.makeDirectories(logs, permissions: 0o700)
            try Files.makeDirectories(runtime, permissions: 0o700)
        }
        try HostPaths.checkPrivate(runtime)
    }

    static func checkPrivate(_ path: String) throws(EmulatedHostError) {
        var status = stat()
        guard unsafe lstat(path, &status) == 0 else { throw .system(SystemError("lstat", path)) }
        guard status.st_mode & S_IFMT == S_IFDIR else { throw .unsafeDirectory(path: path, why: "is no directory") }
        guard status.st_uid == geteuid() else { throw .unsafeDirectory(path: path, why: "belongs to another user") }
        guard status.st_mode & 0o022 == 0 else { throw .unsafeDirectory(path: path, why: "can be written by others") }
    }

    private static func trimmed(_ path: String) -> String {
        var path = path
        while path.utf8.count > 1, path.utf8.last == UInt8(ascii: "/") { path.removeLast() }
        return path
    }
}

/// Finds a program as a shell does, and besides in the directories of the system's administrator, where e2fsprogs are.
package func findProgram(_ name: String, variable: (String) -> String? = { environmentVariable($0) }) -> String? {
    let path = (variable("PATH") ?? "") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    for directory in path.split(separator: ":") where directory.utf8.first == UInt8(ascii: "/") {
        let candidate = "\(directory)/\(name)"
        var status = stat()
        guard unsafe stat(candidate, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { continue }
        if unsafe access(candidate, X_OK) == 0 { return candidate }
    }
    return nil
}
