// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Fabric
internal import FabricAPI
internal import Gateway
internal import Packet
internal import Platform

/// One machine's network socket, and what waits for it.
final class MachinePort {
    let id: PortID
    let endpoint: EndpointID
    /// The machine's, as its attachment says.
    let machine: String
    /// Of its socket, as this process names it.
    let path: String
    let listener: Descriptor
    var connection: Descriptor?
    var queue = EgressQueue<QueuedRecord>(limitInBytes: MachinePort.queueLimitInBytes)
    /// What comes next of the queue, taken out to be sent together.
    var leaving: [QueuedRecord] = []
    /// How much is handed to an empty socket at a time: what it does not take has to be copied.
    var burstInBytes = MachinePort.burstLimitInBytes
    /// What was asked for outside of the network.
    var egress = EgressPolicy.Rules()
    var hasHostAccess = false
    /// What it asks other networks' name servers for; nil where it is in no other network.
    var elsewhere: NamesElsewhere?
    var deniedNames = DeniedNames()
    /// By which it may publish ports of its own.
    var token: String?
    var published: [PublishedPorts] = []

    /// Of what waits for a machine that is slower than those who send to it.
    static let queueLimitInBytes = 2 << 20
    /// Of the socket itself, as far as the system allows.
    static let socketBufferInBytes = 4 << 20
    static let burstLimitInBytes = 512 << 10

    init(id: PortID, endpoint: EndpointID, machine: String, path: String, listener: consuming Descriptor) {
        self.id = id
        self.endpoint = endpoint
        self.machine = machine
        self.path = path
        self.listener = listener
    }

    var isConnected: Bool { connection != nil }
    var socket: Int32 { connection?.raw ?? -1 }
    /// Something waits for the socket to have room.
    var isBacklogged: Bool { !leaving.isEmpty || !queue.isEmpty }

    /// Takes a connection, whose socket has as large a buffer as may be: the kernel counts its own overhead as well.
    func adopt(_ socket: consuming Descriptor) {
        let size = Int(max(0, clinux_send_buffer(socket.raw, Int32(MachinePort.socketBufferInBytes))))
        burstInBytes = max(64 << 10, min(MachinePort.burstLimitInBytes, size / 4))
        connection = consume socket
    }

    /// Forgets what waits; gives how many records that were.
    func removeQueued() -> Int {
        let count = leaving.count + queue.removeAll()
        leaving = []
        return count
    }
}

extension NamesElsewhere {
    init(_ others: OtherNetworks) {
        self.init()
        domains = others.networks.compactMap { DNSName($0.name) }
        subnets = others.networks.compactMap(\.subnet)
        prefixes = others.networks.compactMap(\.subnet6)
        hasLastWord = others.hasLastWord
    }
}

/// A record that waits for its receiver: copied once.
@safe final class QueuedRecord {
    private let space: UnsafeMutableRawBufferPointer

    init(_ record: FabricService.Outgoing) {
        unsafe space = UnsafeMutableRawBufferPointer.allocate(byteCount: record.count, alignment: 8)
        var place = 0
        func add(_ piece: UnsafeRawBufferPointer) {
            unsafe UnsafeMutableRawBufferPointer(rebasing: space[place...]).copyMemory(from: piece)
            place += piece.count
        }
        unsafe add(record.record)
        unsafe add(record.second)
        unsafe add(record.third)
    }

    deinit { unsafe space.deallocate() }

    var count: Int { unsafe space.count }
    var bytes: UnsafeRawBufferPointer { unsafe UnsafeRawBufferPointer(space) }
}

/// What an event of epoll is about.
enum Token {
    case signal, control, directories, gateway
    case client(Int)
    case listener(Int)
    case port(Int)
    case exchange(Int)
    case stream(Int)
    case capture(Int)

    var value: UInt64 {
        switch self {
        case .signal: 1 << 32
        case .control: 2 << 32
        case .directories: 3 << 32
        case .gateway: 4 << 32
        case .client(let index): 5 << 32 | UInt64(index)
        case .listener(let index): 6 << 32 | UInt64(index)
        case .port(let index): 7 << 32 | UInt64(index)
        case .exchange(let index): 8 << 32 | UInt64(index)
        case .stream(let index): 9 << 32 | UInt64(index)
        case .capture(let index): 10 << 32 | UInt64(index)
        }
    }

    init?(_ value: UInt64) {
        let index = Int(value & 0xFFFF_FFFF)
        switch value >> 32 {
        case 1: self = .signal
        case 2: self = .control
        case 3: self = .directories
        case 4: self = .gateway
        case 5: self = .client(index)
        case 6: self = .listener(index)
        case 7: self = .port(index)
        case 8: self = .exchange(index)
        case 9: self = .stream(index)
        case 10: self = .capture(index)
        default: return nil
        }
    }
}
