// SPDX-License-Identifier: Apache-2.0

/// Why a snapshot's files cannot be taken for what they say they are.
package enum SnapshotsError: Error, Equatable, Sendable, CustomStringConvertible {
    /// A file of checksums is none.
    case sums(String)
    /// The bytes of an archive cannot be those of one, or not any more.
    case archive(String)
    /// An archive's snapshot is whole, but is not one that a container of this host may be made of.
    case refused(String)

    package var description: String {
        switch self {
        case .sums(let problem): "the checksums of the memory cannot be read: \(problem)"
        case .archive(let problem): "this is no snapshot's archive, or not a whole one: \(problem)"
        case .refused(let problem): "the snapshot is refused: \(problem)"
        }
    }
}
