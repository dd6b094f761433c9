// SPDX-License-Identifier: Apache-2.0
//
// Zone: Swift concurrency. The client of the distribution API (OCI distribution specification; Docker's registry
// API version 2), as far as pulling goes.

internal import AsyncHTTPClient
internal import NIOHTTP1

/// Pulls from registries. One for a run of pulls: it keeps connections, schemes and tokens. End it with `shutdown`.
package final class RegistryClient: Sendable {
    package let options: RegistryOptions
    let transport: HTTPTransport
    let endpoints = EndpointCache()
    let authorizer = Authorizer()

    package init(options: RegistryOptions) {
        self.options = options
        self.transport = HTTPTransport(options: options)
    }

    /// Ends all connections. No request may be under way.
    package func shutdown() async {
        await transport.shutdown()
    }

    /// A client for the time of `body`.
    package static func with<Result: Sendable>(
        _ options: RegistryOptions, _ body: (RegistryClient) async throws(OCIError) -> Result
    ) async throws(OCIError) -> Result {
        let client = RegistryClient(options: options)
        do throws(OCIError) {
            let result = try await body(client)
            await client.shutdown()
            return result
        } catch {
            await client.shutdown()
            throw error
        }
    }

    /// Finds the manifest that a reference leads to on the wanted platform.
    package func manifest(_ reference: ImageReference) async throws(OCIError) -> RegistryManifest {
        let endpoint = try await endpoint(for: reference)
        var (bytes, type) = try await document(
            "manifests/\(reference.manifestName)", accept: MediaType.manifests, limit: ImageLimits.manifestSize,
            what: "the manifest of \(reference)", of: reference, at: endpoint)
        let top: Digest
        if let promised = reference.digest {
            try promised.check(bytes, what: "the manifest of \(reference)")
            top = promised
        } else {
            top = Digest(sha256Of: bytes)
        }
        for _ in 0..<ImageLimits.indexDepth {
            switch try ManifestDocument(bytes, mediaType: type, what: "the manifest of \(reference)") {
            case .image(let manifest):
                try manifest.checkIsImage(reference.description)
                return RegistryManifest(
                    reference: reference, digest: top, configuration: manifest.configuration, layers: manifest.layers,
                    endpoint: endpoint)
            case .index(let entries):
                guard let entry = entries.choose(options.platform) else {
                    throw .noPlatform(
                        image: reference.description, wanted: options.platform.description,
                        available: entries.platformNames)
                }
                let what = "the manifest of \(reference) for \(options.platform)"
                (bytes, type) = try await document(
                    "manifests/\(entry.descriptor.digest)", accept: MediaType.manifests,
                    limit: ImageLimits.manifestSize, what: what, of: reference, at: endpoint)
                try entry.descriptor.digest.check(bytes, what: what)
            }
        }
        throw .malformed(what: "the manifest of \(reference)", reason: "its indexes lead to ever more indexes")
    }

    /// Fetches the configuration of a manifest and gives the image; its layers are read later, one by one.
    package func content(of manifest: RegistryManifest) async throws(OCIError) -> ImageContent {
        let reference = manifest.reference
        let descriptor = manifest.configuration
        let what = "the configuration of \(reference)"
        let (bytes, _) = try await document(
            "blobs/\(descriptor.digest)", accept: [], limit: ImageLimits.configurationSize, what: what, of: reference,
            at: manifest.endpoint)
        try descriptor.check(bytes, what: what)
        return try ImageContent(
            name: reference.description, manifestDigest: manifest.digest, configurationBytes: bytes,
            platform: options.platform,
            layers: manifest.layers.map { layer in
                let blob = RegistryBlob(
                    client: self, reference: reference, endpoint: manifest.endpoint, descriptor: layer)
                return (layer.size, .registry(blob))
            })
    }

    package func image(_ reference: ImageReference) async throws(OCIError) -> ImageContent {
        try await content(of: try await manifest(reference))
    }
}

/// A manifest found in a registry.
package struct RegistryManifest: Sendable {
    package let reference: ImageReference
    /// Of what the name led to: an index if there is one, else the manifest.
    package let digest: Digest
    let configuration: ContentDescriptor
    let layers: [ContentDescriptor]
    let endpoint: RegistryEndpoint

    /// The image's id, as long as the configuration keeps the manifest's promise.
    package var imageID: Digest { configuration.digest }
}

/// Where and how a registry is reached.
struct RegistryEndpoint: Sendable {
    /// `https://registry-1.docker.io`, for example.
    let origin: RegistryURL
    let verifyingCertificate: Bool

    func url(_ repository: String, _ path: String) -> RegistryURL {
        RegistryURL(scheme: origin.scheme, host: origin.host, port: origin.port, target: "/v2/\(repository)/\(path)")
    }
}

extension Digest {
    /// Refuses bytes that are not those that this digest names.
    func check(_ bytes: [UInt8], what: String) throws(OCIError) {
        var hasher = DigestHasher(algorithm)
        hasher.update(bytes)
        let found = hasher.finish()
        guard found == self else {
            throw .wrongDigest(what: what, expected: description, found: found.description)
        }
    }
}

extension ContentDescriptor {
    /// Refuses bytes that are not what this describes.
    func check(_ bytes: [UInt8], what: String) throws(OCIError) {
        try digest.check(bytes, what: what)
        guard size == bytes.count else { throw .wrongSize(what: what, expected: size, found: Int64(bytes.count)) }
    }
}
