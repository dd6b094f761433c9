// SPDX-License-Identifier: Apache-2.0

package import Packet

/// What a machine's guest is and takes, as its monitor says it (Docs/NET-SOCKET.md, message 1).
package struct GuestMessage: Equatable, Sendable {
    package var driverRuns: Bool
    /// Feature bits 0 to 31 that the driver accepted.
    package var features: UInt32
    package var mtu: UInt16
    package var mac: MACAddress

    package init(driverRuns: Bool, features: UInt32, mtu: UInt16, mac: MACAddress) {
        self.driverRuns = driverRuns
        self.features = features
        self.mtu = mtu
        self.mac = mac
    }

    /// Nil for other kinds and versions, which are to be ignored.
    package init?(_ record: RawSpan) {
        guard record.byteCount >= 16, record.byte(0) == 1, record.byte(1) == 1 else { return nil }
        driverRuns = record.byte(2) & 1 != 0
        features = record.u32(4).byteSwapped
        mtu = record.u16(8).byteSwapped
        mac = record.mac(10)
    }

    package var bytes: [UInt8] {
        [1, 1, driverRuns ? 1 : 0, 0] + (0..<4).map { UInt8(truncatingIfNeeded: features >> UInt32($0 * 8)) }
            + [UInt8(mtu & 255), UInt8(mtu >> 8)]
            + (0..<6).map { UInt8(truncatingIfNeeded: mac.value >> UInt64(40 - $0 * 8)) }
    }
}

/// What of frames a guest takes.
package struct Offloads: Equatable, Sendable {
    package var takesPartialChecksums = false
    package var takesIPv4Segments = false
    package var takesIPv6Segments = false

    /// Nothing but whole frames.
    package init() {}

    /// From the feature bits of virtio 1.2 §5.1.3.
    package init(features: UInt32) {
        takesPartialChecksums = features & 1 << 1 != 0
        takesIPv4Segments = takesPartialChecksums && features & 1 << 7 != 0
        takesIPv6Segments = takesPartialChecksums && features & 1 << 8 != 0
    }

    /// Whether a frame with this header can be handed over as it is.
    @inline(__always)
    package func accept(_ header: VirtioNetHeader) -> Bool {
        if header.isPartial, !takesPartialChecksums { return false }
        switch header.segmentation & ~VirtioNetHeader.segmentationECN {
        case VirtioNetHeader.segmentationNone: return true
        case VirtioNetHeader.segmentationTCPv4: return takesIPv4Segments
        case VirtioNetHeader.segmentationTCPv6: return takesIPv6Segments
        default: return false
        }
    }
}

/// The carrier as the guest is to see it (message 2).
package func linkMessage(isUp: Bool) -> [UInt8] { [2, 1, isUp ? 1 : 0, 0] }
