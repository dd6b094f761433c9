// SPDX-License-Identifier: Apache-2.0

package import FabricAPI
package import Platform

/// What can go wrong with networks on this host, said so that a user can mend it.
package enum NetworkError: Error, Sendable, CustomStringConvertible {
    case system(SystemError)
    /// A value that somebody gave and that cannot be used; the text says what and why.
    case invalid(String)
    case noSuchNetwork(String)
    case exists(String)
    /// Its fabric runs, so it has machines, or had some seconds ago.
    case inUse(String)
    /// A file or an answer that says what it cannot say: whose, and why.
    case malformed(String, String)
    /// The fabric did not do it, and says why.
    case refused(FabricReply.Refusal, String)
    /// The fabric of this network could not be started, and why.
    case cannotStart(String, String)

    package var description: String {
        switch self {
        case .system(let error): "\(error)"
        case .invalid(let text): text
        case .noSuchNetwork(let name): "no such network: \(name); martlet network create \(name) makes it"
        case .exists(let name): "the network \(name) exists already"
        case .inUse(let name): "the network \(name) is in use: end its machines first"
        case .malformed(let path, let reason): "\(path): \(reason)"
        case .refused(_, let reason): reason
        case .cannotStart(let name, let reason): "the fabric of network \(name) does not start: \(reason)"
        }
    }
}
