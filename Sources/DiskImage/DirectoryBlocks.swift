// SPDX-License-Identifier: Apache-2.0

/// Divides a directory's entries, `.` and `..` among them in their order, into blocks of 4096 bytes.
struct DirectoryBlocks {
    typealias InodeIndex = ImageTree.InodeIndex

    /// One name of a directory.
    enum Name {
        case itself
        case parent
        case child(ImageTree.Entry)

        var inBytes: Int {
            switch self {
            case .itself: 1
            case .parent: 2
            case .child(let entry): Int(entry.nameCount)
            }
        }
    }

    struct Block {
        /// Positions in the sequence of all names.
        var range: Range<UInt32>
        /// Used bytes.
        var sizeInBytes: Int
    }

    private let metadata: ErofsMetadata
    private let firstChild: UInt32
    private let childCount: UInt32
    /// How many children's names come before `.`, and before `..`.
    private var before: (UInt32, UInt32) = (0, 0)
    private var position: UInt32 = 0

    init(_ metadata: ErofsMetadata, _ directory: InodeIndex) throws(DiskImageError) {
        self.metadata = metadata
        let placement = try metadata.placement(directory)
        firstChild = placement.firstChild
        childCount = placement.childCount
        before = (try count(before: [0x2E]), try count(before: [0x2E, 0x2E]))
    }

    private var count: UInt32 { childCount + 2 }
    var isLast: Bool { position == count }

    /// The name at a position of the sequence.
    func name(at position: UInt32) throws(DiskImageError) -> Name {
        // `..` comes one place later than its count of children says, since `.` is before it.
        if position == before.0 { return .itself }
        if position == before.1 + 1 { return .parent }
        let passed: UInt32 = (position > before.0 ? 1 : 0) + (position > before.1 + 1 ? 1 : 0)
        return .child(try metadata.child(firstChild + position - passed))
    }

    /// The next block: as many names as fit.
    mutating func next() throws(DiskImageError) -> Block? {
        guard position < count else { return nil }
        let start = position
        var size = 0
        while position < count {
            let more = Erofs.direntInBytes + (try name(at: position)).inBytes
            if size + more > Erofs.blockInBytes { break }
            size += more
            position += 1
        }
        return Block(range: start..<position, sizeInBytes: size)
    }

    private func count(before name: [UInt8]) throws(DiskImageError) -> UInt32 {
        var low: UInt32 = 0
        var high = childCount
        while low < high {
            let middle = low + (high - low) / 2
            let other = try metadata.child(firstChild + middle).name
            let bytes = try metadata.tree.bytes.bytes(at: other.place, count: other.count)
            if bytes.lexicographicallyPrecedes(name) { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
