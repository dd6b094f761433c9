// SPDX-License-Identifier: Apache-2.0

internal import GuestProtocol
internal import Launch
internal import MachineAPI
internal import Platform
internal import Sessions
internal import Wire
internal import Worker

/// Makes a machine and starts its supervisor.
struct MachineLaunch {
    var installation: Installation
    var image: PreparedImage
    var options: ContainerOptions
    var size: MachineSize
    var name: String?
    var hasInput: Bool
    var isReadOnly: Bool
    var isDetached: Bool
    var removesItself: Bool
    var stopTimeout: UInt64
    var runTimeout: UInt64?
    /// Where templates are; nil to boot in any case.
    var templates: String?
    /// What was asked for its networks.
    var networks: [NetworkWish]

    /// Runs the container: to its end, or, detached, until its process runs. Gives the exit status.
    func run(signals: borrowing SignalQueue?) throws -> Int32 {
        let store = try MachineStore.ofUser { environmentVariable($0) }
        let machine = try start(store)
        return isDetached ? try machine.awaitStart() : try machine.attach(hasInput: hasInput, signals: signals)
    }

    private func start(_ store: MachineStore) throws -> RunningMachine {
        var generator = SystemRandomNumberGenerator()
        let id = MachineIdentity.makeID(using: &generator)
        let process = try ContainerSpecification(
            image: image.defaults, options: options,
            defaultHostname: String(id.prefix(MachineIdentity.shortIDLength)))
        let machine = try store.create(id: id, name: name)
        do {
            return try startSupervisor(of: machine, process, store)
        } catch {
            // Nothing of a machine that never ran stays.
            store.abandon(machine)
            throw error
        }
    }

    private func startSupervisor(
        of machine: borrowing NewMachine, _ process: ContainerSpecification, _ store: MachineStore
    ) throws -> RunningMachine {
        let directory = machine.directory
        try Files.writeNew(
            configuration(machine, process).json.encoded(indented: true), "\(directory)/\(MachineFile.configuration)")
        try Files.writeNew(
            monitorConfiguration(machine).json.encoded(indented: true),
            "\(directory)/\(MachineFile.monitorConfiguration)")
        return try RunningMachine.start(
            machine, supervisor: installation.supervisor, store, removesItself: removesItself)
    }

    private func configuration(
        _ machine: borrowing NewMachine, _ process: ContainerSpecification
    ) -> ContainerConfiguration {
        var configuration = ContainerConfiguration(
            id: machine.id, name: machine.name, createdAt: wallClockNanoseconds(), image: image.name,
            imageID: image.id, process: process, processors: size.processors, memoryInMiB: size.memoryInMiB,
            monitor: installation.monitor, commandStartedAt: CommandStart.moment)
        configuration.hasInput = hasInput
        configuration.isReadOnly = isReadOnly
        configuration.isDetached = isDetached
        configuration.removesItself = removesItself
        configuration.stopTimeout = stopTimeout
        configuration.runTimeout = runTimeout
        configuration.templates = templates
        configuration.networks = networks
        return configuration
    }

    private func monitorConfiguration(_ new: borrowing NewMachine) -> MachineConfiguration {
        var boot = BootSource(kernelImagePath: installation.kernel, initrdPath: installation.initramfs)
        // "quiet": each line on the serial port costs an exit a byte. What a dying kernel says is still written.
        boot.arguments = "\(BootSource.defaultArguments) quiet"
        var machine = MachineConfiguration(bootSource: boot)
        machine.machine.vcpuCount = size.processors
        machine.machine.memoryInMiB = UInt64(size.memoryInMiB)
        machine.machine.hugePages = .transparent
        var drive = Drive(
            identifier: ContainerConfiguration.rootDrive,
            content: .extents(image.extents.map { Drive.Extent(path: $0.path, length: $0.length) }))
        drive.isReadOnly = true
        machine.drives = [drive]
        // The monitor's working directory is the machine's.
        machine.vsock = Vsock(guestCID: 3, socketPath: MachineFile.vsock)
        machine.hasEntropyDevice = true
        machine.networkInterfaces = networks.map { $0.interface(of: new.id) }
        // Places for networks that come later, whether a template is used or not.
        machine.spareSlotCount = max(0, ContainerConfiguration.networkLimit - networks.count)
        return machine
    }
}
