// SPDX-License-Identifier: Apache-2.0

package import Platform
internal import Wire

/// What the process has given up, as far as the kernel can have it.
package struct FabricConfinement: Equatable, Sendable {
    package var namespaces: OwnNamespaces.Result
    /// The version of Landlock that holds; 0 for none.
    package var landlock: Int
    package var seccomp: Bool

    package init(namespaces: OwnNamespaces.Result, landlock: Int, seccomp: Bool) {
        self.namespaces = namespaces
        self.landlock = landlock
        self.seccomp = seccomp
    }

    /// What is missing, for the log; nil where nothing is.
    package var missing: String? {
        var parts: [String] = []
        if let problem = namespaces.problem { parts.append("it has no namespaces of its own: \(problem)") }
        if landlock == 0 {
            parts.append("this kernel has no Landlock: the fabric may open every file that its user may")
        } else if landlock < 6 {
            parts.append("Landlock is of version \(landlock): below 6, unix sockets with abstract names are in reach")
        }
        if !seccomp { parts.append("this kernel has no seccomp: the fabric may make all system calls") }
        return parts.isEmpty ? nil : parts.joined(separator: "; ")
    }

    var json: JSON {
        var object = JSONObject()
        object["namespaces"] = .bool(namespaces.problem == nil)
        object["landlock"] = .number(UInt64(max(0, landlock)))
        object["seccomp"] = .bool(seccomp)
        return .object(object)
    }
}
