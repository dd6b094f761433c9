// SPDX-License-Identifier: Apache-2.0

/// ACPI machine language, as much of it as our DSDT needs (ACPI 6.5, chapter 20). Each function gives
/// the encoding of one term; names are four characters, padded with `_`.
enum AML {
    static func scope(_ path: String, _ terms: [[UInt8]]) -> [UInt8] {
        [0x10] + packaged(Array(path.utf8) + terms.flatMap { $0 })
    }

    static func device(_ name: String, _ terms: [[UInt8]]) -> [UInt8] {
        [0x5b, 0x82] + packaged(segment(name) + terms.flatMap { $0 })
    }

    static func name(_ name: String, _ value: [UInt8]) -> [UInt8] {
        [0x08] + segment(name) + value
    }

    /// A method that one caller at a time is in.
    static func method(_ name: String, argumentCount: UInt8, _ terms: [[UInt8]]) -> [UInt8] {
        [0x14] + packaged(segment(name) + [argumentCount | 0x08] + terms.flatMap { $0 })
    }

    /// If (LEqual (ArgN, value)) {…}
    static func ifArgument(_ number: UInt8, equals value: UInt64, _ terms: [[UInt8]]) -> [UInt8] {
        [0xa0] + packaged([0x93, 0x68 + number] + integer(value) + terms.flatMap { $0 })
    }

    /// Notify, of a device in the root's scope: a path of two segments.
    static func notify(_ path: String, _ value: UInt64) -> [UInt8] {
        let bytes = Array(path.utf8)
        precondition(bytes.count == 9, "a root, and two segments of four characters")
        return [0x86, bytes[0], 0x2e] + bytes[1...] + integer(value)
    }

    static func integer(_ value: UInt64) -> [UInt8] {
        switch value {
        case 0: return [0x00]
        case 1: return [0x01]
        case ...0xff: return [0x0a, UInt8(value)]
        case ...0xffff:
            var bytes: [UInt8] = [0x0b]
            bytes.append(little: UInt16(value))
            return bytes
        case ...0xffff_ffff:
            var bytes: [UInt8] = [0x0c]
            bytes.append(little: UInt32(value))
            return bytes
        default:
            var bytes: [UInt8] = [0x0e]
            bytes.append(little: value)
            return bytes
        }
    }

    static func string(_ text: String) -> [UInt8] {
        [0x0d] + Array(text.utf8) + [0]
    }

    static func buffer(_ bytes: [UInt8]) -> [UInt8] {
        [0x11] + packaged(integer(UInt64(bytes.count)) + bytes)
    }

    static func package(_ elements: [[UInt8]]) -> [UInt8] {
        [0x12] + packaged([UInt8(elements.count)] + elements.flatMap { $0 })
    }

    /// A compressed EISA identifier: three letters and four hexadecimal digits, as in `PNP0501` (ACPI 6.5, 19.3.4).
    static func eisaIdentifier(_ text: StaticString) -> [UInt8] {
        let bytes = Array(text.description.utf8)
        precondition(bytes.count == 7, "an EISA identifier has seven characters")
        var value: UInt32 = 0
        for letter in bytes[0..<3] { value = value << 5 | UInt32(letter - 0x40) }
        for digit in bytes[3...] { value = value << 4 | UInt32(digit < 0x41 ? digit - 0x30 : digit - 0x37) }
        return integer(UInt64(value.byteSwapped))
    }

    /// A resource template: a buffer of descriptors with an end tag (ACPI 6.5, 6.4).
    static func resources(_ descriptors: [[UInt8]]) -> [UInt8] {
        buffer(descriptors.flatMap { $0 } + [0x79, 0])
    }

    /// Memory32Fixed, writable.
    static func memory(_ base: UInt64, count: UInt64) -> [UInt8] {
        var bytes: [UInt8] = [0x86, 9, 0, 1]
        bytes.append(little: UInt32(truncatingIfNeeded: base))
        bytes.append(little: UInt32(truncatingIfNeeded: count))
        return bytes
    }

    /// IO, decoding 16 bits.
    static func ports(_ first: UInt16, count: UInt8) -> [UInt8] {
        var bytes: [UInt8] = [0x47, 1]
        bytes.append(little: first)
        bytes.append(little: first)
        return bytes + [1, count]
    }

    /// Interrupt, consumed by the device alone, on a rising edge.
    static func interrupt(_ line: UInt32) -> [UInt8] {
        var bytes: [UInt8] = [0x89, 6, 0, 0x03, 1]
        bytes.append(little: line)
        return bytes
    }

    private static func segment(_ name: String) -> [UInt8] {
        var bytes = Array(name.utf8)
        precondition(bytes.count <= 4, "a name has at most four characters")
        while bytes.count < 4 { bytes.append(UInt8(ascii: "_")) }
        return bytes
    }

    /// The bytes with their length before them, which counts itself (ACPI 6.5, 20.2.4).
    private static func packaged(_ bytes: [UInt8]) -> [UInt8] {
        if bytes.count + 1 < 0x40 { return [UInt8(bytes.count + 1)] + bytes }
        for extra in 1...3 {
            let total = bytes.count + 1 + extra
            guard total < 1 << (4 + 8 * extra) else { continue }
            var head = [UInt8(extra << 6 | total & 0xf)]
            for index in 0..<extra { head.append(UInt8(truncatingIfNeeded: total >> (4 + 8 * index))) }
            return head + bytes
        }
        preconditionFailure("a term of 256 MiB")
    }
}
