// SPDX-License-Identifier: Apache-2.0

internal import CLinux

/// What a process gives up once it has all that it needs: new privileges, files besides those that it names, system calls
/// that it has no use for. An ordinary user can have all of this.
package enum Confinement {
    /// What of it the system gave: where it has no Landlock or no seccomp, the rest still holds.
    package struct Result: Equatable, Sendable {
        package var files = false
        package var calls = false
    }

    /// What kind of program it is, by the system calls that it needs.
    package enum Calls: Sendable {
        /// It serves sockets and writes files.
        case service
        /// It hands pages to others.
        case pageServer
        /// The same, and it keeps what comes from another host.
        case pageFetcher
        /// It hands pages to another host.
        case pageSender
    }

    /// - Parameters:
    ///   - writable: directories in which sockets and files are made, written, renamed and removed.
    ///   - removable: directories from which names are removed.
    ///   - readable: paths that may be read.
    package static func enter(
        writable: [String] = [], removable: [String] = [], readable: [String] = [], calls: Calls = .service
    ) throws(SystemError) -> Result {
        guard clinux_no_new_privileges() == 0 else { throw SystemError("prctl", "PR_SET_NO_NEW_PRIVS") }
        var result = Result()
        if clinux_landlock_version() >= 1 {
            let raw = clinux_landlock_ruleset()
            guard raw >= 0 else { throw SystemError("landlock_create_ruleset") }
            let ruleset = Descriptor(owning: raw)
            let making = Int32(clinux_landlock_read | clinux_landlock_make)
            for (paths, access) in [(writable, making), (removable, Int32(clinux_landlock_remove))] {
                for path in paths {
                    guard unsafe clinux_landlock_path(ruleset.raw, path, access) == 0 else {
                        throw SystemError("landlock_add_rule", path)
                    }
                }
            }
            for path in readable {
                // What is not there needs no rule.
                _ = unsafe clinux_landlock_path(ruleset.raw, path, Int32(clinux_landlock_read))
            }
            guard clinux_landlock_restrict(ruleset.raw) == 0 else { throw SystemError("landlock_restrict_self") }
            result.files = true
        }
        var list: UnsafePointer<Int32>?
        let count =
            switch calls {
            case .service: unsafe clinux_service_calls(&list)
            case .pageServer: unsafe clinux_page_server_calls(false, &list)
            case .pageFetcher: unsafe clinux_page_server_calls(true, &list)
            case .pageSender: unsafe clinux_page_sender_calls(&list)
            }
        guard let list = unsafe list else { return result }
        result.calls = unsafe clinux_seccomp_allow(list, count) == 0
        return result
    }
}
