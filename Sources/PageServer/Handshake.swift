// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
package import MachineAPI
package import Platform
internal import Wire

/// Reads what a client says first: one JSON array, and with it one descriptor. A stream has no borders, so the array is
/// whole when it can be read; it may come in pieces, of which there are few.
package struct Handshake: ~Copyable {
    private var bytes: [UInt8] = []
    private var descriptor: Descriptor?

    package init() {}

    package struct Result: ~Copyable {
        package let handoff: MemoryHandoff
        fileprivate let faults: Userfault

        package consuming func takeFaults() -> Userfault { faults }
    }

    /// Reads what has come on a non-blocking socket; nil where more has to come.
    package mutating func read(
        from socket: borrowing Descriptor, fileSize: UInt64
    ) throws(ClientFailure) -> Result? {
        var space = [UInt8](repeating: 0, count: MemoryHandoff.sizeLimit)
        var numbers: [Int32] = [-1, -1]
        var count = 0
        let raw = socket.raw
        let length = retryingInterrupts {
            unsafe clinux_receive_descriptors(raw, &space, space.count, &numbers, numbers.count, &count)
        }
        // All of them are owned before any is judged: whatever comes of it, they are closed.
        let isOneTooMany = count > 1 || count == 1 && descriptor != nil
        for number in numbers.prefix(count) { descriptor = Descriptor(owning: number) }
        guard !isOneTooMany else { throw .handshake("more than one descriptor came") }
        guard length >= 0 else {
            if clinux_errno() == EAGAIN { return nil }
            throw .gone
        }
        guard length > 0 else {
            if bytes.isEmpty { throw .gone }
            throw .handshake("it ended in the midst of it")
        }
        bytes += space[..<length]
        guard bytes.count <= MemoryHandoff.sizeLimit else {
            throw .handshake("more than \(MemoryHandoff.sizeLimit) bytes")
        }
        guard let handoff = try Self.parse(bytes, fileSize: fileSize) else { return nil }
        guard let descriptor = descriptor.take() else { throw .handshake("no descriptor came with it") }
        guard let faults = Userfault(adopting: descriptor) else {
            throw .handshake("the descriptor that came is no userfaultfd")
        }
        return Result(handoff: handoff, faults: faults)
    }

    /// Reads the array; nil where it is not whole yet.
    package static func parse(_ bytes: [UInt8], fileSize: UInt64) throws(ClientFailure) -> MemoryHandoff? {
        let blanks: [UInt8] = [0x20, 0x0a, 0x0d, 0x09]
        if let first = bytes.first(where: { !blanks.contains($0) }), first != UInt8(ascii: "[") {
            throw .handshake("it does not begin with an array")
        }
        guard let last = bytes.last(where: { !blanks.contains($0) }), last == UInt8(ascii: "]") else { return nil }
        var limits = JSONLimits()
        limits.sizeInBytes = MemoryHandoff.sizeLimit
        limits.depth = 8
        limits.values = 1024
        do {
            return try MemoryHandoff(reading: JSONView(try JSON(parsing: bytes, limits: limits)), fileSize: fileSize)
        } catch {
            throw .handshake("\(error)")
        }
    }
}
