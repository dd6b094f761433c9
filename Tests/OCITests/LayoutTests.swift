// SPDX-License-Identifier: Apache-2.0

import OCI
import OCITesting
import Platform
import Testing

/// Images in directories and tar files.
@Suite struct LayoutTests {
    private let image = TestImage.small(seed: 5, layers: 4)
    private let amd64 = ImagePlatform(operatingSystem: "linux", architecture: "amd64")

    private func check(_ content: ImageContent, blobs: [[UInt8]]) async throws {
        #expect(content.id == image.id)
        #expect(content.layers.map(\.diffID) == image.layers.map(\.diffID))
        var layers: [[UInt8]] = []
        for layer in content.layers { layers.append(try await layer.allBytes()) }
        #expect(layers == blobs)
    }

    @Test func readsALayout() async throws {
        try await withTemporaryDirectory { directory in
            try image.writeLayout(directory, tag: "v1")
            for tag in ["v1", nil] {
                let content = try await ImageContent.layout(directory: directory, tag: tag, platform: amd64)
                try await check(content, blobs: image.layers.map(\.blob))
                #expect(content.manifestDigest == image.manifestDigest)
            }
            await #expect(throws: OCIError.self) {
                try await ImageContent.layout(directory: directory, tag: "v2", platform: amd64)
            }
        }
    }

    @Test func choosesAmongTagsAndPlatforms() async throws {
        try await withTemporaryDirectory { directory in
            try image.writeLayout(directory)
            let other = TestImage(layers: [TarWriter().finished()], architecture: "arm64")
            for (digest, bytes) in other.blobs {
                try Files.writeAtomically(bytes, to: "\(directory)/blobs/sha256/\(digest.hex)")
            }
            let nested = TestImage.index(of: [(other.manifest, "arm64", nil), (image.manifest, "amd64", nil)])
            try Files.writeAtomically(nested, to: "\(directory)/blobs/sha256/\(Digest(sha256Of: nested).hex)")
            let index =
                #"{"schemaVersion":2,"manifests":["#
                + #"{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"\#(Digest(sha256Of: nested))","#
                + #""size":\#(nested.count),"annotations":{"org.opencontainers.image.ref.name":"multi"}},"#
                + #"{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"\#(other.manifestDigest)","#
                + #""size":\#(other.manifest.count),"annotations":{"org.opencontainers.image.ref.name":"arm"}}]}"#
            try Files.writeAtomically(Array(index.utf8), to: directory + "/index.json")
            let content = try await ImageContent.layout(directory: directory, tag: "multi", platform: amd64)
            #expect(content.id == image.id)
            let arm = ImagePlatform(operatingSystem: "linux", architecture: "arm64", variant: "v8")
            #expect(try await ImageContent.layout(directory: directory, tag: "multi", platform: arm).id == other.id)
            #expect(try await ImageContent.layout(directory: directory, tag: "arm", platform: arm).id == other.id)
            for tag in ["arm", nil] {
                await #expect(throws: OCIError.self) {
                    try await ImageContent.layout(directory: directory, tag: tag, platform: amd64)
                }
            }
        }
    }

    @Test func refusesADamagedLayout() async throws {
        try await withTemporaryDirectory { directory in
            try image.writeLayout(directory)
            let path = "\(directory)/blobs/sha256/\(image.layers[1].digest.hex)"
            var damaged = image.layers[1].blob
            damaged[700] ^= 4
            try Files.writeAtomically(damaged, to: path)
            let content = try await ImageContent.layout(directory: directory, tag: nil, platform: amd64)
            await #expect(throws: OCIError.self) { try await content.layers[1].allBytes() }
            try Files.writeAtomically(Array(damaged.dropLast()), to: path)
            await #expect(throws: OCIError.self) {
                try await ImageContent.layout(directory: directory, tag: nil, platform: amd64)
            }
            Files.remove(path)
            try Files.makeSymbolicLink(path, to: "/dev/zero")
            await #expect(throws: OCIError.self) {
                try await ImageContent.layout(directory: directory, tag: nil, platform: amd64)
            }
        }
    }

    private func archive(_ bytes: [UInt8], _ reference: String? = nil) async throws -> ImageContent {
        try await withTemporaryDirectory { directory in
            try Files.writeAtomically(bytes, to: directory + "/image.tar")
            let content = try await ImageContent.archive(
                path: directory + "/image.tar", reference: reference, platform: amd64, temporaryDirectory: directory)
            #expect(try Files.list(directory) == ["image.tar"])
            return content
        }
    }

    @Test(arguments: [nil, "test", "test:latest", "docker.io/library/test:latest", "@0"])
    func readsArchives(reference: String?) async throws {
        try await check(archive(image.legacyArchive(), reference), blobs: image.layers.map(\.tar))
        try await check(archive(image.modernArchive(), reference), blobs: image.layers.map(\.blob))
    }

    @Test func readsCompressedArchivesAndLayoutsInArchives() async throws {
        try await check(archive(gzipStored(image.legacyArchive())), blobs: image.layers.map(\.tar))
        try await check(
            archive(image.modernArchive(tag: "x", withManifest: false), "x"), blobs: image.layers.map(\.blob))
        let bytes = image.modernArchive()
        try await withTemporaryDirectory { directory in
            try Files.writeAtomically(bytes, to: directory + "/plain.tar")
            for (program, suffix) in [("/usr/bin/gzip", "gz"), ("/usr/bin/zstd", "zst")] where Files.exists(program) {
                let (end, output) = try await runProgram(program, ["-k", directory + "/plain.tar"])
                #expect(end == .exited(0), "\(output)")
                let content = try await ImageContent.archive(
                    path: "\(directory)/plain.tar.\(suffix)", reference: nil, platform: amd64,
                    temporaryDirectory: directory)
                try await check(content, blobs: image.layers.map(\.blob))
            }
        }
    }

    @Test func equalLayersOfOldArchivesAreLinks() async throws {
        let twice = TestImage(layers: [image.layers[0].tar, image.layers[1].tar, image.layers[0].tar])
        let content = try await archive(twice.legacyArchive())
        #expect(try await content.layers[2].allBytes() == image.layers[0].tar)
    }

    @Test func refusesHostileArchives() async throws {
        var outside = TarWriter()
        outside.symlink("manifest.json", to: "../../etc/passwd")
        var absolute = TarWriter()
        absolute.symlink("manifest.json", to: "/etc/passwd")
        var loop = TarWriter()
        loop.symlink("manifest.json", to: "b")
        loop.symlink("b", to: "manifest.json")
        var long = TarWriter()
        long.header("manifest.json", type: "0", size: 1 << 30)
        var pathOutside = TarWriter()
        pathOutside.file("manifest.json", Array(#"[{"Config":"../../etc/passwd","Layers":["/etc/shadow"]}]"#.utf8))
        let gzip = gzipStored(image.legacyArchive())
        let cases: [[UInt8]] = [
            [], [0], Array("not a tar file".utf8), outside.finished(), absolute.finished(), loop.finished(),
            long.finished(), pathOutside.finished(), TarWriter().finished(), Array(gzip.dropLast(2000)),
            Array(image.legacyArchive().prefix(5000)), Array("BZh91AY".utf8),
        ]
        for bytes in cases { await #expect(throws: OCIError.self) { try await archive(bytes) } }
        await #expect(throws: OCIError.self) { try await archive(image.legacyArchive(), "other:1") }
        await #expect(throws: OCIError.self) { try await archive(image.legacyArchive(), "@1") }
    }

    @Test func readsConfigurations() throws {
        let json = #"""
            {"architecture":"amd64","os":"linux","created":"2024-01-01T00:00:00Z","config":{"User":"1:2","Env":null,
            "Entrypoint":["/e"],"Cmd":["c"],"WorkingDir":"/w","StopSignal":"SIGQUIT","ExposedPorts":{"80/tcp":{},"53/udp":{}},
            "Volumes":{"/data":{}},"Labels":{"a":"b"},"Healthcheck":{"Test":["CMD","x"],"Interval":30000000000,"Retries":3},
            "OnBuild":null,"Unknown":[1]},"rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"x"}]}
            """#
        let configuration = try ImageConfiguration(bytes: Array(json.utf8), what: "it")
        #expect(configuration.config.user == "1:2")
        #expect(configuration.history?.map(\.createdBy) == ["x"])
        #expect(configuration.config.environment == nil)
        #expect(configuration.config.exposedPorts == ["53/udp", "80/tcp"])
        #expect(configuration.config.volumes == ["/data"])
        #expect(configuration.config.healthcheck?.interval == 30_000_000_000)
        #expect(configuration.config.stopSignal == "SIGQUIT")
        for bad in ["", "[]", "{}", #"{"rootfs":{"type":"layers","diff_ids":["md5:1"]}}"#] {
            #expect(throws: OCIError.self) { try ImageConfiguration(bytes: Array(bad.utf8), what: "it") }
        }
    }
}
