// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import GuestProtocol
internal import Platform
internal import Sessions
internal import Worker

/// A machine that this command started: its supervisor is this process's child, and this process its first client.
struct RunningMachine: ~Copyable {
    let id: String
    let directory: String
    let store: MachineStore
    let removesItself: Bool
    let supervisor: ChildProcess
    var client: SessionClient

    /// Stands for the process until it ends; gives its exit status. When this returns, nothing of the machine runs any
    /// more, and its directory says how it ended or is gone.
    consuming func attach(hasInput: Bool, signals: borrowing SignalQueue?) throws -> Int32 {
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
    mutating func awaitReadiness() throws {
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
    consuming func abandon() {
        client.close()
        _ = try? supervisor.wait()
        _ = try? store.remove(id)
    }

    /// Waits until the process runs, prints the id and leaves.
    consuming func awaitStart() throws -> Int32 {
        do throws(SessionError) {
            while let frame = try client.receive() {
                switch frame.kind {
                case .started:
                    print(id)
                    return 0
                case .refused, .failure:
                    let refusal = Refusal(frame.payload) ?? Refusal(exitCode: 125, message: [])
                    try? settle()
                    throw .failure(refusal)
                default: continue
                }
            }
        } catch {
            if case .failure(let refusal) = error {
                throw Failure(printable(refusal.message), exitCode: Int32(refusal.exitCode))
            }
            try? settle()
            throw Failure("the container's supervisor was lost, and the container with it")
        }
        return 125
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
