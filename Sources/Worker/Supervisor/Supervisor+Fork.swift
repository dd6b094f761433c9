// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import GuestProtocol
internal import MachineAPI
internal import Platform
internal import Wire

/// Forking: this machine's monitor is told to, while the container is frozen; each new machine's supervisor waits for
/// the monitor that comes of it.
extension Supervisor {
    func fork(_ frame: Frame, _ client: UInt64) {
        let order = ForkOrder(frame.payload)
        let areIDs = order?.machines.allSatisfy { MachineIdentity.isID(String(decoding: $0, as: UTF8.self)) } ?? false
        let saving = Saving(client: client, purpose: .fork(order ?? ForkOrder(machines: [])))
        begin(saving, unless: areIDs ? nil : "no machines are given")
    }

    func fork(_ order: ForkOrder) {
        let began = monotonicNanoseconds()
        var children: [JSON] = []
        do throws(WorkerError) {
            for id in order.machines {
                children.append(try ForkedMonitor.description(id: String(decoding: id, as: UTF8.self), store))
            }
        } catch {
            saving?.fail(Array("\(error)".utf8))
            saving?.isAnswered = true
            return thaw()
        }
        api.ask("PUT", "/fork", ["children": .array(children)], epoll: epoll) { [unowned self] answer in
            takeForks(answer)
            saving?.add("children made", since: began)
            saving?.isAnswered = true
            // Where nothing came of it the monitor has not said that it goes on.
            thaw()
            finishSaving()
        }
    }

    /// The monitor goes on, and makes the children now.
    func goOnForked() {
        guard case .fork? = saving?.purpose else { return }
        thaw()
    }

    private func takeForks(_ answer: MonitorClient.Answer) {
        guard case .done(let body) = answer else {
            saving?.fail(Array((answer.refusal ?? "").utf8))
            return
        }
        guard let json = try? JSON(parsing: body), let children = json["children"]?.arrayValue else {
            saving?.fail(Array("the monitor's answer cannot be read".utf8))
            return
        }
        for (name, member) in [("paused", "pause_us"), ("of it forks", "forks_us")] {
            if let time = json[member]?.unsignedValue { saving?.add(name, nanoseconds: time &* 1000) }
        }
        for (index, child) in children.enumerated() {
            guard let reason = child["fault_message"]?.stringValue else { continue }
            saving?.forkFailures.append(ForkedReport.Failure(index: UInt64(index), reason: Array(reason.utf8)))
        }
    }
}

/// A monitor that is forked from another machine's, as its own machine's supervisor comes by it.
enum ForkedMonitor {
    /// What a monitor is told of a child: whose files are in that one's machine's directory.
    static func description(id: String, _ store: MachineStore) throws(WorkerError) -> JSON {
        let directory = store.directory(of: id)
        let configuration = try ContainerConfiguration.load(from: directory)
        let overrides = configuration.interfacesOfClone.overrides
        let handed = overrides.filter { if case .descriptor = $0.peer { true } else { false } }
        return [
            "id": .string(id), "directory": .string(directory), "api_sock": .string(MachineFile.api),
            "supervisor_sock": .string(MachineFile.monitor), "stdout_path": .string(MachineFile.console),
            "stderr_path": .string(MachineFile.diagnostics),
            "network_overrides": .array(overrides.filter { !handed.contains($0) }.map(\.json)),
            "supervisor_interfaces": .array(
                handed.map { interface in
                    [
                        "iface_id": .string(interface.identifier),
                        "guest_mac": interface.guestMAC.map { .string("\($0)") } ?? .null,
                    ]
                }),
            "vsock_override": ["uds_path": .string(MachineFile.vsock)],
        ]
    }

    /// Says that the machine's directory is ready for its monitor, and waits for that.
    /// - Parameters:
    ///   - client: when it is lost, or a signal ends this process, nothing is waited for any more.
    ///   - network: the descriptor of its network device, where it is handed one.
    static func adopt(
        client: borrowing Descriptor, signals: borrowing SignalQueue, network: Int32?
    ) throws(SystemError) -> MonitorProcess {
        let listener = try UnixSocket.listen(at: MachineFile.monitor, backlog: 1)
        defer { Files.remove(MachineFile.monitor) }
        var hello: [UInt8] = []
        Frame(.hello, payload: Hello().payload).write(to: &hello)
        try client.writeAll(hello)
        while true {
            var entries = [
                pollfd(fd: listener.raw, events: Int16(POLLIN), revents: 0),
                pollfd(fd: client.raw, events: 0, revents: 0),
                pollfd(fd: signals.descriptor.raw, events: Int16(POLLIN), revents: 0),
            ]
            let count = unsafe entries.withUnsafeMutableBufferPointer { space in
                retryingInterrupts { unsafe poll(space.baseAddress, nfds_t(space.count), -1) }
            }
            guard count > 0 else { throw SystemError("poll", MachineFile.monitor) }
            // A monitor that has come all the same ends with its connection.
            if entries[1].revents != 0 || entries[2].revents != 0 {
                throw SystemError("poll", "the command that forks the machine was lost", code: ECANCELED)
            }
            if let connection = try UnixSocket.accept(on: listener) {
                if let network { try connection.send([0], with: network) }
                return try MonitorProcess(adopting: connection)
            }
        }
    }
}
