// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
package import GuestProtocol
package import Platform

/// Frames over a connected stream socket that never blocks: what cannot be sent yet waits here. Who queues frames looks
/// at `pendingByteCount` and keeps it bounded, by credit or by not reading what would become more frames.
package struct FrameSocket: ~Copyable {
    private let descriptor: Descriptor
    private var decoder = FrameDecoder()
    private var outgoing: [UInt8] = []
    private var sent = 0
    private var isPeerGone = false
    private var space = [UInt8](repeating: 0, count: 65_536)

    package init(_ descriptor: consuming Descriptor) throws(SystemError) {
        try descriptor.setNonBlocking()
        self.descriptor = descriptor
    }

    /// The socket's number, to wait for its readiness with.
    package var raw: Int32 { descriptor.raw }

    /// Bytes that were queued and are not sent yet.
    package var pendingByteCount: Int { outgoing.count - sent }

    /// What came of a read.
    package enum Reception: Sendable {
        case received
        case wouldBlock
        case closed
    }

    /// Reads what is there, at most 64 KiB. Take all frames with `next` before reading more.
    package mutating func receive() throws(SystemError) -> Reception {
        let transfer: Transfer
        do throws(SystemError) {
            transfer = try unsafe space.withUnsafeMutableBufferPointer { buffer throws(SystemError) in
                try unsafe descriptor.read(into: UnsafeMutableRawBufferPointer(buffer))
            }
        } catch {
            if error.code == ECONNRESET { return .closed }
            throw error
        }
        switch transfer {
        case .bytes(let count):
            unsafe space.withUnsafeBytes { buffer in
                unsafe decoder.append(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
            }
            return .received
        case .wouldBlock: return .wouldBlock
        case .endOfFile: return .closed
        }
    }

    /// A frame was longer than its kind allows: nothing after it can be read.
    package var isBroken: Bool { decoder.isBroken }

    /// The next whole frame of those received.
    package mutating func next() throws(SessionError) -> Frame? {
        if let frame = decoder.next() { return frame }
        if decoder.isBroken { throw .violation("a frame longer than its kind allows") }
        return nil
    }

    /// Puts a frame behind those that wait.
    package mutating func queue(_ frame: Frame) {
        if isPeerGone { return }
        if sent == outgoing.count {
            outgoing.removeAll(keepingCapacity: true)
            sent = 0
        }
        frame.write(to: &outgoing)
    }

    /// Sends what the socket takes now. When the peer is gone what waits is dropped without an error: what it said last
    /// may still be there to read, then `receive` says that it closed.
    package mutating func flush() throws(SystemError) {
        let raw = descriptor.raw
        while sent < outgoing.count {
            let count = unsafe outgoing.withUnsafeBytes { bytes in
                let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[sent...])
                return retryingInterrupts {
                    unsafe send(raw, rest.baseAddress, rest.count, Int32(MSG_NOSIGNAL))
                }
            }
            guard count >= 0 else {
                let code = clinux_errno()
                if code == EAGAIN { break }
                guard code == EPIPE || code == ECONNRESET else { throw SystemError("send", code: code) }
                isPeerGone = true
                sent = outgoing.count
                break
            }
            sent += count
        }
        if sent == outgoing.count {
            outgoing.removeAll(keepingCapacity: outgoing.count <= 262_144)
            sent = 0
        } else if sent >= 262_144 {
            outgoing.removeFirst(sent)
            sent = 0
        }
    }
}
