// SPDX-License-Identifier: Apache-2.0

/// A process's variables, `NAME=value` each.
package struct Environment: Equatable, Sendable {
    package private(set) var variables: [[UInt8]]

    package init(_ variables: [[UInt8]]) {
        self.variables = variables
    }

    package func value(of name: StaticString) -> [UInt8]? {
        let start = text(name) + [UInt8(ascii: "=")]
        for variable in variables where variable.hasPrefix(start) { return Array(variable[start.count...]) }
        return nil
    }

    /// Gives `name` a value where it has none or an empty one.
    package mutating func setDefault(_ name: StaticString, _ value: [UInt8]) {
        let start = text(name) + [UInt8(ascii: "=")]
        for index in variables.indices where variables[index].hasPrefix(start) {
            if variables[index].count == start.count { variables[index] = start + value }
            return
        }
        variables.append(start + value)
    }
}
