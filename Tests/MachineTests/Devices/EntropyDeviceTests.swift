// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing
import Virtio
import VirtioTestSupport

@testable import Machine

@Suite struct EntropyDeviceTests {
    @Test func buffersAreFilledUpToTheLimit() throws {
        let harness = try DeviceHarness(try EntropyDevice(memory: try DeviceHarness.makeMemory()))
        // Across the border of two regions.
        let used = try harness.transact(0, [DriverBuffer((32 << 20) - 100, 200, writable: true)])
        #expect(used.count == 200)
        let bytes = try harness.memory.read((32 << 20) - 100, count: 200)
        #expect(Set(bytes[..<100]).count > 20 && Set(bytes[100...]).count > 20)
        let large = try harness.transact(0, [DriverBuffer(20 << 20, 1 << 20, writable: true)])
        #expect(large.count == UInt32(EntropyDevice.requestLimit))
    }

    @Test(arguments: 0..<2 as Range<UInt64>)
    func hostileDriver(seed: UInt64) throws {
        try fuzzQueues(try EntropyDevice(memory: try DeviceHarness.makeMemory()), seed: seed, rounds: 200) {
            $0.bytes(8)
        }
    }
}
