// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Fabric
internal import Glibc
internal import Platform
internal import TCP

/// Bytes from a machine that lie in a record still, on their way to the host's socket.
@safe struct Piece {
    // In a record of the present batch, which stays until `flush`.
    var start: UnsafeRawPointer
    var count: Int
    var next: Int32
}

/// A connection: an endpoint towards the machine, a socket towards the host.
final class TCPFlow {
    enum Phase {
        /// The host's connect is under way; the machine waits for an answer to its SYN.
        case connecting
        /// The host has a connection that was accepted; the machine is being called.
        case dialing
        case open
    }

    let key: FlowKey
    let machine: Machine
    let slot: UInt32
    var phase: Phase
    var endpoint: TCP.Endpoint
    /// The number of the machine's SYN, for errors that quote it.
    let firstSequence: UInt32
    /// Those of the outside's address when it began.
    var names: [String] = []
    var socket: Descriptor?
    /// The socket's number; -1 without one.
    var raw: Int32 = -1

    /// From the host, kept until the machine has acknowledged it.
    var toMachine: StreamBuffer
    /// From the machine, kept until the host's socket takes it.
    var toHost: StreamBuffer
    /// A list in `Gateway.pieces`, -1 for none: bytes that came before those in `toHost`.
    var firstPiece: Int32 = -1
    var lastPiece: Int32 = -1
    var bytesInPieces = 0

    var hostIsReadable = false
    var hostIsWritable = false
    /// The host's peer has said that it sends no more; what is in the socket is to be read.
    var hostHasHungUp = false
    /// All of that has been read.
    var hostHasEnded = false
    /// The host's peer has been told that the machine sends no more.
    var hostIsFinished = false
    var machineHasFinished = false
    var isDirty = false
    /// In its machine's line for memory; at the head of it, and let go on.
    var isHungry = false
    var isFed = false
    /// In TIME-WAIT, and in its machine's list of those.
    var isResting = false
    var isRemoved = false
    /// How much is read from the host at a time.
    var readSize = 16 << 10
    var timerAt = UInt64.max

    init(
        _ key: FlowKey, _ machine: Machine, slot: UInt32, phase: Phase, endpoint: TCP.Endpoint, firstSequence: UInt32,
        bufferLimit: Int
    ) {
        self.key = key
        self.machine = machine
        self.slot = slot
        self.phase = phase
        self.endpoint = endpoint
        self.firstSequence = firstSequence
        toMachine = StreamBuffer(pool: machine.pool, limitInBytes: bufferLimit)
        toHost = StreamBuffer(pool: machine.pool, limitInBytes: bufferLimit)
    }

    func adopt(_ descriptor: consuming Descriptor) {
        raw = descriptor.raw
        socket = consume descriptor
    }

    func closeSocket() {
        socket = nil
        raw = -1
    }

    /// Closes the host's side so that its peer sees a break.
    func resetSocket() {
        if raw >= 0 { _ = clinux_reset_on_close(raw) }
        closeSocket()
    }
}
