// SPDX-License-Identifier: Apache-2.0

/// An ARP packet for IPv4 over Ethernet (RFC 826); other kinds are refused.
@usableFromInline package struct ARPView: ~Escapable {
    package let bytes: RawSpan

    @_lifetime(copy bytes)
    package init?(_ bytes: RawSpan) {
        guard bytes.byteCount >= ARPPacket.length, bytes.u16(0) == 1, bytes.u16(2) == EtherType.ipv4,
            bytes.byte(4) == 6, bytes.byte(5) == 4
        else { return nil }
        self.bytes = bytes.slice(0, ARPPacket.length)
    }

    /// 1 is a request, 2 a reply.
    package var operation: UInt16 { bytes.u16(6) }
    package var senderMAC: MACAddress { bytes.mac(8) }
    package var senderAddress: IPv4Address { bytes.ipv4(14) }
    package var targetMAC: MACAddress { bytes.mac(18) }
    package var targetAddress: IPv4Address { bytes.ipv4(24) }
}

/// An ARP packet to be written.
@usableFromInline package struct ARPPacket: Equatable, Sendable {
    @inlinable package static var length: Int { 28 }
    @inlinable package static var request: UInt16 { 1 }
    @inlinable package static var reply: UInt16 { 2 }
    package var operation: UInt16
    package var senderMAC: MACAddress
    package var senderAddress: IPv4Address
    package var targetMAC: MACAddress
    package var targetAddress: IPv4Address

    package init(
        operation: UInt16, senderMAC: MACAddress, senderAddress: IPv4Address, targetMAC: MACAddress,
        targetAddress: IPv4Address
    ) {
        self.operation = operation
        self.senderMAC = senderMAC
        self.senderAddress = senderAddress
        self.targetMAC = targetMAC
        self.targetAddress = targetAddress
    }

    /// Writes the 28 bytes.
    package func write(to bytes: inout MutableRawSpan, at offset: Int) {
        bytes.put(1 as UInt16, at: offset)
        bytes.put(EtherType.ipv4, at: offset + 2)
        bytes.put(0x0604 as UInt16, at: offset + 4)
        bytes.put(operation, at: offset + 6)
        bytes.put(senderMAC, at: offset + 8)
        bytes.put(senderAddress, at: offset + 14)
        bytes.put(targetMAC, at: offset + 18)
        bytes.put(targetAddress, at: offset + 24)
    }
}
