// SPDX-License-Identifier: Apache-2.0

/// Random bytes that guests draw when they become machines of their own, as files have them: in hexadecimal.
package enum RandomSample {
    /// The bytes that are compared: as many as a guest has to show.
    static let count = 16

    static func text(_ bytes: [UInt8]) -> String {
        let digits = Array("0123456789abcdef".utf8)
        let text = bytes.prefix(count).flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }
        return String(decoding: text, as: UTF8.self)
    }

    /// Nil for what is no sample's text.
    static func bytes(_ text: String) -> [UInt8]? {
        let digits = text.utf8.compactMap { Character(UnicodeScalar($0)).hexDigitValue }
        guard digits.count == 2 * count, text.utf8.count == digits.count else { return nil }
        return (0..<count).map { UInt8(digits[2 * $0] << 4 | digits[2 * $0 + 1]) }
    }
}

/// What machines that are made together drew, to find two that drew the same.
package struct DrawnSamples: Sendable {
    private var machines: [String: String] = [:]

    package init() {}

    /// Notes what a machine drew.
    /// - Returns: the name of the machine that drew the same before; nil where none did.
    package mutating func note(_ sample: String?, of machine: String) -> String? {
        guard let sample else { return nil }
        if let other = machines[sample] { return other }
        machines[sample] = machine
        return nil
    }
}
