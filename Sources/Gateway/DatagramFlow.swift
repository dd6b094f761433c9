// SPDX-License-Identifier: Apache-2.0

internal import Fabric
internal import Platform
internal import TCP

/// A flow of UDP datagrams or of echoes: a machine's port and a peer, a socket of the host's.
final class DatagramFlow {
    let key: FlowKey
    let machine: Machine
    let slot: UInt32
    /// The socket's number.
    let raw: Int32
    /// Of the host's side: for the special address of its loopback, another than the key's.
    let isIPv4Outside: Bool
    /// Where the flow came in by a published port, whose socket it shares: that port, whom to send to and from where.
    let origin: (listener: DatagramListener, way: DatagramListener.Way)?
    /// nil where it is shared.
    private var socket: Descriptor?
    /// Those of the outside's address when it began.
    var names: [String] = []
    var lastUsed: Microseconds
    /// `lastUsed` when the flow came to the end of its machine's list.
    var queuedAt: Microseconds
    /// The other side has sent something.
    var isAnswered = false
    /// What the socket is set to.
    var mayFragment: Bool?
    /// The longest packet to the machine, where it has said that the link's is too long for what lies behind.
    var pathMTU = Int.max
    var isRemoved = false

    init(
        _ key: FlowKey, _ machine: Machine, slot: UInt32, socket: consuming Descriptor, isIPv4Outside: Bool,
        now: Microseconds
    ) {
        self.key = key
        self.machine = machine
        self.slot = slot
        raw = socket.raw
        self.socket = consume socket
        self.isIPv4Outside = isIPv4Outside
        origin = nil
        lastUsed = now
        queuedAt = now
    }

    init(
        _ key: FlowKey, _ machine: Machine, slot: UInt32, listener: DatagramListener, way: DatagramListener.Way,
        now: Microseconds
    ) {
        self.key = key
        self.machine = machine
        self.slot = slot
        raw = listener.socket.raw
        socket = nil
        isIPv4Outside = way.peer.isIPv4
        origin = (listener, way)
        lastUsed = now
        queuedAt = now
    }

    func closeSocket() { socket = nil }
}
