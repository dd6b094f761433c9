// SPDX-License-Identifier: Apache-2.0

internal import Wire

/// The API's rules, without the machine: which request is taken when, what it changes, what its answer is.
///
/// Before the machine starts there is its configuration, which requests change. It starts by `start`, or by `load`,
/// which is refused once anything was configured that a snapshot brings itself. From then on it runs or is paused, and
/// its configuration changes only in what can be changed in a running machine. A machine never goes back.
///
/// Illegal input: a request that belongs to the other phase, or contradicts the configuration; it changes nothing. A
/// `load` that failed leaves the process useless: it ends once the answer is written.
package struct APIState: Equatable, Sendable {
    package enum Phase: String, Equatable, Sendable {
        case notStarted = "Not started"
        case running = "Running"
        case paused = "Paused"
    }

    package private(set) var phase = Phase.notStarted
    /// The machine's; before a boot source is set, its kernel's path is empty.
    package private(set) var configuration = MachineConfiguration(bootSource: BootSource(kernelImagePath: ""))
    /// The process is to end when the answer is written.
    package private(set) var isUseless = false

    private let identifier: String
    private var hasBootResources = false
    /// One that was asked for: the start says that there is none.
    private var cpuTemplate: String?
    private var hasMetrics: Bool

    /// - Parameters:
    ///   - identifier: the machine's name.
    ///   - hasMetrics: the command line says already where figures go.
    package init(identifier: String, hasMetrics: Bool = false) {
        self.identifier = identifier
        self.hasMetrics = hasMetrics
    }

    /// A machine that was started otherwise runs.
    package mutating func didStart(_ configuration: MachineConfiguration) {
        self.configuration = configuration
        hasBootResources = true
        phase = .running
    }

    /// The state of a machine that was forked from this one, in a process of its own.
    /// - Parameters:
    ///   - configuration: the new machine's.
    ///   - isRunning: whether it is to run at once, and not paused.
    package func forked(
        identifier: String, hasMetrics: Bool, _ configuration: MachineConfiguration, isRunning: Bool
    ) -> APIState {
        var child = APIState(identifier: identifier, hasMetrics: hasMetrics)
        child.didStart(configuration)
        child.phase = isRunning ? .running : .paused
        return child
    }

    // MARK: - Requests

    package mutating func handle(_ request: APIRequest) -> APIStep {
        switch request {
        case .describeInstance: .respond(answer(instance))
        case .version: .respond(answer(["firecracker_version": .string(apiVersion)]))
        case .describeConfiguration: .respond(answer(configuration.description(cpuTemplate: cpuTemplate)))
        case .describeMachine: .respond(answer(configuration.machine.description(cpuTemplate: cpuTemplate)))
        case .introspect: .perform(.introspect)
        case .later(let what, let rule): refuseLater(what, rule)
        default: phase == .notStarted ? handleBeforeStart(request) : handleAfterStart(request)
        }
    }

    private static let onlyAfter = "The requested operation is not supported before starting the microVM."
    private static let onlyBefore = "The requested operation is not supported after starting the microVM."

    private func refuseLater(_ what: String, _ rule: APIPhaseRule) -> APIStep {
        switch (rule, phase) {
        case (.afterStart, .notStarted): refuse(Self.onlyAfter)
        case (.beforeStart, .running), (.beforeStart, .paused): refuse(Self.onlyBefore)
        default: refuse(RequestFault.notSupported(what).message)
        }
    }

    private mutating func handleBeforeStart(_ request: APIRequest) -> APIStep {
        switch request {
        case .setMachine(let update):
            hasBootResources = true
            return set(update)
        case .setSpareSlots(let count):
            hasBootResources = true
            guard count <= MachineConfiguration.spareSlotLimit else {
                return refuse("\(count) spare slots are too many; \(MachineConfiguration.spareSlotLimit) are the most")
            }
            configuration.spareSlotCount = count
            return .respond(HTTPResponse(.noContent))
        case .setBootSource(let source):
            hasBootResources = true
            if let problem = source.problem ?? conflict({ $0.bootSource = source }) {
                return refuse("Boot source error: \(problem)")
            }
            return .perform(.checkBootSource(source))
        case .setDrive(let drive):
            hasBootResources = true
            let root = configuration.drives.first(where: \.isRootDevice)
            if drive.isRootDevice, let root, root.identifier != drive.identifier {
                return refuse("Drive config error: A root block device already exists!")
            }
            if let problem = conflict(drive) { return refuse("Drive config error: \(problem)") }
            return .perform(.checkDrive(drive))
        case .setInterface(let interface):
            hasBootResources = true
            if let problem = conflict(interface) { return refuse("Network config error: \(problem)") }
            return .perform(.checkInterface(interface))
        case .setVsock(let vsock):
            hasBootResources = true
            if let problem = conflict({ $0.vsock = vsock }) { return refuse("Vsock config error: \(problem)") }
            return .perform(.checkVsock(vsock))
        case .setEntropy(let limit):
            hasBootResources = true
            configuration.hasEntropyDevice = true
            configuration.entropyLimit = limit
            return .respond(HTTPResponse(.noContent))
        case .setSerial(let serial):
            configuration.serial = serial
            return .respond(HTTPResponse(.noContent))
        case .setLogger(let logger): return .perform(.openLog(logger))
        case .setMetrics(let settings):
            guard !hasMetrics else {
                return refuse(
                    "Metrics error: Cannot initialize the metrics system due to bad user input: "
                        + "Reinitialization of metrics not allowed.")
            }
            return .perform(.openMetrics(settings))
        case .start:
            guard configuration.bootSource.kernel != "" else {
                return refuse("Start microvm error: Cannot start microvm without kernel configuration.")
            }
            if let cpuTemplate {
                return refuse(
                    "Start microvm error: Failed to get CPU template: this monitor has no CPU templates yet, "
                        + "\(cpuTemplate) included")
            }
            return .perform(.start(configuration))
        case .loadSnapshot(let loading):
            guard !hasBootResources else {
                return refuse(
                    "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific "
                        + "resources.")
            }
            if let problem = loading.descriptorConflict { return refuse("Load snapshot error: \(problem)") }
            return .perform(.load(loading))
        default:
            return refuse(Self.onlyAfter)
        }
    }

    private mutating func handleAfterStart(_ request: APIRequest) -> APIStep {
        switch request {
        case .pause: return .perform(.pause)
        case .resume: return .perform(.resume)
        case .sendCtrlAltDel: return .perform(.sendCtrlAltDel)
        case .flushMetrics: return .perform(.flushMetrics)
        case .createSnapshot(let creation):
            if creation.isLive {
                guard phase == .running, creation.kind == .full else {
                    return refuse("Create snapshot error: a live snapshot is a full one of a machine that runs")
                }
                return .perform(.createSnapshot(creation))
            }
            guard phase == .paused else {
                return refuse(
                    "Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore "
                        + "unavailable while running")
            }
            return .perform(.createSnapshot(creation))
        case .fork(let children): return .perform(.fork(children))
        case .recordWorkingSet(let path): return .perform(.recordWorkingSet(path))
        case .updateDrive(let id, let path, let limit):
            guard configuration.drives.contains(where: { $0.identifier == id }) else {
                return refuse(Self.driveUpdate("Failed perform action on device: Device not found"))
            }
            guard path != nil || limit != nil else {
                return refuse(Self.driveUpdate("Block: Running method expected different backend."))
            }
            return .perform(.updateDrive(id: id, path: path, limit: limit))
        case .updateInterface(let id, let receive, let transmit):
            guard configuration.networkInterfaces.contains(where: { $0.identifier == id }) else {
                return refuse(Self.interfaceUpdate("Failed perform action on device: Device not found"))
            }
            return .perform(.updateInterface(id: id, receive: receive, transmit: transmit))
        case .setDrive(let drive):
            guard configuration.spareSlotCount > 0 else { return refuse(Self.noSlot) }
            guard !configuration.drives.contains(where: { $0.identifier == drive.identifier }) else {
                return refuse("Device ID in use")
            }
            guard !drive.isRootDevice else {
                return refuse("Drive config error: A root block device already exists!")
            }
            if let problem = conflict(drive) { return refuse("Drive config error: \(problem)") }
            return .perform(.attachDrive(drive))
        case .setInterface(let interface):
            guard configuration.spareSlotCount > 0 else { return refuse(Self.noSlot) }
            guard !configuration.networkInterfaces.contains(where: { $0.identifier == interface.identifier }) else {
                return refuse("Device ID in use")
            }
            if let problem = conflict(interface) { return refuse("Network config error: \(problem)") }
            return .perform(.attachInterface(interface))
        case .remove:
            return refuse("PCI is not enabled")
        case .removeInterface(let id):
            guard configuration.networkInterfaces.contains(where: { $0.identifier == id }) else {
                return refuse("Network config error: Device not found: \(id)")
            }
            return .perform(.detachInterface(id))
        default:
            return refuse(Self.onlyBefore)
        }
    }

    private static let noSlot =
        "The requested operation is not supported after starting the microVM. PCI is not enabled, and the machine has "
        + "no spare slot"

    private static func driveUpdate(_ problem: String) -> String {
        "Drive config error: Unable to patch the block device: \(problem) Please verify the request arguments."
    }

    private static func interfaceUpdate(_ problem: String) -> String {
        "Network config error: Unable to update the net device: \(problem)"
    }

    private mutating func set(_ update: MachineUpdate) -> APIStep {
        switch configuration.machine.updated(by: update) {
        case .success(let settings):
            configuration.machine = settings
            if let template = update.cpuTemplate { cpuTemplate = template == "None" ? nil : template }
            return .respond(HTTPResponse(.noContent))
        case .failure(let error): return refuse("Machine config error: \(error.text)")
        }
    }

    /// What stands against an interface beside those that there are.
    private func conflict(_ interface: NetworkInterface) -> String? {
        let others = configuration.networkInterfaces.filter { $0.identifier != interface.identifier }
        if let address = interface.guestMAC, others.contains(where: { $0.guestMAC == address }) {
            return "The MAC address is already in use: \(address)"
        }
        if case .tap(let name) = interface.peer, others.contains(where: { $0.peer == interface.peer }) {
            // What the kernel says of a device that is in use: EBUSY.
            return "Could not create the network device: Open tap device failed: Error while creating ifreq structure: "
                + "Device or resource busy (os error 16). Invalid TUN/TAP Backend provided by \(name). Check our "
                + "documentation on setting up the network devices."
        }
        return conflict { configuration in
            configuration.networkInterfaces.removeAll { $0.identifier == interface.identifier }
            configuration.networkInterfaces.append(interface)
        }
    }

    /// What stands against a drive beside what else there is.
    private func conflict(_ drive: Drive) -> String? {
        conflict { configuration in
            configuration.drives.removeAll { $0.identifier == drive.identifier }
            configuration.drives.append(drive)
        }
    }

    /// What one descriptor would be twice after a change.
    private func conflict(_ change: (inout MachineConfiguration) -> Void) -> String? {
        var wanted = configuration
        change(&wanted)
        return wanted.descriptorConflict
    }

    // MARK: - Outcomes

    package mutating func complete(_ effect: APIEffect, _ outcome: APIOutcome) -> HTTPResponse {
        if case .failed(let problem) = outcome { return fail(effect, problem) }
        switch effect {
        case .checkBootSource(let source): configuration.bootSource = source
        case .checkDrive(let drive): insert(drive)
        case .checkInterface(let interface), .attachInterface(let interface):
            let place = configuration.networkInterfaces.firstIndex { $0.identifier == interface.identifier }
            if let place {
                configuration.networkInterfaces[place] = interface
            } else {
                configuration.networkInterfaces.append(interface)
            }
            if phase != .notStarted { configuration.spareSlotCount -= 1 }
        case .checkVsock(let vsock): configuration.vsock = vsock
        case .openLog(let logger): configuration.logger = logger
        case .openMetrics: hasMetrics = true
        case .start: phase = .running
        case .load:
            guard case .loaded(let configuration, let isRunning) = outcome else { break }
            self.configuration = configuration
            phase = isRunning ? .running : .paused
        case .pause: phase = .paused
        case .resume: phase = .running
        case .updateDrive(let id, let path, let limit):
            configuration.updateDrive(id, path: path, limit: limit)
        case .updateInterface(let id, let receive, let transmit):
            configuration.updateInterface(id, receive: receive, transmit: transmit)
        case .attachDrive(let drive):
            configuration.drives.append(drive)
            configuration.spareSlotCount -= 1
        case .detachInterface(let id):
            configuration.networkInterfaces.removeAll { $0.identifier == id }
            configuration.spareSlotCount += 1
        case .createSnapshot, .fork, .recordWorkingSet, .sendCtrlAltDel, .flushMetrics, .introspect: break
        }
        guard case .answer(let body) = outcome else { return HTTPResponse(.noContent) }
        return HTTPResponse(.ok, body: body)
    }

    private mutating func fail(_ effect: APIEffect, _ problem: String) -> HTTPResponse {
        switch effect {
        case .checkBootSource: fault("Boot source error: \(problem)")
        case .checkDrive, .attachDrive:
            fault("Drive config error: Unable to create the virtio block device: \(problem)")
        case .checkInterface, .attachInterface:
            fault("Network config error: Could not create the network device: \(problem)")
        case .detachInterface: fault("Network config error: \(problem)")
        case .checkVsock: fault("Vsock config error: Cannot create backend for vsock device: \(problem)")
        case .openLog: fault("Logger error: Failed to open target file: \(problem)")
        case .openMetrics:
            fault("Metrics error: Cannot initialize the metrics system due to bad user input: \(problem)")
        case .start: fault("Start microvm error: \(problem)")
        case .load: failLoading(problem)
        case .createSnapshot: fault("Create snapshot error: \(problem)")
        case .fork: fault("Fork error: \(problem)")
        case .recordWorkingSet: fault("Working set error: \(problem)")
        case .updateDrive: fault(Self.driveUpdate("Block: \(problem)"))
        case .updateInterface: fault(Self.interfaceUpdate(problem))
        case .flushMetrics: fault("Internal VMM error: Metrics error: \(problem)")
        case .sendCtrlAltDel: fault("Internal VMM error: I8042 error: \(problem)")
        case .pause, .resume, .introspect: fault("Internal VMM error: \(problem)")
        }
    }

    private mutating func failLoading(_ problem: String) -> HTTPResponse {
        isUseless = true
        return fault("Load snapshot error: Failed to restore from snapshot: \(problem)")
    }

    /// Puts a drive in the place of the one of its name; a new one behind the others, or before them if it is the root
    /// device. One that becomes the root device changes places with the first. The order is what the guest sees.
    private mutating func insert(_ drive: Drive) {
        if let place = configuration.drives.firstIndex(where: { $0.identifier == drive.identifier }) {
            configuration.drives[place] = drive
            if drive.isRootDevice { configuration.drives.swapAt(0, place) }
        } else {
            configuration.drives.insert(drive, at: drive.isRootDevice ? 0 : configuration.drives.count)
        }
    }

    // MARK: - Answers

    private var instance: JSON {
        [
            "id": .string(identifier), "state": .string(phase.rawValue), "vmm_version": .string(apiVersion),
            "app_name": "Martlet",
        ]
    }

    private func answer(_ value: JSON) -> HTTPResponse { HTTPResponse(.ok, body: value.encoded()) }

    private func refuse(_ problem: String) -> APIStep { .respond(fault(problem)) }

    private func fault(_ problem: String) -> HTTPResponse { .fault(problem) }
}

extension HTTPResponse {
    /// A refusal in the words that Firecracker's clients know.
    package static func fault(_ problem: String) -> HTTPResponse {
        HTTPResponse(.badRequest, body: (["fault_message": .string(problem)] as JSON).encoded())
    }

    /// The answer to bytes that are no request.
    package static func fault(_ error: HTTPSyntaxError) -> HTTPResponse {
        let text = "\(error)\nAll previous unanswered requests will be dropped."
        var response = HTTPResponse(.badRequest, body: (["error": .string(text)] as JSON).encoded())
        response.closesConnection = true
        return response
    }

    /// The answer to one connection too many.
    package static let busy: HTTPResponse = {
        var response = HTTPResponse(
            .serviceUnavailable, body: (["error": "Too many open connections"] as JSON).encoded())
        response.closesConnection = true
        return response
    }()
}
