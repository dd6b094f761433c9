// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// How a machine is in the network of the host itself instead of in one of ours (Docs/HOST-NETWORK.md).
package enum HostNetworkMode: Equatable, Sendable {
    /// On a bridge of ours, behind the host's address.
    case bridged
    /// With addresses of the network that the host is in.
    case routed
    /// On a TAP device that somebody else connects; it is made where it is missing.
    case tap(String)

    private static let tapPrefix = "tap="

    /// Reads what `--network` says; nil for what is none of these.
    package init?(_ text: String) {
        switch text {
        case "bridged": self = .bridged
        case "routed": self = .routed
        case _ where text.hasPrefix(Self.tapPrefix): self = .tap(String(text.dropFirst(Self.tapPrefix.count)))
        default: return nil
        }
    }

    package var text: String {
        switch self {
        case .bridged: "bridged"
        case .routed: "routed"
        case .tap(let name): Self.tapPrefix + name
        }
    }

    /// Whether the host's configuration is changed for it.
    package var changesHost: Bool { if case .tap = self { false } else { true } }
}

/// What can go wrong in the host's network, said so that a user can mend it.
package struct HostNetworkError: Error, Equatable, Sendable, CustomStringConvertible {
    package let description: String
    package init(_ description: String) { self.description = description }
}

/// Lets a system call's failure through, with what it was for.
func hostNetwork<Result: ~Copyable>(
    _ purpose: String, _ body: () throws(SystemError) -> Result
) throws(HostNetworkError) -> Result {
    do throws(SystemError) { return try body() } catch { throw HostNetworkError("\(purpose): \(error)") }
}
