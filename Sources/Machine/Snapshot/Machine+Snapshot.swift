// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import KVM
internal import Platform
internal import Synchronization
internal import Virtio

extension Machine {
    /// Saves a paused machine, which stays as it is and goes on when it is resumed.
    ///
    /// Both files are written under other names first and renamed when all of their bytes are on the disk, the state
    /// last: whoever sees a state file of this snapshot sees all of it. A file that was there under either name, this
    /// very machine's memory file included, is not changed but replaced.
    ///
    /// What comes of a diff is a full snapshot wherever all of the memory is at hand: where there is no snapshot that it
    /// could go on from, and where the file that it replaces is that one's memory.
    /// - Parameters:
    ///   - tracksAfterwards: whether writes are recorded from here on, so that the next diff has these alone; nil
    ///     leaves that as it is.
    ///   - isDurable: what is written is on the disk when this returns. Otherwise a crash of the host may leave files
    ///     that are not whole: that is for what can be made again at any time.
    package func createSnapshot(
        state statePath: String, memory memoryPath: String, kind: SnapshotKind, tracksAfterwards: Bool? = nil,
        isDurable: Bool = true
    ) throws(MachineError) {
        try life.withLock { life throws(MachineError) in
            guard life.phase == .paused else {
                throw .state(
                    life.phase == .running
                        ? "the machine runs; pause it before it is saved" : "there is no paused machine to save")
            }
            let drafts = SnapshotDrafts(state: statePath, memory: memoryPath)
            do throws(MachineError) {
                let identifier = try write(kind, drafts, &life.history, isDurable: isDurable)
                // The snapshot is whole, whatever comes of this: where writes cannot be recorded the next diff has all.
                if let tracksAfterwards { try? track(tracksAfterwards, &life.history) }
                life.history.last = identifier
                life.history.written = PageSet(byteCount: memory.byteCount)
            } catch {
                drafts.remove()
                throw error
            }
        }
    }

    private func write(
        _ kind: SnapshotKind, _ drafts: SnapshotDrafts, _ history: inout MemoryHistory, isDurable: Bool
    ) throws(MachineError) -> SnapshotIdentifier {
        var state = try captureState(kind: kind)
        // Also for a full snapshot: the next diff goes on from there.
        if history.isTracked { try collectWrites(&history, devices: true) }
        do throws(SystemError) {
            try drafts.writeMemory(memory, memorySource, history, for: &state, isDurable: isDurable)
        } catch {
            throw .system("the memory file", error)
        }
        try drafts.finish(state, isDurable: isDurable)
        return state.identifier
    }

    /// Everything but the memory; the machine stands still.
    func captureState(kind: SnapshotKind = .full) throws(MachineError) -> MachineState {
        do throws(KVMError) {
            var vcpus: [VCPUState] = []
            for runner in runners { vcpus.append(try runner.vcpu.captureState(abilities)) }
            let chipset = try vm.captureChipset()
            var saved: [SavedDevice] = []
            for (index, window) in devices.windows.enumerated() {
                guard let device = window.device, let identity = window.identity else { continue }
                saved.append(SavedDevice(slot: index, identity: identity, state: device.captureState()))
            }
            return MachineState(
                identifier: .random(), kind: kind, wallClock: wallClockNanoseconds(), configuration: configuration,
                memoryRanges: memory.regions.map { $0.guestStart..<$0.guestStart + $0.count }, host: abilities,
                chipset: chipset, vcpus: vcpus, serial: devices.ports.serial.captureState(),
                keyboard: devices.ports.keyboard.captureState(), slotCount: devices.windows.count, devices: saved)
        } catch {
            throw .kvm(error)
        }
    }
}
