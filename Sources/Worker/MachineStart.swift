// SPDX-License-Identifier: Apache-2.0

internal import MachineAPI
internal import Platform
internal import Wire

/// How a machine comes to be: by a boot, by a boot that leaves a template behind, or from such a template. Whatever
/// keeps a template from being used is a note, never a failure.
struct MachineStart {
    /// Empty places for devices in a machine that templates are made of: the first is for the image's disk.
    static let spareSlots = 4

    private enum Plan {
        case boot
        case making(NewTemplate)
        case restoring(Template)
        case cloning
        case adopting
    }

    private var plan = Plan.boot
    private let templates: TemplateStore?
    private var key: TemplateKey?
    private var disk: Drive?
    private var interfaces: [NetworkInterface] = []
    private var slot = 0
    private(set) var note: String?
    private var isTemplateWritten = false

    /// Decides, and writes the monitor's configuration where it is not the one that is there.
    init(_ configuration: ContainerConfiguration) {
        let isClone = configuration.snapshot != nil || configuration.forkOf != nil
        templates = isClone ? nil : configuration.templates.map { TemplateStore(root: $0) }
        if configuration.forkOf != nil { plan = .adopting }
        if let snapshot = configuration.snapshot {
            plan = .cloning
            do throws(SystemError) {
                try write(Template(directory: snapshot).restoring(with: nil, vsockPath: MachineFile.vsock))
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
            interfaces = machine.networkInterfaces
            machine.networkInterfaces = []
            machine.spareSlotCount = Self.spareSlots
            slot = (machine.vsock == nil ? 0 : 1) + (machine.hasEntropyDevice ? 1 : 0)
            let key = try TemplateKey(machine, monitor: configuration.monitor)
            self.key = key
            if let template = templates.find(key), let disk {
                try write(template.restoring(with: disk, interfaces, vsockPath: machine.vsock?.socketPath))
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
    func restoring(with disk: Drive?, _ interfaces: [NetworkInterface] = [], vsockPath: String?) -> JSON {
        var load: [(String, JSON)] = [
            ("snapshot_path", .string(state)),
            ("mem_backend", JSON(members: [("backend_type", "File"), ("backend_path", .string(memory))])),
            ("resume_vm", true),
        ]
        if let vsockPath { load.append(("vsock_override", JSON(members: [("uds_path", .string(vsockPath))]))) }
        var members: [(String, JSON)] = [("snapshot", JSON(members: load))]
        if let disk { members.append(("drives", .array([disk.json]))) }
        if !interfaces.isEmpty { members.append(("network-interfaces", .array(interfaces.map(\.json)))) }
        return JSON(members: members)
    }
}
