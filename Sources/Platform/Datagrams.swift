// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// Room for a burst of datagrams from a socket. Pages that nothing long came into are never touched.
@safe package final class DatagramSpace {
    package static let count = 32
    private static let size = 65_536
    private let base: UnsafeMutableRawPointer
    private let entries: UnsafeMutablePointer<clinux_datagram>

    package init() {
        unsafe base = UnsafeMutableRawPointer.allocate(byteCount: Self.count * Self.size, alignment: 4096)
        unsafe entries = UnsafeMutablePointer<clinux_datagram>.allocate(capacity: Self.count)
        unsafe entries.initialize(repeating: clinux_datagram(), count: Self.count)
    }

    deinit {
        unsafe base.deallocate()
        unsafe entries.deallocate()
    }

    /// Receives what has come.
    /// - Returns: how many; 0 for none, with the reason in `errno`.
    package func receive(from socket: Int32) -> Int {
        for index in 0..<Self.count {
            unsafe entries[index] = clinux_datagram(
                bytes: base + index * Self.size, length: Self.size, peer: clinux_address(), has_peer: false,
                truncated: false, local: clinux_address(), has_local: false)
        }
        return max(0, Int(unsafe clinux_receive_datagrams(socket, entries, Self.count)))
    }

    /// The bytes of a datagram; valid until the next `receive`.
    package func bytes(_ index: Int) -> UnsafeRawBufferPointer {
        precondition(index < Self.count)
        return unsafe UnsafeRawBufferPointer(start: entries[index].bytes, count: entries[index].length)
    }

    /// Who sent it.
    package func peer(_ index: Int) -> SocketAddress? {
        precondition(index < Self.count)
        return unsafe entries[index].has_peer ? SocketAddress(entries[index].peer) : nil
    }

    /// Which address of this host's it came to, its port being 0, where `InternetSocket.tellLocalAddress` has asked.
    package func local(_ index: Int) -> SocketAddress? {
        precondition(index < Self.count)
        return unsafe entries[index].has_local ? SocketAddress(entries[index].local) : nil
    }
}

/// What the network said about something that a socket sent (IP_RECVERR, ip(7)).
package struct NetworkFailure: Equatable, Sendable {
    /// An `errno`.
    package var code: Int32
    /// ICMP's, or ICMPv6's.
    package var type: UInt8
    package var icmpCode: UInt8
    /// The longest packet, where the code is EMSGSIZE.
    package var size: UInt32
    /// Who said so; nil where that is not known.
    package var offender: SocketAddress?
}

extension InternetSocket {
    /// Sends one datagram of two pieces.
    /// - Parameters:
    ///   - peer: nil for a connected socket.
    ///   - local: which of this host's addresses it is from, beside a `peer`; nil for the system's choice.
    /// - Returns: 0, or the reason as an `errno`.
    package static func send(
        _ socket: Int32, _ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer, to peer: SocketAddress?,
        from local: SocketAddress? = nil
    ) -> Int32 {
        let sent = unsafe withUnsafeTemporaryAllocation(of: iovec.self, capacity: 2) { vectors in
            unsafe vectors[0] = iovec(
                iov_base: UnsafeMutableRawPointer(mutating: first.baseAddress), iov_len: first.count)
            unsafe vectors[1] = iovec(
                iov_base: UnsafeMutableRawPointer(mutating: second.baseAddress), iov_len: second.count)
            guard let peer else { return unsafe clinux_send_vectors(socket, vectors.baseAddress, 2) }
            var raw = peer.raw
            guard var from = local?.raw else {
                return unsafe clinux_send_vectors_to(socket, vectors.baseAddress, 2, &raw, nil)
            }
            return unsafe clinux_send_vectors_to(socket, vectors.baseAddress, 2, &raw, &from)
        }
        return sent < 0 ? clinux_errno() : 0
    }

    /// Asks that `DatagramSpace.local` says where a datagram came to.
    package static func tellLocalAddress(_ socket: Int32, ipv4: Bool) { _ = clinux_enable_local_address(socket, ipv4) }

    /// Asks that `takeFailure` gives what the network says.
    package static func keepFailures(_ socket: Int32, ipv4: Bool) { _ = clinux_enable_errors(socket, ipv4) }

    /// The next report of the network's; nil when there is none. What the host itself has to say is left out: the call
    /// that it was about has said so.
    package static func takeFailure(_ socket: Int32) -> NetworkFailure? {
        var raw = clinux_socket_error()
        while unsafe clinux_receive_error(socket, &raw) == 1 {
            guard raw.is_icmp else { continue }
            let hasOffender = raw.offender.high | raw.offender.low != 0
            return NetworkFailure(
                code: Int32(truncatingIfNeeded: raw.code), type: raw.type, icmpCode: raw.icmp_code,
                size: raw.information, offender: hasOffender ? SocketAddress(raw.offender) : nil)
        }
        return nil
    }

    /// Datagrams that are longer than the way allows are refused (EMSGSIZE), or are sent in pieces.
    package static func setDontFragment(_ socket: Int32, ipv4: Bool, _ on: Bool) {
        _ = clinux_set_dont_fragment(socket, ipv4, on)
    }

    /// The longest packet on the way of a connected socket, as far as the host knows.
    package static func pathMTU(_ socket: Int32, ipv4: Bool) -> Int? {
        let size = clinux_path_mtu(socket, ipv4)
        return size > 0 ? Int(size) : nil
    }

    /// A UDP socket that others send to.
    package static func bound(to address: SocketAddress) throws(SystemError) -> Descriptor {
        let socket = try make(.datagram, ipv4: address.isIPv4)
        try bind(socket, to: address)
        return socket
    }
}
