// SPDX-License-Identifier: Apache-2.0

internal import Wire

// Values of any kind: those that nobody reads, and those that are read only to be named in a message.
extension BodyReader {
    mutating func anything() throws(BodyError) -> JSON {
        guard depth > 0 else { throw failureAhead("recursion limit exceeded") }
        depth -= 1
        defer { depth += 1 }
        switch peek() {
        case nil: throw failureAhead("EOF while parsing a value")
        case 0x6e: return try ident("null", .null)
        case 0x74: return try ident("true", .bool(true))
        case 0x66: return try ident("false", .bool(false))
        case 0x22: return .string(try text())
        case 0x2d, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39: return try number()
        case 0x5b:
            index += 1
            try skipList()
            return .array([])
        case 0x7b:
            index += 1
            try skipObject()
            return .object(JSONObject())
        default: throw failureAhead("expected value")
        }
    }

    private mutating func skipList() throws(BodyError) {
        var isFirst = true
        while peek() != 0x5d {
            if !isFirst {
                guard let next = peek() else { throw failureAhead("EOF while parsing a list") }
                guard next == 0x2c else { throw failureAhead("expected `,` or `]`") }
                index += 1
                if peek() == 0x5d { throw failureAhead("trailing comma") }
            } else if peek() == nil {
                throw failureAhead("EOF while parsing a list")
            }
            isFirst = false
            _ = try anything()
        }
        index += 1
    }

    private mutating func skipObject() throws(BodyError) {
        var isFirst = true
        while peek() != 0x7d {
            if !isFirst {
                guard let next = peek() else { throw failureAhead("EOF while parsing an object") }
                guard next == 0x2c else { throw failureAhead("expected `,` or `}`") }
                index += 1
                if peek() == 0x7d { throw failureAhead("trailing comma") }
            }
            isFirst = false
            switch peek() {
            case nil: throw failureAhead("EOF while parsing an object")
            case 0x22: _ = try text()
            default: throw failureAhead("key must be a string")
            }
            guard let colon = peek() else { throw failureAhead("EOF while parsing an object") }
            guard colon == 0x3a else { throw failureAhead("expected `:`") }
            index += 1
            _ = try anything()
        }
        index += 1
    }

    private mutating func ident(_ word: StaticString, _ value: JSON) throws(BodyError) -> JSON {
        index += 1
        for byte in Array(word.description.utf8).dropFirst() {
            guard index < bytes.count else { throw failure("EOF while parsing a value") }
            index += 1
            guard bytes[index - 1] == byte else { throw failure("expected ident") }
        }
        return value
    }

    private mutating func number() throws(BodyError) -> JSON {
        let start = index
        var isInteger = true
        if bytes[index] == 0x2d { index += 1 }
        let firstDigit = index
        skipDigits()
        guard index > firstDigit else {
            throw index < bytes.count ? failureAhead("invalid number") : failure("EOF while parsing a value")
        }
        if bytes[firstDigit] == 0x30, index > firstDigit + 1 {
            index = firstDigit + 1
            throw failureAhead("invalid number")
        }
        if index < bytes.count, bytes[index] == 0x2e {
            isInteger = false
            index += 1
            try needDigits()
        }
        if index < bytes.count, bytes[index] | 0x20 == 0x65 {
            isInteger = false
            index += 1
            if index < bytes.count, bytes[index] == 0x2b || bytes[index] == 0x2d { index += 1 }
            try needDigits()
        }
        guard index - start <= 400 else { throw failure("number out of range") }
        let text = String(decoding: bytes[start..<index], as: UTF8.self)
        if isInteger {
            if let value = Int64(text) { return .integer(value) }
            if let value = UInt64(text) { return .unsigned(value) }
        }
        guard let value = Double(text), value.isFinite else { throw failure("number out of range") }
        return .double(value)
    }

    private mutating func skipDigits() {
        while index < bytes.count, bytes[index] >= 0x30, bytes[index] <= 0x39 { index += 1 }
    }

    private mutating func needDigits() throws(BodyError) {
        let start = index
        skipDigits()
        guard index == start else { return }
        throw index < bytes.count ? failureAhead("invalid number") : failure("EOF while parsing a value")
    }

    /// A string, whose opening quote lies ahead.
    mutating func text() throws(BodyError) -> String {
        index += 1
        var content: [UInt8] = []
        while true {
            guard index < bytes.count else { throw failure("EOF while parsing a string") }
            let byte = bytes[index]
            index += 1
            switch byte {
            case 0x22:
                guard let text = String(validating: content, as: UTF8.self) else {
                    throw failure("invalid unicode code point")
                }
                return text
            case 0x5c: try escape(into: &content)
            case 0..<0x20: throw failure("control character (\\u0000-\\u001F) found while parsing a string")
            default: content.append(byte)
            }
        }
    }

    private mutating func escape(into content: inout [UInt8]) throws(BodyError) {
        guard index < bytes.count else { throw failure("EOF while parsing a string") }
        let byte = bytes[index]
        index += 1
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
                guard index + 1 < bytes.count, bytes[index] == 0x5c, bytes[index + 1] == 0x75 else {
                    throw failure("unexpected end of hex escape")
                }
                index += 2
                let low = UInt32(try codeUnit())
                guard low >= 0xdc00, low < 0xe000 else { throw failure("lone leading surrogate in hex escape") }
                scalar = 0x1_0000 + (scalar - 0xd800) << 10 + (low - 0xdc00)
            }
            guard let character = Unicode.Scalar(scalar) else {
                throw failure("lone leading surrogate in hex escape")
            }
            content.append(contentsOf: UTF8.encode(character).map { Array($0) } ?? [])
        default: throw failure("invalid escape")
        }
    }

    private mutating func codeUnit() throws(BodyError) -> UInt16 {
        guard bytes.count - index >= 4 else {
            index = bytes.count
            throw failure("EOF while parsing a string")
        }
        var value: UInt16 = 0
        for _ in 0..<4 {
            guard let digit = Self.digit(bytes[index]) else { throw failure("invalid escape") }
            value = value << 4 | digit
            index += 1
        }
        return value
    }

    private static func digit(_ byte: UInt8) -> UInt16? {
        switch byte {
        case 0x30...0x39: UInt16(byte - 0x30)
        case 0x41...0x46: UInt16(byte - 0x37)
        case 0x61...0x66: UInt16(byte - 0x57)
        default: nil
        }
    }
}
