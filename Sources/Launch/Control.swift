// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import GuestProtocol
package import Platform
internal import Sessions
internal import Wire
package import Worker

/// A connection to the supervisor of a machine that lives.
package struct Control: ~Copyable {
    private var socket: FrameSocket

    package init(_ record: MachineRecord) throws {
        let path = "\(record.directory)/\(MachineFile.control)"
        do throws(SystemError) {
            socket = try FrameSocket(try UnixSocket.connect(to: path))
        } catch {
            throw Failure(
                record.condition == .created
                    ? "\(record.name) is just being started: try again" : "\(record.name) is not running")
        }
    }

    /// Sends an order; there is no answer but what comes of it.
    package mutating func send(_ kind: FrameKind, number: UInt64) throws {
        socket.queue(Frame(kind, payload: NumberMessage(number).payload))
        while socket.pendingByteCount > 0 {
            try socket.flush()
            if socket.pendingByteCount > 0 { _ = poll([(socket.raw, POLLOUT)]) }
        }
    }

    /// Saves the machine into a directory; gives the report, in which a failure is told too.
    package mutating func save(into directory: String, _ manner: SaveOrder.Manner) throws -> StepReport {
        socket.queue(Frame(.save, payload: SaveOrder(directory: Array(directory.utf8), manner: manner).payload))
        return try answer(until: "it was saved") { $0.kind == .saved ? StepReport($0.payload) : nil }
    }

    /// Forks the machine into others, whose supervisors are ready for it.
    package mutating func fork(into machines: [String]) throws -> ForkedReport {
        socket.queue(Frame(.fork, payload: ForkOrder(machines: machines.map { Array($0.utf8) }).payload))
        return try answer(until: "it was forked") { $0.kind == .forked ? ForkedReport($0.payload) : nil }
    }

    /// Connects the machine to one more network; gives the report, in which a failure is told too.
    package mutating func connect(_ wish: NetworkWish) throws -> StepReport {
        socket.queue(Frame(.connect, payload: ConnectOrder(wish: wish.json.encoded()).payload))
        return try answer(until: "it was connected") { $0.kind == .networksChanged ? StepReport($0.payload) : nil }
    }

    /// Takes the machine out of a network.
    /// - Parameter isForced: though its guest does not let go of the interface.
    package mutating func disconnect(from network: String, isForced: Bool) throws -> StepReport {
        let order = DisconnectOrder(network: Array(network.utf8), isForced: isForced)
        socket.queue(Frame(.disconnect, payload: order.payload))
        return try answer(until: "it was disconnected") { $0.kind == .networksChanged ? StepReport($0.payload) : nil }
    }

    /// Sends what is queued and waits for an answer.
    private mutating func answer<Answer>(until purpose: String, _ read: (Frame) -> Answer?) throws -> Answer {
        while true {
            _ = poll([(socket.raw, socket.pendingByteCount > 0 ? POLLIN | POLLOUT : POLLIN)])
            try socket.flush()
            let reception = try socket.receive()
            while let frame = try socket.next() {
                if let answer = read(frame) { return answer }
            }
            if reception == .closed { throw Failure("the container ended before \(purpose)") }
        }
    }

    /// Waits until the machine has ended and its supervisor with it; gives the exit status where it was told.
    package mutating func awaitEnd() throws -> UInt8? {
        var status: UInt8?
        while true {
            _ = poll([(socket.raw, POLLIN)])
            let reception = try socket.receive()
            while let frame = try socket.next() {
                if frame.kind == .exited, let report = ExitReport(frame.payload) { status = report.shellStatus }
            }
            if reception == .closed { return status }
        }
    }

    /// Waits for another descriptor; false once the machine has ended.
    package borrowing func wait(alsoFor other: borrowing Descriptor) throws -> Bool {
        let ready = poll([(socket.raw, 0), (other.raw, POLLIN)])
        return !ready[0]
    }
}

/// Waits until something has happened on one of the descriptors; says on which. With no event asked for, a connection's
/// end is still told.
package func poll(_ entries: [(Int32, Int32)]) -> [Bool] {
    var entries = entries.map { pollfd(fd: $0.0, events: Int16($0.1), revents: 0) }
    let count = nfds_t(entries.count)
    _ = entries.withUnsafeMutableBufferPointer { space in
        retryingInterrupts { Glibc.poll(space.baseAddress, count, -1) }
    }
    return entries.map { $0.revents != 0 }
}
