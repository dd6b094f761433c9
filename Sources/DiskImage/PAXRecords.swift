// SPDX-License-Identifier: Apache-2.0

/// The records of extended headers (POSIX pax) that matter to an image; the others are passed over.
struct PAXRecords {
    var path: [UInt8]?
    var linkTarget: [UInt8]?
    var sizeInBytes: UInt64?
    var uid: UInt32?
    var gid: UInt32?
    var modified: Timestamp?
    var deviceMajor: UInt32?
    var deviceMinor: UInt32?
    var xattrs: [ExtendedAttribute] = []
    // GNU tar's sparse formats 0.0, 0.1 and 1.0.
    var sparseMajor: UInt64?
    var sparseMinor: UInt64?
    var sparseName: [UInt8]?
    var sparseSizeInBytes: UInt64?
    var sparseSegments: [SparseMap.Segment] = []
    private var pendingOffset: UInt64?

    init() {}

    /// Takes over the records of one extended header.
    mutating func apply(_ body: [UInt8], limits: ConversionLimits) throws(ProblemWithRecord) {
        var position = 0
        while position < body.count {
            var length = 0
            var cursor = position
            while cursor < body.count, case let digit = body[cursor], digit != 0x20 {
                guard digit >= 0x30, digit <= 0x39, length <= body.count else { throw .problem("no length") }
                length = length * 10 + Int(digit - 0x30)
                cursor += 1
            }
            let end = position + length
            guard cursor > position, cursor < body.count, length <= body.count - position, end > cursor + 1,
                body[end - 1] == 0x0A
            else { throw .problem("wrong length of a record") }
            let record = body[(cursor + 1)..<(end - 1)]
            guard let equals = record.firstIndex(of: 0x3D), equals > record.startIndex else {
                throw .problem("a record without a key")
            }
            try apply(key: record[..<equals], value: record[(equals + 1)...], limits)
            position = end
        }
    }

    enum ProblemWithRecord: Error {
        case problem(String)
        case tooManySegments
        case tooManyAttributes
    }

    private mutating func apply(
        key: ArraySlice<UInt8>, value: ArraySlice<UInt8>, _ limits: ConversionLimits
    ) throws(ProblemWithRecord) {
        if let name = Self.suffix(of: key, after: "SCHILY.xattr.") {
            try set(Array(name), Array(value), limits)
            return
        }
        if let name = Self.suffix(of: key, after: "LIBARCHIVE.xattr.") {
            guard let name = Self.percentDecoded(name), let value = Self.base64Decoded(value) else {
                throw .problem("an attribute's encoding is wrong")
            }
            try set(name, value, limits)
            return
        }
        switch String(decoding: key, as: UTF8.self) {
        case "path": path = value.isEmpty ? nil : Array(value)
        case "linkpath": linkTarget = value.isEmpty ? nil : Array(value)
        case "size": sizeInBytes = try optional(value, "size", maximum: UInt64(Int64.max))
        case "uid": uid = try optional(value, "uid", maximum: UInt64(UInt32.max)).map { UInt32($0) }
        case "gid": gid = try optional(value, "gid", maximum: UInt64(UInt32.max)).map { UInt32($0) }
        case "mtime":
            guard !value.isEmpty else {
                modified = nil
                return
            }
            guard let time = Self.timestamp(value) else { throw .problem("mtime is no time") }
            modified = time
        case "SCHILY.devmajor": deviceMajor = try optional(value, "devmajor", maximum: 1 << 31).map { UInt32($0) }
        case "SCHILY.devminor": deviceMinor = try optional(value, "devminor", maximum: 1 << 31).map { UInt32($0) }
        case "GNU.sparse.major": sparseMajor = try optional(value, "GNU.sparse.major", maximum: 1000)
        case "GNU.sparse.minor": sparseMinor = try optional(value, "GNU.sparse.minor", maximum: 1000)
        case "GNU.sparse.name": sparseName = value.isEmpty ? nil : Array(value)
        case "GNU.sparse.size", "GNU.sparse.realsize":
            sparseSizeInBytes = try optional(value, "GNU.sparse.size", maximum: UInt64(Int64.max))
        case "GNU.sparse.offset":
            pendingOffset = try optional(value, "GNU.sparse.offset", maximum: UInt64(Int64.max))
        case "GNU.sparse.numbytes":
            guard let offset = pendingOffset, let count = Self.decimal(value) else {
                throw .problem("GNU.sparse.numbytes is wrong")
            }
            pendingOffset = nil
            try append(offset, count, limits)
        case "GNU.sparse.map":
            sparseSegments = []
            if value.isEmpty { return }
            var offset: UInt64?
            for number in value.split(separator: 0x2C, omittingEmptySubsequences: false) {
                guard let number = Self.decimal(number) else { throw .problem("GNU.sparse.map is wrong") }
                if let start = offset {
                    try append(start, number, limits)
                    offset = nil
                } else {
                    offset = number
                }
            }
            guard offset == nil else { throw .problem("GNU.sparse.map is wrong") }
        default: break
        }
    }

    private mutating func append(_ offset: UInt64, _ count: UInt64, _ limits: ConversionLimits)
        throws(ProblemWithRecord)
    {
        guard sparseSegments.count < limits.sparseSegments else { throw .tooManySegments }
        sparseSegments.append(SparseMap.Segment(offset: offset, count: count))
    }

    private mutating func set(
        _ name: [UInt8], _ value: [UInt8], _ limits: ConversionLimits
    ) throws(ProblemWithRecord) {
        xattrs.removeAll { $0.name == name }
        // The header's own limit bounds the bytes; this bounds the time that the line above takes.
        guard xattrs.count < limits.xattrsInBytes / 16 else { throw .tooManyAttributes }
        xattrs.append(ExtendedAttribute(name: name, value: value))
    }

    private func optional(
        _ value: ArraySlice<UInt8>, _ name: String, maximum: UInt64
    ) throws(ProblemWithRecord) -> UInt64? {
        if value.isEmpty { return nil }
        guard let number = Self.decimal(value), number <= maximum else { throw .problem("\(name) is no such number") }
        return number
    }

    // MARK: Encodings

    static func suffix(of key: ArraySlice<UInt8>, after prefix: StaticString) -> ArraySlice<UInt8>? {
        let count = prefix.utf8CodeUnitCount
        guard key.count > count else { return nil }
        for index in 0..<count where unsafe key[key.startIndex + index] != prefix.utf8Start[index] { return nil }
        return key.dropFirst(count)
    }

    static func decimal(_ digits: ArraySlice<UInt8>) -> UInt64? {
        guard !digits.isEmpty, digits.count <= 19 else { return nil }
        var value: UInt64 = 0
        for digit in digits {
            guard digit >= 0x30, digit <= 0x39 else { return nil }
            value = value * 10 + UInt64(digit - 0x30)  // 19 digits fit
        }
        return value <= UInt64(Int64.max) ? value : nil
    }

    /// `[-]seconds[.fraction]`, the fraction cut after nine digits.
    static func timestamp(_ text: ArraySlice<UInt8>) -> Timestamp? {
        let negative = text.first == 0x2D
        let parts = text.dropFirst(negative ? 1 : 0).split(
            separator: 0x2E, maxSplits: 1, omittingEmptySubsequences: false)
        guard let whole = parts.first, let seconds = decimal(whole) else { return nil }
        var nanoseconds: UInt32 = 0
        if parts.count == 2 {
            var weight: UInt32 = 100_000_000
            for digit in parts[1] {
                guard digit >= 0x30, digit <= 0x39 else { return nil }
                nanoseconds += UInt32(digit - 0x30) * weight
                weight /= 10
            }
        }
        if !negative { return Timestamp(seconds: Int64(seconds), nanoseconds: nanoseconds) }
        return nanoseconds == 0
            ? Timestamp(seconds: -Int64(seconds))
            : Timestamp(seconds: -Int64(seconds) - 1, nanoseconds: 1_000_000_000 - nanoseconds)
    }

    static func percentDecoded(_ text: ArraySlice<UInt8>) -> [UInt8]? {
        var result: [UInt8] = []
        var rest = text
        while let byte = rest.popFirst() {
            guard byte == 0x25 else {
                result.append(byte)
                continue
            }
            guard let high = rest.popFirst().flatMap(hexDigit), let low = rest.popFirst().flatMap(hexDigit) else {
                return nil
            }
            result.append(high << 4 | low)
        }
        return result
    }

    private static func hexDigit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 0x30...0x39: byte - 0x30
        case 0x41...0x46: byte - 0x41 + 10
        case 0x61...0x66: byte - 0x61 + 10
        default: nil
        }
    }

    /// RFC 4648 without line breaks; the padding may be missing.
    static func base64Decoded(_ text: ArraySlice<UInt8>) -> [UInt8]? {
        var result: [UInt8] = []
        var bits: UInt32 = 0
        var count = 0
        for byte in text {
            let value: UInt8
            switch byte {
            case 0x41...0x5A: value = byte - 0x41
            case 0x61...0x7A: value = byte - 0x61 + 26
            case 0x30...0x39: value = byte - 0x30 + 52
            case 0x2B: value = 62
            case 0x2F: value = 63
            case 0x3D: continue
            default: return nil
            }
            bits = (bits << 6 | UInt32(value)) & 0xFF_FFFF
            count += 6
            if count >= 8 {
                count -= 8
                result.append(UInt8(truncatingIfNeeded: bits >> UInt32(count)))
            }
        }
        return result
    }
}
