// SPDX-License-Identifier: Apache-2.0

/// How often what was asked for, by the groups and names of the figures that the monitor writes.
package struct APICounters: Equatable, Sendable {
    package private(set) var values: [String: UInt64] = [:]

    package init() {}

    package mutating func count(_ group: String, _ name: String) { values["\(group).\(name)", default: 0] += 1 }

    package subscript(group: String, name: String) -> UInt64 { values["\(group).\(name)"] ?? 0 }
}
