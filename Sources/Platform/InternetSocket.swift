// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// An IP address and a port, as sockets take them.
package struct SocketAddress: Hashable, Sendable {
    /// The first eight bytes, the first one highest; 0 for IPv4.
    package var high: UInt64
    /// The last eight bytes; 0xffff and the address for IPv4.
    package var low: UInt64
    package var port: UInt16
    package var isIPv4: Bool

    package init(ipv4 address: UInt32, port: UInt16) {
        high = 0
        low = 0xFFFF_0000_0000 | UInt64(address)
        self.port = port
        isIPv4 = true
    }

    package init(ipv6High high: UInt64, low: UInt64, port: UInt16) {
        self.high = high
        self.low = low
        self.port = port
        isIPv4 = false
    }

    init(_ raw: clinux_address) {
        high = raw.high
        low = raw.low
        port = raw.port
        isIPv4 = raw.is_ipv4
    }

    var raw: clinux_address { clinux_address(high: high, low: low, port: port, is_ipv4: isIPv4) }

    /// The addresses of this host's interfaces; their ports are 0.
    package static func ofThisHost() throws(SystemError) -> [SocketAddress] {
        var space = [clinux_address](repeating: clinux_address(), count: 64)
        while true {
            let count = Int(unsafe clinux_host_addresses(&space, Int32(space.count)))
            guard count >= 0 else { throw SystemError("getifaddrs") }
            if count <= space.count { return space[..<count].map { SocketAddress($0) } }
            space = Array(repeating: clinux_address(), count: count * 2)
        }
    }
}

/// How far a connect has come.
package enum Connecting: Sendable { case done, underway }

/// Sockets of TCP, UDP and ICMP echo; all non-blocking.
package enum InternetSocket {
    package enum Kind: Sendable {
        case stream, datagram
        /// An ICMP echo socket (icmp(7), `ping_group_range`).
        case echo
    }

    package static func make(_ kind: Kind, ipv4: Bool) throws(SystemError) -> Descriptor {
        let number: Int32 = kind == .echo ? (ipv4 ? 1 : 58) : 0
        let raw = clinux_internet_socket(ipv4, kind == .stream ? 1 : 2, number)
        guard raw >= 0 else { throw SystemError("socket") }
        return Descriptor(owning: raw)
    }

    package static func connect(
        _ socket: borrowing Descriptor, to address: SocketAddress
    ) throws(SystemError) -> Connecting {
        var raw = address.raw
        let fd = socket.raw
        if retryingInterrupts({ unsafe clinux_internet_connect(fd, &raw) }) == 0 { return .done }
        if clinux_errno() == EINPROGRESS { return .underway }
        throw SystemError("connect")
    }

    package static func bind(_ socket: borrowing Descriptor, to address: SocketAddress) throws(SystemError) {
        var raw = address.raw
        guard unsafe clinux_internet_bind(socket.raw, &raw) == 0 else { throw SystemError("bind") }
    }

    /// A listening TCP socket.
    package static func listen(at address: SocketAddress, backlog: Int32) throws(SystemError) -> Descriptor {
        let socket = try make(.stream, ipv4: address.isIPv4)
        try setOption(socket, CLINUX_SOL_SOCKET, CLINUX_SO_REUSEADDR, 1)
        try bind(socket, to: address)
        guard Glibc.listen(socket.raw, backlog) == 0 else { throw SystemError("listen") }
        return socket
    }

    /// The next connection and who makes it; nil when none waits.
    package static func accept(
        on listener: borrowing Descriptor, peer: inout SocketAddress
    ) throws(SystemError) -> Descriptor? {
        var raw = clinux_address()
        let fd = listener.raw
        let accepted = retryingInterrupts { unsafe clinux_internet_accept(fd, &raw) }
        if accepted < 0 {
            switch clinux_errno() {
            case EAGAIN, ECONNABORTED, EPROTO, ENETDOWN, EHOSTUNREACH, ENETUNREACH: return nil
            case let code: throw SystemError("accept4", code: code)
            }
        }
        peer = SocketAddress(raw)
        return Descriptor(owning: accepted)
    }

    package static func localAddress(_ socket: borrowing Descriptor) throws(SystemError) -> SocketAddress {
        var raw = clinux_address()
        guard unsafe clinux_internet_local_address(socket.raw, &raw) == 0 else { throw SystemError("getsockname") }
        return SocketAddress(raw)
    }

    package static func setOption(
        _ socket: borrowing Descriptor, _ level: Int32, _ name: Int32, _ value: Int32
    ) throws(SystemError) {
        guard clinux_set_option(socket.raw, level, name, value) == 0 else { throw SystemError("setsockopt") }
    }

    /// The pending error of a socket, as an `errno`; 0 for none.
    package static func takeError(_ socket: borrowing Descriptor) -> Int32 {
        var value: Int32 = 0
        guard unsafe clinux_get_option(socket.raw, CLINUX_SOL_SOCKET, CLINUX_SO_ERROR, &value) == 0 else {
            return clinux_errno()
        }
        return value
    }

    /// Segments leave at once, and a peer that has gone is noticed.
    /// - Parameter keepaliveInSeconds: the silence after which the peer is probed; nil for never.
    package static func tune(_ socket: borrowing Descriptor, keepaliveInSeconds: Int32?) {
        let fd = socket.raw
        _ = clinux_set_option(fd, CLINUX_IPPROTO_TCP, CLINUX_TCP_NODELAY, 1)
        guard let keepaliveInSeconds else { return }
        _ = clinux_set_option(fd, CLINUX_SOL_SOCKET, CLINUX_SO_KEEPALIVE, 1)
        _ = clinux_set_option(fd, CLINUX_IPPROTO_TCP, CLINUX_TCP_KEEPIDLE, keepaliveInSeconds)
        _ = clinux_set_option(fd, CLINUX_IPPROTO_TCP, CLINUX_TCP_KEEPINTVL, max(1, keepaliveInSeconds / 6))
    }

    /// Closing it tells the peer that the connection is broken, not that it has ended.
    package static func resetOnClose(_ socket: borrowing Descriptor) {
        _ = clinux_reset_on_close(socket.raw)
    }

    /// No more will be sent.
    package static func finishSending(_ socket: borrowing Descriptor) {
        _ = Glibc.shutdown(socket.raw, Int32(SHUT_WR))
    }
}
