// SPDX-License-Identifier: Apache-2.0

package import Fabric
package import Packet

/// What a machine's link takes today.
package struct LinkCapabilities: Equatable, Sendable {
    /// The longest IP packet that may be on the wire; at least 1280.
    package var mtu: Int
    /// TCP over IPv4 of up to 64 KiB, cut up by the machine, with partial checksums.
    package var takesSegmentsV4: Bool
    package var takesSegmentsV6: Bool

    package init(mtu: Int = 1500, takesSegmentsV4: Bool = false, takesSegmentsV6: Bool = false) {
        self.mtu = mtu
        self.takesSegmentsV4 = takesSegmentsV4
        self.takesSegmentsV6 = takesSegmentsV6
    }
}

/// The way to the machines, as the gateway sees it: the router.
package protocol InsideLink: AnyObject {
    func capabilities(of endpoint: EndpointID) -> LinkCapabilities

    /// Whether `send` takes one more packet for a machine. Where not, the gateway keeps what it has, and goes on when
    /// `Gateway.resume` says that there is room again.
    func hasRoom(for endpoint: EndpointID) -> Bool

    /// Takes a packet. Its checksum above IP may be partial, as its virtio header says; `header` says as well where it
    /// is to be cut.
    /// - Parameters:
    ///   - head: a record's first bytes; the IP packet begins at `FrameLayout.packet`. Valid during the call only.
    ///   - first: what follows the head, up to `packet.length`, in two pieces. Valid until `flush` returns.
    func send(
        _ packet: InsidePacket, head: UnsafeRawBufferPointer, payload first: UnsafeRawBufferPointer,
        _ second: UnsafeRawBufferPointer)

    /// Sends what was taken, or copies it: afterwards no payload of before is read.
    func flush()
}

/// A machine as the gateway knows it.
package struct InsideMachine: Sendable {
    package var endpoint: EndpointID
    /// The gateway's own addresses on the machine's network: who ICMP errors and published connections come from.
    package var gatewayIPv4: IPv4Address?
    package var gatewayIPv6: IPv6Address?
    /// The machine's own, which published connections go to.
    package var ipv4: IPv4Address?
    package var ipv6: IPv6Address?
    package var policy = EgressPolicy()
    package var quotas = Quotas()

    package init(endpoint: EndpointID, gatewayIPv4: IPv4Address? = nil, gatewayIPv6: IPv6Address? = nil) {
        self.endpoint = endpoint
        self.gatewayIPv4 = gatewayIPv4
        self.gatewayIPv6 = gatewayIPv6
    }
}

/// What one machine may take of the gateway.
package struct Quotas: Sendable {
    package var connections = 32_768
    /// Connections that the host has not answered yet; the oldest makes room for the newest.
    package var connecting = 512
    /// Connections in TIME-WAIT; the oldest makes room for the newest, and for new connections at the quota of those.
    package var resting = 1024
    /// UDP and echo flows; the one that has been silent the longest makes room.
    package var datagramFlows = 2048
    /// Of bytes under way; what is beyond waits with its sender.
    package var bufferInBytes = 64 << 20

    package init() {}

    /// The same within half of the descriptors that the process may have: one machine does not take what the others
    /// need.
    package init(ofDescriptors limit: Int) {
        connections = min(connections, limit / 8 * 3)
        datagramFlows = min(datagramFlows, limit / 8)
    }
}
