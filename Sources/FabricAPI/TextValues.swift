// SPDX-License-Identifier: Apache-2.0

package import Packet
package import Wire

/// A value that JSON has as the text in which people write it.
package protocol TextValue {
    init?(_ text: String)
}

extension IPv4Address: TextValue {}
extension IPv6Address: TextValue {}
extension IPv4Prefix: TextValue {}
extension IPv6Prefix: TextValue {}
extension MACAddress: TextValue {}

extension JSONView {
    /// The value that a text spells.
    package func parsed<Value: TextValue>(_ wanted: String) throws(JSONMismatch) -> Value {
        let text = try string()
        guard let value = Value(text) else { throw mismatch("\"\(text)\" is not \(wanted)") }
        return value
    }

    /// A list of at most so many values.
    package func parsedElements<Value: TextValue>(_ wanted: String, limit: Int) throws(JSONMismatch) -> [Value] {
        let elements = try elements()
        guard elements.count <= limit else { throw mismatch("\(elements.count) are too many; \(limit) are the most") }
        var values: [Value] = []
        for element in elements { values.append(try element.parsed(wanted)) }
        return values
    }
}
