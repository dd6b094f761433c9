// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing
import Virtio
import VirtioTestSupport

@testable import Machine

/// A driver over a device that runs in a loop on a thread of its own: registers, queues, interrupts, as a guest has
/// them, without a guest.
final class DeviceHarness {
    enum Failure: Error { case noInterrupt }

    static let memorySize: UInt64 = 64 << 20

    let device: VirtioMMIODevice
    let memory: GuestMemory
    private(set) var queues: [DriverQueue] = []
    private let thread: LoopThread
    private var nextFree: UInt64 = 16 << 20

    static func makeMemory() throws -> GuestMemory {
        // Two regions, so that what lies across the border is met.
        try GuestMemory(anonymous: [0..<(32 << 20), (32 << 20)..<memorySize])
    }

    /// Attaches the device, starts its loop, and brings it up to DRIVER_OK.
    init(
        _ device: VirtioMMIODevice, features: UInt64 = .max, queueSize: UInt16 = 128, start: Bool = true
    ) throws {
        self.device = device
        memory = device.memory
        thread = try LoopThread()
        try device.attach(to: thread.loop)
        thread.start()
        if start { try bringUp(features: features, queueSize: queueSize) }
    }

    deinit {
        // As a guest that goes away: the device lets go of the memory first.
        writeRegister(MMIORegister.status, 0)
        thread.end()
    }

    func bringUp(features wanted: UInt64 = .max, queueSize: UInt16 = 128) throws {
        writeRegister(MMIORegister.status, 0)
        writeRegister(MMIORegister.status, 1)
        writeRegister(MMIORegister.status, 3)
        var offered: UInt64 = 0
        for half in 0..<2 as Range<UInt32> {
            writeRegister(MMIORegister.deviceFeaturesSel, half)
            offered |= UInt64(readRegister(MMIORegister.deviceFeatures)) << UInt64(32 * half)
        }
        let accepted = offered & wanted | MMIOTransport.version1
        for half in 0..<2 as Range<UInt32> {
            writeRegister(MMIORegister.driverFeaturesSel, half)
            writeRegister(MMIORegister.driverFeatures, UInt32(truncatingIfNeeded: accepted >> UInt64(32 * half)))
        }
        writeRegister(MMIORegister.status, 11)
        #expect(readRegister(MMIORegister.status) == 11)
        queues = []
        for index in device.notifiers.indices {
            writeRegister(MMIORegister.queueSel, UInt32(index))
            let size = min(queueSize, UInt16(readRegister(MMIORegister.queueNumMax)))
            let queue = try DriverQueue(
                memory, base: 0x10_0000 + UInt64(index) * DriverQueue.footprint, size: size,
                eventIndex: accepted & VirtQueue.eventIndex != 0)
            writeRegister(MMIORegister.queueNum, UInt32(size))
            for (low, address) in [
                (MMIORegister.queueDescLow, queue.descriptorTable), (MMIORegister.queueDriverLow, queue.availableRing),
                (MMIORegister.queueDeviceLow, queue.usedRing),
            ] {
                writeRegister(low, UInt32(truncatingIfNeeded: address))
                writeRegister(low + 4, UInt32(address >> 32))
            }
            writeRegister(MMIORegister.queueReady, 1)
            queues.append(queue)
        }
        writeRegister(MMIORegister.status, 15)
    }

    // MARK: - Registers

    func readRegister(_ offset: UInt64) -> UInt32 {
        var value: UInt32 = 0
        withUnsafeMutableBytes(of: &value) { device.read(offset: offset, into: $0) }
        return value
    }

    func writeRegister(_ offset: UInt64, _ value: UInt32) {
        withUnsafeBytes(of: value) { device.write(offset: offset, bytes: $0) }
    }

    func configuration(_ count: Int) -> [UInt8] {
        (0..<count).map { index in
            var byte: UInt8 = 0
            withUnsafeMutableBytes(of: &byte) { device.read(offset: MMIORegister.config + UInt64(index), into: $0) }
            return byte
        }
    }

    var needsReset: Bool { readRegister(MMIORegister.status) & 64 != 0 }

    // MARK: - Memory and queues

    func allocate(_ count: Int) -> UInt64 {
        defer { nextFree += UInt64((count + 63) & ~63) }
        return nextFree
    }

    func allocate(_ bytes: [UInt8]) throws -> UInt64 {
        let address = allocate(bytes.count)
        try memory.write(bytes, at: address)
        return address
    }

    func notify(_ queue: Int) throws {
        if try queues[queue].needsKick() { device.notifiers[queue].event.signal() }
    }

    /// The next chain that the device gives back; waits for the interrupt that it owes for it.
    func nextUsed(_ queue: Int) throws -> DriverQueue.Used {
        while true {
            if let used = try queues[queue].takeUsed() { return used }
            try queues[queue].wantInterrupt()
            if let used = try queues[queue].takeUsed() { return used }
            try waitForInterrupt()
        }
    }

    func waitForInterrupt() throws {
        try waitUntilReadable(device.interrupt.descriptor.raw)
        device.interrupt.drain()
        writeRegister(MMIORegister.interruptACK, readRegister(MMIORegister.interruptStatus))
    }

    /// Adds a chain, notifies and waits until it comes back.
    func transact(_ queue: Int, _ buffers: [DriverBuffer], indirect: Bool = false) throws -> DriverQueue.Used {
        _ = try #require(try queues[queue].add(buffers, indirect: indirect))
        try notify(queue)
        return try nextUsed(queue)
    }
}

func waitUntilReadable(_ fd: Int32) throws {
    var watched = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
    guard poll(&watched, 1, 20_000) == 1 else { throw DeviceHarness.Failure.noInterrupt }
}

/// A device loop on a thread.
final class LoopThread {
    let loop: DeviceLoop
    private var thread = pthread_t()

    init() throws { loop = try DeviceLoop() }

    func start() {
        pthread_create(&thread, nil, runLoop, Unmanaged.passRetained(loop).toOpaque())
    }

    func end() {
        loop.stop()
        pthread_join(thread, nil)
    }
}

private func runLoop(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let context else { return nil }
    do { try Unmanaged<DeviceLoop>.fromOpaque(context).takeRetainedValue().run() } catch { Issue.record(error) }
    return nil
}

/// A directory of a test's own, gone with it.
final class ScratchDirectory {
    let path: String

    init() throws {
        path = "/tmp/martlet-devices-\(monotonicNanoseconds())-\(UInt32.random(in: 0...UInt32.max))"
        try Files.makeDirectories(path)
    }

    deinit { try? Files.removeTree(path) }
}
