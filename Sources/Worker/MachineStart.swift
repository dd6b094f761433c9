// SPDX-License-Identifier: Apache-2.0

internal import GuestProtocol
internal import MachineAPI
internal import Packet
internal import Platform
internal import Wire

/// How a machine comes to be: by a boot, by a boot that leaves a template behind, or from such a template. Whatever
/// keeps a template from being used is a note, never a failure.
struct MachineStart {
    /// Empty places for devices in a machine that templates are made of: the first is for the image's disk.
    static let spareSlots = 4
    /// The first of them, behind the vsock device and that for random numbers.
    private static let firstSlot = 2

    private enum Plan {
        case boot
        case making(NewTemplate)
        case restoring(Template)
        case cloning
        case adopting
    }

    private var plan = Plan.boot
    private let templates: TemplateStore?
    private let snapshot: String?
    private let memoryServer: String?
    private var key: TemplateKey?
    private var disk: Drive?
    /// Those that come behind the template.
    private var interfaces: [NetworkInterface] = []
    /// The address of the interface that the template has already, for the first of the machine's networks; nil where it
    /// has none.
    private var address: Packet.MACAddress?
    private var slot = 0
    private(set) var note: String?
    /// The slot that the first network interface of a clone is put in, whose original had none.
    private(set) var networkSlot: Int?
    private var isTemplateWritten = false

    /// Decides, and writes the monitor's configuration where it is not the one that is there.
    init(_ configuration: ContainerConfiguration) {
        snapshot = configuration.snapshot
        memoryServer = configuration.memoryServer
        let isClone = configuration.snapshot != nil || configuration.forkOf != nil
        templates = isClone ? nil : configuration.templates.map { TemplateStore(root: $0) }
        if configuration.forkOf != nil { plan = .adopting }
        if let snapshot = configuration.snapshot {
            plan = .cloning
            let (added, overrides) = configuration.interfacesOfClone
            networkSlot = added.isEmpty ? nil : Self.firstSlot + 1
            do throws(SystemError) {
                try write(
                    Template(directory: snapshot).restoring(
                        with: nil, added, overrides: overrides, root: configuration.disk,
                        vsockPath: MachineFile.vsock, memoryServer: configuration.memoryServer))
            } catch {
                note = "\(error)"
            }
        }
        guard let templates else { return }
        do {
            let bytes = try Files.read(
                MachineFile.monitorConfiguration, limit: MachineConfiguration.sizeLimitInBytes)
            var machine = try MachineConfiguration(parsing: bytes)
            // What a machine has besides is part of it from its first moment.
            guard machine.drives.count == 1, machine.networkInterfaces.count < Self.spareSlots, machine.machine.acpi
            else { return }
            disk = machine.drives.removeFirst()
            let present = takePresentInterface(&machine)
            machine.spareSlotCount = Self.spareSlots - machine.networkInterfaces.count
            slot =
                machine.networkInterfaces.count + (machine.vsock == nil ? 0 : 1) + (machine.hasEntropyDevice ? 1 : 0)
            let key = try TemplateKey(machine, monitor: configuration.monitor)
            self.key = key
            if let template = templates.find(key), let disk {
                try write(
                    template.restoring(
                        with: disk, interfaces, overrides: present.map { [$0] } ?? [],
                        vsockPath: machine.vsock?.socketPath))
                plan = .restoring(template)
                templates.touch(key)
            } else if let new = try templates.begin(key) {
                try write(machine.json)
                plan = .making(new)
            } else {
                note = "another machine is just making the template"
            }
        } catch {
            note = "no template: \(error)"
            if case .making(let new) = plan { templates.abandon(new) }
            plan = .boot
        }
    }

    /// To find an interface and to bring it up takes a kernel longer than to give it other addresses. The first one of a
    /// network of ours is therefore the template's already, under an address that no machine has; others come behind it.
    /// - Returns: what it is to be when a machine goes on from there.
    private mutating func takePresentInterface(_ machine: inout MachineConfiguration) -> NetworkInterface? {
        interfaces = machine.networkInterfaces
        machine.networkInterfaces = []
        guard let first = interfaces.first, case .socket = first.peer else { return nil }
        interfaces.removeFirst()
        address = Self.templateAddress
        var present = first
        present.guestMAC = MachineAPI.MACAddress("\(Self.templateAddress)")
        machine.networkInterfaces = [present]
        var result = first
        // What the guest's driver was told of when it started stays.
        result.mtu = nil
        return result
    }

    private static let templateAddress = Packet.MACAddress(
        InterfaceSettings.templateAddress.reduce(UInt64(0)) { $0 << 8 | UInt64($1) })

    /// The address of an interface that the guest's kernel found by itself, which the first of the machine's networks is
    /// to have; nil where it has its own already.
    var presentInterface: Packet.MACAddress? {
        switch plan {
        case .making, .restoring: address
        case .boot, .cloning, .adopting: nil
        }
    }

    private func write(_ json: JSON) throws(SystemError) {
        try Files.writeAtomically(json.encoded(), to: MachineFile.templateConfiguration, permissions: 0o600)
    }

    var origin: SupervisorStateMachine.Origin {
        switch plan {
        case .boot: .boot
        case .making: .bootForTemplate
        case .restoring: .template
        case .cloning, .adopting: .snapshot
        }
    }

    /// Its memory is that of a snapshot, but for what was written since.
    var isClone: Bool {
        if case .cloning = plan { true } else { false }
    }

    /// As the machine's state says it.
    var word: String {
        switch plan {
        case .boot, .making: "boot"
        case .restoring: "template"
        case .cloning: "snapshot"
        case .adopting: "fork"
        }
    }

    /// Whether the machine is forked from another one, and its monitor with it.
    var isFork: Bool { if case .adopting = plan { true } else { false } }

    /// Where the machine's working set is to be written: it goes on from a memory file that has none yet.
    var missingWorkingSet: String? {
        let source: Template? =
            switch plan {
            case .restoring(let template): template
            case .cloning: memoryServer == nil ? snapshot.map { Template(directory: $0) } : nil
            case .boot, .making, .adopting: nil
            }
        return source.flatMap { Files.exists($0.workingSet) ? nil : $0.workingSet }
    }

    /// Starts the machine's monitor in the working directory.
    /// - Parameter network: the descriptor of its network device, where it is handed one.
    func startMonitor(_ program: String, network: Int32?) throws(SystemError) -> MonitorProcess {
        let isBoot = if case .boot = plan { true } else { false }
        return try MonitorProcess(
            program: program,
            configuration: isBoot ? MachineFile.monitorConfiguration : MachineFile.templateConfiguration,
            network: network)
    }

    /// The slot that the image's disk was put in after the guest's kernel had looked; nil where it was there before.
    var rootSlot: Int? {
        if case .boot = plan { nil } else { slot }
    }

    /// The template was no good.
    mutating func bootInstead(_ reason: String) {
        if let key { templates?.remove(key) }
        note = "the template was no good and is removed: \(reason)"
        plan = .boot
    }

    /// The template that is to be made, and the disk and the interfaces that the machine gets afterwards.
    var making: (new: NewTemplate, disk: Drive, interfaces: [NetworkInterface])? {
        guard case .making(let new) = plan, let disk else { return nil }
        return (new, disk, interfaces)
    }

    /// The machine has ended; a template that it was to leave behind and did not is given up.
    mutating func end() {
        if case .making(let new) = plan, !isTemplateWritten { templates?.abandon(new) }
        isTemplateWritten = true
    }

    /// The template is written, or could not be, for this reason.
    mutating func templateWritten(_ failure: String?) {
        guard case .making(let new) = plan, !isTemplateWritten else { return }
        isTemplateWritten = true
        var failure = failure
        if failure == nil {
            do throws(SystemError) { try templates?.finish(new) } catch { failure = "\(error)" }
        }
        if let failure {
            templates?.abandon(new)
            note = "no template could be made: \(failure)"
        } else {
            note = "a template was made"
        }
    }
}

extension Template {
    /// The monitor's configuration that goes on from here.
    /// - Parameters:
    ///   - disk: for the first spare slot.
    ///   - interfaces: for the next ones.
    ///   - overrides: what the interfaces that it has already are to be.
    ///   - root: the files of the image's disk; nil for those that it was saved with.
    ///   - memoryServer: the socket of a server that the memory comes from instead of its file.
    func restoring(
        with disk: Drive?, _ interfaces: [NetworkInterface] = [], overrides: [NetworkInterface] = [],
        root: [ContainerConfiguration.DiskPart]? = nil, vsockPath: String?, memoryServer: String? = nil
    ) -> JSON {
        let backend: JSON =
            if let memoryServer {
                ["backend_type": "Uffd", "backend_path": .string(memoryServer)]
            } else {
                ["backend_type": "File", "backend_path": .string(memory)]
            }
        var load: [(String, JSON)] = [
            ("snapshot_path", .string(state)), ("mem_backend", backend), ("resume_vm", true),
            ("working_set_path", .string(workingSet)),
        ]
        if !overrides.isEmpty { load.append(("network_overrides", .array(overrides.map(\.json)))) }
        if let root {
            let extents = root.map { Drive.Extent(path: $0.path, length: $0.length) }
            let drive = Drive(identifier: ContainerConfiguration.rootDrive, content: .extents(extents))
            load.append(("drive_overrides", .array([drive.json])))
        }
        if let vsockPath { load.append(("vsock_override", JSON(members: [("uds_path", .string(vsockPath))]))) }
        var members: [(String, JSON)] = [("snapshot", JSON(members: load))]
        if let disk { members.append(("drives", .array([disk.json]))) }
        if !interfaces.isEmpty { members.append(("network-interfaces", .array(interfaces.map(\.json)))) }
        return JSON(members: members)
    }
}
