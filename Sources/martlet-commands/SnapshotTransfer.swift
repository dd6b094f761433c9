// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import ImageStore
internal import Launch
internal import Machine
internal import MachineAPI
internal import OCI
internal import Platform
internal import Snapshots
internal import Wire
internal import Worker

/// Snapshots as archives (Docs/SNAPSHOT-ARCHIVE.md).
enum SnapshotTransfer {
    /// Writes a snapshot to a descriptor.
    /// - Parameters:
    ///   - withImage: and the image that its container was made of.
    ///   - withMemory: and the memory, which is served to machines otherwise.
    static func export(
        _ manifest: SnapshotManifest, to output: Int32, withImage: Bool, withMemory: Bool
    ) throws {
        let store = try SnapshotLaunch.store()
        guard !withMemory || !manifest.isMemoryElsewhere else {
            throw Failure(
                "the memory of \(manifest.id.prefix(12)) is elsewhere: export it where that is, or here with "
                    + "--without-memory")
        }
        let manifest = try SnapshotChain.whole(manifest, in: store)
        let directory = store.directory(of: manifest.id)
        if let problem = store.verify(manifest) { throw Failure("\(manifest.id.prefix(12)) is damaged: \(problem)") }
        let files = SnapshotFiles(in: directory)
        let target = try Descriptor(duplicating: output)
        var writer = try ArchiveWriter { bytes throws(SystemError) in try target.writeAll(bytes) }
        var members = JSONObject()
        members["snapshot"] = manifest.json
        members["hasImage"] = .bool(withImage)
        members["hasMemory"] = .bool(withMemory)
        try writer.writeManifest(JSON.object(members).encoded())
        try writer.writeState(try Files.read(files.state, limit: SnapshotFiles.stateLimit))
        if withMemory { try writer.write(.memory, from: files.memory) }
        if withImage {
            let parts = try disk(of: manifest, in: store) ?? parts(of: try SnapshotDescription(of: manifest, in: store))
            for (index, part) in parts.enumerated() { try writer.write(.disk(index), from: part.path) }
        }
        try writer.finish()
    }

    /// Makes a snapshot of what comes from a descriptor.
    static func take(from input: Int32, tag: String?) throws -> SnapshotManifest {
        let store = try SnapshotLaunch.store()
        var generator = SystemRandomNumberGenerator()
        let new = try store.begin(id: MachineIdentity.makeID(using: &generator))
        do {
            let source = try Descriptor(duplicating: input)
            let contents = Contents(new.directory)
            var reader = ArchiveReader(
                from: { buffer in
                    switch try source.read(into: buffer) {
                    case .bytes(let count): count
                    case .endOfFile: 0
                    case .wouldBlock: throw SystemError("read", code: EAGAIN)
                    }
                }, to: contents)
            try reader.read()
            guard var manifest = contents.manifest else { throw Failure("the archive has no manifest") }
            let files = SnapshotFiles(in: new.directory)
            if contents.hasMemory {
                // The memory is this state's.
                manifest.identifier = try SnapshotDescription(files).identifier
                let sums = try MemorySums(of: files.memory)
                try Files.writeAtomically(
                    sums.encoded, to: "\(new.directory)/\(SnapshotManifest.sums)", permissions: 0o600)
            } else {
                manifest.identifier = try SnapshotDescription(state: files.state).identifier
            }
            manifest.id = new.id
            manifest.tag = tag ?? manifest.tag
            manifest.parent = nil
            manifest.isImported = true
            manifest.isMemoryElsewhere = !contents.hasMemory
            let names = SnapshotManifest.files(isDiff: false)
            try store.finish(
                new, manifest,
                files: (contents.hasMemory ? names : [SnapshotManifest.state])
                    + (0..<contents.diskCount).map { ArchivedFile.disk($0).name })
            return manifest
        } catch {
            store.abandon(new)
            throw error
        }
    }

    /// Where the disk's files are of a machine that is made of an imported snapshot; nil for one that was made here,
    /// whose state knows. Lengths in bytes.
    static func disk(
        of manifest: SnapshotManifest, in store: SnapshotStore
    ) throws -> [ContainerConfiguration.DiskPart]? {
        guard manifest.isImported else { return nil }
        let directory = store.directory(of: manifest.id)
        let own = (0..<manifest.lengths.count).compactMap { index in
            let name = ArchivedFile.disk(index).name
            return manifest.lengths.first { $0.name == name }.map {
                ContainerConfiguration.DiskPart(path: "\(directory)/\(name)", length: $0.bytes)
            }
        }
        if !own.isEmpty { return own }
        let wanted = try parts(of: try SnapshotDescription(of: manifest, in: store))
        guard let image = try ImageStore.ofUser().lookUp(try ImageSource(manifest.machine.imageID)) else {
            throw Failure(
                "the image \(manifest.machine.image) (\(manifest.machine.imageID)) is not here: pull it, or export the "
                    + "snapshot with it")
        }
        guard image.segments.map(\.length) == wanted.map(\.length) else {
            throw Failure(
                "the image \(manifest.machine.image) is stored here in another form: export the snapshot with it")
        }
        return image.segments.map { ContainerConfiguration.DiskPart(path: $0.path, length: $0.length) }
    }

    /// The files of a machine's disk, as its state has them.
    fileprivate static func parts(
        of description: SnapshotDescription
    ) throws -> [ContainerConfiguration.DiskPart] {
        guard description.configuration.drives.count == 1, let drive = description.configuration.drives.first,
            drive.identifier == ContainerConfiguration.rootDrive, case .extents(let extents) = drive.content
        else { throw SnapshotsError.refused("its machine has not just the disk of an image") }
        return try extents.map { extent in
            guard extent.offset == 0, let length = extent.length, let path = extent.file.path else {
                throw SnapshotsError.refused("its disk is made of parts of files")
            }
            return ContainerConfiguration.DiskPart(path: path, length: length)
        }
    }
}

extension ReadySnapshot {
    /// Makes one ready: a diff a whole one, and finds the disk of one that was made elsewhere.
    init(preparing manifest: SnapshotManifest, in store: SnapshotStore) throws {
        let whole = try SnapshotChain.whole(manifest, in: store)
        self.init(whole, disk: try SnapshotTransfer.disk(of: whole, in: store))
    }
}

/// What comes out of an archive, in the directory of a snapshot that is being made.
private final class Contents: ArchiveReceiver {
    private let directory: String
    private(set) var manifest: SnapshotManifest?
    private(set) var diskCount = 0
    private(set) var hasMemory = true

    init(_ directory: String) { self.directory = directory }

    func take(manifest bytes: [UInt8], state: [UInt8]) throws -> [ArchivedFile: UInt64] {
        let json = try JSON(parsing: bytes)
        guard let inner = json["snapshot"], let hasImage = json["hasImage"]?.boolValue else {
            throw SnapshotsError.archive("its manifest says nothing of a snapshot")
        }
        let manifest = try SnapshotManifest(inner)
        let path = "\(directory)/\(SnapshotManifest.state)"
        try Files.writeNew(state, path)
        let description = try SnapshotDescription(state: path)
        try Self.check(description, manifest)
        // Archives that do not say it are older, and have it.
        hasMemory = json["hasMemory"]?.boolValue ?? true
        var files: [ArchivedFile: UInt64] = hasMemory ? [.memory: description.memoryFileLength] : [:]
        if hasImage {
            let parts = try SnapshotTransfer.parts(of: description)
            for (index, part) in parts.enumerated() { files[.disk(index)] = part.length }
            diskCount = parts.count
        }
        self.manifest = manifest
        return files
    }

    func create(_ file: ArchivedFile) throws -> Descriptor {
        try Descriptor.open("\(directory)/\(file.name)", .createNew, permissions: 0o600)
    }

    /// A machine of this host is to have nothing of the host by the word of an archive: what its state names in files
    /// and sockets is another's here, and is replaced.
    private static func check(_ description: SnapshotDescription, _ manifest: SnapshotManifest) throws {
        let machine = description.configuration
        guard description.kind == .full else { throw SnapshotsError.refused("it is a diff") }
        _ = try SnapshotTransfer.parts(of: description)
        guard machine.vsock != nil, machine.serial.outputPath == nil else {
            throw SnapshotsError.refused("its machine is not a container's")
        }
        let names = machine.networkInterfaces.map(\.identifier)
        guard names.sorted() == manifest.machine.networks.map(\.interfaceName).sorted() else {
            throw SnapshotsError.refused("its machine has other network interfaces than its container")
        }
        guard manifest.tag.map({ MachineIdentity.isName($0) && !MachineIdentity.isID($0) }) != false else {
            throw SnapshotsError.refused("its tag is none")
        }
    }
}
