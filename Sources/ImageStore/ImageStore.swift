// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import OCI
internal import Platform

/// The images of a user, addressed by content: each layer is stored once, as an EROFS image, whatever the number of
/// images and machines that use it. Safe for any number of processes at once; nothing that is half-written is ever seen.
///
/// What is in the store already is found without a lock, a thread or a connection: that is on the way of every start.
package struct ImageStore: Sendable {
    let layout: StoreLayout
    /// Stores that are read but never written, asked in this order.
    let additional: [StoreLayout]
    package var registry: RegistryOptions
    /// How many layers are fetched at the same time.
    package var parallelLayers = 3

    var platform: ImagePlatform { registry.platform }

    /// - Parameters:
    ///   - root: the store's directory; made when the first image is stored.
    ///   - additional: directories of other stores.
    package init(root: String, additional: [String] = [], registry: RegistryOptions = RegistryOptions()) {
        self.layout = StoreLayout(root: root)
        self.additional = additional.map(StoreLayout.init)
        self.registry = registry
    }

    /// The store of this process's user: `$XDG_DATA_HOME/martlet`, and those of `$MARTLET_ADDITIONAL_STORES`.
    package static func ofUser(registry: RegistryOptions = RegistryOptions()) throws(ImageStoreError) -> ImageStore {
        let data = environmentVariable("XDG_DATA_HOME").flatMap { $0.hasPrefix("/") ? $0 : nil }
        let home = environmentVariable("HOME").flatMap { $0.hasPrefix("/") ? $0 : nil }
        guard let base = data ?? home.map({ $0 + "/.local/share" }) else {
            throw .system(SystemError("getenv", "XDG_DATA_HOME and HOME", code: ENOENT))
        }
        let additional = environmentVariable("MARTLET_ADDITIONAL_STORES") ?? ""
        return ImageStore(
            root: base + "/martlet", additional: additional.split(separator: ":").map(String.init), registry: registry)
    }

    /// The store's directory.
    package var root: String { layout.root }

    /// Finds an image, and fetches and converts it where it is not stored yet.
    /// - Parameters:
    ///   - policy: when a registry is asked.
    ///   - progress: is called on any thread, as things happen; not at all where nothing has to be done.
    package func resolve(
        _ source: ImageSource, pull policy: PullPolicy = .missing, progress: @escaping ImageProgressHandler = { _ in }
    ) async throws(ImageStoreError) -> StoredImage {
        if policy != .always || !source.canMove, let image = try lookUp(source) { return image }
        if case .stored(let prefix) = source { throw .notStored("sha256:\(prefix)") }
        // What lies on this machine's disk needs no network, so `never` is no reason to refuse it.
        if policy == .never, case .registry(let reference) = source { throw .notStored(reference.description) }
        progress(.looking(source.description))
        try storing(root) { () throws(SystemError) in try layout.make() }
        let root = root
        // Shared with all who store; only the sweeping of what nobody refers to keeps them out.
        let held = await onOwnThread { [layout] in
            Result { () throws(SystemError) in HeldLock(try FileLock(waitingAt: layout.storeLock, shared: true)) }
        }
        let lock = try storing(root) { () throws(SystemError) in try held.get() }
        defer { withExtendedLifetime(lock) {} }
        let image = try await fetch(source, progress)
        progress(.ready(image.id.description))
        return image
    }

    private func fetch(
        _ source: ImageSource, _ progress: @escaping ImageProgressHandler
    ) async throws(ImageStoreError) -> StoredImage {
        switch source {
        case .stored(let prefix): throw .notStored("sha256:\(prefix)")
        case .directory(let path): return try await convertDirectory(path, progress)
        case .layout(let path, let tag):
            let content = try await reading {
                () async throws(OCIError) in
                try await ImageContent.layout(directory: path, tag: tag, platform: platform)
            }
            return try await store(content, name: source.description, progress)
        case .archive(let path, let reference):
            return try await storeArchive(path, reference, source, progress)
        case .registry(let reference):
            let client = RegistryClient(options: registry)
            do throws(ImageStoreError) {
                let image = try await pull(reference, client, progress)
                await client.shutdown()
                return image
            } catch {
                await client.shutdown()
                throw error
            }
        }
    }

    /// Fetches what a name leads to now.
    private func pull(
        _ reference: ImageReference, _ client: RegistryClient, _ progress: @escaping ImageProgressHandler
    ) async throws(ImageStoreError) -> StoredImage {
        let manifest = try await reading { () async throws(OCIError) in try await client.manifest(reference) }
        var image = try load(manifest.imageID)
        if image == nil {
            let content = try await reading { () async throws(OCIError) in try await client.content(of: manifest) }
            image = try await store(content, name: reference.description, progress)
        }
        guard var image else { throw .notStored(reference.description) }
        let record = NameRecord(
            name: reference.description, platform: platform.description, image: image.id.description,
            manifestDigest: manifest.digest.description)
        try write(record, to: layout.name(storeKey(reference.description, platform)))
        image.names = [reference.description]
        return image
    }

    /// Reads from a source, and tells of its failures in this module's terms.
    func reading<Value>(_ body: () async throws(OCIError) -> Value) async throws(ImageStoreError) -> Value {
        do { return try await body() } catch { throw ImageStoreError(error, store: root) }
    }
}

extension ImageSource {
    /// Whether the same text can lead to another image tomorrow without this machine's files changing.
    fileprivate var canMove: Bool {
        if case .registry(let reference) = self { return reference.digest == nil }
        return false
    }
}

/// A lock that crosses from one thread to another.
final class HeldLock: Sendable {
    let lock: FileLock
    init(_ lock: consuming FileLock) { self.lock = lock }
}
