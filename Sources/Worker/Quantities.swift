// SPDX-License-Identifier: Apache-2.0

/// Sizes and times as users write them. Pure.
package enum Quantities {
    /// Bytes: a number, which may have a fraction, with `b`, `k`, `m`, `g` or `t` (times 1024), `kb` and `kib` alike,
    /// in either case; without a unit, bytes.
    package static func bytes(_ text: String) throws(WorkerError) -> UInt64 {
        let (number, unit) = split(text)
        let shift: Int
        switch unit.lowercased() {
        case "", "b": shift = 0
        case "k", "kb", "kib": shift = 10
        case "m", "mb", "mib": shift = 20
        case "g", "gb", "gib": shift = 30
        case "t", "tb", "tib": shift = 40
        default:
            throw .invalid("\(quoted(text)) is not a size: give a number with b, k, m or g, for example 512m")
        }
        guard let value = decimal(number, scale: UInt64(1) << UInt64(shift)) else {
            throw .invalid("\(quoted(text)) is not a size: give a number with b, k, m or g, for example 512m")
        }
        return value
    }

    /// Milliseconds: a number, which may have a fraction, with `ms`, `s`, `m`, `h` or `d`; without a unit, seconds.
    package static func milliseconds(_ text: String) throws(WorkerError) -> UInt64 {
        let (number, unit) = split(text)
        let scale: UInt64
        switch unit {
        case "ms": scale = 1
        case "", "s": scale = 1000
        case "m": scale = 60_000
        case "h": scale = 3_600_000
        case "d": scale = 86_400_000
        default:
            throw .invalid("\(quoted(text)) is not a time: give seconds, or a number with ms, s, m, h or d")
        }
        // A thousand years: what is longer is a slip, and sums of it stay far from the end of the number.
        guard let value = decimal(number, scale: scale), value <= 31_557_600_000_000 else {
            throw .invalid("\(quoted(text)) is not a time: give seconds, or a number with ms, s, m, h or d")
        }
        return value
    }

    /// Bytes for people: `1.5 GiB`.
    package static func describe(bytes: UInt64) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
        var unit = 0
        var tenths = bytes > UInt64.max / 10 ? bytes : bytes * 10
        if bytes > UInt64.max / 10 {
            unit = 1
            tenths = bytes / 1024 * 10
        }
        while tenths >= 10_240, unit < units.count - 1 {
            tenths = (tenths + 512) / 1024
            unit += 1
        }
        if tenths >= 1000 || tenths % 10 == 0 { return "\((tenths + (tenths >= 1000 ? 5 : 0)) / 10) \(units[unit])" }
        return "\(tenths / 10).\(tenths % 10) \(units[unit])"
    }

    /// A span of time for people, in its largest whole unit: `5 seconds`, `2 hours`.
    package static func describe(seconds: UInt64) -> String {
        let units: [(UInt64, String)] = [(86_400, "day"), (3600, "hour"), (60, "minute")]
        for (length, name) in units where seconds >= length * 2 || (seconds >= length && name == "minute") {
            let count = seconds / length
            return "\(count) \(name)\(count == 1 ? "" : "s")"
        }
        return "\(seconds) second\(seconds == 1 ? "" : "s")"
    }

    private static func split(_ text: String) -> (number: [UInt8], unit: String) {
        let bytes = Array(text.utf8)
        let end = bytes.firstIndex { !(UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) && $0 != UInt8(ascii: ".") }
        guard let end else { return (bytes, "") }
        var unit = bytes[end...]
        if unit.first == UInt8(ascii: " ") { unit.removeFirst() }
        return (Array(bytes[..<end]), String(decoding: unit, as: UTF8.self))
    }

    /// `number × scale`, rounded down; nil where it is no number or too large a one.
    private static func decimal(_ number: [UInt8], scale: UInt64) -> UInt64? {
        let parts = number.split(separator: UInt8(ascii: "."), maxSplits: 1, omittingEmptySubsequences: false)
        guard let whole = parts.first, !whole.isEmpty else { return nil }
        var value: UInt64 = 0
        for digit in whole {
            let (product, overflow) = value.multipliedReportingOverflow(by: 10)
            guard !overflow, digit != UInt8(ascii: ".") else { return nil }
            let (sum, carry) = product.addingReportingOverflow(UInt64(digit - UInt8(ascii: "0")))
            guard !carry else { return nil }
            value = sum
        }
        let (scaled, overflow) = value.multipliedReportingOverflow(by: scale)
        guard !overflow else { return nil }
        guard parts.count == 2 else { return scaled }
        guard !parts[1].isEmpty, !parts[1].contains(UInt8(ascii: ".")) else { return nil }
        // Nine digits of fraction are exact for every unit here; more are below a byte or a millisecond.
        var fraction: UInt64 = 0
        var divisor: UInt64 = 1
        for digit in parts[1].prefix(6) {
            fraction = fraction * 10 + UInt64(digit - UInt8(ascii: "0"))
            divisor *= 10
        }
        let (sum, carry) = scaled.addingReportingOverflow(fraction * scale / divisor)
        return carry ? nil : sum
    }
}

/// A user's text in an error, in quotation marks and of bounded length.
package func quoted(_ text: String) -> String {
    text.utf8.count <= 200 ? "'\(text)'" : "'\(String(text.prefix(200)))…'"
}
