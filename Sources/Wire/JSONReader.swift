// SPDX-License-Identifier: Apache-2.0

#if !hasFeature(Embedded)

/// Why a text is not JSON, or not JSON that is taken, and where.
package struct JSONSyntaxError: Error, Equatable, Sendable, CustomStringConvertible {
    package let position: JSONPosition
    package let problem: String

    package var description: String { "\(position): \(problem)" }
}

/// A place in a text, both counted from 1; columns in bytes.
package struct JSONPosition: Equatable, Sendable, CustomStringConvertible {
    package let line: Int
    package let column: Int

    init(of offset: Int, in bytes: [UInt8]) {
        var line = 1
        var lineStart = 0
        for index in 0..<min(offset, bytes.count) where bytes[index] == 0x0a {
            line += 1
            lineStart = index + 1
        }
        self.line = line
        column = offset - lineStart + 1
    }

    package var description: String { "line \(line), column \(column)" }
}

/// What a text may at most be, whoever wrote it.
package struct JSONLimits: Sendable {
    package var sizeInBytes = 1 << 20
    package var depth = 32
    package var values = 100_000

    package init() {}
}

extension JSON {
    /// Reads a text that is one JSON value. Stricter than RFC 8259 asks: UTF-8 must be valid, surrogates paired, names
    /// in an object different.
    package init(parsing bytes: [UInt8], limits: JSONLimits = JSONLimits()) throws(JSONSyntaxError) {
        var reader = JSONReader(bytes: bytes, limits: limits)
        self = try reader.document()
    }

    /// Where in a text that was read before the value at `path` begins; nil where there is none.
    package static func position(of path: JSONPath, in bytes: [UInt8]) -> JSONPosition? {
        var reader = JSONReader(bytes: bytes, limits: JSONLimits())
        reader.wanted = path.steps
        // The text was read before; the reader only notes the place this time.
        guard (try? reader.document()) != nil, let offset = reader.found else { return nil }
        return JSONPosition(of: offset, in: bytes)
    }
}

/// A recursive descent over the bytes, at most `limits.depth` deep.
struct JSONReader {
    private let bytes: [UInt8]
    private let limits: JSONLimits
    private var offset = 0
    private var values = 0

    /// The path of the value whose place is looked for, and what was found.
    var wanted: [JSONPath.Step]?
    private(set) var found: Int?
    /// How many steps of `wanted` lead to the value at hand; -1 once off the path.
    private var matched = 0

    init(bytes: [UInt8], limits: JSONLimits) {
        self.bytes = bytes
        self.limits = limits
    }

    mutating func document() throws(JSONSyntaxError) -> JSON {
        guard bytes.count <= limits.sizeInBytes else {
            throw failure("the text has more than \(limits.sizeInBytes) bytes")
        }
        let result = try value(depth: 0)
        skipSpace()
        guard offset == bytes.count else { throw failure("something follows the end of the value") }
        return result
    }

    private var next: UInt8? { offset < bytes.count ? bytes[offset] : nil }

    private func failure(_ problem: String, at place: Int? = nil) -> JSONSyntaxError {
        JSONSyntaxError(position: JSONPosition(of: place ?? offset, in: bytes), problem: problem)
    }

    private mutating func skipSpace() {
        while let byte = next, byte == 0x20 || byte == 0x0a || byte == 0x0d || byte == 0x09 { offset += 1 }
    }

    private mutating func take(_ byte: UInt8) -> Bool {
        skipSpace()
        guard next == byte else { return false }
        offset += 1
        return true
    }

    private mutating func value(depth: Int) throws(JSONSyntaxError) -> JSON {
        skipSpace()
        values += 1
        guard values <= limits.values else { throw failure("there are more than \(limits.values) values") }
        guard depth < limits.depth else { throw failure("values are nested more than \(limits.depth) deep") }
        if let wanted, matched == wanted.count, found == nil { found = offset }
        switch next {
        case nil: throw failure("the text ends where a value is expected")
        case 0x7b: return try object(depth)
        case 0x5b: return try array(depth)
        case 0x22: return .string(try string())
        case 0x2d?, 0x30?, 0x31?, 0x32?, 0x33?, 0x34?, 0x35?, 0x36?, 0x37?, 0x38?, 0x39?: return try number()
        case 0x74: return try word("true", .bool(true))
        case 0x66: return try word("false", .bool(false))
        case 0x6e: return try word("null", .null)
        default: throw failure("a value is expected here")
        }
    }

    /// Reads a value that lies one step further along a path than the one at hand.
    private mutating func value(at step: JSONPath.Step, depth: Int) throws(JSONSyntaxError) -> JSON {
        let before = matched
        if let wanted {
            matched = before >= 0 && before < wanted.count && wanted[before] == step ? before + 1 : -1
        }
        let result = try value(depth: depth)
        matched = before
        return result
    }

    private mutating func word(_ text: StaticString, _ value: JSON) throws(JSONSyntaxError) -> JSON {
        let expected = Array(text.description.utf8)
        guard bytes[offset...].starts(with: expected) else { throw failure("a value is expected here") }
        offset += expected.count
        return value
    }

    private mutating func array(_ depth: Int) throws(JSONSyntaxError) -> JSON {
        offset += 1
        var elements: [JSON] = []
        if take(0x5d) { return .array(elements) }
        while true {
            elements.append(try value(at: .element(elements.count), depth: depth + 1))
            if take(0x5d) { return .array(elements) }
            guard take(0x2c) else { throw failure("a comma or ] is expected here") }
        }
    }

    private mutating func object(_ depth: Int) throws(JSONSyntaxError) -> JSON {
        offset += 1
        var object = JSONObject()
        if take(0x7d) { return .object(object) }
        while true {
            skipSpace()
            let start = offset
            guard next == 0x22 else { throw failure("a member's name in double quotes is expected here") }
            let name = try string()
            guard !object.contains(name) else { throw failure("the name \"\(name)\" comes twice", at: start) }
            guard take(0x3a) else { throw failure("a colon is expected here") }
            object.append(name, try value(at: .member(name), depth: depth + 1))
            if take(0x7d) { return .object(object) }
            guard take(0x2c) else { throw failure("a comma or } is expected here") }
        }
    }

    private mutating func number() throws(JSONSyntaxError) -> JSON {
        let start = offset
        var isInteger = true
        func digits(_ reader: inout JSONReader) -> Int {
            let start = reader.offset
            while let byte = reader.next, byte >= 0x30, byte <= 0x39 { reader.offset += 1 }
            return reader.offset - start
        }
        if next == 0x2d { offset += 1 }
        let first = next
        let count = digits(&self)
        guard count == 1 || count > 1 && first != 0x30 else { throw failure("this is no JSON number", at: start) }
        if next == 0x2e {
            isInteger = false
            offset += 1
            guard digits(&self) > 0 else { throw failure("digits are expected here") }
        }
        if next == 0x65 || next == 0x45 {
            isInteger = false
            offset += 1
            if next == 0x2b || next == 0x2d { offset += 1 }
            guard digits(&self) > 0 else { throw failure("digits are expected here") }
        }
        guard offset - start <= 400 else { throw failure("the number is too long", at: start) }
        let text = String(decoding: bytes[start..<offset], as: UTF8.self)
        if isInteger {
            if let value = Int64(text) { return .integer(value) }
            if let value = UInt64(text) { return .unsigned(value) }
        }
        guard let value = Double(text), value.isFinite else { throw failure("the number is too large", at: start) }
        return .double(value)
    }

    private mutating func string() throws(JSONSyntaxError) -> String {
        let start = offset
        offset += 1
        // Most have no escape and are taken as they stand; of those, most are ASCII, which is valid UTF-8.
        var seen: UInt8 = 0
        while let byte = next, byte != 0x22, byte != 0x5c, byte >= 0x20 {
            seen |= byte
            offset += 1
        }
        if next == 0x22, seen < 0x80 {
            defer { offset += 1 }
            return String(decoding: bytes[start + 1..<offset], as: UTF8.self)
        }
        var content = Array(bytes[start + 1..<offset])
        while true {
            guard let byte = next else { throw failure("the string that begins here has no end", at: start) }
            switch byte {
            case 0x22:
                offset += 1
                guard let text = String(validating: content, as: UTF8.self) else {
                    throw failure("the string that begins here is not valid UTF-8", at: start)
                }
                return text
            case 0x5c:
                try escape(into: &content)
            case 0..<0x20:
                throw failure("a control character in a string must be written as an escape")
            default:
                content.append(byte)
                offset += 1
            }
        }
    }

    private mutating func escape(into content: inout [UInt8]) throws(JSONSyntaxError) {
        let start = offset
        offset += 1
        guard let byte = next else { throw failure("the text ends within a string") }
        offset += 1
        switch byte {
        case 0x22, 0x5c, 0x2f: content.append(byte)
        case 0x62: content.append(0x08)
        case 0x66: content.append(0x0c)
        case 0x6e: content.append(0x0a)
        case 0x72: content.append(0x0d)
        case 0x74: content.append(0x09)
        case 0x75:
            var scalar = UInt32(try codeUnit())
            if scalar >= 0xd800, scalar < 0xdc00 {
                guard take(exactly: 0x5c), take(exactly: 0x75) else {
                    throw failure("half of a surrogate pair", at: start)
                }
                let low = UInt32(try codeUnit())
                guard low >= 0xdc00, low < 0xe000 else { throw failure("half of a surrogate pair", at: start) }
                scalar = 0x1_0000 + (scalar - 0xd800) << 10 + (low - 0xdc00)
            }
            guard let character = Unicode.Scalar(scalar) else { throw failure("half of a surrogate pair", at: start) }
            content.append(contentsOf: UTF8.encode(character).map { Array($0) } ?? [])
        default: throw failure("there is no such escape", at: start)
        }
    }

    private mutating func take(exactly byte: UInt8) -> Bool {
        guard next == byte else { return false }
        offset += 1
        return true
    }

    private mutating func codeUnit() throws(JSONSyntaxError) -> UInt16 {
        var value: UInt16 = 0
        for _ in 0..<4 {
            guard let byte = next else { throw failure("the text ends within a string") }
            let digit: UInt8
            switch byte {
            case 0x30...0x39: digit = byte - 0x30
            case 0x41...0x46: digit = byte - 0x37
            case 0x61...0x66: digit = byte - 0x57
            default: throw failure("four hexadecimal digits are expected here")
            }
            value = value << 4 | UInt16(digit)
            offset += 1
        }
        return value
    }
}

#endif
