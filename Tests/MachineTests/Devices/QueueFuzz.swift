// SPDX-License-Identifier: Apache-2.0

import Platform
import TestSupport
import Testing
import Virtio
import VirtioTestSupport

@testable import Machine

/// Plays a driver that is broken or worse: chains of any shape with `message` at their front, rings and registers
/// overwritten at random. The device goes on or asks for a reset, and after one it works with the same again.
func fuzzQueues(
    _ device: VirtioMMIODevice, seed: UInt64, rounds: Int, message: (inout SeededGenerator) -> [UInt8]
) throws {
    var random = SeededGenerator(seed)
    let harness = try DeviceHarness(device)
    var resets = 0
    for round in 0..<rounds {
        for index in harness.queues.indices {
            let queue = harness.queues[index]
            for _ in 0..<Int.random(in: 0...12, using: &random) {
                var bytes = message(&random)
                if Int.random(in: 0..<4, using: &random) == 0, !bytes.isEmpty {
                    bytes[Int.random(in: bytes.indices, using: &random)] = UInt8.random(in: 0...255, using: &random)
                }
                let place = UInt64.random(in: (20 << 20)..<(40 << 20), using: &random)
                try harness.memory.write(bytes, at: place)
                var buffers = [DriverBuffer(place, bytes.count)]
                if Bool.random(using: &random) { buffers.append(DriverBuffer(place + 64, 512)) }
                if index == 0, Int.random(in: 0..<4, using: &random) == 0 { buffers = [] }
                for _ in 0..<Int.random(in: buffers.isEmpty ? 1...3 : 0...3, using: &random) {
                    let count = [1, 16, 20, 44, 100, 512, 4096].randomElement(using: &random) ?? 1
                    let outside = Int.random(in: 0..<60, using: &random) == 0
                    buffers.append(
                        DriverBuffer(outside ? DeviceHarness.memorySize - 3 : 48 << 20, count, writable: true))
                }
                _ = try queue.add(buffers, indirect: Bool.random(using: &random))
            }
            if Int.random(in: 0..<5, using: &random) == 0 {
                let base = Bool.random(using: &random) ? queue.descriptorTable : queue.availableRing
                try harness.memory.store(
                    random.next() >> (random.next() % 64), at: base + random.next() % 64)
            }
            device.notifiers[index].event.signal()
        }
        // Once around the loop for the wake-up, once more for what was ready beside it.
        for _ in 0..<2 { try device.attachedLoop?.performAndWait {} }
        for queue in harness.queues {
            while let used = try? queue.takeUsed() { _ = used }
        }
        if Int.random(in: 0..<6, using: &random) == 0 {
            let offset = UInt64.random(in: 0..<0x110, using: &random)
            harness.writeRegister(offset & ~3, UInt32(truncatingIfNeeded: random.next()))
            _ = harness.readRegister(offset & ~3)
        }
        if harness.needsReset || round % 8 == 7 {
            resets += harness.needsReset ? 1 : 0
            try harness.bringUp()
        }
    }
    #expect(resets > 0, "the seeds reach the refusals")
    try harness.bringUp()
    #expect(!harness.needsReset)
}
