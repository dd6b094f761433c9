// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// Images in an OCI image layout (OCI image specification, image-layout.md), in a directory or in a tar file.
/// Reading blocks.
struct ImageLayout: Sendable {
    enum Place: Sendable {
        case directory(String)
        case archive(TarIndex, path: String)
    }

    let place: Place
    /// What the user named, for errors.
    let name: String

    /// An image of the layout in a directory.
    /// - Parameter tag: `org.opencontainers.image.ref.name` of an entry; nil for the only image, or that of `latest`.
    static func image(
        directory: String, tag: String?, platform: ImagePlatform
    ) throws(OCIError) -> ImageContent {
        guard Files.isDirectory(directory) else {
            guard Files.exists(directory) else { throw .noSuchFile(what: "the image layout", path: directory) }
            throw .unsupported(
                what: printable(directory, limit: 300),
                reason: "an image layout is a directory; for a file write docker-archive:\(printable(directory))")
        }
        guard Files.exists(directory + "/index.json") else {
            throw .unsupported(
                what: printable(directory, limit: 300), reason: "it is no image layout: there is no index.json in it")
        }
        let layout = ImageLayout(place: .directory(directory), name: printable("oci:\(directory)", limit: 300))
        return try layout.image(tag: tag, platform: platform)
    }

    func image(tag: String?, platform: ImagePlatform) throws(OCIError) -> ImageContent {
        let what = "index.json of \(name)"
        let bytes = try file("index.json", what: what).bytes(limit: ImageLimits.manifestSize, what: what)
        guard case .index(let entries) = try ManifestDocument(bytes, mediaType: MediaType.ociIndex, what: what) else {
            throw .malformed(what: what, reason: "it is not an index")
        }
        let named = try candidates(entries, tag: tag, platform)
        let image = tag.map { "\(name):\(printable($0))" } ?? name
        guard let chosen = named.count == 1 ? named.first : named.choose(platform) else {
            throw .noPlatform(image: image, wanted: platform.description, available: named.platformNames)
        }
        return try load(chosen.descriptor, image: image, platform)
    }

    /// The entries that a tag names; without a tag those of the only image.
    private func candidates(
        _ entries: [IndexEntry], tag: String?, _ platform: ImagePlatform
    ) throws(OCIError) -> [IndexEntry] {
        let images = entries.filter { !$0.isAttestation }
        let tags = Set(images.compactMap(\.referenceName)).sorted()
        func listed() -> String {
            tags.isEmpty
                ? "it has none" : "it has " + tags.prefix(20).map { printable($0, limit: 80) }.joined(separator: ", ")
        }
        if let tag {
            let found = images.filter { entry in
                entry.referenceName == tag || entry.imageName == tag || entry.descriptor.digest.description == tag
                    || entry.imageName.flatMap { try? ImageReference($0) } == (try? ImageReference(tag))
                        && entry.imageName != nil
            }
            guard !found.isEmpty else {
                throw .badSource("\(name):\(tag)", reason: "the layout has no image of the tag \"\(tag)\"; \(listed())")
            }
            return found
        }
        guard !images.isEmpty else { throw .malformed(what: name, reason: "there is no image in it") }
        if images.count == 1 || tags.count <= 1 && images.allSatisfy({ $0.platform != nil }) { return images }
        let latest = images.filter { $0.referenceName == "latest" }
        guard !latest.isEmpty else {
            throw .badSource(name, reason: "there are several images in it: add :TAG; \(listed())")
        }
        return latest
    }

    private func load(
        _ start: ContentDescriptor, image: String, _ platform: ImagePlatform
    ) throws(OCIError) -> ImageContent {
        var descriptor = start
        let what = "the manifest of \(image)"
        for _ in 0..<ImageLimits.indexDepth {
            let bytes = try document(descriptor, limit: ImageLimits.manifestSize, what: what)
            switch try ManifestDocument(bytes, mediaType: descriptor.mediaType, what: what) {
            case .index(let entries):
                guard let entry = entries.choose(platform) else {
                    throw .noPlatform(
                        image: image, wanted: platform.description, available: entries.platformNames)
                }
                descriptor = entry.descriptor
            case .image(let manifest):
                try manifest.checkIsImage(image)
                let configuration = try document(
                    manifest.configuration, limit: ImageLimits.configurationSize,
                    what: "the configuration of \(image)")
                var layers: [(size: Int64, source: ImageContent.Source)] = []
                for layer in manifest.layers {
                    layers.append((layer.size, .file(try blob(layer), digest: layer.digest)))
                }
                return try ImageContent(
                    name: image, manifestDigest: start.digest, configurationBytes: configuration,
                    platform: platform, layers: layers)
            }
        }
        throw .malformed(what: what, reason: "its indexes lead to ever more indexes")
    }

    private func document(_ descriptor: ContentDescriptor, limit: Int, what: String) throws(OCIError) -> [UInt8] {
        let bytes = try blob(descriptor).bytes(limit: limit, what: what)
        try descriptor.check(bytes, what: what)
        return bytes
    }

    /// A blob of the right size; whether its content is right is seen when it is read.
    private func blob(_ descriptor: ContentDescriptor) throws(OCIError) -> FileSlice {
        let digest = descriptor.digest
        let what = "blob \(digest.hex.prefix(12)) of \(name)"
        let slice = try file("blobs/\(digest.algorithm.rawValue)/\(digest.hex)", what: what)
        guard slice.length == descriptor.size else {
            throw .wrongSize(what: what, expected: descriptor.size, found: slice.length)
        }
        return slice
    }

    private func file(_ path: String, what: String) throws(OCIError) -> FileSlice {
        switch place {
        case .directory(let directory):
            return try FileSlice(path: "\(directory)/\(path)", what: what)
        case .archive(let index, let archive):
            guard let slice = index.file(path) else { throw .noSuchFile(what: what, path: "\(path) in \(archive)") }
            return slice
        }
    }
}
