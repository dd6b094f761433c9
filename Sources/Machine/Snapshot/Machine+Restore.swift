// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import KVM
internal import MachineAPI
internal import Platform
internal import Synchronization
internal import Virtio

extension Machine {
    /// Makes a machine that goes on where another was saved. As with a fresh one nothing runs before `start`, which
    /// starts it paused or running; devices may be attached before.
    ///
    /// It is a new individual: its generation identifier is another, and the guest is told so before anything of it
    /// runs; its vsock streams are gone, which the guest is told as well.
    package convenience init(restoring request: RestoreRequest, observer: MachineObserver) throws(MachineError) {
        let state = try Self.readState(request.state)
        guard state.kind == .full else {
            throw .configuration(
                field: "snapshot_path",
                problem: "\(request.state) is a diff, which has only what was written since the snapshot before it: "
                    + "load one that was written over the memory file of that snapshot, which has both")
        }
        try request.overrides.checkDescriptors(of: state.configuration)
        var configuration = try request.overrides.apply(to: state.configuration)
        configuration.machine.tracksDirtyPages = request.tracksDirtyPages
        configuration.machine.hugePages = request.hugePages ?? configuration.machine.hugePages
        try HostMemory.check(sizeInBytes: state.memorySize)
        let host = try HostVM(configuration.machine)
        var time = SavedTime()
        time.setsFrequency = try HostComparison(saved: state, host: host.abilities).check(
            acceptsOtherModel: request.acceptsOtherProcessor)
        if request.clock == .catchesUp {
            let now = wallClockNanoseconds()
            time.advanceInNanoseconds = now > state.wallClock ? now - state.wallClock : 0
        }
        let (memory, source) = try Self.mapMemory(
            request.memory, state, configuration.machine, observer)
        var workingSet: WorkingSet?
        // Pages of the pool are all there.
        if let path = request.workingSetPath, memory.pageSize == 4096 {
            workingSet = WorkingSet.load(path, of: state) { observer.log(.warning, $0) }
            if let workingSet {
                memory.mapApart(workingSet.rangesOnlyRead)
                workingSet.populate(memory, isWritten: true)
            }
        }
        // It is about to be recorded.
        let isRecorded = request.workingSetPath != nil && workingSet == nil && memory.pageSize == 4096
        var touched = isRecorded ? memory.mapSingly() : nil
        do throws(MachineError) {
            try self.init(
                configuration, observer: observer, host: host, memory: memory, source: source,
                origin: .saved(state, time))
        } catch {
            if case .server(let server) = source { server.end() }
            throw error
        }
        life.withLock { $0.history.last = state.identifier }
        self.touched.withLock { $0 = touched.take() }
        if let workingSet { expect(workingSet) }
    }

    static func readState(_ path: String) throws(MachineError) -> MachineState { try readState(.path(path)) }

    static func readState(_ file: HostFile) throws(MachineError) -> MachineState {
        let bytes: [UInt8]
        switch file {
        case .path(let path):
            bytes = try system("the state file \(path)") { () throws(SystemError) in
                try Files.read(path, limit: SnapshotFile.sizeLimitInBytes)
            }
        case .descriptor:
            let opened = try file.open(isReadOnly: true, "snapshot_fd")
            bytes = try system("the state file \(file)") { () throws(SystemError) in
                // From its beginning, wherever another has read to.
                let size = try opened.size()
                guard size <= SnapshotFile.sizeLimitInBytes else { throw SystemError("read", code: EFBIG) }
                var bytes = [UInt8](repeating: 0, count: Int(size))
                let outcome: Result<Int, SystemError> = unsafe bytes.withUnsafeMutableBytes { space in
                    do throws(SystemError) {
                        return .success(try unsafe opened.readFully(into: space, at: 0))
                    } catch { return .failure(error) }
                }
                return Array(bytes.prefix(try outcome.get()))
            }
        }
        do throws(SnapshotFileError) { return try MachineState(reading: bytes) } catch {
            throw .snapshot(path: "\(file)", error)
        }
    }

    private static func mapMemory(
        _ source: RestoreRequest.Memory, _ state: MachineState, _ settings: MachineSettings, _ observer: MachineObserver
    ) throws(MachineError) -> (GuestMemory, MemorySource?) {
        let tracksWrites = settings.tracksDirtyPages
        switch source {
        case .file(let named):
            let purpose = "the memory file \(named)"
            let file: SharedDescriptor
            switch named {
            case .path(let path):
                file = SharedDescriptor(
                    try system(purpose) { () throws(SystemError) in try Descriptor.open(path, .readOnly) })
            case .descriptor: file = SharedDescriptor(try named.open(isReadOnly: true, "backend_fd"))
            }
            try MemoryFile.check(file.descriptor, "\(named)", state)
            if settings.hugePages == .pool {
                // They cannot be a mapping of a file of another file system: what is in it is read.
                let memory = try HugePagePool.allocate(state.memoryRanges, tracksWrites: tracksWrites)
                try system(purpose) { () throws(SystemError) in try memory.fill(from: file.descriptor) }
                return (memory, nil)
            }
            let memory = try system(purpose) { () throws(SystemError) in
                GuestMemory(
                    try MemoryMapping(
                        count: Int(state.memorySize), file: file.raw, shared: false, noReserve: true),
                    ranges: state.memoryRanges, tracksWrites: tracksWrites)
            }
            return (memory, .file(MemoryBase(file: file, identifier: state.identifier)))
        case .server(let socket):
            let memory =
                settings.hugePages == .pool
                ? try HugePagePool.allocate(state.memoryRanges, tracksWrites: tracksWrites)
                : try system("the machine's memory") { () throws(SystemError) in
                    try GuestMemory(anonymous: state.memoryRanges, tracksWrites: tracksWrites)
                }
            let server = try ServedMemory(
                of: memory, at: socket, snapshot: state.identifier, lost: observer.memoryLost)
            return (memory, .server(server))
        }
    }
}
