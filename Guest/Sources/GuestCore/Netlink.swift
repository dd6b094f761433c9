// SPDX-License-Identifier: Apache-2.0

/// Requests to the kernel's routing socket, rtnetlink(7), one after another in a buffer. Each is to be acknowledged.
package struct NetlinkBatch {
    package private(set) var bytes: [UInt8] = []
    /// How many there are; their sequence numbers are 1 to this.
    package private(set) var count: UInt32 = 0

    package init() {}

    // linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h, linux/if_link.h
    private static let request: UInt16 = 0x1
    private static let acknowledge: UInt16 = 0x4
    private static let replace: UInt16 = 0x100
    private static let create: UInt16 = 0x400

    /// Brings an interface up.
    /// - Parameter mtu: in bytes; nil leaves it.
    package mutating func bringUp(interface index: UInt32, mtu: UInt32?) {
        let isUp: UInt32 = 1
        let start = begin(16, flags: 0)  // RTM_NEWLINK
        bytes += [0, 0] + little(UInt16(0)) + little(index) + little(isUp) + little(isUp)
        if let mtu { attribute(4, little(mtu)) }  // IFLA_MTU
        finish(start)
    }

    /// Takes an interface down. It forgets its routes and its neighbours, and sends and receives nothing.
    package mutating func takeDown(interface index: UInt32) {
        let isUp: UInt32 = 1
        let start = begin(16, flags: 0)  // RTM_NEWLINK
        bytes += [0, 0] + little(UInt16(0)) + little(index) + little(UInt32(0)) + little(isUp)
        finish(start)
    }

    /// Gives an interface another Ethernet address; where it is up the kernel announces that, if it is to.
    package mutating func setHardwareAddress(_ address: [UInt8], interface index: UInt32) {
        let start = begin(16, flags: 0)  // RTM_NEWLINK
        bytes += [0, 0] + little(UInt16(0)) + little(index) + little(UInt32(0)) + little(UInt32(0))
        attribute(1, address)  // IFLA_ADDRESS
        finish(start)
    }

    /// Gives an interface an address of 4 bytes or 16.
    package mutating func addAddress(_ address: [UInt8], prefixLength: UInt8, interface index: UInt32) {
        // Whoever gave us the address knows that it is free: detection of duplicates would hold it back for a second.
        let noDetection: UInt8 = 0x02
        let start = begin(20, flags: Self.create | Self.replace)  // RTM_NEWADDR
        bytes += [family(address), prefixLength, address.count == 16 ? noDetection : 0, 0] + little(index)
        attribute(2, address)  // IFA_LOCAL
        attribute(1, address)  // IFA_ADDRESS
        if address.count == 4, prefixLength < 31 {
            attribute(4, broadcast(address, prefixLength))  // IFA_BROADCAST
        }
        finish(start)
    }

    /// Sends what is for no other network to a gateway, which need not be in a network of the interface.
    package mutating func addDefaultRoute(gateway: [UInt8], interface index: UInt32) {
        let onLink: UInt32 = 0x4
        let start = begin(24, flags: Self.create | Self.replace)  // RTM_NEWROUTE
        // Any destination and source; main table (254), made by an administrator's word (static, 4), global, unicast.
        bytes += [family(gateway), 0, 0, 0, 254, 4, 0, 1] + little(onLink)
        attribute(5, gateway)  // RTA_GATEWAY
        attribute(4, little(index))  // RTA_OIF
        finish(start)
    }

    /// Removes one default route of an interface's; the kernel says that there is no such process where there is none.
    package mutating func removeDefaultRoute(isIPv6: Bool, interface index: UInt32) {
        let start = begin(25, flags: 0)  // RTM_DELROUTE
        // Any destination and source; main table (254), made by whomever (0), of any scope (255) and kind (0).
        bytes += [isIPv6 ? 10 : 2, 0, 0, 0, 254, 0, 255, 0] + little(UInt32(0))
        attribute(4, little(index))  // RTA_OIF
        finish(start)
    }

    // MARK: - Bytes

    private mutating func begin(_ type: UInt16, flags: UInt16) -> Int {
        let start = bytes.count
        count += 1
        bytes += little(UInt32(0)) + little(type) + little(Self.request | Self.acknowledge | flags)
        bytes += little(count) + little(UInt32(0))
        return start
    }

    private mutating func finish(_ start: Int) {
        for (index, byte) in little(UInt32(truncatingIfNeeded: bytes.count - start)).enumerated() {
            bytes[start + index] = byte
        }
    }

    private mutating func attribute(_ type: UInt16, _ value: [UInt8]) {
        bytes += little(UInt16(truncatingIfNeeded: value.count + 4)) + little(type) + value
        while bytes.count % 4 != 0 { bytes.append(0) }
    }

    private func family(_ address: [UInt8]) -> UInt8 { address.count == 16 ? 10 : 2 }  // AF_INET6, AF_INET

    private func broadcast(_ address: [UInt8], _ prefixLength: UInt8) -> [UInt8] {
        var result = address
        for bit in Int(prefixLength)..<32 { result[bit / 8] |= 0x80 >> UInt8(bit % 8) }
        return result
    }

    private func little<T: FixedWidthInteger & UnsignedInteger>(_ value: T) -> [UInt8] {
        var bytes: [UInt8] = []
        for index in 0..<(T.bitWidth / 8) { bytes.append(UInt8(truncatingIfNeeded: value >> T(index * 8))) }
        return bytes
    }
}
