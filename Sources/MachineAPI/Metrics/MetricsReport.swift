// SPDX-License-Identifier: Apache-2.0

internal import Wire

/// Figures by the names of their groups and their own. A device's group is `block_` or `net_` and the device's name.
package struct MetricsValues: Equatable, Sendable {
    package private(set) var values: [String: UInt64] = [:]

    package init() {}

    package subscript(group: String, name: String) -> UInt64 {
        get { values["\(group).\(name)"] ?? 0 }
        set { values["\(group).\(name)"] = newValue }
    }

    package mutating func merge(_ counters: APICounters) {
        values.merge(counters.values) { $0 &+ $1 }
    }
}

/// Makes the lines of figures: what was counted since the last line, and levels as they are.
package struct MetricsReport: Sendable {
    private var last = MetricsValues()
    private let settings: MetricsSettings
    private let identifier: String

    package init(_ settings: MetricsSettings, identifier: String) {
        self.settings = settings
        self.identifier = identifier
    }

    /// The next line, with its end.
    /// - Parameters:
    ///   - values: all that was counted so far.
    ///   - drives: the names of the drives, which have groups of their own; likewise `interfaces`.
    package mutating func line(
        _ values: MetricsValues, drives: [String], interfaces: [String], timeInMilliseconds: UInt64
    ) -> [UInt8] {
        var line = JSONObject()
        line["utc_timestamp_ms"] = .number(timeInMilliseconds)
        if settings.emitsIdentifier { line["id"] = .string(identifier) }
        if let properties = settings.properties {
            var object = JSONObject()
            for (name, value) in properties { object[name] = .string(value) }
            line["properties"] = .object(object)
        }
        for group in MetricsTable.groups {
            switch group.name {
            case "block": add(group, drives, values, to: &line)
            case "net": add(group, interfaces, values, to: &line)
            default: line[group.name] = object(group) { name in figure(group.name, name, values) }
            }
        }
        last = values
        return JSON.object(line).encoded() + [0x0a]
    }

    /// A group for each device, and one with their sums.
    private func add(
        _ group: MetricsTable.Group, _ devices: [String], _ values: MetricsValues, to line: inout JSONObject
    ) {
        for device in devices {
            let name = "\(group.name)_\(device)"
            line[name] = object(group) { figure(name, $0, values) }
        }
        line[group.name] = object(group) { name in
            devices.reduce(0) { $0 &+ figure("\(group.name)_\($1)", name, values) }
        }
    }

    private func figure(_ group: String, _ name: String, _ values: MetricsValues) -> UInt64 {
        let value = values[group, name]
        if MetricsTable.levels.contains(group) { return value }
        let before = last[group, name]
        return value >= before ? value - before : value
    }

    private func object(_ group: MetricsTable.Group, _ value: (String) -> UInt64) -> JSON {
        var object = JSONObject()
        for name in group.figures { object[name] = .number(value(name)) }
        for latency in group.latencies {
            var inner = JSONObject()
            for name in MetricsTable.latency { inner[name] = .number(value("\(latency).\(name)")) }
            object[latency] = .object(inner)
        }
        return .object(object)
    }
}
