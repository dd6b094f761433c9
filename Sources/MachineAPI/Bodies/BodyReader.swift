// SPDX-License-Identifier: Apache-2.0

internal import Wire

/// What is wrong with a body, as clients of Firecracker's API know it.
package struct BodyError: Error, Equatable, Sendable, CustomStringConvertible {
    let problem: String
    /// From 1; nil until it is known where the value lies that the problem is about.
    var line: Int?
    /// In bytes; 0 before the first.
    var column = 0

    init(_ problem: String) { self.problem = problem }

    package var description: String { line.map { "\(problem) at line \($0) column \(column)" } ?? problem }
}

extension BodySchema {
    /// Reads a body that is one object of this schema; what it gives has the right members of the right kinds.
    ///
    /// The text is judged from its beginning to its end, and the first fault counts, as with Firecracker, whose clients
    /// and tests compare the words and the place. So members are judged while they are read.
    func read(_ bytes: [UInt8]) throws(BodyError) -> JSON {
        var reader = BodyReader(bytes: bytes)
        let value = try reader.object(self)
        try reader.end()
        return value
    }
}

/// A recursive descent that knows what it expects. Schemas are not recursive, and values that nobody reads may be
/// nested 128 deep.
struct BodyReader {
    let bytes: [UInt8]
    var index = 0
    var depth = 128

    init(bytes: [UInt8]) { self.bytes = bytes }

    // MARK: - Places

    /// An error about what was read up to here.
    func failure(_ problem: String) -> BodyError { located(BodyError(problem), at: index) }

    /// An error about the byte that comes next.
    func failureAhead(_ problem: String) -> BodyError { located(BodyError(problem), at: min(index + 1, bytes.count)) }

    /// The same error, with the place reached unless it has one already.
    private func fixed(_ error: BodyError) -> BodyError { error.line == nil ? located(error, at: index) : error }

    private func located(_ error: BodyError, at place: Int) -> BodyError {
        var error = error
        var line = 1
        var start = 0
        for offset in 0..<place where bytes[offset] == 0x0a {
            line += 1
            start = offset + 1
        }
        error.line = line
        error.column = place - start
        return error
    }

    // MARK: - Signs

    /// The next byte that is no space, which stays ahead; nil at the end.
    mutating func peek() -> UInt8? {
        while index < bytes.count {
            switch bytes[index] {
            case 0x20, 0x09, 0x0a, 0x0d: index += 1
            case let byte: return byte
            }
        }
        return nil
    }

    func end() throws(BodyError) {
        var copy = self
        if copy.peek() != nil { throw copy.failureAhead("trailing characters") }
    }

    private mutating func takeColon() throws(BodyError) {
        switch peek() {
        case 0x3a: index += 1
        case nil: throw failureAhead("EOF while parsing an object")
        default: throw failureAhead("expected `:`")
        }
    }

    /// Whether another member follows, whose name is then ahead.
    private mutating func hasMember(isFirst: Bool) throws(BodyError) -> Bool {
        switch peek() {
        case nil: throw failureAhead("EOF while parsing an object")
        case 0x7d: return false
        case let byte? where isFirst:
            guard byte == 0x22 else { throw failureAhead("key must be a string") }
            return true
        case 0x2c:
            index += 1
            switch peek() {
            case 0x22: return true
            case 0x7d: throw failureAhead("trailing comma")
            case nil: throw failureAhead("EOF while parsing a value")
            default: throw failureAhead("key must be a string")
            }
        default: throw failureAhead("expected `,` or `}`")
        }
    }

    private mutating func hasElement(isFirst: Bool) throws(BodyError) -> Bool {
        switch peek() {
        case nil: throw failureAhead("EOF while parsing a list")
        case 0x5d: return false
        case _ where isFirst: return true
        case 0x2c:
            index += 1
            switch peek() {
            case 0x5d: throw failureAhead("trailing comma")
            case nil: throw failureAhead("EOF while parsing a value")
            default: return true
            }
        default: throw failureAhead("expected `,` or `]`")
        }
    }

    // MARK: - Values

    mutating func object(_ schema: BodySchema) throws(BodyError) -> JSON {
        do throws(BodyError) {
            guard peek() == 0x7b else { throw try mismatch("struct \(schema.name)") }
            index += 1
            var members = JSONObject()
            do throws(BodyError) {
                try readMembers(schema, into: &members)
            } catch {
                // The place of an error about a member's name is behind it and the space that follows; one about a
                // missing member is behind the object.
                if peek() == 0x7d { index += 1 }
                throw error
            }
            index += 1
            return .object(members)
        } catch {
            throw fixed(error)
        }
    }

    private mutating func readMembers(_ schema: BodySchema, into members: inout JSONObject) throws(BodyError) {
        var seen: Set<String> = []
        var isFirst = true
        while try hasMember(isFirst: isFirst) {
            isFirst = false
            let name = try text()
            guard let field = schema.fields.first(where: { $0.name == name }) else {
                if schema.refusesUnknown {
                    throw BodyError("unknown field `\(name)`, \(Self.expected(schema.fields.map(\.name)))")
                }
                try takeColon()
                _ = try anything()
                continue
            }
            guard seen.insert(name).inserted else { throw BodyError("duplicate field `\(name)`") }
            try takeColon()
            if field.isNullable, peek() == 0x6e {
                _ = try anything()
            } else {
                members[name] = try value(field.shape)
            }
        }
        for field in schema.fields where field.isRequired && !seen.contains(field.name) {
            if let other = field.alternative, members[other] != nil { continue }
            throw BodyError("missing field `\(field.name)`")
        }
    }

    private mutating func value(_ shape: BodyShape) throws(BodyError) -> JSON {
        switch shape {
        case .object(let schema): return try object(schema)
        case .string: return try string("a string") { .string($0) }
        case .path: return try string("path string") { .string($0) }
        case .level:
            return try string("a string") { text throws(BodyError) in
                guard Logger.Level(word: text) != nil else { throw BodyError("Invalid LevelFilter") }
                return .string(text)
            }
        case .address:
            return try string("a string") { text throws(BodyError) in
                guard MACAddress(text) != nil else {
                    throw BodyError("The provided MAC address is invalid.")
                }
                return .string(text)
            }
        case .word(let words): return try word(words)
        case .bool: return try flag()
        case .unsigned(let bits): return try number("u\(bits)", most: UInt64.max >> UInt64(64 - bits))
        case .size: return try number("usize", most: .max)
        case .list(let element): return try list(element)
        case .strings: return try strings()
        }
    }

    /// A string; what `judge` says of it has its place behind the string.
    private mutating func string(
        _ expectation: String, _ judge: (String) throws(BodyError) -> JSON
    ) throws(BodyError) -> JSON {
        guard peek() == 0x22 else { throw try mismatchHere(expectation) }
        let text = try text()
        // Without a place: the object around it gives one.
        return try judge(text)
    }

    private mutating func word(_ words: [String]) throws(BodyError) -> JSON {
        switch peek() {
        case 0x22: break
        case nil: throw failureAhead("EOF while parsing a value")
        default: throw failureAhead("expected value")
        }
        let text = try text()
        guard words.contains(text) else { throw failure("unknown variant `\(text)`, \(Self.expected(words))") }
        return .string(text)
    }

    private mutating func flag() throws(BodyError) -> JSON {
        switch peek() {
        case 0x74, 0x66: return try anything()
        default: throw try mismatchHere("a boolean")
        }
    }

    private mutating func number(_ name: String, most: UInt64) throws(BodyError) -> JSON {
        switch peek() {
        case 0x2d, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39: break
        default: throw try mismatchHere(name)
        }
        let value = try anything()
        guard let number = value.unsignedValue else {
            if case .integer(let negative) = value {
                throw failure("invalid value: integer `\(negative)`, expected \(name)")
            }
            throw failure("invalid type: \(Self.named(value)), expected \(name)")
        }
        guard number <= most else { throw failure("invalid value: integer `\(number)`, expected \(name)") }
        return value
    }

    private mutating func list(_ element: BodyShape) throws(BodyError) -> JSON {
        guard peek() == 0x5b else { throw try mismatchHere("a sequence") }
        index += 1
        var elements: [JSON] = []
        do throws(BodyError) {
            while try hasElement(isFirst: elements.isEmpty) { elements.append(try value(element)) }
        } catch {
            throw fixed(error)
        }
        index += 1
        return .array(elements)
    }

    private mutating func strings() throws(BodyError) -> JSON {
        guard peek() == 0x7b else { throw try mismatchHere("a map") }
        index += 1
        var members = JSONObject()
        var isFirst = true
        do throws(BodyError) {
            while try hasMember(isFirst: isFirst) {
                isFirst = false
                let name = try text()
                try takeColon()
                members[name] = try value(.string)
            }
        } catch {
            throw fixed(error)
        }
        index += 1
        return .object(members)
    }

    // MARK: - Words for what is wrong

    /// Reads the value that lies ahead and says that another kind is wanted.
    private mutating func mismatch(_ expectation: String) throws(BodyError) -> BodyError {
        switch peek() {
        case nil: throw failureAhead("EOF while parsing a value")
        // Of these only the beginning is looked at.
        case 0x5b: return BodyError("invalid type: sequence, expected \(expectation)")
        case 0x7b: return BodyError("invalid type: map, expected \(expectation)")
        default: return BodyError("invalid type: \(Self.named(try anything())), expected \(expectation)")
        }
    }

    /// The same, with its place behind what was read.
    private mutating func mismatchHere(_ expectation: String) throws(BodyError) -> BodyError {
        let error = try mismatch(expectation)
        return fixed(error)
    }

    private static func named(_ value: JSON) -> String {
        switch value {
        case .null: "null"
        case .bool(let value): "boolean `\(value)`"
        case .integer(let value): "integer `\(value)`"
        case .unsigned(let value): "integer `\(value)`"
        case .double(let value): "floating point `\(value.description.filter { $0 != "+" })`"
        case .string(let value): "string \(value.debugDescription)"
        case .array: "sequence"
        case .object: "map"
        }
    }

    private static func expected(_ words: [String]) -> String {
        switch words.count {
        case 0: "there are no fields"
        case 1: "expected `\(words[0])`"
        case 2: "expected `\(words[0])` or `\(words[1])`"
        default: "expected one of " + words.map { "`\($0)`" }.joined(separator: ", ")
        }
    }
}
