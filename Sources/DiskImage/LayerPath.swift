// SPDX-License-Identifier: Apache-2.0

/// A path of an archive, cleaned: without a leading `/`, `.`, `..` and empty components.
struct LayerPath {
    /// PATH_MAX, the terminating zero included.
    static let maximumInBytes = 4096

    private var bytes: [UInt8] = []
    private var lastStart = 0

    init(_ path: [UInt8], problem: (ArchiveProblem) -> DiskImageError) throws(DiskImageError) {
        guard !path.isEmpty else { throw problem(.emptyName) }
        // Nothing sensible is so long; this bounds the work below.
        guard path.count < 4 * Self.maximumInBytes else { throw problem(.pathTooLong(length: path.count)) }
        var starts: [Int] = []
        bytes.reserveCapacity(path.count)
        for component in path.split(separator: UInt8(ascii: "/")) {
            if component.count == 1 && component.first == 0x2E { continue }
            if component.count == 2 && component.allSatisfy({ $0 == 0x2E }) {
                guard let start = starts.popLast() else { throw problem(.escapes) }
                bytes.removeSubrange(max(0, start - 1)...)
                continue
            }
            guard component.count <= Erofs.maximumNameInBytes else {
                throw problem(.componentTooLong(length: component.count))
            }
            if !bytes.isEmpty { bytes.append(UInt8(ascii: "/")) }
            starts.append(bytes.count)
            bytes.append(contentsOf: component)
        }
        guard bytes.count < Self.maximumInBytes else { throw problem(.pathTooLong(length: bytes.count)) }
        lastStart = starts.last ?? 0
    }

    /// The last component; nil for the root.
    var last: ArraySlice<UInt8>? { bytes.isEmpty ? nil : bytes[lastStart...] }
    /// What comes before the last component.
    var parent: ArraySlice<UInt8> { bytes[..<lastStart] }
}
