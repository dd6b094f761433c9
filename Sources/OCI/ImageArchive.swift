// SPDX-License-Identifier: Apache-2.0

/// Images in a tar file: as `docker save` makes them, before version 25 and since, or an OCI layout. Reading blocks.
enum ImageArchive {
    private struct Entry: Decodable {
        var Config: String
        var RepoTags: [String]?
        var Layers: [String]?
    }

    /// - Parameters:
    ///   - reference: which image, where there are several: a name such as `app:1`, or `@N`, counted from zero.
    ///   - temporaryDirectory: where an archive that is compressed as a whole is unpacked.
    static func image(
        path: String, reference: String?, platform: ImagePlatform, temporaryDirectory: String
    ) throws(OCIError) -> ImageContent {
        let name = printable("docker-archive:\(path)", limit: 300)
        let whole = try FileSlice(path: path, what: "the image archive")
        let archive = try OuterCompression.plain(whole, temporaryDirectory: temporaryDirectory, what: name)
        let index = try TarIndex(archive, what: name)
        guard let list = index.file("manifest.json") else {
            guard index.file("index.json") != nil else {
                throw .malformed(what: name, reason: "it has neither manifest.json nor index.json: it is no image")
            }
            let layout = ImageLayout(place: .archive(index, path: printable(path, limit: 300)), name: name)
            return try layout.image(tag: reference, platform: platform)
        }
        let what = "manifest.json of \(name)"
        let bytes = try list.bytes(limit: ImageLimits.manifestSize, what: what)
        let entry = try choose(try decodeJSON([Entry].self, bytes, what: what), reference, name: name)

        guard let file = index.file(entry.Config) else {
            throw .noSuchFile(what: "the configuration of \(name)", path: entry.Config)
        }
        let configuration = try file.bytes(limit: ImageLimits.configurationSize, what: "the configuration of \(name)")
        if let promised = digest(fromName: entry.Config) {
            try promised.check(configuration, what: "the configuration of \(name)")
        }
        let names = entry.Layers ?? []
        guard names.count <= ImageLimits.layers else {
            throw .tooLarge(what: "the list of layers in \(name)", limit: Int64(ImageLimits.layers))
        }
        var layers: [(size: Int64, source: ImageContent.Source)] = []
        for layer in names {
            guard let slice = index.file(layer) else { throw .noSuchFile(what: "a layer of \(name)", path: layer) }
            // A legacy archive's layers are checked by the configuration's diff_ids alone.
            let promised = layer.hasPrefix("blobs/") ? digest(fromName: layer) : nil
            layers.append((slice.length, .file(slice, digest: promised)))
        }
        return try ImageContent(
            name: name, manifestDigest: nil, configurationBytes: configuration, platform: platform, layers: layers)
    }

    /// `blobs/sha256/HEX` or `HEX.json`, by which archives name what they hold.
    private static func digest(fromName name: String) -> Digest? {
        if name.hasPrefix("blobs/") {
            let parts = name.split(separator: "/")
            return parts.count == 3 ? Digest("\(parts[1]):\(parts[2])") : nil
        }
        return name.hasSuffix(".json") ? Digest(sha256Hex: name.dropLast(5)) : nil
    }

    private static func choose(_ entries: [Entry], _ reference: String?, name: String) throws(OCIError) -> Entry {
        func listed() -> String {
            let tags = entries.flatMap { $0.RepoTags ?? [] }
            return tags.isEmpty
                ? "they have no names: write @0 to @\(entries.count - 1)"
                : "it has " + tags.prefix(20).map { printable($0, limit: 80) }.joined(separator: ", ")
        }
        guard let first = entries.first else { throw .malformed(what: name, reason: "there is no image in it") }
        guard let reference else {
            guard entries.count == 1 else {
                throw .badSource(name, reason: "there are several images in it: add :NAME; \(listed())")
            }
            return first
        }
        if reference.first == "@" {
            guard let number = Int(reference.dropFirst()), entries.indices.contains(number) else {
                throw .badSource(
                    "\(name):\(reference)", reason: "there are \(entries.count) images in it, counted from @0")
            }
            return entries[number]
        }
        let wanted = try ImageReference(reference)
        let found = entries.first { entry in
            (entry.RepoTags ?? []).contains { $0 == reference || (try? ImageReference($0)) == wanted }
        }
        guard let found else {
            throw .badSource("\(name):\(reference)", reason: "there is no image of this name in it; \(listed())")
        }
        return found
    }
}

extension ImageContent {
    /// Opens an image in an OCI image layout.
    package static func layout(
        directory: String, tag: String?, platform: ImagePlatform = .host
    ) async throws(OCIError) -> ImageContent {
        try await onOwnThread {
            Result { () throws(OCIError) in
                try ImageLayout.image(directory: directory, tag: tag, platform: platform)
            }
        }.get()
    }

    /// Opens an image in an archive; see `ImageSource.archive`.
    /// - Parameter temporaryDirectory: where an archive that is compressed as a whole is unpacked.
    package static func archive(
        path: String, reference: String?, platform: ImagePlatform = .host, temporaryDirectory: String
    ) async throws(OCIError) -> ImageContent {
        try await onOwnThread {
            Result { () throws(OCIError) in
                try ImageArchive.image(
                    path: path, reference: reference, platform: platform, temporaryDirectory: temporaryDirectory)
            }
        }.get()
    }
}
