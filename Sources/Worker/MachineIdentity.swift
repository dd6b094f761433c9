// SPDX-License-Identifier: Apache-2.0

/// Ids and names of machines. Pure but for the random numbers that are given to it.
package enum MachineIdentity {
    /// The digits of a whole id.
    package static let idLength = 64
    /// The digits that are shown.
    package static let shortIDLength = 12

    /// A new id: 64 hexadecimal digits.
    package static func makeID(using generator: inout some RandomNumberGenerator) -> String {
        let digits = Array("0123456789abcdef".utf8)
        var text: [UInt8] = []
        for _ in 0..<4 {
            var bits: UInt64 = generator.next()
            for _ in 0..<16 {
                text.append(digits[Int(bits & 15)])
                bits >>= 4
            }
        }
        // An id of digits alone would read as a number in YAML and in tables.
        if !text.prefix(shortIDLength).contains(where: { $0 >= UInt8(ascii: "a") }) { text[0] = UInt8(ascii: "b") }
        return String(decoding: text, as: UTF8.self)
    }

    package static func isID(_ text: String) -> Bool {
        text.utf8.count == idLength && text.utf8.allSatisfy(isHexadecimal)
    }

    /// Whether the text can be a machine's name: a letter or digit, then letters, digits, `_`, `.` and `-`, 2 to 128
    /// characters in all. It is used as a file's name.
    package static func isName(_ text: String) -> Bool {
        let bytes = Array(text.utf8)
        guard (2...128).contains(bytes.count), isAlphanumeric(bytes[0]) else { return false }
        return bytes.dropFirst().allSatisfy { byte in
            isAlphanumeric(byte) || byte == UInt8(ascii: "_") || byte == UInt8(ascii: ".") || byte == UInt8(ascii: "-")
        }
    }

    /// A name for a machine that was given none, for example `quiet_plover`.
    /// - Parameter attempt: from the third on a number is added, so that a name that is free will be found.
    package static func makeName(attempt: Int = 0, using generator: inout some RandomNumberGenerator) -> String {
        let adjective = adjectives[Int(generator.next(upperBound: UInt(adjectives.count)))]
        let bird = birds[Int(generator.next(upperBound: UInt(birds.count)))]
        let suffix = attempt < 2 ? "" : "_\(generator.next(upperBound: UInt(100_000)))"
        return "\(adjective)_\(bird)\(suffix)"
    }

    /// Finds the one id that a user means: by a whole id, by a name, or by the beginning of an id, in this order.
    /// - Parameters:
    ///   - isThere: whether there is a machine of a whole id.
    ///   - ids: all there are; asked for only where neither a whole id nor a name is meant.
    package static func resolve(
        _ reference: String, isThere: (String) -> Bool, ids: () -> [String], named: (String) -> String?
    ) throws(WorkerError) -> String {
        if isID(reference), isThere(reference) { return reference }
        if isName(reference), let id = named(reference), isID(id), isThere(id) { return id }
        guard !reference.isEmpty, reference.utf8.allSatisfy(isHexadecimal) else { throw .noSuchMachine(reference) }
        let matches = ids().filter { $0.hasPrefix(reference) }
        guard matches.count <= 1 else { throw .ambiguous(reference, matches: matches.sorted()) }
        guard let match = matches.first else { throw .noSuchMachine(reference) }
        return match
    }

    private static func isHexadecimal(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte)
    }

    private static func isAlphanumeric(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
            UInt8(ascii: "A")...UInt8(ascii: "Z"):
            true
        default: false
        }
    }

    private static let adjectives = [
        "agile", "airy", "amber", "ashen", "azure", "bold", "brave", "bright", "brisk", "calm", "clever", "coastal",
        "crested", "curious", "dapper", "daring", "dusky", "eager", "early", "fabled", "fleet", "gentle", "gilded",
        "gliding", "golden", "hardy", "hidden", "homing", "hushed", "ivory", "jaunty", "keen", "kind", "lively", "lone",
        "lucid", "merry", "misty", "mellow", "nimble", "noble", "northern", "olive", "patient", "pied", "plucky",
        "proud", "quick", "quiet", "roaming", "rosy", "russet", "sable", "serene", "silver", "singing", "sleek",
        "snowy", "soaring", "steady", "sunny", "swift", "tawny", "tidal", "tireless", "tranquil", "velvet", "vivid",
        "wandering", "wary", "wild", "windborne", "wise", "woodland", "zealous",
    ]

    private static let birds = [
        "albatross", "avocet", "bittern", "bluethroat", "brambling", "bunting", "bustard", "buzzard", "chiffchaff",
        "chough", "coot", "cormorant", "crake", "crane", "crossbill", "curlew", "dipper", "dotterel", "dove", "dunlin",
        "dunnock", "egret", "eider", "falcon", "fieldfare", "finch", "flycatcher", "fulmar", "gannet", "garganey",
        "godwit", "goldcrest", "goshawk", "grebe", "guillemot", "gull", "harrier", "heron", "hobby", "hoopoe", "ibis",
        "jackdaw", "jay", "kestrel", "kingfisher", "kite", "kittiwake", "knot", "lapwing", "lark", "linnet", "magpie",
        "mallard", "martin", "merlin", "nightjar", "nuthatch", "oriole", "osprey", "ouzel", "owl", "partridge",
        "petrel", "phalarope", "pipit", "plover", "pochard", "puffin", "quail", "rail", "raven", "redstart", "redwing",
        "robin", "roller", "rook", "ruff", "sanderling", "shearwater", "shrike", "siskin", "skua", "skylark", "snipe",
        "sparrow", "starling", "stilt", "stonechat", "stork", "swallow", "swan", "teal", "tern", "thrush",
        "treecreeper",
        "turnstone", "twite", "wagtail", "warbler", "waxwing", "wheatear", "whimbrel", "whinchat", "wigeon", "woodcock",
        "wren", "wryneck", "yellowhammer",
    ]
}
