// SPDX-License-Identifier: Apache-2.0

import OCITesting
import Platform
import TestSupport
import Testing

@testable import OCI

/// Damaged input for every parser: none may trap, and each ends.
@Suite struct Fuzz {
    /// Calls `body` with mutations of a corpus until the time is over.
    private func mutate(_ corpus: [[UInt8]], seed: UInt64, _ body: ([UInt8]) throws -> Void) rethrows {
        var generator = SeededGenerator(seed)
        let end = monotonicNanoseconds() + 700_000_000
        var round = 0
        while round < 200_000 && (round % 16 != 0 || monotonicNanoseconds() < end) {
            round += 1
            var bytes = corpus[Int.random(in: 0..<corpus.count, using: &generator)]
            for _ in 0..<Int.random(in: 1...8, using: &generator) where !bytes.isEmpty {
                let index = Int.random(in: 0..<bytes.count, using: &generator)
                switch Int.random(in: 0..<6, using: &generator) {
                case 0: bytes[index] = UInt8.random(in: 0...255, using: &generator)
                case 1: bytes[index] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
                case 2:
                    bytes.removeSubrange(index..<min(bytes.count, index + Int.random(in: 1...16, using: &generator)))
                case 3: bytes.insert(contentsOf: bytes[index..<min(bytes.count, index + 12)], at: index)
                case 4: bytes.insert(contentsOf: Array("9999999999999999999".utf8), at: index)
                default: bytes.insert("\"\\:@/.,[{}]= \u{0}-+".utf8.randomElement(using: &generator) ?? 0, at: index)
                }
            }
            try body(bytes)
        }
    }

    @Test func references() {
        let corpus = [
            "docker.io/library/alpine:3.20", "localhost:5000/a@sha256:\(String(repeating: "ab", count: 32))",
            "[::1]:1/a_b", "oci:a:b",
        ]
        mutate(corpus.map { Array($0.utf8) }, seed: 1) { bytes in
            let text = String(decoding: bytes, as: UTF8.self)
            if let reference = try? ImageReference(text) {
                // What was accepted reads back as itself.
                #expect((try? ImageReference(reference.description)) == reference)
            }
            _ = try? ImageSource(text)
            _ = RegistryURL(text)
            _ = Digest(text)
        }
    }

    @Test func challengesAndURLs() {
        let corpus = [
            #"Bearer realm="https://auth.example.org/token",service="x",scope="repository:a:pull""#,
            #"Negotiate abc==, Basic realm="a\"b", x=y"#, "https://user:pw@host:443/a/b?c=d#e", "/v2/a?b",
        ]
        let base = RegistryURL(scheme: "https", host: "h", port: 1, target: "/v2/")
        mutate(corpus.map { Array($0.utf8) }, seed: 2) { bytes in
            let text = String(decoding: bytes, as: UTF8.self)
            #expect(AuthenticationChallenge.parse(text).count <= 16)
            if let url = base.resolving(text) { #expect(RegistryURL(url.description) != nil) }
            _ = describePage(bytes)
            _ = RegistryErrors.text(bytes)
            _ = ProxySettings(environment: ["HTTP_PROXY=\(text)", "NO_PROXY=\(text)"]).proxy(
                secure: false, host: "example.org", port: 80)
        }
    }

    @Test func documents() {
        let image = TestImage.small(seed: 6)
        mutate([image.manifest, image.index, image.configuration], seed: 3) { bytes in
            if case .index(let entries) = try? ManifestDocument(bytes, mediaType: nil, what: "it") {
                _ = entries.choose(.host)
                _ = entries.platformNames
            }
            _ = try? ImageConfiguration(bytes: bytes, what: "it")
        }
    }

    @Test func deeplyNestedDocuments() {
        let deep = [UInt8](repeating: UInt8(ascii: "["), count: 1_000_000)
        #expect(throws: OCIError.self) { try ManifestDocument(deep, mediaType: nil, what: "it") }
    }

    @Test func archives() async throws {
        let image = TestImage.small(seed: 7, layers: 2, layerSize: 10)
        try await withTemporaryDirectory { directory in
            let path = directory + "/a.tar"
            let platform = ImagePlatform(operatingSystem: "linux", architecture: "amd64")
            let corpus = [image.legacyArchive(), image.modernArchive(), gzipStored(image.legacyArchive())]
            try mutate(corpus, seed: 4) { bytes in
                let file = try Descriptor.open(path, .create)
                try file.writeAll(bytes)
                guard
                    let content = try? ImageArchive.image(
                        path: path, reference: nil, platform: platform, temporaryDirectory: directory)
                else { return }
                for layer in content.layers {
                    guard case .file(let slice, let digest) = layer.source else { continue }
                    try? slice.read(expecting: digest, what: "it") { _ in true }
                }
            }
            #expect(try Files.list(directory) == ["a.tar"])
        }
    }

    /// Headers of tar files, with right checksums so that they are looked at further.
    @Test func tarHeaders() async throws {
        try await withTemporaryDirectory { directory in
            var tar = TarWriter()
            tar.header("x", type: "x", size: 30)
            tar.file("a", [1])
            tar.header("L", type: "L", size: 20)
            try mutate([tar.finished()], seed: 5) { bytes in
                var fixed = bytes
                for start in stride(from: 0, to: fixed.count - 511, by: 512) {
                    fixed.replaceSubrange(start + 148..<start + 156, with: [UInt8](repeating: 0x20, count: 8))
                    let sum = fixed[start..<start + 512].reduce(0) { $0 + Int($1) }
                    let digits = Array(String(sum, radix: 8).utf8)
                    fixed.replaceSubrange(start + 148..<start + 148 + digits.count, with: digits)
                }
                let path = directory + "/a.tar"
                try Descriptor.open(path, .create).writeAll(fixed)
                let index = try? TarIndex(try FileSlice(path: path, what: "it"), what: "it")
                _ = index?.file("a")
            }
        }
    }
}
