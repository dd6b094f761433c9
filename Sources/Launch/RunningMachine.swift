// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import GuestProtocol
package import Platform
package import Sessions
package import Worker

/// A machine that this command started: its supervisor is this process's child, and this process its first client.
package struct RunningMachine: ~Copyable {
    package let id: String
    package let directory: String
    package let store: MachineStore
    package let removesItself: Bool
    package let supervisor: ChildProcess
    package var client: SessionClient

    /// Starts the supervisor of a machine whose directory is complete.
    package static func start(
        _ machine: borrowing NewMachine, supervisor program: String, _ store: MachineStore, removesItself: Bool
    ) throws -> RunningMachine {
        let directory = machine.directory
        let diagnostics = try Descriptor.open("\(directory)/\(MachineFile.diagnostics)", .append, permissions: 0o600)
        let sockets = try UnixSocket.pair()
        var specification = ProcessSpecification(
            program, ["martlet-supervisor", store.root], environment: [])
        specification.directory = directory
        specification.descriptors = [-1, -1, diagnostics.raw, sockets.second.raw, machine.lock.descriptor.raw]
        // Signals of the terminal are the client's to pass on.
        specification.newSession = true
        let supervisor = try ChildProcess(specification)
        return RunningMachine(
            id: machine.id, directory: directory, store: store, removesItself: removesItself, supervisor: supervisor,
            client: try SessionClient(socket: sockets.first))
    }

    /// Stands for the process until it ends; gives its exit status. When this returns, nothing of the machine runs any
    /// more, and its directory says how it ended or is gone.
    package consuming func attach(hasInput: Bool, signals: borrowing SignalQueue?) throws -> Int32 {
        var streams = SessionStreams.standard
        if !hasInput { streams.input = nil }
        let result: SessionResult
        do throws(SessionError) {
            switch signals {
            case .some(let signals): result = try client.run(nil, session: 1, streams: streams, signals: signals)
            case .none: result = try client.run(nil, session: 1, streams: streams)
            }
        } catch {
            try settle()
            switch error {
            case .failure(let refusal):
                throw Failure(printable(refusal.message), exitCode: Int32(refusal.exitCode))
            case .connectionLost: throw Failure("the container's supervisor was lost, and the container with it")
            default: throw Failure("\(error)")
            }
        }
        // Its connection tells the supervisor that nobody is there any more, where it does not know yet.
        client.close()
        try RunningMachine.settle(supervisor, id, directory, store, removesItself)
        return try result.commandStatus()
    }

    /// Waits until the supervisor has made ready what the machine comes into.
    package mutating func awaitReadiness() throws {
        do throws(SessionError) {
            while let frame = try client.receive() {
                switch frame.kind {
                case .hello: return
                case .failure: throw .failure(Refusal(frame.payload) ?? Refusal(exitCode: 125, message: []))
                default: continue
                }
            }
        } catch {
            if case .failure(let refusal) = error { throw Failure(printable(refusal.message)) }
            throw Failure("the new container's supervisor was lost")
        }
    }

    /// Gives up a machine that has not started: nothing of it stays.
    package consuming func abandon() {
        client.close()
        _ = try? supervisor.wait()
        _ = try? store.remove(id)
    }

    /// Waits until the process runs, prints the id and leaves.
    /// - Parameter problem: why the machine must not be, all the same; it is ended then, and nothing of it stays.
    package consuming func awaitStart(unless problem: ((MachineState) -> String?)? = nil) throws -> Int32 {
        try awaitProcess()
        // One that is gone already has nothing to be judged by.
        guard let problem, let state = try store.record(id)?.state, let reason = problem(state) else {
            print(id)
            return 0
        }
        let (id, store) = (id, store)
        do {
            _ = try stop()
            _ = try store.remove(id)
        } catch {
            throw Failure("\(reason); it could not be removed: \(error)")
        }
        throw Failure(reason)
    }

    /// Waits until the process runs.
    mutating func awaitProcess() throws {
        do throws(SessionError) {
            while let frame = try client.receive() {
                switch frame.kind {
                case .started: return
                case .refused, .failure:
                    let refusal = Refusal(frame.payload) ?? Refusal(exitCode: 125, message: [])
                    try? settle()
                    throw .failure(refusal)
                default: continue
                }
            }
            throw .connectionLost
        } catch {
            if case .failure(let refusal) = error {
                throw Failure(printable(refusal.message), exitCode: Int32(refusal.exitCode))
            }
            try? settle()
            throw Failure("the container's supervisor was lost, and the container with it")
        }
    }

    /// Ends the machine at once, where it has not ended by itself; gives the reason for which it did.
    consuming func stop() throws -> Refusal? {
        var reason: Refusal?
        // One that has ended takes no order any more.
        try? client.send(Frame(.stop, payload: NumberMessage(0).payload))
        do throws(SessionError) {
            while let frame = try client.receive() {
                if frame.kind == .failure { reason = Refusal(frame.payload) }
            }
        } catch {
            // Its supervisor has nothing more to say.
        }
        try settle()
        return reason
    }

    private func settle() throws {
        try RunningMachine.settle(supervisor, id, directory, store, removesItself)
    }

    /// Waits for the supervisor's end. Where it was killed, its monitor ends by itself, which is waited for, and what
    /// it would have removed is removed here.
    private static func settle(
        _ supervisor: borrowing ChildProcess, _ id: String, _ directory: String, _ store: MachineStore,
        _ removesItself: Bool
    ) throws {
        let end = try supervisor.wait()
        guard end != .exited(0) else { return }
        if let record = try? store.record(id) { record.state.monitor?.waitForEnd(milliseconds: 10_000) }
        // Also where its process was never started.
        if removesItself { _ = try? store.remove(id) } else { store.sweep() }
        HostNetworkStore.sweepAsFarAsPossible()
    }
}

extension Files {
    /// Writes a file of what is being made: it is there whole or not at all, whenever this process is killed.
    package static func writeNew(_ bytes: [UInt8], _ path: String) throws(SystemError) {
        try writeAtomically(bytes, to: path, permissions: 0o600)
    }
}
