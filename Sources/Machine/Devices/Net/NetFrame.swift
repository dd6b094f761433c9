// SPDX-License-Identifier: Apache-2.0

/// What crosses the network socket; Docs/NET-SOCKET.md is the contract.
enum NetRecord {
    /// Bytes of `struct virtio_net_hdr_v1`.
    static let headerSize = 12
    /// A record that is shorter is a message.
    static let minimumFrameRecord = headerSize + 14
    /// The longest record.
    static let limit = headerSize + 65_550
    /// Where the header has its flags.
    static let flagsOffset = 0
    /// Where the header has the number of the guest's buffers.
    static let bufferCountOffset = 10

    private enum Kind {
        static let guest: UInt8 = 1
        static let link: UInt8 = 2
    }

    private static let version: UInt8 = 1

    /// The message that tells the network about the guest.
    static func guestMessage(isRunning: Bool, features: UInt64, mtu: UInt16, address: MACAddress) -> [UInt8] {
        let features = isRunning ? UInt32(truncatingIfNeeded: features) : 0
        var bytes: [UInt8] = [Kind.guest, version, isRunning ? 1 : 0, 0]
        for index in 0..<4 { bytes.append(UInt8(truncatingIfNeeded: features >> UInt32(8 * index))) }
        bytes += [UInt8(truncatingIfNeeded: mtu), UInt8(truncatingIfNeeded: mtu >> 8)]
        for index in 0..<6 { bytes.append(address.bytes[index]) }
        return bytes
    }

    /// The carrier that a message of the network's asks for; nil when it is another message.
    static func linkMessage(_ bytes: UnsafeRawBufferPointer) -> Bool? {
        guard bytes.count >= 4, unsafe bytes[0] == Kind.link, unsafe bytes[1] == version else { return nil }
        return unsafe bytes[2] & 1 != 0
    }
}

/// An Ethernet address.
package struct MACAddress: Equatable, Sendable {
    package let bytes: InlineArray<6, UInt8>

    package init(_ bytes: InlineArray<6, UInt8>) {
        self.bytes = bytes
    }

    package static func == (one: MACAddress, other: MACAddress) -> Bool {
        for index in 0..<6 where one.bytes[index] != other.bytes[index] { return false }
        return true
    }
}

/// The feature bits of a network device (virtio 1.2 §5.1.3).
enum NetFeature {
    static let csum: UInt64 = 1 << 0
    static let guestCsum: UInt64 = 1 << 1
    static let mtu: UInt64 = 1 << 3
    static let mac: UInt64 = 1 << 5
    static let guestTSO4: UInt64 = 1 << 7
    static let guestTSO6: UInt64 = 1 << 8
    static let guestUFO: UInt64 = 1 << 10
    static let hostTSO4: UInt64 = 1 << 11
    static let hostTSO6: UInt64 = 1 << 12
    static let hostUFO: UInt64 = 1 << 14
    static let mergeableBuffers: UInt64 = 1 << 15
    static let status: UInt64 = 1 << 16
    static let controlQueue: UInt64 = 1 << 17
    static let severalPairs: UInt64 = 1 << 22
    static let offered =
        csum | guestCsum | mtu | mac | guestTSO4 | guestTSO6 | hostTSO4 | hostTSO6 | mergeableBuffers | status
    /// What the host's network stack can do beside that: large UDP datagrams, cut into fragments.
    static let offeredWithTap = offered | guestUFO | hostUFO
}

/// The header of a frame that is for the guest.
struct NetHeader: Equatable {
    static let needsChecksum: UInt8 = 1
    static let dataValid: UInt8 = 2
    static let gsoNone: UInt8 = 0
    static let gsoTCPv4: UInt8 = 1
    static let gsoUDP: UInt8 = 3
    static let gsoTCPv6: UInt8 = 4

    var flags: UInt8
    var gsoType: UInt8
    var gsoSize: UInt16
    var checksumStart: UInt16
    var checksumOffset: UInt16

    /// `bytes` has at least the header's 12.
    init(_ bytes: UnsafeRawBufferPointer) {
        precondition(bytes.count >= NetRecord.headerSize)
        unsafe flags = bytes[0]
        unsafe gsoType = bytes[1]
        unsafe gsoSize = UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: 4, as: UInt16.self))
        unsafe checksumStart = UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: 6, as: UInt16.self))
        unsafe checksumOffset = UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt16.self))
    }

    /// Whether a guest that has accepted `features` can take a frame of `count` bytes with this header.
    func isFor(features: UInt64, frameCount count: Int) -> Bool {
        guard flags & ~(Self.needsChecksum | Self.dataValid) == 0 else { return false }
        if flags != 0, features & NetFeature.guestCsum == 0 { return false }
        if flags & Self.needsChecksum != 0, Int(checksumStart) + Int(checksumOffset) + 2 > count { return false }
        switch gsoType {
        case Self.gsoNone: return true
        case Self.gsoTCPv4: guard features & NetFeature.guestTSO4 != 0 else { return false }
        case Self.gsoTCPv6: guard features & NetFeature.guestTSO6 != 0 else { return false }
        case Self.gsoUDP: guard features & NetFeature.guestUFO != 0 else { return false }
        default: return false
        }
        return gsoSize > 0 && flags & Self.needsChecksum != 0
    }
}
