// SPDX-License-Identifier: Apache-2.0

internal import NIOHTTP1
package import OCI
internal import Platform
import TestSupport

/// An image made for a test, in all the forms that images come in.
package struct TestImage: Sendable {
    package struct Layer: Sendable {
        package let tar: [UInt8]
        package let blob: [UInt8]
        package let mediaType: String
        package var diffID: Digest { Digest(sha256Of: tar) }
        package var digest: Digest { Digest(sha256Of: blob) }
    }

    package let layers: [Layer]
    package let configuration: [UInt8]
    package let manifest: [UInt8]
    package let index: [UInt8]

    package var id: Digest { Digest(sha256Of: configuration) }
    package var manifestDigest: Digest { Digest(sha256Of: manifest) }
    package var indexDigest: Digest { Digest(sha256Of: index) }

    /// - Parameters:
    ///   - layers: the layers' tar files.
    ///   - gzip: wraps every other layer into gzip, beginning with the first.
    ///   - liar: the number of a layer whose id in the configuration is wrong.
    package init(
        layers tars: [[UInt8]], gzip: Bool = true, lyingAboutLayer liar: Int? = nil, architecture: String = "amd64",
        runtime: String = #"{"Env":["PATH=/bin","A=1"],"Cmd":["/bin/sh"],"WorkingDir":"/w"}"#
    ) {
        let layers = tars.enumerated().map { index, tar in
            let compressed = gzip && index % 2 == 0
            return Layer(
                tar: tar, blob: compressed ? gzipStored(tar) : tar,
                mediaType: "application/vnd.oci.image.layer.v1.tar" + (compressed ? "+gzip" : ""))
        }
        self.layers = layers
        var diffIDs = layers.map(\.diffID.description)
        if let liar { diffIDs[liar] = "sha256:" + String(repeating: "0", count: 64) }
        let ids = diffIDs.map { "\"\($0)\"" }.joined(separator: ",")
        configuration =
            Array(
                #"{"architecture":"\#(architecture)","os":"linux","config":\#(runtime),"#.utf8)
            + Array(#""rootfs":{"type":"layers","diff_ids":[\#(ids)]}}"#.utf8)
        let list = layers.map {
            #"{"mediaType":"\#($0.mediaType)","digest":"\#($0.digest)","size":\#($0.blob.count)}"#
        }.joined(separator: ",")
        manifest =
            Array(
                #"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":"#.utf8)
            + Array(#"{"mediaType":"application/vnd.oci.image.config.v1+json","#.utf8)
            + Array(#""digest":"\#(Digest(sha256Of: configuration))","size":\#(configuration.count)},"#.utf8)
            + Array(#""layers":[\#(list)]}"#.utf8)
        index = TestImage.index(of: [(manifest, architecture, nil)])
    }

    /// A small image of a few files, different for each seed.
    package static func small(seed: Int = 1, layers count: Int = 3, layerSize: Int = 3000) -> TestImage {
        TestImage(
            layers: (0..<count).map { layer in
                var tar = TarWriter()
                tar.directory("etc/")
                tar.file("etc/layer-\(layer)", Array("seed \(seed), layer \(layer)\n".utf8))
                tar.file("data-\(layer)", pseudoRandomBytes(layerSize, seed: UInt64(seed * 1000 + layer)))
                return tar.finished()
            })
    }

    /// An index of manifests, each for a Linux of an architecture, with an optional tag.
    package static func index(of manifests: [(bytes: [UInt8], architecture: String, tag: String?)]) -> [UInt8] {
        let entries = manifests.map { bytes, architecture, tag in
            let annotation = tag.map { #","annotations":{"org.opencontainers.image.ref.name":"\#($0)"}"# } ?? ""
            return #"{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"\#(Digest(sha256Of: bytes))","#
                + #""size":\#(bytes.count),"platform":{"os":"linux","architecture":"\#(architecture)"}\#(annotation)}"#
        }.joined(separator: ",")
        return Array(
            #"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[\#(entries)]}"#.utf8
        )
    }

    /// All that the image's names lead to, by digest.
    package var blobs: [Digest: [UInt8]] {
        var blobs = [id: configuration, manifestDigest: manifest, indexDigest: index]
        for layer in layers { blobs[layer.digest] = layer.blob }
        return blobs
    }

    /// Writes an OCI image layout.
    package func writeLayout(_ path: String, tag: String = "latest") throws {
        try Files.makeDirectories(path + "/blobs/sha256")
        for (digest, bytes) in blobs { try Files.writeAtomically(bytes, to: "\(path)/blobs/sha256/\(digest.hex)") }
        try Files.writeAtomically(Array(#"{"imageLayoutVersion":"1.0.0"}"#.utf8), to: path + "/oci-layout")
        try Files.writeAtomically(TestImage.index(of: [(manifest, "amd64", tag)]), to: path + "/index.json")
    }

    /// A tar file as docker save made it until version 24; equal layers are symbolic links to the first.
    package func legacyArchive(tag: String = "test:latest") -> [UInt8] {
        var tar = TarWriter()
        var names: [String] = []
        var first: [Digest: String] = [:]
        for (index, layer) in layers.enumerated() {
            let directory = Digest(sha256Of: Array("\(index) \(layer.diffID)".utf8)).hex
            tar.directory(directory + "/")
            if let same = first[layer.diffID] {
                tar.symlink(directory + "/layer.tar", to: "../\(same)")
            } else {
                tar.file(directory + "/layer.tar", layer.tar)
                first[layer.diffID] = directory + "/layer.tar"
            }
            names.append("\"\(directory)/layer.tar\"")
        }
        tar.file("\(id.hex).json", configuration)
        let list = names.joined(separator: ",")
        tar.file(
            "manifest.json",
            Array(#"[{"Config":"\#(id.hex).json","RepoTags":["\#(tag)"],"Layers":[\#(list)]}]"#.utf8))
        return tar.finished()
    }

    /// A tar file as docker save makes it since version 25: an OCI layout, with docker's own list beside it.
    package func modernArchive(tag: String = "test:latest", withManifest: Bool = true) -> [UInt8] {
        var tar = TarWriter()
        for (digest, bytes) in blobs.sorted(by: { $0.key.hex < $1.key.hex }) {
            tar.file("blobs/sha256/\(digest.hex)", bytes)
        }
        tar.file("oci-layout", Array(#"{"imageLayoutVersion":"1.0.0"}"#.utf8))
        tar.file("index.json", TestImage.index(of: [(manifest, "amd64", tag)]))
        if withManifest {
            let list = layers.map { "\"blobs/sha256/\($0.digest.hex)\"" }.joined(separator: ",")
            tar.file(
                "manifest.json",
                Array(#"[{"Config":"blobs/sha256/\#(id.hex)","RepoTags":["\#(tag)"],"Layers":[\#(list)]}]"#.utf8))
        }
        return tar.finished()
    }

    /// How a well-behaved registry answers a request for this image as `NAME:latest`; nil for what it has not.
    package func answer(_ request: TestRequest, name: String = "test/image") -> TestAnswer {
        if request.uri == "/v2/" { return TestAnswer(.ok) }
        let prefix = "/v2/\(name)/"
        guard request.uri.hasPrefix(prefix) else { return TestAnswer(.notFound) }
        let path = request.uri.dropFirst(prefix.count)
        if path == "manifests/latest" {
            return TestAnswer(.ok, ["Content-Type": "application/vnd.oci.image.index.v1+json"], body: index)
        }
        let parts = path.split(separator: "/")
        guard parts.count == 2, let digest = Digest(String(parts[1])), let blob = blobs[digest] else {
            return TestAnswer(.notFound)
        }
        let type =
            parts[0] == "manifests" ? "application/vnd.oci.image.manifest.v1+json" : "application/octet-stream"
        if let range = request.headers.first(name: "Range"),
            let start = Int(range.dropFirst("bytes=".count).dropLast()), start < blob.count
        {
            return TestAnswer(
                .partialContent,
                ["Content-Type": type, "Content-Range": "bytes \(start)-\(blob.count - 1)/\(blob.count)"],
                body: Array(blob[start...]))
        }
        return TestAnswer(.ok, ["Content-Type": type], body: blob)
    }
}

/// Bytes that look random and are the same for the same seed.
package func pseudoRandomBytes(_ count: Int, seed: UInt64) -> [UInt8] {
    var generator = SeededGenerator(seed)
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 8)
    while bytes.count < count { withUnsafeBytes(of: generator.next()) { bytes += $0 } }
    return Array(bytes.prefix(count))
}
