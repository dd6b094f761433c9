// SPDX-License-Identifier: Apache-2.0

/// Extended attributes as EROFS keeps them right after an inode.
enum ErofsXattrs {
    /// Marks a directory as hiding what lower layers have in it, as overlayfs wants it.
    static let opaque = ExtendedAttribute(name: Array("trusted.overlay.opaque".utf8), value: [0x79])
    /// Marks a directory that no entry of its layer described, so that a merge keeps the lower one's attributes.
    static let implicit = ExtendedAttribute(name: Array("trusted.martlet.implicit".utf8), value: [0x79])

    /// Whether an attribute that an image brings is one to keep: those of overlayfs and ours would let an image give
    /// orders to what mounts or merges it, and names without one of the kernel's prefixes cannot exist on Linux.
    static func isKept(_ name: [UInt8]) -> Bool {
        let own =
            name.starts(with: Array("trusted.overlay.".utf8)) || name.starts(with: Array("user.overlay.".utf8))
            || name.starts(with: Array("trusted.martlet.".utf8))
        return !own && prefix(of: name) != nil
    }

    /// The number of the prefix and the rest of the name.
    static func prefix(of name: [UInt8]) -> (number: UInt8, rest: ArraySlice<UInt8>)? {
        for (number, prefix) in Erofs.xattrPrefixes where name.starts(with: prefix) {
            let rest = name.dropFirst(prefix.count)
            let isWhole = number == 2 || number == 3
            guard isWhole == rest.isEmpty, name.count <= Erofs.maximumNameInBytes else { continue }
            return (number, rest)
        }
        return nil
    }

    /// The bytes after the inode, in an order that depends on nothing but the attributes; nothing for none.
    static func encode(
        _ attributes: [ExtendedAttribute], entry: @autoclosure () -> String, limits: ConversionLimits
    ) throws(DiskImageError) -> [UInt8] {
        if attributes.isEmpty { return [] }
        var total = 0
        for attribute in attributes {
            total += attribute.name.count + attribute.value.count
            guard total <= limits.xattrsInBytes, attribute.value.count <= Int(UInt16.max) else {
                throw .limit(entry: entry(), limit: .xattrs, maximum: UInt64(limits.xattrsInBytes))
            }
        }
        var body = [UInt8](repeating: 0, count: Erofs.xattrHeaderInBytes)
        let sorted = attributes.sorted { $0.name.lexicographicallyPrecedes($1.name) }
        for attribute in sorted {
            guard let (number, rest) = prefix(of: attribute.name) else { continue }
            body.append(UInt8(truncatingIfNeeded: rest.count))
            body.append(number)
            body.appendLittleEndian(UInt16(truncatingIfNeeded: attribute.value.count))
            body.append(contentsOf: rest)
            body.append(contentsOf: attribute.value)
            while body.count % 4 != 0 { body.append(0) }
        }
        guard body.count <= Erofs.maximumXattrBodyInBytes else {
            throw .limit(entry: entry(), limit: .xattrs, maximum: UInt64(limits.xattrsInBytes))
        }
        return body.count == Erofs.xattrHeaderInBytes ? [] : body
    }

    /// The attributes that bytes after an inode stand for; nil where they are damaged, or share attributes, which this
    /// module does not write.
    static func decode(_ body: ArraySlice<UInt8>) -> [ExtendedAttribute]? {
        if body.isEmpty { return [] }
        guard body.count >= Erofs.xattrHeaderInBytes, body[body.startIndex + 4] == 0 else { return nil }
        var rest = body.dropFirst(Erofs.xattrHeaderInBytes)
        var attributes: [ExtendedAttribute] = []
        while !rest.isEmpty {
            guard rest.count >= 4 else { return nil }
            let nameCount = Int(rest[rest.startIndex])
            let number = rest[rest.startIndex + 1]
            let valueCount = Int(rest.number16(2))
            guard 4 + nameCount + valueCount <= rest.count,
                let prefix = Erofs.xattrPrefixes.first(where: { $0.number == number })?.prefix
            else { return nil }
            let name = rest.dropFirst(4).prefix(nameCount)
            let value = rest.dropFirst(4 + nameCount).prefix(valueCount)
            attributes.append(ExtendedAttribute(name: prefix + name, value: Array(value)))
            rest = rest.dropFirst((4 + nameCount + valueCount + 3) / 4 * 4)
        }
        return attributes
    }

    /// Bytes of attributes in the unit of `i_xattr_icount`.
    static func units(inBytes count: Int) -> UInt16 {
        count == 0 ? 0 : UInt16(truncatingIfNeeded: (count - Erofs.xattrHeaderInBytes) / 4 + 1)
    }

    static func inBytes(units: UInt16) -> Int {
        units == 0 ? 0 : Erofs.xattrHeaderInBytes + 4 * (Int(units) - 1)
    }
}
