// SPDX-License-Identifier: Apache-2.0

package import OCI
internal import Platform

/// What a sweep did.
package struct SweepResult: Equatable, Sendable {
    package var images = 0
    package var layers = 0
    /// Of the files removed.
    package var bytes: UInt64 = 0

    package init() {}
}

extension ImageStore {
    /// All images that are whole, with their names, in the order of their ids. Those of additional stores are among them.
    package func list() throws(ImageStoreError) -> [StoredImage] {
        var names: [String: [String]] = [:]
        for record in allLayouts.flatMap(nameRecords) { names[record.image, default: []].append(record.name) }
        var ids: Set<String> = []
        for layout in allLayouts { ids.formUnion((try? Files.list(layout.images)) ?? []) }
        var images: [StoredImage] = []
        for id in ids.sorted().compactMap({ Digest(sha256Hex: $0) }) {
            guard var image = try load(id) else { continue }
            image.names = Array(Set(names[id.description] ?? [])).sorted()
            images.append(image)
        }
        return images
    }

    private func nameRecords(_ layout: StoreLayout) -> [NameRecord] {
        ((try? Files.list(layout.names)) ?? []).compactMap { name in
            name.hasSuffix(".json") ? read(NameRecord.self, "\(layout.names)/\(name)") : nil
        }
    }

    /// Takes a name off its image; the image goes too when it was the last. Its layers stay until the next sweep.
    /// - Returns: whether there was something to remove.
    @discardableResult
    package func remove(_ source: ImageSource) throws(ImageStoreError) -> Bool {
        guard let image = try lookUp(source) else { return false }
        if case .registry(let reference) = source {
            Files.remove(layout.name(storeKey(reference.description, platform)))
            guard !nameRecords(layout).contains(where: { $0.image == image.id.description }) else { return true }
        }
        return try remove(image.id)
    }

    /// Removes an image with its names.
    @discardableResult
    package func remove(_ id: Digest) throws(ImageStoreError) -> Bool {
        for (directory, isOurs) in [
            (layout.names, { (path: String) in self.read(NameRecord.self, path)?.image == id.description }),
            (layout.sources, { (path: String) in self.read(SourceRecord.self, path)?.image == id.description }),
        ] {
            for name in (try? Files.list(directory)) ?? [] where isOurs("\(directory)/\(name)") {
                Files.remove("\(directory)/\(name)")
            }
        }
        guard Files.exists(layout.image(id)) else { return false }
        let workspace = try Workspace(in: layout)
        defer { workspace.remove() }
        // First out of sight as a whole, then file by file, which the workspace sees to.
        try storing(root) { () throws(SystemError) in
            try Files.rename(layout.image(id), to: workspace.path + "/removed")
        }
        return true
    }

    /// Removes what nobody refers to: layers of no image, what crashes left, and, if asked to, images without a name.
    /// Waits until nobody is storing an image, and keeps them from it meanwhile.
    package func sweep(unnamedImages: Bool = false) async throws(ImageStoreError) -> SweepResult {
        guard Files.isDirectory(root) else { return SweepResult() }
        try storing(root) { () throws(SystemError) in try layout.make() }
        let result = await onOwnThread { [self] in
            Result { () throws(ImageStoreError) in
                let lock = try storing(root) { () throws(SystemError) in try FileLock(waitingAt: layout.storeLock) }
                defer { withExtendedLifetime(lock) {} }
                return try sweepAlone(unnamedImages: unnamedImages)
            }
        }
        return try result.get()
    }

    private func sweepAlone(unnamedImages: Bool) throws(ImageStoreError) -> SweepResult {
        var result = SweepResult()
        Workspace.sweep(layout)
        if unnamedImages {
            var named = Set(nameRecords(layout).map(\.image))
            for name in (try? Files.list(layout.sources)) ?? [] {
                if let record = read(SourceRecord.self, "\(layout.sources)/\(name)") { named.insert(record.image) }
            }
            for name in (try? Files.list(layout.images)) ?? [] {
                guard let id = Digest(sha256Hex: name), !named.contains(id.description) else { continue }
                result.bytes += fileLength(layout.image(id) + "/merged.erofs") ?? 0
                if try remove(id) { result.images += 1 }
            }
        }
        var used: Set<String> = []
        for name in (try? Files.list(layout.images)) ?? [] {
            guard let record = read(ImageRecord.self, "\(layout.images)/\(name)/record.json") else { continue }
            for part in record.layers { if let diffID = Digest(part.diffID) { used.insert("\(diffID.hex).erofs") } }
        }
        for name in (try? Files.list(layout.layers)) ?? [] where !used.contains(name) {
            let path = "\(layout.layers)/\(name)"
            let length = fileLength(path) ?? 0
            guard Files.remove(path) else { continue }
            result.layers += 1
            result.bytes += length
        }
        // Nobody else holds any of them: who does holds the store's lock as well.
        for name in (try? Files.list(layout.locks)) ?? [] { Files.remove("\(layout.locks)/\(name)") }
        return result
    }
}
