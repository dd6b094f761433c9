// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Machine
internal import MachineAPI
internal import Platform
internal import Synchronization
internal import Wire

// Zone 1: the API's thread asks, and waits for each answer; the main thread watches over the machine that comes of it.

/// Does what the API's rules want done, and holds the machine.
///
/// `@unchecked Sendable`: `state`, `counters` and `taps` are the API thread's; the rest is locked or constant.
final class Conductor: @unchecked Sendable {
    let log: MessageLog
    let status: StatusReport
    let metrics: MetricsWriter
    /// Signalled when there is a machine to watch over.
    let changed: SharedSignal

    let arguments: Arguments
    var identifier: String { arguments.identifier }
    private let current = Mutex<Machine?>(nil)
    /// Held while the process forks, and by the main thread while it does what takes locks: none may be taken then.
    let forking = Mutex(())
    var state: APIState
    private var counters = APICounters()
    private var taps = HeldTaps()

    init(_ arguments: Arguments, log: MessageLog, status: StatusReport, metrics: MetricsWriter) throws(SystemError) {
        self.log = log
        self.status = status
        self.metrics = metrics
        self.arguments = arguments
        changed = try SharedSignal()
        state = APIState(identifier: arguments.identifier, hasMetrics: arguments.metricsPath != nil)
    }

    /// The machine, once there is one.
    var machine: Machine? { current.withLock { $0 } }

    // MARK: - Requests, on the API's thread

    /// Answers a request; the Boolean says whether the process is to end once the answer is written.
    func serve(_ request: HTTPRequest) -> (response: HTTPResponse, ends: Bool) {
        let start = monotonicNanoseconds()
        log.write(.info, "The API server received a \(request.logLine).")
        var response = answer(request, start)
        metrics.set(counters)
        log.write(response.status == .badRequest ? .error : .info, response.logLine)
        if state.isUseless { response.closesConnection = true }
        return (response, state.isUseless)
    }

    private func answer(_ request: HTTPRequest, _ start: UInt64) -> HTTPResponse {
        let routed: RoutedRequest
        do throws(RequestFault) {
            routed = try APIRequest.route(request, &counters)
        } catch {
            return .fault(error.message)
        }
        var response: HTTPResponse
        switch state.handle(routed.request) {
        case .respond(let answer): response = answer
        case .perform(let effect):
            let outcome = perform(effect)
            response = state.complete(effect, outcome)
            if response.status != .badRequest { measure(effect, start) }
        }
        if let deprecation = routed.deprecation {
            log.write(.warning, deprecation)
            response.isDeprecated = true
        }
        return response
    }

    /// Notes how long what takes time took: as its client sees it, and as the monitor does.
    private func measure(_ effect: APIEffect, _ start: UInt64) {
        let name: String
        let words: String
        switch effect {
        case .pause: (name, words) = ("pause_vm", "pause vm")
        case .resume: (name, words) = ("resume_vm", "resume vm")
        case .load: (name, words) = ("load_snapshot", "load snapshot")
        case .createSnapshot(let creation):
            let kind = creation.kind == .full ? "full" : "diff"
            (name, words) = ("\(kind)_create_snapshot", "create \(kind) snapshot")
        default: return
        }
        let time = (monotonicNanoseconds() - start) / 1000
        metrics.set("latencies_us", name, time)
        metrics.set("latencies_us", "vmm_\(name)", time)
        log.write(.info, "'\(words)' API request took \(time) us.")
    }

    // MARK: - Machines

    /// Makes a machine and starts it.
    /// - Parameter start: when it was asked for, on the monotonic clock.
    func startMachine(_ configuration: MachineConfiguration, since start: UInt64) throws(MachineError) {
        let machine = try Machine(configuration, taps: taps.byInterface, observer: observer(since: start))
        // They are the machine's now, and go with it.
        taps = HeldTaps()
        try take(machine, paused: false)
    }

    /// Makes a machine that goes on from a snapshot, with what it did not have then.
    func startMachine(_ snapshot: SnapshotStart, since start: UInt64) throws(MachineError) {
        let machine = try restore(
            snapshot.loading, drives: snapshot.drives, interfaces: snapshot.networkInterfaces, since: start)
        state.didStart(machine.configuration)
    }

    private func restore(
        _ loading: SnapshotLoading, drives: [Drive] = [], interfaces: [NetworkInterface] = [], since start: UInt64
    ) throws(MachineError) -> Machine {
        let memory: RestoreRequest.Memory =
            switch loading.memory {
            case .file(let file): .file(file)
            case .server(let socket): .server(socket)
            }
        var request = RestoreRequest(state: loading.state, memory: memory)
        request.tracksDirtyPages = loading.tracksDirtyPages
        request.vsockPath = loading.vsockPath
        request.overrides.vsockListener = loading.vsockListener
        request.workingSetPath = loading.workingSetPath
        request.hugePages = loading.hugePages
        request.clock = loading.advancesClock ? .catchesUp : .standsStill
        request.drives = loading.drives.map {
            RestoreRequest.DriveOverride(identifier: $0.identifier, content: $0.content)
        }
        request.networkInterfaces = loading.interfaces.map {
            RestoreRequest.InterfaceOverride(identifier: $0.identifier, peer: $0.peer, guestMAC: $0.guestMAC)
        }
        let machine = try Machine(restoring: request, observer: observer(since: start))
        for drive in drives { try machine.attach(drive) }
        for interface in interfaces { try machine.attach(interface) }
        try take(machine, paused: !loading.resumes)
        return machine
    }

    /// A machine that a file described runs.
    func didStart(_ configuration: MachineConfiguration) { state.didStart(configuration) }

    func take(_ machine: Machine, paused: Bool) throws(MachineError) {
        status.write("started", [("pid", .number(getpid())), ("version", .string(monitorVersion))])
        do throws(MachineError) {
            try machine.start(paused: paused)
        } catch {
            machine.finish()
            throw error
        }
        current.withLock { $0 = machine }
        changed.counter.signal()
    }

    func observer(since start: UInt64) -> MachineObserver {
        var observer = MachineObserver()
        let (log, status) = (log, status)
        observer.log = { level, text in log.write(level, text) }
        observer.firstInstruction = { status.write("first-instruction") }
        let socketPath = arguments.socketPath
        observer.memoryLost = { reason in
            log.write(.error, reason)
            if let socketPath { Files.remove(socketPath) }
            status.write(MachineExit.internalError(reason))
            Monitor.endAtOnce(reason)
        }
        if arguments.measuresBoot {
            observer.bootTimer = { value in
                guard value == 123 else { return }
                let time = (monotonicNanoseconds() - start) / 1000
                let cpu = processorTimeInMicroseconds()
                log.announce(
                    "Guest-boot-time = \(Self.padded(time)) us \(time / 1000) ms, \(Self.padded(cpu)) CPU us "
                        + "\(cpu / 1000) CPU ms")
                status.write("boot-timer", [("boot_us", .number(time))])
            }
        }
        return observer
    }

    private static func padded(_ number: UInt64) -> String {
        let text = String(number)
        return String(repeating: " ", count: max(0, 6 - text.count)) + text
    }

    // MARK: - Effects, on the API's thread

    private func perform(_ effect: APIEffect) -> APIOutcome {
        do throws(EffectFailure) {
            switch effect {
            case .checkBootSource(let source): try Checks.open(source)
            case .checkDrive(let drive): try Checks.open(drive)
            case .checkInterface(let interface):
                try taps.hold(interface, processors: state.configuration.machine.vcpuCount)
            case .checkVsock(let vsock): try Checks.bind(vsock)
            case .openLog(let logger):
                try Checks.attempt { () throws(SystemError) in try log.configure(logger) }
            case .openMetrics(let settings):
                try Checks.attempt { () throws(SystemError) in try metrics.open(settings) }
            case .flushMetrics: try flushMetrics()
            case .start(let configuration): try startMachine(configuration)
            case .load(let loading):
                do throws(MachineError) {
                    let machine = try restore(loading, since: monotonicNanoseconds())
                    return .loaded(machine.configuration, isRunning: loading.resumes)
                } catch { throw EffectFailure(of: loading, error) }
            case .createSnapshot(let creation):
                try onMachine { machine throws(MachineError) in try save(machine, creation) }
            case .fork(let children): return .answer(try fork(children).encoded())
            case .recordWorkingSet(let path):
                try onMachine { machine throws(MachineError) in try machine.recordWorkingSet(to: path) }
            case .pause: try onMachine { machine throws(MachineError) in try machine.pause() }
            case .resume: try onMachine { machine throws(MachineError) in try machine.resume() }
            case .sendCtrlAltDel:
                try onMachine { machine throws(MachineError) in try machine.sendCtrlAltDel() }
            case .updateDrive(let id, let path, let limit):
                if let path {
                    let drive = machine?.configuration.drives.first { $0.identifier == id }
                    try Checks.openForReplacement(path, of: drive)
                }
                try onMachine { machine throws(MachineError) in
                    try machine.updateDrive(id, path: path, limit: limit)
                }
            case .updateInterface(let id, let receive, let transmit):
                try onMachine { machine throws(MachineError) in
                    try machine.updateInterface(id, receive: receive, transmit: transmit)
                }
            case .attachDrive(let drive):
                try Checks.open(drive)
                try onMachine { machine throws(MachineError) in _ = try machine.attach(drive) }
            case .attachInterface(let interface):
                var opened = HeldTaps()
                try opened.hold(interface, processors: state.configuration.machine.vcpuCount)
                let tap = opened.byInterface[interface.identifier]
                try onMachine { machine throws(MachineError) in _ = try machine.attach(interface, tap: tap) }
            case .detachInterface(let id):
                try onMachine { machine throws(MachineError) in try machine.detachInterface(id) }
            case .introspect: return .answer(introspection().encoded())
            }
            return .done
        } catch {
            return .failed(error.text)
        }
    }

    private func onMachine(_ body: (Machine) throws(MachineError) -> Void) throws(EffectFailure) {
        guard let machine else { throw EffectFailure("there is no machine") }
        do throws(MachineError) { try body(machine) } catch { throw EffectFailure("\(error)") }
    }

    private func flushMetrics() throws(EffectFailure) {
        do throws(SystemError) {
            try writeMetrics()
        } catch {
            throw EffectFailure("Failed to write metrics: \(Checks.text(error))")
        }
    }

    func writeMetrics() throws(SystemError) {
        // To gather them takes the devices' time.
        guard metrics.isOpen else { return }
        try metrics.write(machine.map(MachineFigures.init), missedLogs: log.missedCount)
    }

    private func startMachine(_ configuration: MachineConfiguration) throws(EffectFailure) {
        let memory = configuration.machine.memoryInMiB
        guard memory >= 64 else {
            throw EffectFailure("Invalid Memory Configuration: \(memory) MiB are too few; 64 are the least")
        }
        guard memory <= 1 << 24 else {
            throw EffectFailure(
                "Invalid Memory Configuration: Cannot create mmap region: Out of memory (os error 12)")
        }
        do throws(MachineError) {
            try startMachine(configuration, since: monotonicNanoseconds())
        } catch .configuration("machine-config.mem_size_mib", let problem) {
            throw EffectFailure("Invalid Memory Configuration: \(problem)")
        } catch {
            throw EffectFailure("\(error)")
        }
    }

    private func save(_ machine: Machine, _ creation: SnapshotCreation) throws(MachineError) {
        guard creation.isLive else {
            return try machine.createSnapshot(
                state: creation.statePath, memory: creation.memoryPath,
                kind: creation.kind == .full ? .full : .diff, tracksAfterwards: creation.tracksDirtyPages)
        }
        let report = try machine.createLiveSnapshot(
            state: creation.statePath, memory: creation.memoryPath, tracksAfterwards: creation.tracksDirtyPages)
        log.write(
            .info,
            "the machine stood still for \(report.firstPauseInNanoseconds / 1000) us and "
                + "\(report.lastPauseInNanoseconds / 1000) us, and \(report.restInBytes) bytes were copied meanwhile")
    }

    private func introspection() -> JSON {
        var object = JSONObject()
        object["monitor_version"] = .string(monitorVersion)
        object["id"] = .string(identifier)
        object["pid"] = .number(getpid())
        object["state"] = .string(state.phase.rawValue)
        object["cpu_us"] = .number(processorTimeInMicroseconds())
        object["slots"] = .array((machine?.slots ?? []).map { $0.map(JSON.string) ?? .null })
        return .object(object)
    }
}
