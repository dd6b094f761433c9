// SPDX-License-Identifier: Apache-2.0

internal import Machine
internal import MachineAPI
internal import Platform
internal import Synchronization
internal import Wire

/// `PUT /fork`: the machine becomes several, each in a process of its own that was forked from this one.
extension Conductor {
    /// Gives the answer: how long the machine stood still, and what came of each child.
    func fork(_ children: [ForkChild]) throws(EffectFailure) -> JSON {
        guard let machine else { throw EffectFailure("there is no machine") }
        do throws(MachineError) {
            return answer(children, try fork(machine, children))
        } catch {
            throw EffectFailure("\(error)")
        }
    }

    private func fork(_ machine: Machine, _ children: [ForkChild]) throws(MachineError) -> ForkReport {
        let configuration = machine.configuration
        let here: String
        do throws(SystemError) { here = try Files.resolve(".") } catch { throw .system("a fork", error) }
        let overrides = children.map { MachineOverrides($0, of: configuration, in: here) }
        // Asked for now: in a child its lock may be held by a thread that is not there.
        let origin = ForkOrigin(arguments: arguments, logger: log.logger, state: state)
        let (status, log) = (status, log)
        let report = try forking.withLock { _ throws(MachineError) in
            try machine.fork(overrides) { pause in
                let time = pause.inNanoseconds / 1000
                status.write("forked", [("pause_us", .number(time))])
                log.write(.info, "the machine stood still for \(time) us to be forked \(children.count) times")
            } child: { child throws(MachineError) in
                try ForkedMonitor.begin(child, children[child.index], origin)
            }
        }
        for (child, outcome) in zip(children, report.outcomes) {
            if case .failed(let reason) = outcome { log.write(.error, "the fork \(child.identifier): \(reason)") }
        }
        return report
    }

    /// Makes a machine in a process that was forked for it, and starts it as the other one stood.
    func startMachine(_ fork: ForkedChild, _ state: APIState) throws(MachineError) {
        let machine = try fork.makeMachine(observer: observer(since: monotonicNanoseconds()))
        self.state = state.forked(
            identifier: identifier, hasMetrics: arguments.metricsPath != nil, machine.configuration,
            isRunning: fork.isRunning)
        try take(machine, paused: !fork.isRunning)
    }

    /// For the main thread, while the API's goes on.
    func writeMetricsUnlessForking() throws(SystemError) {
        let failure = forking.withLockIfAvailable { _ -> SystemError? in
            do throws(SystemError) {
                try writeMetrics()
                return nil
            } catch {
                return error
            }
        }
        if let failure = failure ?? nil { throw failure }
    }

    private func answer(_ children: [ForkChild], _ report: ForkReport) -> JSON {
        let entries = zip(children, report.outcomes).map { child, outcome -> JSON in
            switch outcome {
            case .made(let process): ["id": .string(child.identifier), "pid": .number(process)]
            case .failed(let reason): ["id": .string(child.identifier), "fault_message": .string(reason)]
            }
        }
        return [
            "pause_us": .number(report.pause.inNanoseconds / 1000),
            "forks_us": .number(report.pause.forksInNanoseconds / 1000), "children": .array(entries),
        ]
    }
}

extension MachineOverrides {
    /// - Parameters:
    ///   - configuration: of the machine that is forked.
    ///   - directory: that of its monitor, in which its files were found.
    fileprivate init(_ child: ForkChild, of configuration: MachineConfiguration, in directory: String) {
        self.init()
        drives = child.drives.map {
            Drive(identifier: $0.identifier, content: .path(child.resolve($0.path)), isCopied: $0.isCopied)
        }
        if child.directory != nil {
            for drive in configuration.drives where !drives.contains(where: { $0.identifier == drive.identifier }) {
                drives.append(Drive(identifier: drive.identifier, content: drive.content.resolved(in: directory)))
            }
        }
        networkInterfaces = child.interfaces.map {
            var peer = $0.peer
            if case .socket(let path) = peer { peer = .socket(child.resolve(path)) }
            return Interface(identifier: $0.identifier, peer: peer, guestMAC: $0.guestMAC)
        }
        for handed in child.handedInterfaces {
            var interface = Interface(
                identifier: handed.identifier, peer: .descriptor(-1), guestMAC: handed.guestMAC)
            interface.isHanded = true
            networkInterfaces.append(interface)
        }
        vsockPath = child.vsockPath
        serial = Serial(outputPath: child.serialPath)
    }
}

extension Drive.Content {
    fileprivate func resolved(in directory: String) -> Drive.Content {
        func resolve(_ path: String) -> String { path.hasPrefix("/") ? path : "\(directory)/\(path)" }
        switch self {
        case .path(let path): return .path(resolve(path))
        case .descriptor: return self
        case .extents(let extents):
            return .extents(
                extents.map { extent in
                    var extent = extent
                    if case .path(let path) = extent.file { extent.file = .path(resolve(path)) }
                    return extent
                })
        }
    }
}
