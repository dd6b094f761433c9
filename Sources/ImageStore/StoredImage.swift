// SPDX-License-Identifier: Apache-2.0

package import OCI

/// An image in the store, ready to be run.
package struct StoredImage: Sendable {
    /// The SHA-256 of the configuration.
    package let id: Digest
    /// The names it is known by here; a look-up by name gives that name only.
    package var names: [String]
    package let configuration: ImageConfiguration
    /// What a machine's block device shows, one after another: the merged metadata, then the layers, lowest first.
    package let segments: [Segment]

    package struct Segment: Hashable, Sendable {
        package let path: String
        /// In bytes, a multiple of 4096.
        package let length: UInt64
    }

    /// In bytes.
    package var totalLength: UInt64 { segments.reduce(0) { $0 + $1.length } }
}

/// When a registry is asked.
package enum PullPolicy: String, CaseIterable, Sendable {
    /// The name may have moved: ask each time.
    case always
    /// Only for what is not there.
    case missing
    case never
}

/// What happens while an image is fetched, for those who show it.
package enum ImageProgress: Equatable, Sendable {
    /// A registry, a layout or an archive is being asked for the image.
    case looking(String)
    /// The image's layers, by the beginnings of their ids, with their sizes in bytes as they are fetched.
    case layers([LayerSummary])
    /// A layer, by its number in that list, has come so far.
    case layer(Int, LayerState)
    /// All layers are there and are being joined.
    case merging
    case ready(String)
}

package struct LayerSummary: Equatable, Sendable {
    package let name: String
    package let size: Int64
}

package enum LayerState: Equatable, Sendable {
    /// It is in the store.
    case present
    /// Another process fetches it.
    case waiting
    /// So many bytes have come; they are converted as they come.
    case fetching(Int64)
    /// All bytes have come, the rest is being converted.
    case converting
    /// It is now in the store.
    case stored
}

package typealias ImageProgressHandler = @Sendable (ImageProgress) -> Void
