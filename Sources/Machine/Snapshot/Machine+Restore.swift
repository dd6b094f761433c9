// SPDX-License-Identifier: Apache-2.0

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
        let state = try Self.readState(request.statePath)
        guard state.kind == .full else {
            throw .configuration(
                field: "snapshot_path",
                problem: "\(request.statePath) is a diff: join it with the snapshots before it first")
        }
        var configuration = try request.overrides.apply(to: state.configuration)
        configuration.machine.tracksDirtyPages = request.tracksDirtyPages
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
            request.memory, state, tracksWrites: request.tracksDirtyPages, observer)
        var workingSet: WorkingSet?
        if let path = request.workingSetPath {
            workingSet = WorkingSet.load(path, of: state) { observer.log(.warning, $0) }
            workingSet?.populate(memory, isWritten: true)
        }
        // It is about to be recorded.
        var touched = request.workingSetPath != nil && workingSet == nil ? memory.mapSingly() : nil
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
        // Both page tables in one go, where the host's kernel can do that; else at least this process's.
        if let workingSet, !prefault(workingSet) { workingSet.populate(memory, isWritten: false) }
    }

    static func readState(_ path: String) throws(MachineError) -> MachineState {
        let bytes = try system("the state file \(path)") { () throws(SystemError) in
            try Files.read(path, limit: SnapshotFile.sizeLimitInBytes)
        }
        do throws(SnapshotFileError) { return try MachineState(reading: bytes) } catch {
            throw .snapshot(path: path, error)
        }
    }

    private static func mapMemory(
        _ source: RestoreRequest.Memory, _ state: MachineState, tracksWrites: Bool, _ observer: MachineObserver
    ) throws(MachineError) -> (GuestMemory, MemorySource) {
        switch source {
        case .file(let path):
            let purpose = "the memory file \(path)"
            let file = SharedDescriptor(
                try system(purpose) { () throws(SystemError) in try Descriptor.open(path, .readOnly) })
            try MemoryFile.check(file.descriptor, path, state)
            let memory = try system(purpose) { () throws(SystemError) in
                GuestMemory(
                    try MemoryMapping(
                        count: Int(state.memorySize), file: file.raw, shared: false, noReserve: true),
                    ranges: state.memoryRanges, tracksWrites: tracksWrites)
            }
            return (memory, .file(MemoryBase(file: file, identifier: state.identifier)))
        case .server(let path):
            let memory = try system("the machine's memory") { () throws(SystemError) in
                try GuestMemory(anonymous: state.memoryRanges, tracksWrites: tracksWrites)
            }
            return (memory, .server(try ServedMemory(of: memory, at: path, lost: observer.memoryLost)))
        }
    }
}
