// SPDX-License-Identifier: Apache-2.0

internal import GuestProtocol
internal import Sessions

/// Processes beside the main one, each a session of a client of the control socket.
extension Supervisor {
    /// The main process's session is the state machine's, all others the relay's.
    func takeFromGuest(_ frame: Frame) {
        let session = frame.header.session
        if guestDebt.takes(frame.kind) { return takeOwed() }
        if let saving, saving.takes(frame.kind) { return takeWhileSaving(frame) }
        if frame.kind == .arranged { return takeArranged(frame) }
        guard session != 0, session != SupervisorStateMachine.mainSession, frame.kind != nil else {
            return feed(.guestFrame(frame))
        }
        perform(relay.receiveFromGuest(frame))
    }

    func takeFromControl(_ frame: Frame, _ client: UInt64) {
        switch frame.kind {
        // Orders, which concern the machine or its main process.
        case .stop: feed(.controlFrame(frame))
        case .save: save(frame, client)
        case .fork: fork(frame, client)
        case .connect: connect(frame, client)
        case .disconnect: disconnect(frame, client)
        case .signal where frame.header.session == 0: feed(.controlFrame(frame))
        case .request where machine.phase != .running:
            let refusal = Refusal(exitCode: 125, message: Array("the container is not running".utf8))
            controls[client]?.queue(Frame(.refused, session: frame.header.session, payload: refusal.payload))
        // The machine ends with its main process, and by a stop.
        case .shutDown: break
        default: perform(relay.receive(frame, from: client))
        }
    }

    func perform(_ actions: [SessionRelay.Action]) {
        for action in actions {
            switch action {
            case .toGuest(let frame): guest?.queue(frame)
            // It was greeted when it came.
            case .toClient(_, let frame) where frame.kind == .hello: break
            case .toClient(let client, let frame): controls[client]?.queue(frame)
            case .cutOff(let client, let reason):
                let refusal = Refusal(exitCode: 125, message: Array(reason.utf8))
                controls[client]?.queue(Frame(.failure, payload: refusal.payload))
                drop(client)
            case .shutDown: break
            case .guestFailed(let what): feed(.guestFailed(what))
            }
        }
    }
}
