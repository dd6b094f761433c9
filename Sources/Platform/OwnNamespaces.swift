// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// Namespaces of a process's own (namespaces(7)), and a root directory in which only what it names is left: also what no
/// rule about files holds off, as the sockets of other programs. The network stays the host's.
package enum OwnNamespaces {
    /// What became of it.
    package struct Result: Equatable, Sendable {
        /// The process is in a user namespace too, in which its own user alone has a number.
        package var hasOwnUsers = false
        /// Why it sees the host's files, as before; nil where it does not.
        package var problem: String?

        package init(problem: String? = nil) { self.problem = problem }
    }

    /// The number that those have whom the user namespace has none for (/proc/sys/kernel/overflowuid).
    package static let unknownUser: UInt32 = 65_534

    /// To be called while the process has one thread. What it has open stays open; its working directory becomes `home`. Of
    /// its capabilities it keeps those for privileged ports and for files of other owners, where it has them on the host.
    /// - Parameters:
    ///   - home: a directory that stays as it is.
    ///   - readable: directories to be seen, and not written to; those that are not there are left out.
    package static func enter(home: String, readable: [String]) -> Result {
        let capabilities = clinux_capabilities()
        let isPrivileged = capabilities & CLINUX_CAP_SYS_ADMIN != 0
        var result = Result()
        if !isPrivileged, capabilities & CLINUX_CAP_NET_BIND_SERVICE != 0 {
            // In a user namespace it would be worth nothing, and what it was given it for would not work any more.
            result.problem = "it may open privileged ports, and in a user namespace it could not"
        } else {
            do throws(SystemError) {
                try separate(ofUsers: !isPrivileged, &result)
                try makeRoot(home: home, readable: readable)
            } catch {
                result.problem = "\(error)"
            }
        }
        let kept = result.hasOwnUsers ? 0 : CLINUX_CAP_NET_BIND_SERVICE | CLINUX_CAP_DAC_OVERRIDE
        if clinux_keep_capabilities(kept) != 0, result.problem == nil { result.problem = "\(SystemError("capset"))" }
        return result
    }

    private static func separate(ofUsers: Bool, _ result: inout Result) throws(SystemError) {
        // There is no way back out of a user namespace, and half of one is worse than none: so another tries it first.
        if ofUsers {
            let code = clinux_try_namespaces(1)
            guard code == 0 else { throw SystemError("unshare", "a user namespace", code: code) }
        }
        guard clinux_own_namespaces(ofUsers ? 1 : 0) == 0 else { throw SystemError("unshare") }
        result.hasOwnUsers = ofUsers
    }

    /// A root directory that is built over `home`, which is still reached as the working directory then.
    private static func makeRoot(home: String, readable: [String]) throws(SystemError) {
        try ForkedProcess.changeDirectory(to: home)
        guard unsafe clinux_mount_empty(home) == 0 else { throw SystemError("mount", "a root directory") }
        do throws(SystemError) {
            // What is bound later lies over what was before: the process's own comes last.
            for path in readable where Files.isDirectory(path) {
                try Files.makeDirectories("\(home)\(path)")
                guard unsafe clinux_mount_readable(path, "\(home)\(path)") == 0 else {
                    throw SystemError("mount", path)
                }
            }
            try Files.makeDirectories("\(home)\(home)")
            guard unsafe clinux_mount_writable(".", "\(home)\(home)") == 0 else { throw SystemError("mount", home) }
            try ForkedProcess.changeDirectory(to: home)
            guard clinux_become_root() == 0 else { throw SystemError("pivot_root") }
            try ForkedProcess.changeDirectory(to: home)
        } catch {
            unsafe clinux_unmount(home)
            try ForkedProcess.changeDirectory(to: home)
            throw error
        }
    }
}
