// SPDX-License-Identifier: Apache-2.0

package import Packet

/// Where the parts of a record lie that crosses a machine's network socket (Docs/NET-SOCKET.md).
package enum FrameLayout {
    /// The Ethernet frame, behind the virtio header.
    package static var frame: Int { VirtioNetHeader.length }
    /// The IP packet of an untagged frame. Whoever builds a packet for a machine puts it here.
    package static var packet: Int { VirtioNetHeader.length + EthernetHeader.length }
    /// The longest record: 64 KiB of segment, the Ethernet header with room for a tag, the virtio header.
    package static var longest: Int { VirtioNetHeader.length + 65_550 }
}

/// One of the table's endpoints. The number stays with the endpoint for as long as it exists and is not used again
/// while packets of an older one may be about.
package struct EndpointID: Hashable, Sendable {
    package let value: UInt32
    package init(_ value: UInt32) { self.value = value }
}

/// A packet that a machine sends to the outside: what the router hands to the gateway.
///
/// The router has checked that the sender is who it says, that the IP header is whole and its checksum right, that the
/// packet is no fragment (fragments are put together before), that it may leave the network, and that its time to live
/// was above 1. The transport's header is not checked.
package struct OutsidePacket: Equatable, Sendable {
    /// Who sends it.
    package var endpoint: EndpointID
    /// Where the IP packet begins in the record; it ends where its own length says.
    package var offset: Int
    package var isIPv6: Bool
    /// TCP, UDP, ICMP or whatever else; behind the extension headers.
    package var protocolNumber: UInt8
    /// Where the transport's header begins in the record.
    package var transportOffset: Int
    /// Addressed to the gateway's own address rather than beyond it.
    package var isForGateway: Bool

    package init(
        endpoint: EndpointID, offset: Int, isIPv6: Bool, protocolNumber: UInt8, transportOffset: Int,
        isForGateway: Bool
    ) {
        self.endpoint = endpoint
        self.offset = offset
        self.isIPv6 = isIPv6
        self.protocolNumber = protocolNumber
        self.transportOffset = transportOffset
        self.isForGateway = isForGateway
    }
}

/// A packet for a machine: what the gateway hands to the router, having written the IP packet at `FrameLayout.packet` of
/// a record with room for `FrameLayout.longest` bytes. The router puts the Ethernet header before it, computes what the
/// machine does not take (checksums, segments), and sends it.
package struct InsidePacket: Equatable, Sendable {
    /// Whom it is for.
    package var endpoint: EndpointID
    /// The length of the IP packet.
    package var length: Int
    package var isIPv6: Bool
    /// With `checksumStart` counted from the Ethernet frame's start, that is 14 more than from the packet's.
    package var header: VirtioNetHeader

    package init(endpoint: EndpointID, length: Int, isIPv6: Bool, header: VirtioNetHeader = VirtioNetHeader()) {
        self.endpoint = endpoint
        self.length = length
        self.isIPv6 = isIPv6
        self.header = header
    }
}
