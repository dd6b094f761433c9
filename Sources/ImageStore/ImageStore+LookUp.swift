// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import OCI
internal import Platform

extension ImageStore {
    var allLayouts: [StoreLayout] { [layout] + additional }

    /// Finds an image that is stored and whole, or nil. Layouts are not looked into here: they are quick to read, and may have
    /// changed.
    package func lookUp(_ source: ImageSource) throws(ImageStoreError) -> StoredImage? {
        switch source {
        case .registry(let reference):
            let key = storeKey(reference.description, platform)
            for layout in allLayouts {
                guard let record = read(NameRecord.self, layout.name(key)), let id = Digest(record.image),
                    var image = try load(id)
                else { continue }
                image.names = [record.name]
                return image
            }
            return nil
        case .stored(let prefix):
            guard let id = try find(prefix) else { return nil }
            return try load(id)
        case .directory, .archive, .layout:
            return nil
        }
    }

    /// The id that begins with a prefix.
    private func find(_ prefix: String) throws(ImageStoreError) -> Digest? {
        if let whole = Digest(sha256Hex: prefix) { return whole }
        var found: Set<String> = []
        for layout in allLayouts {
            for name in (try? Files.list(layout.images)) ?? [] where name.hasPrefix(prefix) { found.insert(name) }
        }
        guard found.count <= 1 else { throw .ambiguous(prefix, found.sorted().map { "sha256:\($0)" }) }
        return found.first.flatMap { Digest(sha256Hex: $0) }
    }

    /// An image by its id; nil where it is not stored, or where a part of it is missing.
    func load(_ id: Digest) throws(ImageStoreError) -> StoredImage? {
        for layout in allLayouts {
            let directory = layout.image(id)
            guard let record = read(ImageRecord.self, directory + "/record.json"),
                record.version == ImageRecord.currentVersion,
                let bytes = try? Files.read(directory + "/config.json", limit: ImageLimits.configurationSize),
                Digest(sha256Of: bytes) == id,
                let configuration = try? ImageConfiguration(bytes: bytes, what: "the configuration of \(id)"),
                let segments = segments(record, merged: directory + "/merged.erofs")
            else { continue }
            return StoredImage(id: id, names: [], configuration: configuration, segments: segments)
        }
        return nil
    }

    /// The files of an image, if all are there in their right lengths.
    private func segments(_ record: ImageRecord, merged: String) -> [StoredImage.Segment]? {
        guard fileLength(merged) == record.mergedLength else { return nil }
        var segments = [StoredImage.Segment(path: merged, length: record.mergedLength)]
        for part in record.layers {
            guard let diffID = Digest(part.diffID), let path = pathOfLayer(diffID, length: part.length) else {
                return nil
            }
            segments.append(StoredImage.Segment(path: path, length: part.length))
        }
        return segments
    }

    /// Where a layer is, in this store or another; nil where it is in none.
    func pathOfLayer(_ diffID: Digest, length: UInt64? = nil) -> String? {
        for layout in allLayouts {
            let path = layout.layer(diffID)
            if let found = fileLength(path), length.map({ $0 == found }) ?? true { return path }
        }
        return nil
    }

    /// A small document of the store; nil where it is missing or damaged, which is the same to us: it is made again.
    func read<Value: Decodable>(_ type: Value.Type, _ path: String) -> Value? {
        guard let bytes = try? Files.read(path, limit: 1 << 20) else { return nil }
        return try? decodeJSON(type, bytes, what: path)
    }
}

/// In bytes; nil where there is no such file.
func fileLength(_ path: String) -> UInt64? {
    var status = stat()
    guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return nil }
    return UInt64(max(0, status.st_size))
}
