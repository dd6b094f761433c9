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

    package init() {}
}

/// A microVM: made from a configuration, run once, ended once.
///
/// `@unchecked Sendable`: after init only atomics, locks and what is constant are reached by several threads.
package final class Machine: @unchecked Sendable {
    package let configuration: MachineConfiguration
    /// Readable once the machine has ended by itself.
    package let ended: EventCounter

    private let observer: MachineObserver
    private let vm: VM
    let memory: GuestMemory
    private let loop: DeviceLoop
    private let devices: DeviceSet
    private var runners: [VCPURunner] = []
    private let outcome = Mutex<MachineExit?>(nil)
    private let endRequested = Atomic(false)

    /// Makes the machine, loads its kernel and opens its devices; nothing runs yet.
    package init(_ configuration: MachineConfiguration, observer: MachineObserver) throws(MachineError) {
        self.configuration = configuration
        self.observer = observer
        let settings = configuration.machine
        let sizeInBytes = settings.memoryInMiB << 20
        try HostMemory.check(sizeInBytes: sizeInBytes)

        let host = try kvm { () throws(KVMError) in try KVMSystem() }
        try kvm { () throws(KVMError) in try host.require(StaticCapability.requiredForMachines) }
        let maximum = host.value(of: .maximumVCPUs)
        guard settings.vcpuCount <= max(1, maximum) else {
            throw .configuration(
                field: "machine-config.vcpu_count", problem: "this host's KVM allows \(maximum) vCPUs in a machine")
        }
        let vm = try kvm { () throws(KVMError) in try host.createVM() }
        try kvm { () throws(KVMError) in try vm.createChipset(stateSegment: GuestLayout.stateSegment) }

        memory = try HostMemory.allocate(settings)
        let loop = try system("the device loop") { () throws(SystemError) in
            try DeviceLoop { line in observer.log(.warning, line) }
        }
        ended = try system("the end of the machine") { () throws(SystemError) in try EventCounter() }
        let relay = EventRelay()
        devices = try DeviceSet(configuration, memory: memory, loop: loop) { relay.machine?.guestEvent($0) }
        self.loop = loop
        let processor = try BootLoader(
            source: configuration.bootSource, memory: memory, sizeInBytes: sizeInBytes,
            vcpuCount: settings.vcpuCount, devices: devices.slots, acpi: settings.acpi,
            additionalArguments: DeviceSet.rootArguments(configuration.drives)
        ).load()
        try Self.connect(memory, devices, to: vm, tracksDirtyPages: settings.tracksDirtyPages)
        self.vm = vm
        relay.machine = self
        try kvm { () throws(KVMError) in
            let supported = try host.supportedCPUID()
            let deadlineTimer = host.value(of: .deadlineTimer) > 0
            let topology = CPUTopology(
                vcpuCount: settings.vcpuCount,
                threadsPerCore: settings.simultaneousMultithreading && settings.vcpuCount > 1 ? 2 : 1)
            try VCPUKick.prepare()
            let ports = devices.ports
            let windows = WindowBus(devices: devices.virtio)
            for index in 0..<settings.vcpuCount {
                let vcpu = try self.vm.createVCPU(index: index)
                try vcpu.setCPUID(
                    supported.adjusted(for: index, topology: topology, deadlineTimer: deadlineTimer))
                try vcpu.setModelSpecificRegisters(ProcessorState.modelSpecificRegisters)
                try vcpu.setLocalInterrupts()
                if index == 0 { try processor.apply(to: vcpu) }
                runners.append(VCPURunner(vcpu, machine: self, ports: ports, windows: windows))
            }
        }
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
            for (device, slot) in zip(devices.virtio, devices.slots) {
                try vm.connectInterrupt(device.interrupt, line: slot.interrupt)
                for (queue, notifier) in device.notifiers.enumerated() {
                    try vm.connectNotification(
                        notifier.event, address: slot.address + VirtioMMIODevice.notifyOffset, value: UInt32(queue))
                }
            }
        } catch {
            throw .kvm(error)
        }
    }

    // MARK: - Running

    /// Runs the machine on threads of its own. `body` runs on the caller's and returns when the machine is to end, as
    /// a rule when `ended` is readable. All threads have ended and all output is written when this returns.
    /// - Returns: why the machine ended.
    package func run(until body: () throws(SystemError) -> MachineExit?) throws(MachineError) -> MachineExit {
        let loop = loop
        let deviceThread = try system("the device thread") { () throws(SystemError) in
            try Platform.Thread(name: "devices", stackSizeInBytes: Self.deviceStackSize) { [self] in
                do throws(SystemError) { try loop.run() } catch { end(.internalError("the device loop: \(error)")) }
            }
        }
        var threads = VCPUThreads()
        var failure: MachineError?
        do throws(SystemError) {
            for runner in runners { try threads.start(runner) }
        } catch {
            failure = .system("a vCPU's thread", error)
        }
        if failure == nil {
            do throws(SystemError) {
                if let exit = try body() { end(exit) }
            } catch {
                failure = .system("waiting for the machine's end", error)
            }
        }
        end(.killed("the monitor"))
        threads.join(runners)
        loop.stop()
        deviceThread.join()
        devices.finish()
        if let failure { throw failure }
        return outcome.withLock { $0 } ?? .killed("the monitor")
    }

    private static let deviceStackSize = 256 << 10

    // MARK: - From the machine's threads

    var hasEnded: Bool { endRequested.load(ordering: .relaxed) }

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

/// The running vCPUs' threads.
private struct VCPUThreads: ~Copyable {
    private var threads: [Box] = []

    private final class Box {
        private var thread: Platform.Thread?
        init(_ thread: consuming Platform.Thread) { self.thread = consume thread }

        func send(_ signal: Int32) { thread?.send(signal) }
        func join() { thread.take()?.join() }
    }

    mutating func start(_ runner: VCPURunner) throws(SystemError) {
        threads.append(Box(try Platform.Thread(name: "vcpu\(runner.vcpu.index)") { runner.run() }))
    }

    /// Takes all vCPUs out of the guest and waits for their threads.
    consuming func join(_ runners: [VCPURunner]) {
        for (thread, runner) in zip(threads, runners) {
            runner.kick.request()
            thread.send(VCPUKick.signal)
        }
        for thread in threads { thread.join() }
    }
}
