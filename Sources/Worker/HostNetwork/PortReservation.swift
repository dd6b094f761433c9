// SPDX-License-Identifier: Apache-2.0

internal import FabricAPI
internal import Glibc
internal import Packet
internal import Platform

/// Ports of the host that lead to a machine, each held by a socket that nobody connects to: no program of the host can
/// take them meanwhile, and one that a program has is told of.
struct PortReservation: ~Copyable {
    private let sockets: [SharedSocket]
    /// With the number that was chosen where any was right.
    let ports: PublishedPorts

    private final class SharedSocket {
        let descriptor: Descriptor
        init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }
    }

    init(_ wanted: PublishedPorts) throws(HostNetworkError) {
        guard !wanted.tellsClientAddress else {
            throw HostNetworkError("--publish: /proxy is not for this network: the machine sees its clients' addresses")
        }
        if case .v6(let address) = wanted.hostAddress, address.isLoopback {
            throw HostNetworkError("--publish: [::1] leads nowhere in this network; use 127.0.0.1")
        }
        var ports = wanted
        var sockets: [SharedSocket] = []
        for index in 0..<wanted.count {
            for address in Self.addresses(wanted.hostAddress, port: ports.hostPort == 0 ? 0 : ports.hostPort &+ index) {
                guard let socket = try Self.bind(ports, address) else { continue }
                if ports.hostPort == 0 {
                    ports.hostPort = try hostNetwork("a port") { () throws(SystemError) in
                        try InternetSocket.localAddress(socket.descriptor).port
                    }
                }
                sockets.append(socket)
            }
        }
        self.sockets = sockets
        self.ports = ports
    }

    private static func addresses(_ host: PublishedPorts.HostAddress, port: UInt16) -> [SocketAddress] {
        switch host {
        case .any: [SocketAddress(ipv4: 0, port: port), SocketAddress(ipv6High: 0, low: 0, port: port)]
        case .v4(let address): [SocketAddress(ipv4: address.value, port: port)]
        case .v6(let address): [SocketAddress(ipv6High: address.high, low: address.low, port: port)]
        }
    }

    /// Nil where the host has no IPv6.
    private static func bind(
        _ ports: PublishedPorts, _ address: SocketAddress
    ) throws(HostNetworkError) -> SharedSocket? {
        var address = address
        // The number that was chosen for IPv4 is IPv6's as well.
        if address.port == 0 { address.port = ports.hostPort }
        do throws(SystemError) {
            let socket = try InternetSocket.make(
                ports.transport == .tcp ? .stream : .datagram, ipv4: address.isIPv4)
            try InternetSocket.bind(socket, to: address)
            return SharedSocket(socket)
        } catch {
            if !address.isIPv4, error.code == EAFNOSUPPORT || error.code == EADDRNOTAVAIL, ports.hostAddress == .any {
                return nil
            }
            throw HostNetworkError(
                "--publish: port \(address.port)/\(ports.transport.rawValue) of the host cannot be had: \(error.reason)"
            )
        }
    }
}
