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
    /// Moves what can be moved of a session's streams, and reports the end once all is said.
    func pump(_ session: Session) {
        guard session.machine.phase != .ended else { return }
        let passed = session.input.pass()
        if passed > 0, let offset = session.machine.consume(passed, of: .input) {
            connection.send(.credit, session: session.id, stream: .input, offset: offset)
        }
        if session.machine.phase == .running {
            drain(&session.output, of: session)
            drain(&session.errors, of: session)
            if let status = session.exitStatus, session.isDrained { reportExit(session, status: status) }
        }
    }

    /// Whether `pump` would get on without another event.
    func hasWork(_ session: Session) -> Bool {
        session.machine.phase == .running && (isReady(session.output, session) || isReady(session.errors, session))
    }

    private func isReady(_ stream: OutputStream, _ session: Session) -> Bool {
        stream.descriptor != nil
            && (stream.remaining == 0 || stream.isReadable && session.machine.available(stream.kind) > 0)
    }

    /// One chunk of output, so that streams take turns.
    private func drain(_ stream: inout OutputStream, of session: Session) {
        guard let descriptor = stream.descriptor, connection.hasRoom, isReady(stream, session) else { return }
        var wanted = min(Scratch.byteCount, session.machine.available(stream.kind))
        if let remaining = stream.remaining { wanted = min(wanted, remaining) }
        let kind = stream.kind
        let count =
            wanted == 0
            ? 0
            : Scratch.withBytes { buffer in
                let count = guest_read(descriptor.raw, buffer.baseAddress, wanted)
                if count > 0 {
                    let offset = session.machine.send(count, on: kind)
                    connection.send(
                        UnsafeRawBufferPointer(rebasing: buffer[..<count]), session: session.id, stream: kind,
                        offset: offset)
                }
                return count
            }
        if count > 0 {
            if let remaining = stream.remaining { stream.remaining = remaining - count }
        } else if count == -Int(guest_eagain) {
            stream.isReadable = false
            // Less than was counted: another reader of the same pipe was faster.
            if stream.remaining != nil { stream.remaining = 0 }
        } else {
            stream.descriptor = nil
            let offset = session.machine.sendEnd(kind)
            connection.send(.end, session: session.id, stream: kind, offset: offset)
        }
    }
}
