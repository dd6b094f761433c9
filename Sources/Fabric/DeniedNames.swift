// SPDX-License-Identifier: Apache-2.0

internal import Packet

/// The names that a machine was just told do not exist here. A resolver that is told so asks again with each of its search
/// domains behind the name: of those, one that is no network's would be asked outside, and with it the name that is not to
/// leave. Names of one label are not kept: that they are looked for in a search domain is what it is there for.
package struct DeniedNames: Sendable {
    /// How many are kept, the last ones. A resolver asks for the same name anew at once.
    package static let limit = 8

    private struct Entry {
        let name: DNSName
        /// In nanoseconds, as all times here.
        let end: UInt64
    }

    private var entries: [Entry] = []

    package init() {}

    mutating func note(_ name: DNSName, now: UInt64) {
        guard name.labelCount > 1 else { return }
        entries.removeAll { $0.end <= now || $0.name == name }
        if entries.count == Self.limit { entries.removeFirst() }
        entries.append(Entry(name: name, end: now &+ UInt64(NameServer.negativeTimeToLive) &* 1_000_000_000))
    }

    /// Whether a name is one of them with more labels behind it. Whether one of them alone is to be asked for is another
    /// matter: its network may have gone.
    func cover(_ name: DNSName, now: UInt64) -> Bool {
        entries.contains { $0.end > now && name != $0.name && name.begins(with: $0.name) }
    }
}
