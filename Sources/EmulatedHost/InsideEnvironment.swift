// SPDX-License-Identifier: Apache-2.0

package import GuestProtocol

/// A command as it is to run inside the emulated host: as its user would run it outside, but with what it keeps on the
/// host's disk. Pure.
package struct InsideEnvironment: Equatable, Sendable {
    /// The user's directory on the host's disk.
    static func home(user: UInt32) -> String { "\(QEMUCommand.stateMountPoint)/\(user)" }
    static func runtime(user: UInt32) -> String { "/run/martlet-\(user)" }

    package var user: UInt32
    package var group: UInt32
    /// The working directory outside, which is the same inside.
    package var directory: String
    /// The image store outside.
    package var store: String

    package init(user: UInt32, group: UInt32, directory: String, store: String) {
        self.user = user
        self.group = group
        self.directory = directory
        self.store = store
    }

    /// Variables that name places outside which are not there, or are elsewhere, inside.
    private static let replaced: Set<String> = [
        "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "MARTLET_ADDITIONAL_STORES",
        "MARTLET_INSIDE_HOST", "DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK", HostConfiguration.memoryVariable,
        HostConfiguration.idleVariable, HostConfiguration.qemuVariable,
    ]

    /// The environment inside, from that outside (`NAME=value` each).
    package func variables(outside: [String]) -> [String] {
        var result = outside.filter { variable in
            guard let equals = variable.firstIndex(of: "=") else { return false }
            return !InsideEnvironment.replaced.contains(String(variable[..<equals]))
        }
        if !result.contains(where: { $0.hasPrefix("PATH=") }) {
            result.append("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        }
        let home = InsideEnvironment.home(user: user)
        result += [
            "XDG_STATE_HOME=\(home)/state", "XDG_DATA_HOME=\(home)/data", "XDG_CACHE_HOME=\(home)/cache",
            "XDG_RUNTIME_DIR=\(InsideEnvironment.runtime(user: user))", "MARTLET_ADDITIONAL_STORES=\(store)",
            "MARTLET_INSIDE_HOST=1",
        ]
        return result
    }

    /// The request for a command.
    package func request(_ command: [String], outside: [String], hasInput: Bool) -> ProcessRequest {
        var request = ProcessRequest()
        request.arguments = command.map { Array($0.utf8) }
        request.environment = variables(outside: outside).map { Array($0.utf8) }
        request.directory = Array(directory.utf8)
        request.user = Array("\(user):\(group)".utf8)
        request.hasInput = hasInput
        return request
    }
}
