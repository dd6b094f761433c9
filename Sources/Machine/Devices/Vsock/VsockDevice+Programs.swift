// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform

/// The host's programs that want streams to the guest.
extension VsockDevice {
    /// Takes the connections of the host's programs.
    func acceptPrograms() {
        for _ in 0..<16 {
            do throws(SystemError) {
                guard let socket = try UnixSocket.accept(on: listener) else { return }
                guard let stream = admit(socket, .greeting) else {
                    attachedLoop?.log("vsock: a connection was refused: there are \(Self.streamLimit) streams")
                    continue
                }
                setDeadline(stream)
            } catch {
                // Out of descriptors: the connection waits, and we look again in a while.
                attachedLoop?.log("vsock: \(error)")
                stopListening()
                attachedLoop?.setTimer(self, token: Timer.listenAgain, afterMilliseconds: 1000)
                return
            }
        }
    }

    /// Reads `CONNECT port\n`, not a byte more: what follows is the guest's.
    func readGreeting(_ stream: VsockStream) {
        var line = InlineArray<32, UInt8>(repeating: 0)
        let fd = stream.socket.raw
        var span = line.mutableSpan
        let count = unsafe span.withUnsafeMutableBytes { bytes in
            retryingInterrupts { unsafe recv(fd, bytes.baseAddress, bytes.count, Int32(MSG_PEEK)) }
        }
        if count < 0, clinux_errno() == EAGAIN { return }
        guard count > 0 else { return forget(stream) }
        var length = 0
        while length < count, line[length] != UInt8(ascii: "\n") { length += 1 }
        guard length < count else {
            // More may come, up to a point.
            if count == Self.greetingLimit { forget(stream) }
            return
        }
        guard let port = Self.parseGreeting(line, length) else { return forget(stream) }
        var taken = line.mutableSpan
        let consumed = unsafe taken.withUnsafeMutableBytes { bytes in
            retryingInterrupts { unsafe recv(fd, bytes.baseAddress, length + 1, 0) }
        }
        guard consumed == length + 1 else { return forget(stream) }
        stream.key = VsockKey(hostPort: takeHostPort(guestPort: port), guestPort: port)
        stream.connection = VsockConnection()
        stream.phase = .open
        streams[stream.key] = stream
        noteWork(stream)
    }

    private static func parseGreeting(_ line: InlineArray<32, UInt8>, _ length: Int) -> UInt32? {
        let word = StaticString("CONNECT ")
        let start = word.utf8CodeUnitCount
        guard length > start, length <= start + 10 else { return nil }
        for index in 0..<start {
            guard unsafe line[index] == word.utf8Start[index] else { return nil }
        }
        var port: UInt64 = 0
        for index in start..<length {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(line[index]) else { return nil }
            port = port * 10 + UInt64(line[index] - UInt8(ascii: "0"))
        }
        return UInt32(exactly: port)
    }

    /// The guest has accepted: the program is told.
    func greet(_ stream: VsockStream) {
        stream.deadline = nil
        let answer = Array("OK \(stream.key.hostPort)\n".utf8)
        let fd = stream.socket.raw
        let count = unsafe answer.withUnsafeBytes { bytes in
            retryingInterrupts { unsafe Glibc.write(fd, bytes.baseAddress, bytes.count) }
        }
        // A fresh socket takes these few bytes, or its other side is gone.
        if count != answer.count { reset(stream) }
    }
}
