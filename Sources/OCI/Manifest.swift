// SPDX-License-Identifier: Apache-2.0

internal import FoundationEssentials

/// What a reference by content looks like in manifests and indexes (OCI image specification, descriptor.md).
package struct ContentDescriptor: Hashable, Sendable {
    package let mediaType: String
    package let digest: Digest
    /// In bytes; never negative.
    package let size: Int64

    package init(mediaType: String, digest: Digest, size: Int64) {
        self.mediaType = mediaType
        self.digest = digest
        self.size = size
    }
}

/// The kind of machine an image is for, as Go names it.
package struct ImagePlatform: Hashable, Sendable, CustomStringConvertible {
    package var operatingSystem: String
    package var architecture: String
    package var variant: String?

    package init(operatingSystem: String, architecture: String, variant: String? = nil) {
        self.operatingSystem = operatingSystem
        self.architecture = architecture
        self.variant = variant
    }

    /// Linux on this machine's processor.
    package static var host: ImagePlatform {
        #if arch(arm64)
        ImagePlatform(operatingSystem: "linux", architecture: "arm64", variant: "v8")
        #else
        ImagePlatform(operatingSystem: "linux", architecture: "amd64")
        #endif
    }

    package var description: String {
        "\(operatingSystem)/\(architecture)" + (variant.map { "/\($0)" } ?? "")
    }
}

/// One entry of an index.
struct IndexEntry: Sendable {
    let descriptor: ContentDescriptor
    let platform: ImagePlatform?
    let annotations: [String: String]

    /// The tag that an image layout gives it.
    var referenceName: String? { annotations["org.opencontainers.image.ref.name"] }
    /// The full name that containerd and docker give it in a layout.
    var imageName: String? { annotations["io.containerd.image.name"] }
    /// Whether it is a statement about another entry, such as a signature, rather than an image.
    var isAttestation: Bool {
        annotations["vnd.docker.reference.type"] != nil || platform?.operatingSystem == "unknown"
    }
}

/// An image's manifest: what its configuration and its layers are.
struct ImageManifest: Sendable {
    let configuration: ContentDescriptor
    let layers: [ContentDescriptor]
}

/// A document that a reference leads to.
enum ManifestDocument: Sendable {
    case index([IndexEntry])
    case image(ImageManifest)
}

/// Bounds on what others' documents may ask of us.
package enum ImageLimits {
    /// Bytes of a manifest or an index, as registries bound them.
    package static let manifestSize = 4 << 20
    package static let configurationSize = 8 << 20
    static let indexEntries = 4096
    package static let layers = 1024
    static let indexDepth = 4
}

extension ManifestDocument {
    /// Reads an index or a manifest, OCI's or Docker's.
    /// - Parameters:
    ///   - mediaType: what the sender says it is; nil or a general type leaves it to the document.
    ///   - what: the document's name for errors.
    init(_ bytes: [UInt8], mediaType: String?, what: String) throws(OCIError) {
        guard bytes.count <= ImageLimits.manifestSize else {
            throw .tooLarge(what: what, limit: Int64(ImageLimits.manifestSize))
        }
        let raw = try decodeJSON(RawManifest.self, bytes, what: what)
        if raw.schemaVersion == 1 || raw.fsLayers != nil {
            throw .unsupported(
                what: what, reason: "it is in Docker's schema 1, which was given up in 2017; push the image anew")
        }
        // A document that could be read as either would mean different images to different readers.
        guard raw.manifests == nil || (raw.layers == nil && raw.config == nil) else {
            throw .malformed(what: what, reason: "it is both an index and a manifest")
        }
        let type = raw.mediaType ?? mediaType.map(MediaType.essence)
        if let entries = raw.manifests {
            guard type != MediaType.ociManifest, type != MediaType.dockerManifest else {
                throw .malformed(what: what, reason: "its type says manifest, but it is an index")
            }
            guard entries.count <= ImageLimits.indexEntries else {
                throw .tooLarge(what: "the list in \(what)", limit: Int64(ImageLimits.indexEntries))
            }
            var result: [IndexEntry] = []
            for entry in entries {
                result.append(
                    IndexEntry(
                        descriptor: try entry.checked(what), platform: entry.platform?.checked,
                        annotations: entry.annotations ?? [:]))
            }
            self = .index(result)
        } else if let config = raw.config, let layers = raw.layers {
            guard type != MediaType.ociIndex, type != MediaType.dockerList else {
                throw .malformed(what: what, reason: "its type says index, but it is a manifest")
            }
            guard layers.count <= ImageLimits.layers else {
                throw .tooLarge(what: "the list of layers in \(what)", limit: Int64(ImageLimits.layers))
            }
            var checked: [ContentDescriptor] = []
            for layer in layers { checked.append(try layer.checked(what)) }
            self = .image(ImageManifest(configuration: try config.checked(what), layers: checked))
        } else {
            throw .malformed(what: what, reason: "it has neither a list of manifests nor a configuration and layers")
        }
    }
}

extension ImageManifest {
    /// Refuses what is stored in registries like images but is none.
    func checkIsImage(_ what: String) throws(OCIError) {
        guard configuration.mediaType == MediaType.ociConfig || configuration.mediaType == MediaType.dockerConfig else {
            throw .unsupported(
                what: what, reason: "it is not a container image but \(printable(configuration.mediaType))")
        }
        for layer in layers where !MediaType.isLayer(layer.mediaType) {
            let reason =
                layer.mediaType.hasSuffix("+encrypted")
                ? "its layers are encrypted" : "it has a layer of the unknown type \(printable(layer.mediaType))"
            throw .unsupported(what: what, reason: reason)
        }
    }
}

extension [IndexEntry] {
    /// The entry for a platform: the same variant before none, none before another.
    func choose(_ wanted: ImagePlatform) -> IndexEntry? {
        var best: (entry: IndexEntry, rank: Int)?
        for entry in self where !entry.isAttestation {
            guard let platform = entry.platform, platform.operatingSystem == wanted.operatingSystem,
                platform.architecture == wanted.architecture
            else { continue }
            let rank = platform.variant == wanted.variant ? 0 : platform.variant == nil ? 1 : 2
            // A variant asks for a newer processor than the wanted one, except arm64's only one.
            guard rank < 2 || wanted.variant == nil && platform.variant == "v1" || wanted.architecture == "arm64" else {
                continue
            }
            if best.map({ rank < $0.rank }) ?? true { best = (entry, rank) }
        }
        return best?.entry
    }

    /// The platforms that there are, for an error.
    var platformNames: [String] {
        var names: [String] = []
        for entry in self where !entry.isAttestation {
            guard names.count < 24, let platform = entry.platform else { continue }
            let name = printable(platform.description, limit: 40)
            if !names.contains(name) { names.append(name) }
        }
        return names
    }
}

/// What JSON holds, before it is checked.
private struct RawManifest: Decodable {
    var schemaVersion: Int?
    var mediaType: String?
    var manifests: [RawDescriptor]?
    var config: RawDescriptor?
    var layers: [RawDescriptor]?
    var fsLayers: [Ignored]?

    struct Ignored: Decodable {}
}

private struct RawDescriptor: Decodable {
    var mediaType: String?
    var digest: String
    var size: Int64
    var platform: RawPlatform?
    var annotations: [String: String]?

    func checked(_ what: String) throws(OCIError) -> ContentDescriptor {
        guard let parsed = Digest(digest) else {
            throw .malformed(what: what, reason: "\"\(printable(digest))\" is not a digest of a kind that is supported")
        }
        guard size >= 0 else { throw .malformed(what: what, reason: "a size is negative") }
        return ContentDescriptor(mediaType: mediaType ?? "", digest: parsed, size: size)
    }
}

private struct RawPlatform: Decodable {
    var os: String?
    var architecture: String?
    var variant: String?

    var checked: ImagePlatform {
        ImagePlatform(
            operatingSystem: os ?? "", architecture: architecture ?? "",
            variant: variant?.isEmpty == true ? nil : variant)
    }
}

/// Decodes JSON from outside; what is wrong with it becomes part of the error.
package func decodeJSON<Value: Decodable>(
    _ type: Value.Type, _ bytes: [UInt8], what: String
) throws(OCIError) -> Value {
    do {
        return try JSONDecoder().decode(type, from: Data(bytes))
    } catch let error as DecodingError {
        throw .malformed(what: what, reason: error.shortReason)
    } catch {
        throw .malformed(what: what, reason: "it is not JSON")
    }
}

extension DecodingError {
    fileprivate var shortReason: String {
        func path(_ context: Context, _ last: String? = nil) -> String {
            var names = context.codingPath.map(\.stringValue)
            if let last { names.append(last) }
            return printable(names.joined(separator: "."))
        }
        return switch self {
        case .keyNotFound(let key, let context): "\(path(context, key.stringValue)) is missing"
        case .valueNotFound(_, let context): "\(path(context)) has no value"
        case .typeMismatch(_, let context): "\(path(context)) is of another type than it should be"
        default: "it is not valid JSON"
        }
    }
}
