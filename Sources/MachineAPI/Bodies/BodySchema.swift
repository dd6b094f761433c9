// SPDX-License-Identifier: Apache-2.0

/// What a value in a request's body may be.
package indirect enum BodyShape: Equatable, Sendable {
    case string
    case path
    case bool
    /// An unsigned integer of 8, 16, 32 or 64 bits.
    case unsigned(Int)
    /// A size in the machine's own word; as `unsigned(64)`, but for its name in messages.
    case size
    /// One of some words.
    case word([String])
    /// A log level, in any case.
    case level
    /// An Ethernet address.
    case address
    /// Any number of values of one shape.
    case list(BodyShape)
    /// An object whose members are strings.
    case strings
    case object(BodySchema)
}

package struct BodyField: Equatable, Sendable {
    package let name: String
    package let shape: BodyShape
    package let isRequired: Bool
    /// Whether null stands for a missing field.
    package let isNullable: Bool
    /// Whether it is ours, and Firecracker refuses it.
    package let isAddition: Bool
    /// A field of our own that may be there instead of one that must be.
    package var alternative: String?

    /// A field that must be there.
    static func required(_ name: String, _ shape: BodyShape) -> BodyField {
        BodyField(name: name, shape: shape, isRequired: true, isNullable: false, isAddition: false)
    }

    /// A field that must be there, unless another is.
    static func required(_ name: String, _ shape: BodyShape, or alternative: String) -> BodyField {
        var field = required(name, shape)
        field.alternative = alternative
        return field
    }

    /// A field that may be missing or null.
    static func optional(_ name: String, _ shape: BodyShape) -> BodyField {
        BodyField(name: name, shape: shape, isRequired: false, isNullable: true, isAddition: false)
    }

    /// A field that may be missing, but not null.
    static func defaulted(_ name: String, _ shape: BodyShape) -> BodyField {
        BodyField(name: name, shape: shape, isRequired: false, isNullable: false, isAddition: false)
    }

    /// A field of our own, which may be missing or null.
    static func addition(_ name: String, _ shape: BodyShape) -> BodyField {
        BodyField(name: name, shape: shape, isRequired: false, isNullable: true, isAddition: true)
    }
}

/// The members that an object in a body has.
package struct BodySchema: Equatable, Sendable {
    /// As messages name it.
    package let name: String
    package let fields: [BodyField]
    /// Whether a member that is none of the fields is an error. Otherwise it is passed over.
    package let refusesUnknown: Bool

    init(_ name: String, _ fields: [BodyField], refusesUnknown: Bool = true) {
        self.name = name
        self.fields = fields
        self.refusesUnknown = refusesUnknown
    }
}
