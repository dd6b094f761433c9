// SPDX-License-Identifier: Apache-2.0

package import Platform

/// Why pages cannot be served.
package enum PageServerError: Error, Equatable, Sendable, CustomStringConvertible {
    case usage(String)
    /// The file cannot be served: which, and why.
    case memory(path: String, String)
    /// Somebody listens at the socket already.
    case taken(String)
    /// The memory comes from another host, or goes there.
    case stream(StreamFailure)
    case system(SystemError)

    package var description: String {
        switch self {
        case .usage(let text): text
        case .memory(let path, let reason): "\(path): \(reason)"
        case .taken(let path): "another server listens at \(path): choose another with --listen, or end that one"
        case .stream(let failure): "\(failure)"
        case .system(let error): "\(error)"
        }
    }
}

/// Why a client is given up. It sees its connection closed, and ends its machine.
package enum ClientFailure: Error, Equatable, Sendable, CustomStringConvertible {
    /// It closed its connection; nothing is wrong.
    case gone
    /// What it sent is no handoff of a machine's memory.
    case handshake(String)
    /// The machine goes on from another snapshot than the memory is of.
    case otherSnapshot(wanted: String, served: String)
    /// It said nothing for too long.
    case silent
    /// A page could not be put where it is missing.
    case supply(String)

    package var description: String {
        switch self {
        case .gone: "it has ended"
        case .handshake(let reason): "it sent no machine's memory: \(reason)"
        case .otherSnapshot(let wanted, let served):
            "it goes on from the snapshot \(wanted.prefix(32)), and the memory here is that of \(served)"
        case .silent: "it did not say what its memory is"
        case .supply(let reason): reason
        }
    }
}
