// SPDX-License-Identifier: Apache-2.0

internal import DiskImage
internal import FoundationEssentials
internal import Glibc
internal import OCI
internal import Platform
internal import Synchronization

extension ImageStore {
    /// Stores an image: those of its layers that are not there yet, then what joins them.
    func store(
        _ content: ImageContent, name: String, _ progress: @escaping ImageProgressHandler
    ) async throws(ImageStoreError) -> StoredImage {
        if let image = try load(content.id) { return image }
        let workspace = try Workspace(in: layout)
        defer { workspace.remove() }
        try await storeLayers(content, name: name, workspace, progress)
        progress(.merging)
        return try await storeImage(
            configuration: content.configurationBytes, diffIDs: content.layers.map(\.diffID), name: name, workspace)
    }

    // MARK: Layers

    private func storeLayers(
        _ content: ImageContent, name: String, _ workspace: Workspace, _ progress: @escaping ImageProgressHandler
    ) async throws(ImageStoreError) {
        // The same layer may be in an image more than once.
        var seen: Set<Digest> = []
        let layers = content.layers.filter { seen.insert($0.diffID).inserted }
        progress(.layers(layers.map { LayerSummary(name: String($0.diffID.hex.prefix(12)), size: $0.size) }))
        let failure = await withTaskGroup(of: ImageStoreError?.self) { group in
            var waiting = layers.enumerated().makeIterator()
            func startNext() {
                guard let (index, layer) = waiting.next() else { return }
                group.addTask {
                    do throws(ImageStoreError) {
                        try await self.storeLayer(layer, of: name, workspace) { progress(.layer(index, $0)) }
                        return nil
                    } catch {
                        return error
                    }
                }
            }
            for _ in 0..<max(1, parallelLayers) { startNext() }
            var first: ImageStoreError?
            while let failure = await group.next() {
                if let failure {
                    // What follows is the others' ends.
                    if first == nil { group.cancelAll() }
                    first = first ?? failure
                } else if first == nil {
                    startNext()
                }
            }
            return first
        }
        if let failure { throw failure }
        guard !Task.isCancelled else { throw .cancelled }
    }

    private func storeLayer(
        _ layer: ImageContent.Layer, of image: String, _ workspace: Workspace,
        _ progress: @escaping @Sendable (LayerState) -> Void
    ) async throws(ImageStoreError) {
        if pathOfLayer(layer.diffID) != nil { return progress(.present) }
        // Held while the layer is made: who wants the same one waits, and finds it.
        let lock = try await lock("layer-\(layer.diffID.hex)") { progress(.waiting) }
        defer { withExtendedLifetime(lock) {} }
        if pathOfLayer(layer.diffID) != nil { return progress(.present) }

        let what = "\(layer.diffID.hex.prefix(12)) of \(image)"
        let path = "\(workspace.path)/\(layer.diffID.hex)"
        let file = try storing(root) { () throws(SystemError) in
            try Descriptor.open(path, .createNew, permissions: 0o400)
        }
        progress(.fetching(0))
        let meter = LayerMeter(size: layer.size, report: progress)
        let converted: ConvertedLayer
        do throws(LayerFailure) {
            converted = try await LayerConversion.run(layer, output: file.raw, what: "layer \(what)") {
                meter.advance(to: $0)
            }
        } catch {
            switch error {
            case .source(let error): throw ImageStoreError(error, store: root)
            case .conversion(let error): throw ImageStoreError(layer: what, error, store: root)
            }
        }
        guard converted.diffID == layer.diffID.description else {
            throw .wrongLayer(image: image, expected: layer.diffID.description, found: converted.diffID)
        }
        try install(file, path, as: layout.layer(layer.diffID))
        progress(.stored)
    }

    /// Gives a finished file its name. After a loss of power there is the whole file or none.
    func install(_ file: borrowing Descriptor, _ path: String, as target: String) throws(ImageStoreError) {
        do throws(SystemError) {
            try file.synchronizeData()
            try Files.rename(path, to: target)
        } catch {
            throw ImageStoreError(error, store: root)
        }
    }

    /// Takes one of the store's locks, waiting for its holder on a thread of its own.
    func lock(_ name: String, waiting: () -> Void = {}) async throws(ImageStoreError) -> HeldLock {
        let path = layout.lock(name)
        let free = try storing(root) { () throws(SystemError) -> HeldLock? in
            guard let lock = try FileLock.attempt(at: path) else { return nil }
            return HeldLock(lock)
        }
        if let free { return free }
        waiting()
        let held = await onOwnThread {
            Result { () throws(SystemError) in HeldLock(try FileLock(waitingAt: path)) }
        }
        return try storing(root) { () throws(SystemError) in try held.get() }
    }

    // MARK: The image

    /// Joins stored layers to an image, and makes it known.
    func storeImage(
        configuration: [UInt8], diffIDs: [Digest], name: String, _ workspace: Workspace
    ) async throws(ImageStoreError) -> StoredImage {
        let id = Digest(sha256Of: configuration)
        let lock = try await lock("image-\(id.hex)")
        defer { withExtendedLifetime(lock) {} }
        if let image = try load(id) { return image }
        let made = await onOwnThread {
            Result { () throws(ImageStoreError) in
                try makeImage(id, configuration: configuration, diffIDs: diffIDs, name: name, workspace)
            }
        }
        try made.get()
        guard let image = try load(id) else { throw .notStored(name) }
        return image
    }

    private func makeImage(
        _ id: Digest, configuration: [UInt8], diffIDs: [Digest], name: String, _ workspace: Workspace
    ) throws(ImageStoreError) {
        let directory = "\(workspace.path)/image-\(id.hex)"
        try storing(root) { () throws(SystemError) in try Files.makeDirectory(directory, permissions: 0o700) }
        let layers = try OpenLayers(diffIDs.map { pathOfLayer($0) ?? layout.layer($0) }, store: root)
        let output = try storing(root) { () throws(SystemError) in
            try Descriptor.open(directory + "/merged.erofs", .createNew, permissions: 0o400)
        }
        let merged: MergedImage
        do throws(DiskImageError) {
            merged = try ImageMerger.merge(layers: layers.descriptors, output: output.raw)
        } catch {
            if case .system(let inner) = error { throw ImageStoreError(inner, store: root) }
            throw .merge(name, error)
        }
        let parts = zip(diffIDs, merged.layersInBytes).map {
            ImageRecord.Part(diffID: $0.description, length: $1)
        }
        let record = ImageRecord(layers: parts, mergedLength: merged.metadataInBytes)
        try storing(root) { () throws(SystemError) in
            try output.synchronizeData()
            try Files.writeAtomically(configuration, to: directory + "/config.json", permissions: 0o400, durable: true)
        }
        try write(record, to: directory + "/record.json")
        let target = layout.image(id)
        try storing(root) { () throws(SystemError) in
            // What is there and cannot be loaded is damaged: it goes to the workspace, and with it.
            if Files.exists(target) { try Files.rename(target, to: "\(workspace.path)/damaged-\(id.hex)") }
            try Files.rename(directory, to: target)
        }
    }

    func write(_ value: some Encodable, to path: String) throws(ImageStoreError) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        guard let data = try? encoder.encode(value) else {
            preconditionFailure("the store's records are of strings and numbers")
        }
        try storing(root) { () throws(SystemError) in
            try Files.writeAtomically(Array(data), to: path, permissions: 0o600, durable: true)
        }
    }
}

/// Layers opened for a merge.
private struct OpenLayers: ~Copyable {
    let descriptors: [Int32]

    init(_ paths: [String], store: String) throws(ImageStoreError) {
        var open: [Int32] = []
        do throws(SystemError) {
            for path in paths { open.append(try Descriptor.open(path, .readOnly).release()) }
        } catch {
            for raw in open { Descriptor(owning: raw).close() }
            throw ImageStoreError(error, store: store)
        }
        descriptors = open
    }

    deinit {
        for raw in descriptors { Descriptor(owning: raw).close() }
    }
}

/// Reports a layer's progress, not more often than anyone can see.
private final class LayerMeter: Sendable {
    private let size: Int64
    private let report: @Sendable (LayerState) -> Void
    private let reported = Mutex<Int64>(0)

    init(size: Int64, report: @escaping @Sendable (LayerState) -> Void) {
        self.size = size
        self.report = report
    }

    func advance(to count: Int64) {
        let due = reported.withLock { last in
            guard count >= size || count - last >= max(256 * 1024, size / 200) else { return false }
            last = count
            return true
        }
        if due { report(count >= size ? .converting : .fetching(count)) }
    }
}
