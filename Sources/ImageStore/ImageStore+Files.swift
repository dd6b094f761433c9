// SPDX-License-Identifier: Apache-2.0

internal import DiskImage
internal import FoundationEssentials
internal import Glibc
internal import OCI
internal import Platform

extension ImageStore {
    /// An image in an archive. One that has not changed since it was last read is not read again: it may be large, and
    /// compressed as a whole.
    func storeArchive(
        _ path: String, _ reference: String?, _ source: ImageSource, _ progress: @escaping ImageProgressHandler
    ) async throws(ImageStoreError) -> StoredImage {
        let real = (try? Files.resolve(path)) ?? path
        let name = ImageSource.archive(path: real, reference: reference).description
        let fingerprint = Fingerprint.ofFile(real)
        if let image = try remembered(name, fingerprint) { return image }
        let workspace = try Workspace(in: layout)
        defer { workspace.remove() }
        let content = try await reading { () async throws(OCIError) in
            try await ImageContent.archive(
                path: path, reference: reference, platform: platform, temporaryDirectory: workspace.path)
        }
        let image = try await store(content, name: source.description, progress)
        if let fingerprint, fingerprint == Fingerprint.ofFile(real) { try remember(name, fingerprint, image) }
        return image
    }

    /// The image that a directory is. It is converted again when anything in it has changed.
    func convertDirectory(
        _ path: String, _ progress: @escaping ImageProgressHandler
    ) async throws(ImageStoreError) -> StoredImage {
        guard Files.isDirectory(path) else {
            throw .image(
                Files.exists(path)
                    ? .unsupported(what: printable(path), reason: "it is not a directory")
                    : .noSuchFile(what: "the directory", path: path))
        }
        let real = try storing(root) { () throws(SystemError) in try Files.resolve(path) }
        let name = ImageSource.directory(path: real).description
        let before = await onOwnThread { Fingerprint.ofTree(real) }
        if let image = try remembered(name, before) { return image }
        progress(.layers([LayerSummary(name: splitPath(real).name, size: 0)]))
        progress(.layer(0, .converting))
        let workspace = try Workspace(in: layout)
        defer { workspace.remove() }
        let diffID = try await storeDirectory(real, workspace)
        progress(.layer(0, .stored))
        progress(.merging)
        let configuration = ImageConfiguration(platform: platform, diffIDs: [diffID.description])
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        guard let bytes = try? encoder.encode(configuration) else {
            preconditionFailure("a configuration is of strings and numbers")
        }
        let image = try await storeImage(configuration: Array(bytes), diffIDs: [diffID], name: name, workspace)
        let after = await onOwnThread { Fingerprint.ofTree(real) }
        // What changed meanwhile may be in the image in part: it is converted again next time.
        if let before, before == after { try remember(name, before, image) }
        return image
    }

    private func storeDirectory(_ path: String, _ workspace: Workspace) async throws(ImageStoreError) -> Digest {
        let output = workspace.path + "/directory"
        let result = await onOwnThread { [self] in
            Result { () throws(ImageStoreError) in
                let file = try storing(root) { () throws(SystemError) in
                    try Descriptor.open(output, .createNew, permissions: 0o400)
                }
                let converted: ConvertedLayer
                do throws(DiskImageError) {
                    converted = try DirectoryConverter.convert(path: path, output: file.raw, options: .ofCaller)
                } catch {
                    throw ImageStoreError(layer: printable(path), error, store: root)
                }
                guard let diffID = Digest(converted.diffID) else {
                    throw .wrongLayer(image: path, expected: "a digest", found: converted.diffID)
                }
                // An equal layer that another made meanwhile is replaced by its equal.
                try install(file, output, as: layout.layer(diffID))
                return diffID
            }
        }
        return try result.get()
    }

    // MARK: What files were when they were last read

    private func remembered(_ name: String, _ fingerprint: Digest?) throws(ImageStoreError) -> StoredImage? {
        guard let fingerprint else { return nil }
        for layout in allLayouts {
            guard let record = read(SourceRecord.self, layout.source(storeKey(name, platform))),
                record.fingerprint == fingerprint.description, let id = Digest(record.image)
            else { continue }
            if let image = try load(id) { return image }
        }
        return nil
    }

    private func remember(
        _ name: String, _ fingerprint: Digest, _ image: StoredImage
    ) throws(ImageStoreError) {
        let record = SourceRecord(
            source: name, fingerprint: fingerprint.description, image: image.id.description)
        try write(record, to: layout.source(storeKey(name, platform)))
    }
}

/// Tells whether files have changed, from their metadata alone: a change of content, of attributes or of names changes
/// a file's or its directory's `ctime`, which nobody can set.
enum Fingerprint {
    /// Changes within the clock's tick of a look could leave no trace: what changed that lately has no fingerprint.
    private static let settlingInNanoseconds: Int64 = 20_000_000

    static func ofFile(_ path: String) -> Digest? {
        var hash = TreeHash()
        guard hash.add(path, as: "") != nil else { return nil }
        return hash.finish()
    }

    /// Of a directory and all below it; nil where a part of it cannot be seen. It blocks.
    static func ofTree(_ root: String) -> Digest? {
        var hash = TreeHash()
        guard hash.add(root, as: "") != nil else { return nil }
        var pending = [""]
        while let directory = pending.popLast() {
            guard let names = try? Files.list(root + directory) else { return nil }
            for name in names.sorted(by: { $0.utf8.lexicographicallyPrecedes($1.utf8) }) {
                let path = "\(directory)/\(name)"
                guard let isDirectory = hash.add(root + path, as: path) else { return nil }
                if isDirectory { pending.append(path) }
            }
        }
        return hash.finish()
    }

    private struct TreeHash {
        var hasher = DigestHasher(.sha256)
        var newest: Int64 = 0
        let start = Int64(clamping: wallClockNanoseconds())

        /// - Returns: whether it is a directory; nil where it cannot be seen.
        mutating func add(_ path: String, as name: String) -> Bool? {
            var status = stat()
            guard lstat(path, &status) == 0 else { return nil }
            let changed = Int64(status.st_ctim.tv_sec) &* 1_000_000_000 &+ Int64(status.st_ctim.tv_nsec)
            newest = max(newest, changed)
            let modified = "\(status.st_mtim.tv_sec).\(status.st_mtim.tv_nsec)"
            let line = "\(status.st_dev) \(status.st_ino) \(status.st_mode) \(status.st_size) \(modified) \(changed) "
            hasher.update(Array((line + name + "\u{0}").utf8))
            return status.st_mode & S_IFMT == S_IFDIR
        }

        func finish() -> Digest? {
            newest > start - Fingerprint.settlingInNanoseconds ? nil : hasher.finish()
        }
    }
}
