// SPDX-License-Identifier: Apache-2.0

// The guest speaks no JSON: its build leaves this out, and with it the Unicode tables that comparing strings needs.
#if !hasFeature(Embedded)

/// A JSON value (RFC 8259). Numbers without fraction and exponent stay exact integers.
package enum JSON: Equatable, Sendable {
    case null
    case bool(Bool)
    case integer(Int64)
    /// An integer above `Int64.max`.
    case unsigned(UInt64)
    case double(Double)
    case string(String)
    case array([JSON])
    case object(JSONObject)

    /// A number from any integer.
    package static func number(_ value: some BinaryInteger) -> JSON {
        if let small = Int64(exactly: value) { return .integer(small) }
        return .unsigned(UInt64(clamping: value))
    }

    /// The member of an object; nil where there is none, or where this is no object.
    package subscript(name: String) -> JSON? {
        guard case .object(let object) = self else { return nil }
        return object[name]
    }

    package var stringValue: String? { if case .string(let value) = self { value } else { nil } }
    package var boolValue: Bool? { if case .bool(let value) = self { value } else { nil } }
    package var arrayValue: [JSON]? { if case .array(let value) = self { value } else { nil } }
    package var objectValue: JSONObject? { if case .object(let value) = self { value } else { nil } }

    package var integerValue: Int64? { if case .integer(let value) = self { value } else { nil } }

    package var unsignedValue: UInt64? {
        switch self {
        case .integer(let value): UInt64(exactly: value)
        case .unsigned(let value): value
        default: nil
        }
    }

    package var doubleValue: Double? {
        switch self {
        case .integer(let value): Double(value)
        case .unsigned(let value): Double(value)
        case .double(let value): value
        default: nil
        }
    }

    /// What kind of value it is, for messages: `a string`.
    package var kind: StaticString {
        switch self {
        case .null: "null"
        case .bool: "true or false"
        case .integer, .unsigned: "an integer"
        case .double: "a number with a fraction"
        case .string: "a string"
        case .array: "an array"
        case .object: "an object"
        }
    }
}

/// The members of a JSON object, in the order in which they were written; no name comes twice.
package struct JSONObject: Equatable, Sendable {
    package private(set) var names: [String] = []
    package private(set) var values: [JSON] = []
    // Objects of more members than a look at each is good for have an index.
    private var index: [String: Int] = [:]
    private static let linearLimit = 64

    package init() {}

    package var count: Int { names.count }

    private func place(of name: String) -> Int? {
        names.count <= Self.linearLimit ? names.firstIndex(of: name) : index[name]
    }

    /// The member's value. Setting nil does nothing.
    package subscript(name: String) -> JSON? {
        get { place(of: name).map { values[$0] } }
        set {
            guard let newValue else { return }
            if let place = place(of: name) { values[place] = newValue } else { append(name, newValue) }
        }
    }

    /// Adds a member whose name is new.
    mutating func append(_ name: String, _ value: JSON) {
        names.append(name)
        values.append(value)
        if names.count > Self.linearLimit + 1 {
            index[name] = names.count - 1
        } else if names.count == Self.linearLimit + 1 {
            for (place, name) in names.enumerated() { index[name] = place }
        }
    }

    /// Whether there is a member of this name.
    package func contains(_ name: String) -> Bool { place(of: name) != nil }

    package static func == (one: JSONObject, other: JSONObject) -> Bool {
        one.names == other.names && one.values == other.values
    }
}

extension JSON: ExpressibleByStringLiteral, ExpressibleByBooleanLiteral, ExpressibleByIntegerLiteral,
    ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
    package init(stringLiteral value: String) { self = .string(value) }
    package init(booleanLiteral value: Bool) { self = .bool(value) }
    package init(integerLiteral value: Int64) { self = .integer(value) }
    package init(arrayLiteral elements: JSON...) { self = .array(elements) }

    /// An object; of members with the same name the last one counts.
    package init(dictionaryLiteral elements: (String, JSON)...) {
        var object = JSONObject()
        for (name, value) in elements { object[name] = value }
        self = .object(object)
    }
}

#endif
