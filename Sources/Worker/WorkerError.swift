// SPDX-License-Identifier: Apache-2.0

package import Platform

/// What can go wrong with containers on this host, said so that a user can mend it.
package enum WorkerError: Error, Equatable, Sendable, CustomStringConvertible {
    case system(SystemError)
    /// A value that somebody gave and that cannot be used; the text says what and why.
    case invalid(String)
    /// No machine has this name, id, or beginning of an id.
    case noSuchMachine(String)
    /// More than one machine's id begins like this.
    case ambiguous(String, matches: [String])
    case noSuchSnapshot(String)
    case nameInUse(String, by: String)
    /// A file of ours that says what it cannot say.
    case malformed(path: String, reason: String)

    package var description: String {
        switch self {
        case .system(let error): "\(error)"
        case .invalid(let text): text
        case .noSuchMachine(let reference): "no such machine: \(reference)"
        case .noSuchSnapshot(let reference): "no such snapshot: \(reference)"
        case .ambiguous(let reference, let matches):
            "\(reference) is the beginning of several ids: \(matches.map { String($0.prefix(12)) }.joined(separator: ", "))"
        case .nameInUse(let name, let id):
            "the name \(name) is in use by machine \(id.prefix(12)): remove that one (martlet rm \(name)) or choose another name"
        case .malformed(let path, let reason): "\(path): \(reason)"
        }
    }
}

/// Lets a system call's failure through as this module's error.
func system<Result: ~Copyable>(
    _ body: () throws(SystemError) -> Result
) throws(WorkerError) -> Result {
    do throws(SystemError) { return try body() } catch { throw .system(error) }
}
