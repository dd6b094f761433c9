// SPDX-License-Identifier: Apache-2.0

extension ErofsReader {
    /// Gives each name of a directory with the number of its inode, `.` and `..` left out, in the order of the image.
    /// A name has 1 to 255 bytes, no `/` and no NUL.
    func forEachEntry(
        of directory: Inode, _ body: (ArraySlice<UInt8>, UInt64) throws(DiskImageError) -> Void
    ) throws(DiskImageError) {
        guard directory.isDirectory else { return }
        for index in 0..<blockCount(of: directory) {
            let (block, address) = try block(index, of: directory)
            try forEachEntry(in: block, at: address, body)
        }
    }

    private func blockCount(of directory: Inode) -> UInt64 {
        (directory.sizeInBytes + UInt64(Erofs.blockInBytes) - 1) / UInt64(Erofs.blockInBytes)
    }

    /// The used bytes of one of a directory's blocks, and where they are.
    private func block(_ index: UInt64, of directory: Inode) throws(DiskImageError) -> (ArraySlice<UInt8>, UInt64) {
        let position = index * UInt64(Erofs.blockInBytes)
        let count = Int(min(UInt64(Erofs.blockInBytes), directory.sizeInBytes - position))
        let address =
            directory.layout == .inline && count < Erofs.blockInBytes
            ? directory.bodyStart : UInt64(directory.location) * UInt64(Erofs.blockInBytes) + position
        return (try source.bytes(at: address, count: count), address)
    }

    private func forEachEntry(
        in block: ArraySlice<UInt8>, at address: UInt64,
        _ body: (ArraySlice<UInt8>, UInt64) throws(DiskImageError) -> Void
    ) throws(DiskImageError) {
        let damaged = DiskImageError.image(problem: "a directory is damaged", offset: address)
        guard block.count > Erofs.direntInBytes else { throw damaged }
        let names = Int(block.number16(8))
        guard names >= Erofs.direntInBytes, names < block.count, names % Erofs.direntInBytes == 0 else { throw damaged }
        let count = names / Erofs.direntInBytes
        for index in 0..<count {
            let entry = index * Erofs.direntInBytes
            let start = Int(block.number16(entry + 8))
            let limit = index + 1 < count ? Int(block.number16(entry + Erofs.direntInBytes + 8)) : block.count
            guard start >= names, start < limit, limit <= block.count else { throw damaged }
            var name = block[(block.startIndex + start)..<(block.startIndex + limit)]
            if index + 1 == count { name = name.prefix { $0 != 0 } }
            guard !name.isEmpty, name.count <= Erofs.maximumNameInBytes,
                !name.contains(where: { $0 == 0 || $0 == UInt8(ascii: "/") })
            else { throw damaged }
            if name.first == 0x2E && (name.count == 1 || (name.count == 2 && name.last == 0x2E)) { continue }
            try body(name, block.number64(entry))
        }
    }

    /// The inode of a name in a directory, or nil.
    func entry(_ name: ArraySlice<UInt8>, in directory: Inode) throws(DiskImageError) -> Inode? {
        guard directory.isDirectory else { return nil }
        // The last block that begins with the name or one before it; names are sorted.
        var low: UInt64 = 0
        var high = blockCount(of: directory)
        while low < high {
            let middle = low + (high - low) / 2
            let (block, address) = try block(middle, of: directory)
            if name.lexicographicallyPrecedes(try firstName(in: block, at: address)) {
                high = middle
            } else {
                low = middle + 1
            }
        }
        guard low > 0 else { return nil }
        let (block, address) = try block(low - 1, of: directory)
        var found: UInt64?
        try forEachEntry(in: block, at: address) { (other, number) throws(DiskImageError) in
            if found == nil && other.elementsEqual(name) { found = number }
        }
        guard let found else { return nil }
        return try inode(found)
    }

    private func firstName(
        in block: ArraySlice<UInt8>, at address: UInt64
    ) throws(DiskImageError) -> ArraySlice<UInt8> {
        guard block.count > Erofs.direntInBytes else {
            throw .image(problem: "a directory is damaged", offset: address)
        }
        let start = Int(block.number16(8))
        let end = start == Erofs.direntInBytes ? block.count : Int(block.number16(8 + Erofs.direntInBytes))
        guard start < end, end <= block.count else {
            throw .image(problem: "a directory is damaged", offset: address)
        }
        return block[(block.startIndex + start)..<(block.startIndex + end)].prefix { $0 != 0 }
    }

    /// Names of a directory, in their order.
    package func names(of directory: Inode) throws(DiskImageError) -> [[UInt8]] {
        var names: [[UInt8]] = []
        try forEachEntry(of: directory) { (name, _) throws(DiskImageError) in names.append(Array(name)) }
        return names
    }

    /// The file at a path from the image's root; symbolic links on the way are followed within the image.
    /// - Parameter followingLast: whether a link at the end is followed as well.
    package func lookup(_ path: String, followingLast: Bool = true) throws(DiskImageError) -> Inode {
        var directories = [try root]
        var rest = Array(path.utf8)[...]
        var hops = 0
        while let first = rest.first {
            if first == UInt8(ascii: "/") {
                rest.removeFirst()
                continue
            }
            let name = rest.prefix { $0 != UInt8(ascii: "/") }
            rest = rest[name.endIndex...]
            guard let current = directories.last, current.isDirectory else {
                throw .lookup(path: path, problem: .notADirectory)
            }
            if name.count == 1 && name.first == 0x2E { continue }
            if name.count == 2 && name.allSatisfy({ $0 == 0x2E }) {
                if directories.count > 1 { directories.removeLast() }
                continue
            }
            guard let next = try entry(name, in: current) else { throw .lookup(path: path, problem: .missing) }
            let isLast = !rest.contains { $0 != UInt8(ascii: "/") }
            if next.isSymbolicLink && (followingLast || !isLast) {
                let target = try linkTarget(next)
                hops += 1
                guard hops <= 40, rest.count < 4 * LayerPath.maximumInBytes else {
                    throw .lookup(path: path, problem: .tooManyLinks)
                }
                if target.first == UInt8(ascii: "/") { directories.removeSubrange(1...) }
                rest = (target + rest)[...]
                continue
            }
            directories.append(next)
        }
        guard let found = directories.last else { throw .lookup(path: path, problem: .missing) }
        return found
    }

    /// The whole content of a regular file.
    /// - Parameter limit: the most bytes it may have.
    package func readFile(_ path: String, limit: Int) throws(DiskImageError) -> [UInt8] {
        let inode = try lookup(path)
        guard inode.isRegularFile else { throw .lookup(path: path, problem: .notAFile) }
        guard inode.sizeInBytes <= UInt64(max(0, limit)) else {
            throw .lookup(path: path, problem: .tooLarge(limit: limit))
        }
        return try contents(inode)
    }

    /// The whole content of a file whose size the caller has found bearable.
    func contents(_ inode: Inode) throws(DiskImageError) -> [UInt8] {
        var failure: DiskImageError?
        let size = Int(inode.sizeInBytes)
        let result = unsafe [UInt8](unsafeUninitializedCapacity: size) { buffer, filled in
            do throws(DiskImageError) {
                filled = try unsafe read(
                    inode, at: 0,
                    into: UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: size))
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return result
    }

    /// A file's extended attributes.
    func xattrs(_ inode: Inode) throws(DiskImageError) -> [ExtendedAttribute] {
        guard inode.xattrsInBytes > 0 else { return [] }
        let body = try source.bytes(at: inode.xattrsStart, count: inode.xattrsInBytes)
        guard let attributes = ErofsXattrs.decode(body) else {
            throw .image(problem: "extended attributes are damaged", offset: inode.xattrsStart)
        }
        return attributes
    }
}
