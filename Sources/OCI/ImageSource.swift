// SPDX-License-Identifier: Apache-2.0

/// Where an image is to be had, as a user writes it.
package enum ImageSource: Hashable, Sendable, CustomStringConvertible {
    /// `[docker://]HOST/PATH:TAG`, `alpine`: in a registry.
    case registry(ImageReference)
    /// `oci:PATH[:TAG]`: in a directory in OCI image layout. The first colon ends the path, as in skopeo.
    case layout(path: String, tag: String?)
    /// `docker-archive:FILE[:REFERENCE]`: in a tar file that `docker save` made, or an OCI layout in a tar file.
    case archive(path: String, reference: String?)
    /// `dir:PATH`: a directory that is the root file system itself.
    case directory(path: String)
    /// `sha256:ID`, or a unique beginning of at least 6 digits: in the store.
    case stored(idPrefix: String)

    package init(_ text: String) throws(OCIError) {
        func bad(_ reason: String) -> OCIError { .badSource(text, reason: reason) }
        guard !text.utf8.contains(0) else { throw bad("it contains a zero byte") }
        if let rest = text.suffix(after: "oci:") ?? text.suffix(after: "oci-layout:") {
            let (path, tag) = rest.splitAtFirstColon()
            guard !path.isEmpty else { throw bad("oci: is followed by the path of a directory") }
            guard tag.map({ !$0.isEmpty }) ?? true else { throw bad("the tag after the path is empty") }
            self = .layout(path: path, tag: tag)
        } else if let rest = text.suffix(after: "docker-archive:") ?? text.suffix(after: "oci-archive:") {
            let (path, reference) = rest.splitAtFirstColon()
            guard !path.isEmpty else { throw bad("docker-archive: is followed by the path of a file") }
            guard reference.map({ !$0.isEmpty }) ?? true else { throw bad("the reference after the path is empty") }
            self = .archive(path: path, reference: reference)
        } else if let rest = text.suffix(after: "dir:") {
            guard !rest.isEmpty else { throw bad("dir: is followed by the path of a directory") }
            self = .directory(path: String(rest))
        } else if let rest = text.suffix(after: "sha256:") {
            guard (6...64).contains(rest.utf8.count), rest.utf8.allSatisfy(isLowerHex) else {
                throw bad("sha256: is followed by 6 to 64 digits of 0-9a-f")
            }
            self = .stored(idPrefix: String(rest))
        } else if ReferenceGrammar.isImageID(text[...]) {
            self = .stored(idPrefix: text)
        } else {
            self = .registry(try ImageReference(String(text.suffix(after: "docker://") ?? text[...])))
        }
    }

    package var description: String {
        switch self {
        case .registry(let reference): reference.description
        case .layout(let path, let tag): "oci:\(path)" + (tag.map { ":\($0)" } ?? "")
        case .archive(let path, let reference): "docker-archive:\(path)" + (reference.map { ":\($0)" } ?? "")
        case .directory(let path): "dir:\(path)"
        case .stored(let prefix): "sha256:\(prefix)"
        }
    }
}

extension String {
    fileprivate func suffix(after prefix: String) -> Substring? {
        hasPrefix(prefix) ? self[index(startIndex, offsetBy: prefix.count)...] : nil
    }
}

extension Substring {
    fileprivate func splitAtFirstColon() -> (String, String?) {
        guard let colon = firstIndex(of: ":") else { return (String(self), nil) }
        return (String(self[..<colon]), String(self[index(after: colon)...]))
    }
}
