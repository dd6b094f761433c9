// SPDX-License-Identifier: Apache-2.0

package import Packet

/// What a machine was let do though its rules deny it, because those are only tried out: the last things that differ.
package struct AuditTrail: Equatable, Sendable {
    package enum Target: Equatable, Sendable {
        /// A port is 0 where the protocol has none.
        case address(IPv6Address, port: UInt16, protocolNumber: UInt8)
        /// A name that was asked for, in small letters.
        case name(String)
    }

    package struct Entry: Equatable, Sendable {
        package var target: Target
        package var count: UInt64
    }

    /// How many are kept; the one goes that has not come for the longest.
    package static let limit = 32

    /// The latest last.
    package private(set) var entries: [Entry] = []

    package init() {}

    package mutating func add(_ target: Target) {
        var entry = Entry(target: target, count: 0)
        if let known = entries.firstIndex(where: { $0.target == target }) {
            entry = entries.remove(at: known)
        } else if entries.count >= AuditTrail.limit {
            entries.removeFirst()
        }
        entry.count &+= 1
        entries.append(entry)
    }
}
