// SPDX-License-Identifier: Apache-2.0

/// A domain name (RFC 1035 §3.1) as in a message without compression, its ASCII letters in lower case: names that are
/// equal have equal bytes. It lives without allocation.
package struct DNSName: Sendable {
    /// The most bytes of a name, the root's included.
    package static let limit = 255

    private var storage: InlineArray<256, UInt8> = .init(repeating: 0)
    /// 1 to 255; the root alone is one byte.
    package private(set) var count = 1

    /// The root.
    package init() {}

    /// The labels' bytes, each after its length, the last one being 0.
    package subscript(index: Int) -> UInt8 { storage[index] }
    package var array: [UInt8] { (0..<count).map { storage[$0] } }
    package var isRoot: Bool { count == 1 }

    /// Adds a label at the end; false where it is empty, longer than 63 bytes, or makes the name too long.
    private mutating func append(_ label: RawSpan) -> Bool {
        let length = label.byteCount
        guard length >= 1, length <= 63, count + 1 + length <= DNSName.limit else { return false }
        storage[count - 1] = UInt8(length)
        for index in 0..<length { storage[count + index] = DNSName.folded(label.byte(index)) }
        count += 1 + length
        storage[count - 1] = 0
        return true
    }

    static func folded(_ byte: UInt8) -> UInt8 {
        byte >= UInt8(ascii: "A") && byte <= UInt8(ascii: "Z") ? byte + 32 : byte
    }

    /// Whether a text can be the name of a machine or a network: labels of 1 to 63 letters, digits, underscores and hyphens
    /// with dots between them, no hyphen at a label's ends (RFC 1123 §2.1, and what people use besides).
    package static func isOfHosts(_ text: String) -> Bool {
        let hyphen = UInt8(ascii: "-")
        return text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false).allSatisfy { label in
            guard let first = label.first, let last = label.last, label.count <= 63, first != hyphen, last != hyphen
            else { return false }
            return label.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), hyphen:
                    true
                default: false
                }
            }
        }
    }

    /// Reads `db.example`, with a dot at the end or without. `\.` and `\123` are not understood.
    package init?(_ text: String) {
        self.init()
        let bytes = Array(text.utf8)
        guard !bytes.isEmpty else { return nil }
        if bytes == [UInt8(ascii: ".")] { return }
        var labels = bytes.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        if let last = labels.last, last.isEmpty { labels.removeLast() }
        for label in labels {
            let label = Array(label)
            let span = label.span
            guard append(unsafe span.bytes) else { return nil }
        }
    }

    /// Reads a name at an offset of a message, following compression (RFC 1035 §4.1.4). Each pointer must lead to before
    /// the part that it is in, so there are no loops.
    /// - Returns: the offset behind the name; nil where it is none.
    package mutating func read(_ message: RawSpan, at offset: Int) -> Int? {
        self = DNSName()
        var position = offset
        var after: Int?
        var lowest = offset
        while true {
            guard position < message.byteCount else { return nil }
            let length = Int(message.byte(position))
            switch length >> 6 {
            case 0:
                if length == 0 { return after ?? position + 1 }
                guard length <= message.byteCount - position - 1 else { return nil }
                guard append(message.slice(position + 1, length)) else { return nil }
                position += 1 + length
            case 3:
                guard position + 1 < message.byteCount else { return nil }
                let target = (length & 0x3F) << 8 | Int(message.byte(position + 1))
                guard target < lowest else { return nil }
                if after == nil { after = position + 2 }
                lowest = target
                position = target
            default: return nil
            }
        }
    }

    /// Writes the name without compression.
    package func write(to bytes: inout MutableRawSpan, at cursor: inout OutputCursor) {
        guard cursor.reserve(count) else { return }
        for index in 0..<count { bytes.put(storage[index], at: cursor.position + index) }
        cursor.position += count
    }

    /// The number of labels, the root not counted.
    package var labelCount: Int {
        var labels = 0
        var position = 0
        while storage[position] != 0 {
            labels += 1
            position += 1 + Int(storage[position])
        }
        return labels
    }

    /// Without the first `labels` labels; the root where there are no more.
    package func dropping(_ labels: Int) -> DNSName {
        var position = 0
        for _ in 0..<labels where storage[position] != 0 { position += 1 + Int(storage[position]) }
        var rest = DNSName()
        rest.count = count - position
        for index in 0..<rest.count { rest.storage[index] = storage[position + index] }
        return rest
    }

    /// Whether this is the other name or lies below it.
    package func isWithin(_ other: DNSName) -> Bool {
        var position = 0
        while count - position > other.count { position += 1 + Int(storage[position]) }
        guard count - position == other.count else { return false }
        for index in 0..<other.count where storage[position + index] != other.storage[index] { return false }
        return true
    }

    /// Whether this is the other name, or that name with more labels behind it, as a resolver puts a search domain there.
    package func begins(with other: DNSName) -> Bool {
        guard count >= other.count else { return false }
        // A label's length is compared before its bytes, so that no label is taken for the beginning of a longer one.
        for index in 0..<(other.count - 1) where storage[index] != other.storage[index] { return false }
        return true
    }

    /// This name below another one; nil where that is too long.
    package func appending(_ other: DNSName) -> DNSName? {
        guard count - 1 + other.count <= DNSName.limit else { return nil }
        var result = self
        for index in 0..<other.count { result.storage[count - 1 + index] = other.storage[index] }
        result.count = count - 1 + other.count
        return result
    }

    /// With dots between the labels and none at the end; what is no printable ASCII is shown as `\ddd` (RFC 1035 §5.1).
    package var text: String {
        if isRoot { return "." }
        var result: [UInt8] = []
        var position = 0
        while storage[position] != 0 {
            if position > 0 { result.append(UInt8(ascii: ".")) }
            let length = Int(storage[position])
            for index in 1...length {
                let byte = storage[position + index]
                if byte == UInt8(ascii: ".") || byte == UInt8(ascii: "\\") {
                    result += [UInt8(ascii: "\\"), byte]
                } else if byte > 32, byte < 127 {
                    result.append(byte)
                } else {
                    result += [UInt8(ascii: "\\"), 48 + byte / 100, 48 + byte / 10 % 10, 48 + byte % 10]
                }
            }
            position += 1 + length
        }
        return String(decoding: result, as: UTF8.self)
    }

    /// The name under which the name of an address is found.
    package init(reverse address: IPAddress) {
        var text = ""
        switch address {
        case .v4(let address):
            for shift in stride(from: 0, through: 24, by: 8) { text += "\(address.value >> UInt32(shift) & 255)." }
            text += "in-addr.arpa"
        case .v6(let address):
            for half in [address.low, address.high] {
                for shift in stride(from: 0, through: 60, by: 4) {
                    text += String(half >> UInt64(shift) & 15, radix: 16) + "."
                }
            }
            text += "ip6.arpa"
        }
        self = DNSName(text) ?? DNSName()
    }

    /// The address whose name is asked for under this one.
    package var reversedAddress: IPAddress? {
        let labels = text.utf8.split(separator: UInt8(ascii: "."))
        if labels.count == 6, labels[4].elementsEqual("in-addr".utf8), labels[5].elementsEqual("arpa".utf8) {
            let parts = labels[..<4].reversed().map { String(decoding: $0, as: UTF8.self) }
            return IPv4Address(parts.joined(separator: ".")).map { .v4($0) }
        }
        guard labels.count == 34, labels[32].elementsEqual("ip6".utf8), labels[33].elementsEqual("arpa".utf8) else {
            return nil
        }
        var high: UInt64 = 0
        var low: UInt64 = 0
        for index in 0..<32 {
            guard let byte = labels[31 - index].first, labels[31 - index].count == 1,
                let digit = hexadecimalDigit(byte)
            else { return nil }
            if index < 16 { high = high << 4 | UInt64(digit) } else { low = low << 4 | UInt64(digit) }
        }
        return .v6(IPv6Address(high: high, low: low))
    }
}

extension DNSName: Hashable, CustomStringConvertible {
    package static func == (one: DNSName, other: DNSName) -> Bool {
        guard one.count == other.count else { return false }
        for index in 0..<one.count where one.storage[index] != other.storage[index] { return false }
        return true
    }

    package func hash(into hasher: inout Hasher) {
        for index in 0..<count { hasher.combine(storage[index]) }
    }

    package var description: String { text }
}
