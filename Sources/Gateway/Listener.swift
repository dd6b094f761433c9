// SPDX-License-Identifier: Apache-2.0

package import FabricAPI
internal import Packet
package import Platform

/// A port of the host whose connections go to a machine.
final class Listener {
    let machine: Machine
    let machinePort: UInt16
    let tellsClientAddress: Bool
    let socket: Descriptor
    /// Not watched, because there were no descriptors to be had: a timer runs.
    var rests = false

    init(_ machine: Machine, _ machinePort: UInt16, tellsClientAddress: Bool, socket: consuming Descriptor) {
        self.machine = machine
        self.machinePort = machinePort
        self.tellsClientAddress = tellsClientAddress
        self.socket = socket
    }
}

/// A port of the host whose datagrams go to a machine, and the machine's answers back from it.
final class DatagramListener {
    let machine: Machine
    let machinePort: UInt16
    let socket: Descriptor
    /// Slots, by those who send and what they send to.
    var flows: [Way: UInt32] = [:]

    struct Way: Hashable {
        let peer: SocketAddress
        /// The host's address that the peer has asked, and has to be answered from; nil where the socket has but one.
        let local: SocketAddress?
    }

    init(_ machine: Machine, _ machinePort: UInt16, socket: consuming Descriptor) {
        self.machine = machine
        self.machinePort = machinePort
        self.socket = socket
    }
}

/// Why a port is not published. Nothing is, then.
package enum PublishProblem: Error, Equatable, Sendable, CustomStringConvertible {
    /// The address of the host and its port, as people write them, and the transport.
    case taken(String, PublishedPorts.Transport)
    case forbidden(String, PublishedPorts.Transport)
    case noSuchAddress(String)
    case noDescriptors
    case unknownMachine
    case system(SystemError)

    package var description: String {
        switch self {
        case .taken(let place, let transport):
            "\(place)/\(transport.rawValue) is used by something else on this host "
                + "(`ss -\(transport == .tcp ? "t" : "u")lnp` shows by what); choose another port, or another address "
                + "such as 127.0.0.2"
        case .forbidden(let place, let transport):
            "the host does not let you have \(place)/\(transport.rawValue): ports below "
                + "net.ipv4.ip_unprivileged_port_start are for root; choose one of 1024 or more"
        case .noSuchAddress(let address): "\(address) is no address of this host"
        case .noDescriptors: "there are more ports than this process may have descriptors (`ulimit -n`)"
        case .unknownMachine: "the machine is not attached"
        case .system(let error): "\(error)"
        }
    }
}

/// The header of version 2 of HAProxy's PROXY protocol, which says who a connection is from.
enum ProxyHeader {
    static func bytes(from source: SocketAddress, to destination: SocketAddress) -> [UInt8] {
        // Signature; version 2, PROXY; family and stream; the length of what follows.
        var bytes: [UInt8] = [0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A, 0x21]
        bytes += source.isIPv4 ? [0x11, 0, 12] : [0x21, 0, 36]
        for address in [source, destination] {
            if !source.isIPv4 { append(address.high, 8) }
            append(address.low, source.isIPv4 ? 4 : 8)
        }
        append(UInt64(source.port), 2)
        append(UInt64(destination.port), 2)
        return bytes

        func append(_ value: UInt64, _ count: Int) {
            for index in (0..<count).reversed() { bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(8 * index))) }
        }
    }
}
