// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import GuestCore

@Suite struct NetlinkTests {
    /// The bytes that iproute2 would send for `ip addr replace 10.1.2.3/24 broadcast + dev 7`, apart from its sequence.
    @Test func addressRequestIsTheKernelsLayout() {
        var batch = NetlinkBatch()
        batch.addAddress([10, 1, 2, 3], prefixLength: 24, interface: 7)
        #expect(
            batch.bytes == [
                48, 0, 0, 0, 20, 0, 0x05, 0x05, 1, 0, 0, 0, 0, 0, 0, 0,
                2, 24, 0, 0, 7, 0, 0, 0,
                8, 0, 2, 0, 10, 1, 2, 3,
                8, 0, 1, 0, 10, 1, 2, 3,
                8, 0, 4, 0, 10, 1, 2, 255,
            ])
    }

    @Test func addressesOfIPv6AreNotLookedForTwice() {
        var batch = NetlinkBatch()
        let address = [UInt8](repeating: 0, count: 15) + [1]
        batch.addAddress(address, prefixLength: 64, interface: 2)
        #expect(Array(batch.bytes[16..<20]) == [10, 64, 0x02, 0])
        #expect(batch.bytes.count == 16 + 8 + 20 + 20)
    }

    @Test(arguments: [(UInt8(31), false), (32, false), (30, true), (0, true)])
    func onlyNetworksWithRoomHaveABroadcastAddress(prefixLength: UInt8, hasBroadcast: Bool) {
        var batch = NetlinkBatch()
        batch.addAddress([192, 0, 2, 4], prefixLength: prefixLength, interface: 1)
        #expect(batch.bytes.count == (hasBroadcast ? 48 : 40))
    }

    /// `ip link set dev 7 down`, and `ip link set dev 7 address 02:00:5e:00:53:01`, as the kernel's layout has them.
    @Test func changesOfALinkAreTheKernelsLayout() {
        var batch = NetlinkBatch()
        batch.takeDown(interface: 7)
        #expect(
            batch.bytes == [32, 0, 0, 0, 16, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0] + [0, 0, 0, 0, 7, 0, 0, 0]
                + [0, 0, 0, 0, 1, 0, 0, 0])
        var other = NetlinkBatch()
        other.setHardwareAddress([2, 0, 0x5e, 0, 0x53, 1], interface: 7)
        #expect(
            other.bytes == [44, 0, 0, 0, 16, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0] + [0, 0, 0, 0, 7, 0, 0, 0]
                + [UInt8](repeating: 0, count: 8) + [10, 0, 1, 0, 2, 0, 0x5e, 0, 0x53, 1, 0, 0])
    }

    /// `ip route del default dev 7`.
    @Test(arguments: [false, true]) func aDefaultRouteIsRemovedWhoeverMadeIt(isIPv6: Bool) {
        var batch = NetlinkBatch()
        batch.removeDefaultRoute(isIPv6: isIPv6, interface: 7)
        #expect(
            batch.bytes == [36, 0, 0, 0, 25, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0]
                + [isIPv6 ? 10 : 2, 0, 0, 0, 254, 0, 255, 0, 0, 0, 0, 0] + [8, 0, 4, 0, 7, 0, 0, 0])
    }

    /// What a reader of netlink would do: from length to length, each message aligned, numbered in order.
    @Test func batchesAreChainsOfWholeMessages() {
        var batch = NetlinkBatch()
        batch.bringUp(interface: 3, mtu: 65520)
        batch.addAddress([10, 0, 0, 2], prefixLength: 16, interface: 3)
        batch.addDefaultRoute(gateway: [10, 0, 0, 1], interface: 3)
        batch.addDefaultRoute(gateway: [0xfe, 0x80] + [UInt8](repeating: 0, count: 13) + [1], interface: 3)
        var position = 0
        var types: [UInt8] = []
        while position < batch.bytes.count {
            let length = Int(batch.bytes[position]) | Int(batch.bytes[position + 1]) << 8
            #expect(length % 4 == 0 && length >= 16)
            types.append(batch.bytes[position + 4])
            #expect(Int(batch.bytes[position + 8]) == types.count)
            position += length
        }
        #expect(position == batch.bytes.count)
        #expect(types == [16, 20, 24, 24])
        #expect(batch.count == 4)
    }
}
