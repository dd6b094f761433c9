// SPDX-License-Identifier: Apache-2.0

package import Platform
package import Sessions

/// Why the emulated host cannot be had, in words for its user: what, where, how to mend.
package enum EmulatedHostError: Error, Equatable, Sendable, CustomStringConvertible {
    case system(SystemError)
    case session(SessionError)
    /// A program that is needed is nowhere on the PATH.
    case programMissing(name: String, package: String)
    case fileMissing(what: String, path: String, mend: String)
    /// A setting that makes no sense: its name and why.
    case badSetting(String)
    /// A directory that others could tamper with.
    case unsafeDirectory(path: String, why: String)
    case diskBroken(path: String, report: String)
    case diskNotMade(path: String, report: String)
    /// The host did not come up; what its keeper says about it.
    case notStarted(String)
    case notRunning
    /// The running host is of another build and has work to do.
    case otherBuild(processes: UInt64)

    package var description: String {
        switch self {
        case .system(let error): "emulated host: \(error)"
        case .session(let error): "emulated host: \(error)"
        case .programMissing(let name, let package):
            "emulated host: no \(name) on the PATH: install it (Debian: apt-get install \(package))"
        case .fileMissing(let what, let path, let mend): "emulated host: no \(what) at \(path): \(mend)"
        case .badSetting(let why): "emulated host: \(why)"
        case .unsafeDirectory(let path, let why): "emulated host: \(path) \(why): move it away or mend its rights"
        case .diskBroken(let path, let report):
            """
            emulated host: the file system in \(path) cannot be mended without asking (\(report)): run \
            `e2fsck -y \(path)`; or remove the file, with the machines and images that are kept in it
            """
        case .diskNotMade(let path, let report):
            "emulated host: no file system could be made in \(path): \(report)"
        case .notStarted(let reason): "emulated host: \(reason)"
        case .notRunning: "the emulated host does not run: `martlet host start` starts it"
        case .otherBuild(let processes):
            """
            the emulated host was started by another build of martlet and still runs \(processes) \
            process\(processes == 1 ? "" : "es"): end them or all of it with `martlet host stop`, then try again
            """
        }
    }
}

/// Calls something of a lower floor, with its errors as this module's.
func platform<Result: ~Copyable>(
    _ body: () throws(SystemError) -> Result
) throws(EmulatedHostError) -> Result {
    do throws(SystemError) { return try body() } catch { throw .system(error) }
}
