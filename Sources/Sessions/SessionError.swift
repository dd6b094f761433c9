// SPDX-License-Identifier: Apache-2.0

package import GuestProtocol
package import Platform

/// Why a session came to an end that is not the process's own.
package enum SessionError: Error, Equatable, Sendable, CustomStringConvertible {
    /// A system call on the connection or on this process's streams failed.
    case system(SystemError)
    /// The other side closed the connection before it said how the process ended.
    case connectionLost
    /// The other side speaks another major version of the protocol.
    case versionMismatch(theirs: UInt16)
    /// Arguments and environment together are longer than a request may be.
    case requestTooLarge
    /// The other side broke the protocol; what it did.
    case violation(String)
    /// The other side gave up the connection, and said why.
    case failure(Refusal)

    package var description: String {
        switch self {
        case .system(let error): "\(error)"
        case .connectionLost: "the connection was lost before the process ended"
        case .versionMismatch(let theirs):
            "the other side speaks version \(theirs) of the protocol, this program version \(ProtocolVersion.major): "
                + "restart it so that both are of one build"
        case .requestTooLarge:
            "arguments and environment are longer than \(FrameHeader.requestPayloadLimit) bytes together: pass less"
        case .violation(let what): "the other side broke the protocol: \(what)"
        case .failure(let refusal): String(decoding: refusal.message, as: UTF8.self)
        }
    }
}
