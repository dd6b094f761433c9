// SPDX-License-Identifier: Apache-2.0

#if !hasFeature(Embedded)

extension JSON: CustomStringConvertible {
    /// The value as text on one line.
    package var description: String { String(decoding: encoded(), as: UTF8.self) }

    /// The value as UTF-8, on one line, or indented by two spaces a level.
    package func encoded(indented: Bool = false) -> [UInt8] {
        var writer = JSONWriter(indented: indented)
        writer.write(self, level: 0)
        return writer.bytes
    }
}

private struct JSONWriter {
    let indented: Bool
    var bytes: [UInt8] = []

    init(indented: Bool) { self.indented = indented }

    mutating func write(_ value: JSON, level: Int) {
        switch value {
        case .null: text("null")
        case .bool(let value): text(value ? "true" : "false")
        case .integer(let value): text(String(value))
        case .unsigned(let value): text(String(value))
        // JSON has no word for what is not finite.
        case .double(let value): text(value.isFinite ? value.description : "null")
        case .string(let value): string(value)
        case .array(let elements):
            list(elements.count, level, 0x5b, 0x5d) { writer, index in
                writer.write(elements[index], level: level + 1)
            }
        case .object(let object):
            list(object.count, level, 0x7b, 0x7d) { writer, index in
                writer.string(object.names[index])
                writer.text(writer.indented ? ": " : ":")
                writer.write(object.values[index], level: level + 1)
            }
        }
    }

    private mutating func list(
        _ count: Int, _ level: Int, _ open: UInt8, _ close: UInt8, _ element: (inout JSONWriter, Int) -> Void
    ) {
        bytes.append(open)
        for index in 0..<count {
            if index > 0 { bytes.append(0x2c) }
            newline(level + 1)
            element(&self, index)
        }
        if count > 0 { newline(level) }
        bytes.append(close)
    }

    private mutating func newline(_ level: Int) {
        guard indented else { return }
        bytes.append(0x0a)
        for _ in 0..<(2 * level) { bytes.append(0x20) }
    }

    private mutating func text(_ text: String) { bytes.append(contentsOf: text.utf8) }

    private mutating func string(_ value: String) {
        bytes.append(0x22)
        for byte in value.utf8 {
            switch byte {
            case 0x22, 0x5c: bytes += [0x5c, byte]
            case 0x0a: bytes += [0x5c, 0x6e]
            case 0x0d: bytes += [0x5c, 0x72]
            case 0x09: bytes += [0x5c, 0x74]
            case 0..<0x20, 0x7f:
                text("\\u00")
                bytes += [digit(byte >> 4), digit(byte & 15)]
            default: bytes.append(byte)
            }
        }
        bytes.append(0x22)
    }

    private func digit(_ value: UInt8) -> UInt8 { value < 10 ? 0x30 + value : 0x57 + value }
}

#endif
