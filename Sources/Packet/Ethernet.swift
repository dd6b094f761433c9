// SPDX-License-Identifier: Apache-2.0

/// What an Ethernet frame carries.
@usableFromInline package enum EtherType {
    @inlinable package static var ipv4: UInt16 { 0x0800 }
    @inlinable package static var arp: UInt16 { 0x0806 }
    @inlinable package static var vlan: UInt16 { 0x8100 }
    @inlinable package static var serviceVLAN: UInt16 { 0x88A8 }
    @inlinable package static var ipv6: UInt16 { 0x86DD }
}

/// An Ethernet frame without its checksum. Up to two VLAN tags (IEEE 802.1Q) are skipped.
@usableFromInline package struct EthernetView: ~Escapable {
    @usableFromInline package let bytes: RawSpan
    /// 14, and 4 for each tag.
    @usableFromInline package let headerLength: Int
    /// What the payload is.
    @usableFromInline package let type: UInt16
    /// The innermost tag's control information; 0 without one.
    @usableFromInline package let tag: UInt16

    /// Nil where the header is not whole.
    @inlinable
    @_lifetime(copy bytes)
    package init?(_ bytes: RawSpan) {
        guard bytes.byteCount >= EthernetHeader.length else { return nil }
        var type = bytes.u16(12)
        var length = EthernetHeader.length
        var tag: UInt16 = 0
        while type == EtherType.vlan || type == EtherType.serviceVLAN {
            guard length <= EthernetHeader.length + 4, bytes.byteCount >= length + 4 else { return nil }
            tag = bytes.u16(length)
            type = bytes.u16(length + 2)
            length += 4
        }
        self.bytes = bytes
        self.type = type
        self.tag = tag
        headerLength = length
    }

    @inlinable package var destination: MACAddress { bytes.mac(0) }
    @inlinable package var source: MACAddress { bytes.mac(6) }
    @inlinable package var isTagged: Bool { headerLength > EthernetHeader.length }
    @inlinable package var payload: RawSpan {
        @_lifetime(copy self) get { bytes.dropping(headerLength) }
    }
}

/// An Ethernet header to be written.
@usableFromInline package struct EthernetHeader: Equatable, Sendable {
    @inlinable package static var length: Int { 14 }
    @usableFromInline package var destination: MACAddress
    @usableFromInline package var source: MACAddress
    @usableFromInline package var type: UInt16

    package init(destination: MACAddress, source: MACAddress, type: UInt16) {
        self.destination = destination
        self.source = source
        self.type = type
    }

    /// Writes the 14 bytes.
    package func write(to bytes: inout MutableRawSpan, at offset: Int) {
        bytes.put(destination, at: offset)
        bytes.put(source, at: offset + 6)
        bytes.put(type, at: offset + 12)
    }
}
