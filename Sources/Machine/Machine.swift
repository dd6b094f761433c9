// SPDX-License-Identifier: Apache-2.0

internal import KVM
package import MachineAPI
package import Platform
internal import Synchronization
internal import Virtio

// Zone 1: plain threads, atomics, event counters. One thread a vCPU, one for the devices' loop; the caller's waits.

/// What a machine tells about itself while it runs. Called on its threads.
package struct MachineObserver: Sendable {
    /// The boot processor is about to enter the guest for the first time.
    package var firstInstruction: @Sendable () -> Void = {}
    /// The guest wrote this to the boot timer's address.
    package var bootTimer: @Sendable (UInt8) -> Void = { _ in }
    /// One line for whoever looks after the machine.
    package var log: @Sendable (Logger.Level, String) -> Void = { _, _ in }
    /// The server of the machine's memory is gone: says so, and ends the process at once. Threads of the machine wait
    /// for pages that nobody hands over any more, and must not be let out.
    package var memoryLost: @Sendable (String) -> Never = { fatalError($0) }

    package init() {}
}

/// A microVM: made from a configuration, run once, ended once.
///
/// `@unchecked Sendable`: after init only atomics, locks and what is constant are reached by several threads.
package final class Machine: @unchecked Sendable {
    /// Readable once the machine has ended by itself.
    package let ended: EventCounter

    let observer: MachineObserver
    let vm: VM
    let memory: GuestMemory
    /// Where pages come from that were not touched yet; nil where they are zero.
    let memorySource: MemorySource?
    let abilities: HostAbilities
    let loop: DeviceLoop
    let devices: DeviceSet
    private(set) var runners: [VCPURunner] = []
    let description: Mutex<MachineConfiguration>
    /// Held by whoever starts, stops, changes or saves the machine.
    let life: Mutex<MachineLife>
    /// What tells the pages that it touches from their neighbours, until its working set is recorded.
    let touched = Mutex<SinglePageFaults?>(nil)
    /// What machines that begin where this one began touch first, where that is known: its forks have it beforehand.
    let workingSet = Mutex<WorkingSet?>(nil)
    /// What it has in common with those that it was forked from and that were forked from it; nil where there are none.
    let family = Mutex<ForkFamily?>(nil)
    /// Where vCPU threads stand while the machine is paused, and where the loop's thread does.
    let vcpuGate = Gate()
    let loopGate = Gate()
    let isStandingStill = Atomic(false)
    private let outcome = Mutex<MachineExit?>(nil)
    private let endRequested = Atomic(false)

    /// Makes the machine, loads its kernel and opens its devices; nothing runs yet.
    /// - Parameter taps: TAP devices that were opened before, by the names of their interfaces.
    package convenience init(
        _ configuration: MachineConfiguration, taps: [String: TapDevice] = [:], observer: MachineObserver
    ) throws(MachineError) {
        let settings = configuration.machine
        try HostMemory.check(sizeInBytes: settings.memoryInMiB << 20)
        var configuration = configuration
        for index in configuration.networkInterfaces.indices {
            let given = configuration.networkInterfaces[index].guestMAC
            configuration.networkInterfaces[index].guestMAC = given ?? .random()
        }
        try self.init(
            configuration, observer: observer, host: HostVM(settings), memory: HostMemory.allocate(settings),
            source: nil, taps: taps, origin: .kernel)
    }

    /// What a machine begins with.
    enum Origin {
        case kernel
        /// Its memory has all of it already.
        case saved(MachineState, SavedTime)
    }

    /// Puts a machine together. Nothing runs yet.
    /// - Parameter source: where the memory comes from as far as it is not there yet.
    init(
        _ configuration: MachineConfiguration, observer: MachineObserver, host: consuming HostVM, memory: GuestMemory,
        source: MemorySource?, taps: [String: TapDevice] = [:], origin: Origin
    ) throws(MachineError) {
        description = Mutex(configuration)
        self.observer = observer
        self.memory = memory
        memorySource = source
        life = Mutex(
            MachineLife(
                history: MemoryHistory(of: memory, isTracked: configuration.machine.tracksDirtyPages)))
        abilities = host.abilities
        let settings = configuration.machine
        let loop = try system("the device loop") { () throws(SystemError) in
            try DeviceLoop { line in observer.log(.warning, line) }
        }
        ended = try system("the end of the machine") { () throws(SystemError) in try EventCounter() }
        let relay = EventRelay()
        let saved: MachineState? = if case .saved(let state, _) = origin { state } else { nil }
        devices = try DeviceSet(configuration, saved: saved, taps: taps, memory: memory, loop: loop) { event in
            relay.machine?.guestEvent(event)
        }
        if case .server(let server) = source { server.remember(configuration.vsock?.socketPath) }
        self.loop = loop
        var processor: ProcessorState?
        if saved == nil {
            processor = try BootLoader(
                source: configuration.bootSource, memory: memory, sizeInBytes: settings.memoryInMiB << 20,
                vcpuCount: settings.vcpuCount, devices: devices.slots, acpi: settings.acpi,
                additionalArguments: DeviceSet.rootArguments(configuration.drives)
            ).load()
            HostMemory.preferHugePages(for: memory, settings)
        }
        try VMGeneration.renew(in: memory)
        try Self.connect(memory, devices, to: host.vm, tracksDirtyPages: settings.tracksDirtyPages)
        let supported = host.supported
        let hasDeadlineTimer = host.hasDeadlineTimer
        self.vm = host.vm
        relay.machine = self
        let ports = devices.ports
        let windows = WindowBus(windows: devices.windows)
        try kvm { () throws(KVMError) in
            let topology = CPUTopology(
                vcpuCount: settings.vcpuCount,
                threadsPerCore: settings.simultaneousMultithreading && settings.vcpuCount > 1 ? 2 : 1)
            try VCPUKick.prepare()
            for index in 0..<settings.vcpuCount {
                let vcpu = try self.vm.createVCPU(index: index)
                switch origin {
                case .kernel:
                    try vcpu.setCPUID(
                        supported.adjusted(for: index, topology: topology, deadlineTimer: hasDeadlineTimer))
                    try vcpu.enableExtendedStates(supported)
                    try vcpu.setModelSpecificRegisters(ProcessorState.modelSpecificRegisters)
                    try vcpu.setLocalInterrupts()
                    if index == 0 { try processor?.apply(to: vcpu) }
                case .saved(let state, let time):
                    try vcpu.restore(time.applied(to: state.vcpus[index]), abilities, setsFrequency: time.setsFrequency)
                }
                runners.append(VCPURunner(vcpu, machine: self, gate: vcpuGate, ports: ports, windows: windows))
            }
            if case .saved(let state, let time) = origin {
                try self.vm.restoreChipset(state.chipset, clock: state.chipset.clock &+ time.advanceInNanoseconds)
                // Time has passed since it was saved, in which nothing of the guest ran: its watchdogs are not to mind.
                for runner in runners { runner.vcpu.tellOfPause() }
            }
        }
        if saved != nil { try VMGeneration.announce(self.vm) }
    }

    /// Memory, interrupt lines and notifications: what KVM does without leaving the guest for this process.
    private static func connect(
        _ memory: GuestMemory, _ devices: DeviceSet, to vm: borrowing VM, tracksDirtyPages: Bool
    ) throws(MachineError) {
        do throws(KVMError) {
            for (slot, region) in memory.regions.enumerated() {
                try unsafe vm.setMemory(
                    slot: UInt32(slot), guestAddress: region.guestStart, host: region.hostStart,
                    countInBytes: region.count, tracksDirtyPages: tracksDirtyPages)
            }
            try vm.connectInterrupt(devices.ports.serial.interrupt, line: Serial16550.interruptLine)
            try vm.connectInterrupt(devices.ports.keyboard.interrupt, line: I8042.interruptLine)
            for window in devices.windows {
                if let device = window.device { try connect(device, window.slot, to: vm) }
            }
        } catch {
            throw .kvm(error)
        }
    }

    static func connect(_ device: VirtioMMIODevice, _ slot: DeviceSlot, to vm: borrowing VM) throws(KVMError) {
        try vm.connectInterrupt(device.interrupt, line: slot.interrupt)
        for (queue, notifier) in device.notifiers.enumerated() {
            try vm.connectNotification(
                notifier.event, address: slot.address + VirtioMMIODevice.notifyOffset, value: UInt32(queue))
        }
    }

    static func disconnect(
        _ device: VirtioMMIODevice, _ slot: DeviceSlot, from vm: borrowing VM
    ) throws(KVMError) {
        try vm.disconnectInterrupt(device.interrupt, line: slot.interrupt)
        for (queue, notifier) in device.notifiers.enumerated() {
            try vm.disconnectNotification(
                notifier.event, address: slot.address + VirtioMMIODevice.notifyOffset, value: UInt32(queue))
        }
    }

    /// The file that the memory is a private mapping of.
    var memoryBase: MemoryBase? { if case .file(let base) = memorySource { base } else { nil } }
    /// The server that hands it over.
    var memoryServer: ServedMemory? { if case .server(let server) = memorySource { server } else { nil } }

    /// What the machine is made of now, devices that came later included. For any thread.
    package var configuration: MachineConfiguration { description.withLock { $0 } }

    /// Runs the machine: `start`, `body`, `finish`. `body` returns when the machine is to end, as a rule when `ended` is
    /// readable.
    /// - Returns: why the machine ended.
    package func run(until body: () throws(SystemError) -> MachineExit?) throws(MachineError) -> MachineExit {
        defer { finish() }
        try start()
        do throws(SystemError) {
            if let exit = try body() { end(exit) }
        } catch {
            throw .system("waiting for the machine's end", error)
        }
        return finish()
    }

    // MARK: - From the machine's threads

    /// Whether it has ended, or is to.
    package var hasEnded: Bool { endRequested.load(ordering: .relaxed) }

    /// Why it ended; nil before.
    var exit: MachineExit? { outcome.withLock { $0 } }

    /// Ends the machine; the first reason counts. For any thread.
    package func end(_ exit: MachineExit) {
        outcome.withLock { outcome in if outcome == nil { outcome = exit } }
        endRequested.store(true, ordering: .sequentiallyConsistent)
        ended.signal()
    }

    private func guestEvent(_ event: MachineEvent) {
        switch event {
        case .powerOff: end(.powerOff)
        case .reboot: end(.reboot)
        case .panic: end(.panic)
        }
    }

    func willRunFirstInstruction() { observer.firstInstruction() }

    func bootTimer(_ data: ExitData) { observer.bootTimer(UInt8(truncatingIfNeeded: data.number)) }
}

/// Lets devices, which are made before the machine, report to it.
///
/// `@unchecked Sendable`: set once, before any thread that reads it exists.
private final class EventRelay: @unchecked Sendable {
    weak var machine: Machine?
}
