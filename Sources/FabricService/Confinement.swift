// SPDX-License-Identifier: Apache-2.0

internal import CLinux
package import Platform

/// What the process gives up once it has all that it needs: new privileges, files besides its directory and the host's
/// resolver settings, system calls that it has no use for. An ordinary user can have all of this.
package enum Confinement {
    /// What of it the system gave: where it has no Landlock or no seccomp, the rest still holds.
    package struct Result: Equatable, Sendable {
        package var files = false
        package var calls = false
    }

    /// - Parameters:
    ///   - directory: where sockets and the lock are made and removed.
    ///   - readable: paths that may be read.
    package static func enter(directory: String, readable: [String]) throws(SystemError) -> Result {
        guard clinux_no_new_privileges() == 0 else { throw SystemError("prctl", "PR_SET_NO_NEW_PRIVS") }
        var result = Result()
        if clinux_landlock_version() >= 1 {
            let raw = clinux_landlock_ruleset()
            guard raw >= 0 else { throw SystemError("landlock_create_ruleset") }
            let ruleset = Descriptor(owning: raw)
            let access = Int32(clinux_landlock_read | clinux_landlock_make)
            guard unsafe clinux_landlock_path(ruleset.raw, directory, access) == 0 else {
                throw SystemError("landlock_add_rule", directory)
            }
            for path in readable {
                // What is not there needs no rule.
                _ = unsafe clinux_landlock_path(ruleset.raw, path, Int32(clinux_landlock_read))
            }
            guard clinux_landlock_restrict(ruleset.raw) == 0 else { throw SystemError("landlock_restrict_self") }
            result.files = true
        }
        var calls: UnsafePointer<Int32>?
        let count = unsafe clinux_service_calls(&calls)
        guard let calls = unsafe calls else { return result }
        result.calls = unsafe clinux_seccomp_allow(calls, count) == 0
        return result
    }
}
