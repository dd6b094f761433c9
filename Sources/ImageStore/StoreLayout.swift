// SPDX-License-Identifier: Apache-2.0

internal import OCI
internal import Platform

/// Where things are in a store; Docs/IMAGE-STORE.md says what they are.
struct StoreLayout: Sendable {
    let root: String

    var images: String { root + "/images" }
    var names: String { root + "/names" }
    var sources: String { root + "/sources" }
    var layers: String { root + "/layers" }
    var temporary: String { root + "/tmp" }
    var locks: String { root + "/locks" }
    var storeLock: String { root + "/lock" }

    func image(_ id: Digest) -> String { "\(images)/\(id.hex)" }
    func layer(_ diffID: Digest) -> String { "\(layers)/\(diffID.hex).erofs" }
    func name(_ key: Digest) -> String { "\(names)/\(key.hex).json" }
    func source(_ key: Digest) -> String { "\(sources)/\(key.hex).json" }
    func lock(_ name: String) -> String { "\(locks)/\(name).lock" }

    /// Makes what is missing.
    func make() throws(SystemError) {
        for directory in [images, names, sources, layers, temporary, locks] {
            try Files.makeDirectories(directory, permissions: 0o700)
        }
    }
}

/// `images/ID/record.json`: what a stored image consists of.
struct ImageRecord: Codable, Equatable, Sendable {
    struct Part: Codable, Equatable, Sendable {
        var diffID: String
        var length: UInt64
    }

    static let currentVersion = 1

    var version = ImageRecord.currentVersion
    /// Lowest first; one that is in the image several times is here several times.
    var layers: [Part]
    /// Of `merged.erofs`, in bytes.
    var mergedLength: UInt64
}

/// `names/KEY.json`: what a name led to when it was last asked for.
struct NameRecord: Codable, Equatable, Sendable {
    var name: String
    var platform: String
    var image: String
    /// Of what the registry gave for the name.
    var manifestDigest: String?
}

/// `sources/KEY.json`: what a directory or a file held when it was last read.
struct SourceRecord: Codable, Equatable, Sendable {
    var source: String
    var fingerprint: String
    var image: String
}

/// The key of a name or a source: both are of any length and any characters.
func storeKey(_ text: String, _ platform: ImagePlatform) -> Digest {
    Digest(sha256Of: Array("\(platform)\n\(text)".utf8))
}
