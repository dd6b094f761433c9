// SPDX-License-Identifier: Apache-2.0

internal import KVM
package import MachineAPI
internal import Platform

/// What a machine is made from that goes on where another was saved, and what of it is to be another.
package struct RestoreRequest: Equatable, Sendable {
    /// Where the guest's memory comes from.
    package enum Memory: Equatable, Sendable {
        /// A snapshot's memory file, mapped privately: it stays as it is, and all machines made from it share its pages
        /// until they write to them.
        case file(HostFile)
        /// A page server's unix socket, or a connection to it: it is asked for each page, as Firecracker asks, and the
        /// machine ends with it.
        case server(HostFile)
    }

    /// What the guest's clocks show.
    package enum Clock: Equatable, Sendable {
        /// They go on from where they stood: the time between is none of the guest's.
        case standsStill
        /// As much time has passed for the guest as for the host.
        case catchesUp
    }

    package typealias DriveOverride = MachineOverrides.Drive
    package typealias InterfaceOverride = MachineOverrides.Interface

    /// The state file.
    package var state: HostFile
    package var memory: Memory
    /// What is another than in the state.
    package var overrides = MachineOverrides()
    package var tracksDirtyPages = false
    package var clock = Clock.standsStill
    /// The host's processor may be of another model than the one the guest ran on, as long as it has all the features
    /// that the guest saw.
    package var acceptsOtherProcessor = false
    /// A file that says which pages machines of this snapshot touch first (`Machine.recordWorkingSet`): they are had
    /// there beforehand. It may be missing, or damaged.
    package var workingSetPath: String?
    /// The pages that its memory is made of; nil for those that the saved machine had.
    package var hugePages: MachineSettings.HugePages?

    package init(state: HostFile, memory: Memory) {
        self.state = state
        self.memory = memory
    }

    package var drives: [DriveOverride] {
        get { overrides.drives }
        set { overrides.drives = newValue }
    }

    package var networkInterfaces: [InterfaceOverride] {
        get { overrides.networkInterfaces }
        set { overrides.networkInterfaces = newValue }
    }

    package var vsockPath: String? {
        get { overrides.vsockPath }
        set { overrides.vsockPath = newValue }
    }

    package var serial: Serial? {
        get { overrides.serial }
        set { overrides.serial = newValue }
    }
}

/// How the clocks of a saved machine go on.
struct SavedTime {
    /// How much time has passed for the guest between.
    var advanceInNanoseconds: UInt64 = 0
    /// The host's time-stamp counter is scaled to the guest's frequency.
    var setsFrequency = false

    /// A vCPU's state with its time-stamp counter moved on.
    func applied(to state: VCPUState) -> VCPUState {
        guard advanceInNanoseconds > 0 else { return state }
        var state = state
        let kilohertz = UInt64(state.timestampFrequencyInKHz)
        let (high, low) = advanceInNanoseconds.multipliedFullWidth(by: kilohertz)
        guard high < 1_000_000 else { return state }
        let (ticks, _) = (1_000_000 as UInt64).dividingFullWidth((high, low))
        for index in state.modelSpecificRegisters.indices
        where state.modelSpecificRegisters[index].number == ModelSpecificRegister.Number.timestampCounter {
            state.modelSpecificRegisters[index].value &+= ticks
        }
        return state
    }
}
