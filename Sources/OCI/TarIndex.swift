// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// Where the files in a tar file are (POSIX.1-2001 pax, and GNU's long names), for archives that are read out of order.
/// Only what archives of images need: regular files and links between them.
struct TarIndex: Sendable {
    enum Entry: Sendable {
        case file(FileSlice)
        /// A symbolic or hard link, its target a path within the archive.
        case link(String)
    }

    /// Bounds on what an archive may ask of us.
    private enum Limits {
        static let entries = 65536
        static let extendedHeader: Int64 = 64 * 1024
        static let nameInBytes = 4096
        static let linkDepth = 8
    }

    private(set) var entries: [String: Entry] = [:]

    /// - Parameter what: the archive's name, for errors.
    init(_ archive: FileSlice, what: String) throws(OCIError) {
        var position: Int64 = 0
        var count = 0
        var extended = ExtendedHeader()
        var block = [UInt8](repeating: 0, count: 512)
        while position < archive.length {
            guard try archive.fill(&block, at: position) else {
                throw .malformed(what: what, reason: "it ends in the middle of a header; it is not whole")
            }
            position += 512
            if block.allSatisfy({ $0 == 0 }) { return }
            guard TarIndex.hasRightChecksum(block) else {
                throw .malformed(what: what, reason: count == 0 ? "it is not a tar file" : "a header is damaged")
            }
            count += 1
            guard count <= Limits.entries else { throw .tooLarge(what: "the list of files in \(what)", limit: 65536) }
            let type = block[156]
            let isExtension = [0x78, 0x67, 0x4c, 0x4b].contains(type)  // x g L K
            guard
                let size = isExtension
                    ? TarIndex.number(block[124..<136]) : extended.size ?? TarIndex.number(block[124..<136]),
                size >= 0, let data = archive.part(offset: position, length: size)
            else { throw .malformed(what: what, reason: "an entry is longer than the file; it is not whole") }
            position += size + (512 - size % 512) % 512
            if isExtension {
                guard size <= Limits.extendedHeader else {
                    throw .tooLarge(what: "an extended header in \(what)", limit: Limits.extendedHeader)
                }
                let bytes = try data.bytes(limit: Int(Limits.extendedHeader), what: what)
                try extended.add(bytes, type: type, what: what)
                continue
            }
            try add(block, type: type, data: data, extended, what: what)
            extended = ExtendedHeader()
        }
    }

    private mutating func add(
        _ block: [UInt8], type: UInt8, data: FileSlice, _ extended: ExtendedHeader, what: String
    ) throws(OCIError) {
        var name = extended.path ?? TarIndex.text(block[0..<100])
        let prefix = TarIndex.text(block[345..<500])
        if extended.path == nil, block[257..<262].elementsEqual("ustar".utf8), block[262] == 0, !prefix.isEmpty {
            name = "\(prefix)/\(name)"
        }
        guard name.utf8.count <= Limits.nameInBytes else {
            throw .tooLarge(what: "a name in \(what)", limit: Int64(Limits.nameInBytes))
        }
        // What lies outside is of no concern: nothing is ever unpacked, only looked up.
        guard let path = TarIndex.normalize(name, relativeTo: "") else { return }
        let link = extended.link ?? TarIndex.text(block[157..<257])
        switch type {
        case 0, UInt8(ascii: "0"), UInt8(ascii: "7"):
            entries[path] = .file(data)
        case UInt8(ascii: "1"):
            if let target = TarIndex.normalize(link, relativeTo: "") { entries[path] = .link(target) }
        case UInt8(ascii: "2"):
            let directory = splitPath(path).directory
            if let target = TarIndex.normalize(link, relativeTo: directory == "." ? "" : directory) {
                entries[path] = .link(target)
            }
        default: break
        }
    }

    /// The file of a name, through links within the archive; nil if there is none.
    func file(_ name: String) -> FileSlice? {
        guard var path = TarIndex.normalize(name, relativeTo: "") else { return nil }
        for _ in 0...Limits.linkDepth {
            switch entries[path] {
            case .file(let slice): return slice
            case .link(let target): path = target
            case nil: return nil
            }
        }
        return nil
    }

    /// A relative path without `.` and `..`; nil for one that leads outside.
    static func normalize(_ name: String, relativeTo directory: String) -> String? {
        guard !name.utf8.contains(0), name.first != "/", name.utf8.count <= Limits.nameInBytes else { return nil }
        var parts = directory.split(separator: "/")
        for part in name.split(separator: "/") where part != "." {
            if part == ".." {
                guard parts.popLast() != nil else { return nil }
            } else {
                parts.append(part)
            }
        }
        return parts.isEmpty ? nil : parts.joined(separator: "/")
    }

    /// A number in octal, or in base 256 where its first bit is set (GNU); nil for neither.
    static func number(_ field: ArraySlice<UInt8>) -> Int64? {
        guard let first = field.first else { return nil }
        if first & 0x80 != 0 {
            var value: Int64 = Int64(first & 0x7f)
            for byte in field.dropFirst() {
                guard value <= Int64.max >> 8 else { return nil }
                value = value << 8 | Int64(byte)
            }
            return value
        }
        var value: Int64 = 0
        for byte in field.drop(while: { $0 == 0x20 }) {
            if byte == 0 || byte == 0x20 { break }
            guard (0x30...0x37).contains(byte) else { return nil }
            value = value << 3 | Int64(byte - 0x30)
        }
        return value
    }

    static func text(_ field: ArraySlice<UInt8>) -> String {
        String(decoding: field.prefix { $0 != 0 }, as: UTF8.self)
    }

    private static func hasRightChecksum(_ block: [UInt8]) -> Bool {
        var sum: Int64 = 0
        for (index, byte) in block.enumerated() { sum += (148..<156).contains(index) ? 0x20 : Int64(byte) }
        return number(block[148..<156]) == sum
    }
}

/// What headers before an entry say of it.
private struct ExtendedHeader {
    var path: String?
    var link: String?
    var size: Int64?

    mutating func add(_ bytes: [UInt8], type: UInt8, what: String) throws(OCIError) {
        switch type {
        case UInt8(ascii: "L"): path = TarIndex.text(bytes[...])
        case UInt8(ascii: "K"): link = TarIndex.text(bytes[...])
        case UInt8(ascii: "x"): try addRecords(bytes, what: what)
        default: break  // Global headers say nothing of names and sizes that these archives use.
        }
    }

    /// Records `LENGTH KEY=VALUE\n`, the length in decimal and of the whole record.
    private mutating func addRecords(_ bytes: [UInt8], what: String) throws(OCIError) {
        var rest = bytes[...]
        while let space = rest.firstIndex(of: 0x20) {
            guard let length = Int(String(decoding: rest[..<space], as: UTF8.self)),
                length > space - rest.startIndex + 1,
                length <= rest.count
            else { throw .malformed(what: what, reason: "an extended header is damaged") }
            let record = rest[(space + 1)..<(rest.startIndex + length - 1)]
            if let equals = record.firstIndex(of: UInt8(ascii: "=")) {
                let value = String(decoding: record[(equals + 1)...], as: UTF8.self)
                switch String(decoding: record[..<equals], as: UTF8.self) {
                case "path": path = value
                case "linkpath": link = value
                case "size":
                    guard let number = Int64(value), number >= 0 else {
                        throw .malformed(what: what, reason: "an extended header has a size that is none")
                    }
                    size = number
                default: break
                }
            }
            rest = rest[(rest.startIndex + length)...]
        }
    }
}

extension FileSlice {
    /// Fills an array from an offset; false if the slice ends before.
    fileprivate func fill(_ bytes: inout [UInt8], at position: Int64) throws(OCIError) -> Bool {
        let wanted = bytes.count
        let count = try bytes.withUnsafeMutableBytes { space in
            Result { () throws(OCIError) in try read(into: space, at: position) }
        }.get()
        return count == wanted
    }
}
