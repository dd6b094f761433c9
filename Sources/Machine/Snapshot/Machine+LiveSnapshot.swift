// SPDX-License-Identifier: Apache-2.0

internal import Platform
internal import Synchronization
internal import Virtio

/// How a live snapshot went.
package struct LiveSnapshotReport: Equatable, Sendable {
    /// How often memory was copied while the guest ran.
    package var rounds = 0
    /// How long the guest stood still at the beginning, and at the end, in nanoseconds.
    package var firstPauseInNanoseconds: UInt64 = 0
    package var lastPauseInNanoseconds: UInt64 = 0
    /// How much of the memory was copied while it stood still, in bytes.
    package var restInBytes: UInt64 = 0
}

extension Machine {
    private static var roundLimit: Int { 6 }
    /// So few pages are copied faster than another round would make them fewer.
    private static var restLimitInPages: Int { 2048 }

    /// Saves a machine that goes on running: its memory is copied while the guest runs, then again what the guest wrote
    /// meanwhile, a few times over; only for the last of it, and for its state, the machine stands still. A failure
    /// leaves it running, and forgets nothing that a later diff needs.
    /// - Parameter tracksAfterwards: whether writes are recorded from here on; nil leaves that as it is.
    package func createLiveSnapshot(
        state statePath: String, memory memoryPath: String, tracksAfterwards: Bool? = nil, isDurable: Bool = true
    ) throws(MachineError) -> LiveSnapshotReport {
        try life.withLock { life throws(MachineError) in
            guard life.phase == .running, !hasEnded else { throw .state("a live snapshot is one of a running machine") }
            let wasTracked = life.history.isTracked
            let drafts = SnapshotDrafts(state: statePath, memory: memoryPath)
            do throws(MachineError) {
                return try copyLive(
                    &life, drafts, tracksAfterwards: tracksAfterwards ?? wasTracked, isDurable: isDurable)
            } catch {
                drafts.remove()
                if !wasTracked { try? stopTracking(&life) }
                if life.phase == .paused { release(&life) }
                throw error
            }
        }
    }

    private func copyLive(
        _ life: inout MachineLife, _ drafts: SnapshotDrafts, tracksAfterwards: Bool, isDurable: Bool
    ) throws(MachineError) -> LiveSnapshotReport {
        var report = LiveSnapshotReport()
        let start = monotonicNanoseconds()
        try stand(&life)
        // Whatever devices have under way is done now, and what they begin is noted.
        if !life.history.isTracked { try track(true, &life.history) }
        try collectWrites(&life.history, devices: false)
        release(&life)
        report.firstPauseInNanoseconds = monotonicNanoseconds() - start

        let file = try system("the memory file") { () throws(SystemError) in
            try Descriptor.open(drafts.memoryDraft, .createNew, permissions: 0o600)
        }
        var writer = MemoryWriter(memory, source: memorySource, to: file)
        try Self.writing { () throws(SystemError) in try writer.writeAll() }
        report.rounds = 1
        var rest = try collectWrites(&life.history, devices: false)
        while rest.count > Self.restLimitInPages, report.rounds < Self.roundLimit {
            let before = rest.count
            try Self.writing { () throws(SystemError) in try writer.write(rest.ranges) }
            report.rounds += 1
            rest = try collectWrites(&life.history, devices: false)
            // A guest that writes as fast as we copy is not caught up with.
            if rest.count > before / 2 { break }
        }

        // What is on the disk already is not waited for while the guest stands still.
        if isDurable { try Self.writing { () throws(SystemError) in try writer.file.synchronizeData() } }

        let pause = monotonicNanoseconds()
        try stand(&life)
        rest.formUnion(try collectWrites(&life.history, devices: true))
        let state = try captureState()
        try Self.writing { () throws(SystemError) in try writer.write(rest.ranges) }
        if !tracksAfterwards { try track(false, &life.history) }
        release(&life)
        report.lastPauseInNanoseconds = monotonicNanoseconds() - pause
        report.restInBytes = UInt64(rest.count) * PageSet.pageSize

        let trailer = MemoryFile.trailer(state)
        do throws(SystemError) { _ = try writer.finish(trailer, isDurable: isDurable) } catch {
            throw .system("the memory file", error)
        }
        try drafts.finish(state, isDurable: isDurable)
        if tracksAfterwards {
            // What was written since the pause is still with KVM and the devices.
            life.history.last = state.identifier
            life.history.written = PageSet(byteCount: memory.byteCount)
        }
        return report
    }

    /// After a failure, at whatever point.
    private func stopTracking(_ life: inout MachineLife) throws(MachineError) {
        guard life.history.isTracked, !hasEnded else { return }
        if life.phase == .running { try stand(&life) }
        try track(false, &life.history)
        release(&life)
    }

    private static func writing<Result>(
        _ body: () throws(SystemError) -> Result
    ) throws(MachineError) -> Result {
        do throws(SystemError) { return try body() } catch { throw .system("the memory file", error) }
    }
}
