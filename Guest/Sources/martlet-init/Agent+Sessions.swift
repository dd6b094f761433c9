// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

extension Agent {
    // MARK: Start

    func launch(_ request: ProcessRequest, session id: UInt32) throws(SystemFailure) {
        let isContainers = role == .container
        let session = Session(
            id: id, serial: makeSerial(), request: request, ownsNamespace: isContainers && request.isMain)
        let status = try Descriptor.pipe()
        let go: (reading: Descriptor, writing: Descriptor)? =
            session.machine.startsAtOnce ? nil : try Descriptor.pipe()
        let output = try Descriptor.pipe()
        let errors = try Descriptor.pipe()
        let input: (reading: Descriptor, writing: Descriptor)? = request.hasInput ? try Descriptor.pipe() : nil
        try status.reading.setNonblocking()
        try output.reading.setNonblocking()
        try errors.reading.setNonblocking()
        try input?.writing.setNonblocking()

        var root = Launch.Root.own
        var joined: Descriptor?
        if isContainers {
            if let container, request.isMain {
                root = .container(container)
            } else {
                let main = try openMainProcess()
                root = .joined(main.raw)
                joined = main
            }
        }
        let launch = Launch(
            request: request, root: root, isInEmulatedHost: role == .host, input: input?.reading.raw ?? -1,
            output: output.writing.raw, errors: errors.writing.raw, status: status.writing.raw, go: go?.reading.raw)
        let process = try fork(joined, ownsNamespace: session.ownsNamespace, group: isContainers ? workload : nil)
        if process == 0 { launch.run() }
        hasChildren = true
        session.process = Int32(process)
        session.status = status.reading
        session.go = go?.writing
        session.input.descriptor = input?.writing
        session.output.descriptor = output.reading
        session.errors.descriptor = errors.reading
        if session.ownsNamespace { hasHadMain = true }
        sessions.append(session)
        try watch(status.reading, guest_readable, SessionDescriptor.status.token(session))
        try watch(output.reading, guest_readable, SessionDescriptor.output.token(session))
        try watch(errors.reading, guest_readable, SessionDescriptor.errors.token(session))
        if let input { try watch(input.writing, guest_writable, SessionDescriptor.input.token(session)) }
    }

    /// The container's, to enter its namespaces by.
    func openMainProcess() throws(SystemFailure) -> Descriptor {
        Descriptor(Int32(try System.check(guest_process_descriptor(mainProcess), "open the main process")))
    }

    /// A process can be moved into another process namespace only at its birth, by what its parent is set to.
    func fork(
        _ joined: Descriptor?, ownsNamespace: Bool, group: Workload?
    ) throws(SystemFailure) -> Int {
        let group = group?.directory.raw ?? -1
        guard let joined else {
            let namespaces = ownsNamespace ? guest_new_mounts | guest_new_ipc | guest_new_processes : 0
            return try System.check(guest_fork(namespaces, group), "fork")
        }
        let own = Descriptor(
            Int32(try System.check(guest_process_descriptor(Int32(guest_process_id())), "open init's process")))
        try System.check(guest_enter(joined.raw, guest_new_processes), "enter the container")
        let process = guest_fork(0, group)
        if process == 0 { return 0 }
        let result = guest_enter(own.raw, guest_new_processes)
        if result < 0 { fail(text("cannot leave the container's process namespace")) }
        return try System.check(process, "fork")
    }

    /// What the child says of itself, until it executes the program or cannot.
    func readStatus(of session: Session) {
        guard let status = session.status else { return }
        while true {
            do throws(SystemFailure) {
                let bytes = try status.read(atMost: 512)
                if bytes.isEmpty { break }
                session.statusBytes += bytes
                if session.statusBytes.count > Launch.errorLimit + 8 { break }
            } catch {
                if error.code != guest_eagain { break }
                if session.statusBytes.first == Launch.ready && session.machine.phase == .requested {
                    accept(session)
                }
                return
            }
        }
        session.status = nil
        conclude(session)
    }

    private func accept(_ session: Session) {
        session.statusBytes.removeFirst()
        session.machine.send(.accepted)
        connection.send(.accepted, session: session.id)
    }

    /// The status pipe is at its end: the program runs, or never will.
    private func conclude(_ session: Session) {
        if session.statusBytes.first == Launch.ready, session.machine.phase == .requested { accept(session) }
        // Of one that was hung up before it was ready nobody knows whether it got as far.
        let isUnsure = session.machine.isHungUp && session.machine.phase == .requested
        if session.statusBytes.isEmpty, session.machine.maySend(.started), !isUnsure {
            session.machine.send(.started)
            session.startedAt = guest_monotonic_clock()
            connection.send(.started, session: session.id)
            if session.ownsNamespace { mainProcess = session.process }
            for number in 1...SignalSets.highest where session.heldSignals & (1 << UInt64(number - 1)) != 0 {
                signal(session, number)
            }
            return
        }
        var refusal = Refusal(exitCode: 125, message: text("the process ended before its program was started"))
        if session.machine.isHungUp { refusal.message = text("hung up") }
        if session.statusBytes.count >= 2, session.statusBytes[0] == Launch.error {
            refusal.exitCode = session.statusBytes[1]
            refusal.message = Array(session.statusBytes[2...])
        }
        session.machine.send(.refused)
        connection.send(.refused, session: session.id, refusal.payload)
    }

    // MARK: Signals

    /// Sends the process a signal. To a container's first process the kernel delivers none that it has no handler for;
    /// what would have ended any other process then ends this one too, by other means, and is reported as what it was.
    func signal(_ session: Session, _ number: Int32) {
        guard session.machine.phase == .running else {
            session.heldSignals |= 1 << UInt64(number - 1)
            return
        }
        guard session.process != 0, session.exitStatus == nil else { return }
        let status = text("/proc/") + text(session.process) + text("/status")
        if session.ownsNamespace, number != Power.kill,
            let contents = try? System.contents(status, limit: 16_384),
            let sets = SignalSets(status: contents), sets.isDroppedThoughFatal(number)
        {
            if session.substitutedSignal == 0 { session.substitutedSignal = number }
            _ = guest_kill(session.process, Power.kill)
        } else {
            _ = guest_kill(session.process, number)
        }
    }

    /// Nobody is there any more for whom the process runs.
    func hangUp(_ session: Session) {
        session.go = nil
        session.output.descriptor = nil
        session.errors.descriptor = nil
        session.input.descriptor = nil
        guard session.process != 0 else { return }
        // The child is a group's leader from its first moments; before that, only itself.
        if guest_kill(-session.process, Power.kill) < 0 { _ = guest_kill(session.process, Power.kill) }
    }

    // MARK: End

    /// Takes note of all children that ended.
    func reap() {
        while true {
            var status: Int32 = 0
            let process = guest_reap(&status)
            hasChildren = process != -Int(guest_echild)
            guard process > 0 else { break }
            guard let session = sessions.first(where: { $0.process == Int32(process) }) else { continue }
            readStatus(of: session)
            session.process = 0
            if session.ownsNamespace { mainProcess = 0 }
            session.exitStatus = status
            session.exitedAt = guest_monotonic_clock()
            session.input.descriptor = nil
            guard !session.ownsNamespace else { continue }
            // Others may hold the pipes for as long as they like. What is in them now is all that this process wrote.
            session.output.remaining = session.output.descriptor.map { max(0, guest_pending($0.raw)) }
            session.errors.remaining = session.errors.descriptor.map { max(0, guest_pending($0.raw)) }
        }
    }

    func reportExit(_ session: Session, status: Int32) {
        var report = ExitReport()
        let signal = status & 0x7f
        report.wasSignaled = signal != 0
        report.code = UInt8(truncatingIfNeeded: report.wasSignaled ? signal : status >> 8)
        if signal == Power.kill, session.substitutedSignal != 0 {
            report.code = UInt8(truncatingIfNeeded: session.substitutedSignal)
        }
        report.bootedAt = bootedAt
        report.configuredAt = configuredAt
        report.startedAt = session.startedAt
        report.exitedAt = session.exitedAt
        session.machine.send(.exited)
        connection.send(.exited, session: session.id, report.payload)
    }
}
