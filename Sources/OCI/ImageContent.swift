// SPDX-License-Identifier: Apache-2.0

/// An image wherever it comes from: its configuration, and its layers that can be read.
package struct ImageContent: Sendable {
    /// The digest that the name led to: of the index if there is one, else of the manifest; nil for an archive of
    /// `docker save`, which has none.
    package let manifestDigest: Digest?
    /// Exactly as they came; the image's id is their SHA-256.
    package let configurationBytes: [UInt8]
    package let configuration: ImageConfiguration
    /// Lowest first, one for each of the configuration's `diff_ids`.
    package let layers: [Layer]

    package struct Layer: Sendable {
        /// The digest of the layer's uncompressed tar file, as the configuration promises it.
        package let diffID: Digest
        /// In bytes, as it is stored or sent, compressed or not.
        package let size: Int64
        package let source: Source
    }

    package enum Source: Sendable {
        /// In a file of this machine.
        case file(FileSlice, digest: Digest?)
        /// In a registry.
        case registry(RegistryBlob)
    }

    /// The image's id.
    package var id: Digest { Digest(sha256Of: configurationBytes) }

    /// Checks the parts against each other and joins them.
    init(
        name: String, manifestDigest: Digest?, configurationBytes: [UInt8], platform: ImagePlatform,
        layers sources: [(size: Int64, source: Source)]
    ) throws(OCIError) {
        let what = "the configuration of \(name)"
        let configuration = try ImageConfiguration(bytes: configurationBytes, what: what)
        try configuration.check(platform, image: name)
        let ids = configuration.layerIDs
        guard ids.count == sources.count else {
            throw .malformed(what: what, reason: "it counts \(ids.count) layers, the manifest \(sources.count)")
        }
        self.manifestDigest = manifestDigest
        self.configurationBytes = configurationBytes
        self.configuration = configuration
        self.layers = zip(ids, sources).map { Layer(diffID: $0, size: $1.size, source: $1.source) }
    }
}
