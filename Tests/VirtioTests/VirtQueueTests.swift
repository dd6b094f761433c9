// SPDX-License-Identifier: Apache-2.0

import CLinux
import Platform
import TestSupport
import Testing
import VirtioTestSupport

@testable import Virtio

/// Two regions that adjoin, a hole, and one more.
private func makeMemory(tracksWrites: Bool = false) throws -> GuestMemory {
    try GuestMemory(
        anonymous: [0..<0x80000, 0x80000..<0x100000, 0x20_0000..<0x28_0000], tracksWrites: tracksWrites)
}

private let allFeatures = VirtQueue.eventIndex | VirtQueue.indirectDescriptors

extension DescriptorChain {
    func readAll() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: readable.byteCount)
        let count = bytes.withUnsafeMutableBytes { readable.copy(into: $0) }
        return Array(bytes[..<count])
    }
}

@Suite struct VirtQueueTests {
    @Test(arguments: [true, false], [false, true])
    func chainAcrossRegionsComesWhole(indirect: Bool, eventIndex: Bool) throws {
        let memory = try makeMemory()
        let driver = try DriverQueue(memory, base: 0, size: 8, eventIndex: eventIndex)
        var queue = try VirtQueue(driver.state, maximumSize: 256, features: allFeatures, memory: memory)
        let chain = DescriptorChain(capacity: 16)
        try memory.write(Array(0..<100), at: 0x80000 - 50)
        let head = try driver.add(
            [DriverBuffer(0x80000 - 50, 100), DriverBuffer(0x20_0000, 7, writable: true)], indirect: indirect)
        #expect(try queue.pop(into: chain))
        #expect(chain.readAll() == Array(0..<100))
        #expect(chain.writable.byteCount == 7)
        let reply: [UInt8] = [9, 8, 7, 6]
        #expect(reply.withUnsafeBytes { chain.writable.copy(from: $0) } == 4)
        #expect(chain.writable.byteCount == 3)
        queue.push(head: chain.head, written: 4)
        #expect(try driver.takeUsed() == DriverQueue.Used(head: head ?? 0, count: 4))
        #expect(try memory.read(0x20_0000, count: 4) == reply)
        #expect(try !queue.pop(into: chain))
    }

    /// Whatever a driver that keeps the rules does, every chain comes once, in order, whole, and goes back; and nobody
    /// who waits for a notification or an interrupt waits in vain.
    @Test(arguments: 0..<24 as Range<UInt64>)
    func lawfulDriverIsServed(seed: UInt64) throws {
        var random = SeededGenerator(seed)
        let memory = try makeMemory(tracksWrites: true)
        let eventIndex = seed % 2 == 0
        let size = UInt16(1 << Int.random(in: 1...8, using: &random))
        let first = UInt16.random(in: 65000...65535, using: &random)
        let driver = try DriverQueue(memory, base: 0, size: size, eventIndex: eventIndex, firstIndex: first)
        var queue = try VirtQueue(
            driver.state, maximumSize: 256, features: eventIndex ? allFeatures : VirtQueue.indirectDescriptors,
            memory: memory)
        let chain = DescriptorChain(capacity: Int(size) + 8)
        var expected: [(head: UInt16, bytes: [UInt8], room: Int)] = []
        var toReturn: [(head: UInt16, written: Int)] = []
        var returned: [DriverQueue.Used] = []
        var deviceSleeps = false
        var driverSleeps = false
        #expect(try queue.requestNotifications() == false)
        deviceSleeps = true
        for _ in 0..<3000 {
            switch Int.random(in: 0..<4, using: &random) {
            case 0:
                // The driver adds a chain, and notifies where it is asked to.
                let indirect = expected.count + toReturn.count < 8 && Bool.random(using: &random)
                var buffers: [DriverBuffer] = []
                var bytes: [UInt8] = []
                for _ in 0..<Int.random(in: 0...3, using: &random) {
                    let some = random.bytes(Int.random(in: 0...40, using: &random))
                    // Each buffer gets a place of its own; some lie across the border of two regions.
                    let place = 0x7_0000 - 20 + UInt64(buffers.count) * 64 + UInt64(driver.availableIndex % 256) * 512
                    try memory.write(some, at: place)
                    buffers.append(DriverBuffer(place, some.count))
                    bytes += some
                }
                var room = 0
                for _ in 0..<Int.random(in: buffers.isEmpty ? 1...3 : 0...3, using: &random) {
                    let count = Int.random(in: 0...40, using: &random)
                    buffers.append(DriverBuffer(0x24_0000, count, writable: true))
                    room += count
                }
                // Indirect tables are shared by descriptors eight apart: one at a time.
                guard !indirect || driver.inFlight == 0, buffers.count <= Int(size) else { continue }
                guard let head = try driver.add(buffers, indirect: indirect) else { continue }
                expected.append((head, bytes, room))
                let kick = try driver.needsKick()
                if deviceSleeps { #expect(kick, "a device that sleeps is notified") }
                if kick { deviceSleeps = false }
            case 1:
                // The device works some off.
                if deviceSleeps { continue }
                queue.suppressNotifications()
                for _ in 0..<Int.random(in: 1...4, using: &random) where try queue.pop(into: chain) {
                    let next = expected.removeFirst()
                    #expect(chain.head == next.head)
                    #expect(chain.writable.byteCount == next.room)
                    #expect(chain.readAll() == next.bytes)
                    toReturn.append((next.head, Int.random(in: 0...next.room, using: &random)))
                }
                if try queue.waiting() == 0 { deviceSleeps = try !queue.requestNotifications() }
            case 2:
                // The device gives some back, in any order.
                var given: UInt16 = 0
                for _ in 0..<Int.random(in: 1...3, using: &random) where !toReturn.isEmpty {
                    let item = toReturn.remove(at: Int.random(in: toReturn.indices, using: &random))
                    queue.stage(head: item.head, written: item.written, at: given)
                    returned.append(DriverQueue.Used(head: item.head, count: UInt32(item.written)))
                    given += 1
                }
                guard given > 0 else { continue }
                queue.publish(given)
                let interrupts = queue.needsInterrupt()
                if driverSleeps { #expect(interrupts, "a driver that sleeps is interrupted") }
                if interrupts { driverSleeps = false }
            default:
                if driverSleeps { continue }
                while let used = try driver.takeUsed() { #expect(used == returned.removeFirst()) }
                try driver.wantInterrupt()
                driverSleeps = returned.isEmpty
            }
        }
        #expect(queue.state.nextAvailable == driver.availableIndex &- UInt16(expected.count))
    }

    @Test(arguments: [
        (QueueChange.size(0), RingFault.size), (.size(3), .size), (.size(512), .size),
        (.descriptors(8), .alignment), (.available(1), .alignment), (.used(2), .alignment),
        (.descriptors(0x10_0000), .placement), (.used(0xffff_ffff_ffff_fffc), .placement),
        (.available(0x7_fffe), .placement),
    ])
    func badRingIsRefused(change: QueueChange, fault: RingFault) throws {
        let memory = try makeMemory()
        var state = try DriverQueue(memory, base: 0, size: 256, eventIndex: false).state
        switch change {
        case .size(let size): state.size = size
        case .descriptors(let address): state.descriptorTable = address
        case .available(let address): state.availableRing = address
        case .used(let address): state.usedRing = address
        }
        #expect(throws: VirtioError.badRing(fault)) {
            _ = try VirtQueue(state, maximumSize: 256, features: 0, memory: memory)
        }
    }

    enum QueueChange { case size(UInt16), descriptors(UInt64), available(UInt64), used(UInt64) }

    @Test func loopEnds() throws {
        let memory = try makeMemory()
        let driver = try DriverQueue(memory, base: 0, size: 4, eventIndex: false)
        var queue = try VirtQueue(driver.state, maximumSize: 256, features: 0, memory: memory)
        let head = try #require(try driver.add([DriverBuffer(0x1000, 1), DriverBuffer(0x1000, 1)]))
        let second = try memory.load(UInt16.self, at: 16 * UInt64(head) + 14)
        try memory.store(UInt16(1), at: 16 * UInt64(second) + 12)
        try memory.store(head, at: 16 * UInt64(second) + 14)
        let chain = DescriptorChain(capacity: 16)
        #expect(throws: VirtioError.badChain(.tooLong)) { _ = try queue.pop(into: chain) }
    }

    @Test func availableIndexTooFarAheadIsRefused() throws {
        let memory = try makeMemory()
        let driver = try DriverQueue(memory, base: 0, size: 4, eventIndex: false)
        let queue = try VirtQueue(driver.state, maximumSize: 256, features: 0, memory: memory)
        try memory.store(UInt16(5), at: driver.availableRing + 2)
        #expect(throws: VirtioError.badRing(.availableIndex)) { _ = try queue.waiting() }
    }

    @Test func readableAfterWritableIsRefused() throws {
        let memory = try makeMemory()
        let driver = try DriverQueue(memory, base: 0, size: 4, eventIndex: false)
        var queue = try VirtQueue(driver.state, maximumSize: 256, features: 0, memory: memory)
        _ = try driver.add([DriverBuffer(0x1000, 1, writable: true), DriverBuffer(0x1000, 1)])
        let chain = DescriptorChain(capacity: 16)
        #expect(throws: VirtioError.badChain(.readableAfterWritable)) { _ = try queue.pop(into: chain) }
    }

    @Test func writesOfTheMonitorAreNoted() throws {
        let memory = try makeMemory(tracksWrites: true)
        try memory.write([1, 2], at: 0x1fff)
        try memory.store(UInt32(1), at: 0x20_0000)
        let pages = try #require(memory.dirtyPages)
        #expect(pages.take(word: 0) == 0b110)
        #expect(pages.take(word: 0) == 0)
        #expect(pages.take(word: 4) == 1)
    }
}

@Suite struct VirtQueueFuzz {
    /// Rings and tables full of nonsense: a queue throws or goes on, and never reaches beyond guest memory.
    @Test(arguments: 0..<8 as Range<UInt64>)
    func hostileRings(seed: UInt64) throws {
        var random = SeededGenerator(seed &+ 1000)
        let memory = try GuestMemory(anonymous: [0..<0x40000, 0x80000..<0x90000])
        let chain = DescriptorChain(capacity: 72)
        var served = 0
        var refused = 0
        for _ in 0..<2500 {
            let driver = try DriverQueue(memory, base: 0, size: 64, eventIndex: seed % 2 == 0)
            for _ in 0..<20 {
                _ = try driver.add(
                    [DriverBuffer(0x3_ff00, 0x80), DriverBuffer(0x8_0000, 64, writable: true)],
                    indirect: Bool.random(using: &random))
            }
            // Mutations where they hurt: tables, rings, indirect tables.
            for _ in 0..<Int.random(in: 0...6, using: &random) {
                let base = [0, 0, 0x2000, 0x4000, 0x8000].randomElement(using: &random) ?? 0
                let address = UInt64(base) + UInt64.random(in: 0..<0x420, using: &random)
                let interesting: [UInt64] = [0, 1, 4, 0xffff, 0xffff_ffff, .max, 0x3_ffff, 0x8_ffff, random.next()]
                try memory.store(interesting.randomElement(using: &random) ?? 0, at: address)
            }
            do {
                var queue = try VirtQueue(
                    driver.state(from: 0), maximumSize: 256, features: allFeatures, memory: memory)
                for _ in 0..<64 where try queue.pop(into: chain) {
                    served += 1
                    #expect(chain.readable.vectors.count + chain.writable.vectors.count <= 72)
                    for vector in Array(chain.readable.vectors) + Array(chain.writable.vectors) {
                        let inside = memory.regions.contains { region in
                            let offset = vector.iov_base - region.hostStart
                            return offset >= 0 && offset + vector.iov_len <= Int(region.count)
                        }
                        #expect(inside)
                    }
                    queue.push(head: chain.head, written: chain.writable.byteCount)
                    _ = queue.needsInterrupt()
                    _ = try queue.requestNotifications()
                }
            } catch { refused += 1 }
        }
        #expect(served > 0 && refused > 0)
    }
}

extension DriverQueue {
    /// The state a device has that has not taken anything yet.
    func state(from index: UInt16) -> QueueState {
        var state = state
        state.nextAvailable = index
        state.nextUsed = index
        state.consideredUsed = index
        return state
    }
}
