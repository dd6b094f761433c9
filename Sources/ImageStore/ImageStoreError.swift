// SPDX-License-Identifier: Apache-2.0

package import DiskImage
internal import Glibc
package import OCI
package import Platform

/// Why an image could not be had.
package enum ImageStoreError: Error, Equatable, Sendable {
    /// The image could not be found or fetched.
    case image(OCIError)
    /// A layer could not be converted.
    case layer(String, DiskImageError)
    /// The layers could not be joined to an image.
    case merge(String, DiskImageError)
    /// A layer is not the one that the image's configuration promises.
    case wrongLayer(image: String, expected: String, found: String)
    /// The disk that holds the store is full.
    case noSpace(directory: String)
    /// The image is not in the store, and was not to be fetched.
    case notStored(String)
    /// The beginning of an id fits several images.
    case ambiguous(String, [String])
    case system(SystemError)
    case cancelled
}

extension ImageStoreError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .image(let error): error.description
        case .layer(let layer, let error): "layer \(layer) cannot be converted: \(error)"
        case .merge(let image, let error): "the layers of \(image) cannot be joined: \(error)"
        case .wrongLayer(let image, let expected, let found):
            "a layer of \(image) is not what was promised: its uncompressed digest is \(found), it should be \(expected)"
        case .noSpace(let directory):
            "the disk that holds \(directory) is full: free some space, or set XDG_DATA_HOME to a directory elsewhere"
        case .notStored(let name): "the image \(name) is not stored here"
        case .ambiguous(let text, let ids): "several images begin with \(text): \(ids.joined(separator: ", "))"
        case .system(let error): error.description
        case .cancelled: "cancelled"
        }
    }
}

extension ImageStoreError {
    /// An error of the system, or that the disk is full.
    init(_ error: SystemError, store: String) {
        self = error.code == ENOSPC || error.code == EDQUOT ? .noSpace(directory: store) : .system(error)
    }

    init(_ error: OCIError, store: String) {
        switch error {
        case .cancelled: self = .cancelled
        case .system(let inner): self.init(inner, store: store)
        default: self = .image(error)
        }
    }

    init(layer: String, _ error: DiskImageError, store: String) {
        if case .system(let inner) = error, inner.code == ENOSPC || inner.code == EDQUOT {
            self = .noSpace(directory: store)
        } else {
            self = .layer(layer, error)
        }
    }
}

/// Makes calls of the system, and tells of their failures in this module's terms.
func storing<Result: ~Copyable>(
    _ store: String, _ body: () throws(SystemError) -> Result
) throws(ImageStoreError) -> Result {
    do { return try body() } catch { throw ImageStoreError(error, store: store) }
}
