// SPDX-License-Identifier: Apache-2.0

internal import Virtio

/// The guest's data on its way to the sockets, and the end of streams.
extension VsockDevice {
    /// Moves the guest's data on, and keeps what the socket does not take.
    func forward(_ data: inout BufferCursor, _ stream: VsockStream) {
        let count = data.byteCount
        if !stream.connection.hostReceives {
            return stream.connection.forwarded(count)
        }
        let result = stream.isWritable && stream.held == 0 ? stream.write(&data) : .full
        stream.connection.forwarded(count - data.byteCount)
        if result == .full, data.byteCount > 0 {
            let hadRing = stream.hasRing
            guard hadRing || ringCount < Self.heldLimit / VsockStream.ringSize, stream.hold(&data) else {
                attachedLoop?.log("vsock: a stream to port \(stream.key.hostPort) was reset: too much waits to be read")
                return reset(stream)
            }
            if !hadRing { ringCount += 1 }
        } else if result == .broken {
            stream.connection.forwarded(data.byteCount)
            hostStoppedReading(stream)
        }
        noteWork(stream)
    }

    private func hostStoppedReading(_ stream: VsockStream) {
        let hadRing = stream.hasRing
        let dropped = stream.dropHeld()
        if hadRing { ringCount -= 1 }
        if stream.phase == .lingering { return forget(stream) }
        stream.connection.forwarded(dropped)
        stream.connection.hostEnded(sending: false, receiving: true)
        noteWork(stream)
    }

    func flush(_ stream: VsockStream) {
        guard stream.hasRing else { return }
        let (result, count) = stream.flush()
        if stream.phase == .open { stream.connection.forwarded(count) }
        if !stream.hasRing { ringCount -= 1 }
        if result == .broken { return hostStoppedReading(stream) }
        if stream.held == 0 { finishSending(stream) }
        noteWork(stream)
    }

    /// The guest has ended one direction or both.
    func guestShutDown(_ stream: VsockStream) {
        if !stream.connection.guestReceives { stream.shutReceiving() }
        if stream.held == 0 { finishSending(stream) }
        guard !stream.connection.guestSends, !stream.connection.guestReceives, stream.phase == .open else { return }
        // Gone for the guest, which waits for our word on it (§5.10.6.6); what it sent before still arrives.
        resets.append(stream.key)
        if stream.held == 0 { return forget(stream) }
        streams[stream.key] = nil
        stream.phase = .lingering
    }

    private func finishSending(_ stream: VsockStream) {
        if stream.phase == .lingering { return forget(stream) }
        if stream.phase == .open, !stream.connection.guestSends { stream.shutSending() }
    }

    /// Puts a stream into the list of those that have something for the guest, if it has.
    func noteWork(_ stream: VsockStream) {
        guard stream.phase == .open else { return }
        // A stream out of credit waits for a packet of the guest's, each of which comes by here.
        if stream.connection.owesControl || (stream.isReadable && stream.connection.wantsData) { ready.append(stream) }
    }
}
