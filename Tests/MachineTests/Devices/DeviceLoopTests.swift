// SPDX-License-Identifier: Apache-2.0

import Platform
import Synchronization
import TestSupport
import Testing
import Virtio
import VirtioTestSupport

@testable import Machine

@Suite struct DeviceLoopTests {
    /// Notes what it is called with; each event ends the watch of all its descriptors.
    private final class Recorder: EventHandler, @unchecked Sendable {
        let loop: DeviceLoop
        var registrations: [EventRegistration] = []
        let calls = Mutex<[UInt32]>([])

        init(_ loop: DeviceLoop) {
            self.loop = loop
            super.init()
        }

        override func handleEvent(_ token: UInt32, _ readiness: Readiness) {
            calls.withLock { $0.append(token) }
            for registration in registrations { loop.deregister(registration) }
        }

        override func handleTimer(_ token: UInt32) {
            calls.withLock { $0.append(token) }
            if token == 3 { loop.stop() }
        }
    }

    @Test func eventsOfTheBatchAreNotDeliveredAfterDeregistration() throws {
        let thread = try LoopThread()
        let recorder = Recorder(thread.loop)
        let first = try EventCounter()
        let second = try EventCounter()
        recorder.registrations = [
            try thread.loop.register(first.descriptor.raw, .readable, recorder, token: 1),
            try thread.loop.register(second.descriptor.raw, .readable, recorder, token: 2),
        ]
        first.signal()
        second.signal()
        thread.start()
        for _ in 0..<3 { try thread.loop.performAndWait {} }
        #expect(recorder.calls.withLock { $0.count } == 1)
        thread.end()
    }

    @Test func whatIsForgottenIsGone() throws {
        let loop = try DeviceLoop()
        let watched = try EventCounter()
        weak var forgotten: Recorder?
        do {
            let recorder = Recorder(loop)
            recorder.registrations = [try loop.register(watched.descriptor.raw, .readable, recorder, token: 1)]
            loop.setTimer(recorder, token: 2, afterMilliseconds: 1_000_000)
            forgotten = recorder
        }
        #expect(forgotten != nil)
        loop.forgetHandlers()
        #expect(forgotten == nil)
        // The descriptor can be watched again.
        let other = Recorder(loop)
        loop.deregister(try loop.register(watched.descriptor.raw, .readable, other, token: 1))
    }

    @Test func timersComeInTheirOrderOnce() throws {
        let loop = try DeviceLoop()
        let recorder = Recorder(loop)
        loop.setTimer(recorder, token: 3, afterMilliseconds: 30)
        loop.setTimer(recorder, token: 1, afterMilliseconds: 10)
        loop.setTimer(recorder, token: 2, afterMilliseconds: 1)
        loop.setTimer(recorder, token: 2, afterMilliseconds: 20)
        loop.setTimer(recorder, token: 4, afterMilliseconds: 5)
        loop.setTimer(recorder, token: 4, afterMilliseconds: nil)
        try loop.run()
        #expect(recorder.calls.withLock { $0 } == [1, 2, 3])
    }

    @Test func whoComesAfterTheEndDoesItHimself() throws {
        let loop = try DeviceLoop()
        loop.stop()
        try loop.run()
        let done = Atomic(false)
        try loop.performAndWait { done.store(true, ordering: .relaxed) }
        let isDone = done.load(ordering: .relaxed)
        #expect(isDone)
    }
}

@Suite struct DeviceStateTests {
    /// A device goes on in another place over the same memory: what the driver added meanwhile is answered there.
    @Test func deviceGoesOnFromItsState() throws {
        let memory = try DeviceHarness.makeMemory()
        let harness = try DeviceHarness(try EntropyDevice(memory: memory))
        for _ in 0..<5 { _ = try harness.transact(0, [DriverBuffer(20 << 20, 8, writable: true)]) }
        harness.device.attachedLoop?.stop()
        try harness.device.attachedLoop?.performAndWait {}
        let state = harness.device.captureState()
        #expect(state.record.queues[0].nextUsed == 5)
        try harness.queues[0].wantInterrupt()
        let head = try harness.queues[0].add([DriverBuffer(21 << 20, 100, writable: true)])
        let other = try EntropyDevice(memory: memory)
        #expect(other.restore(state))
        let thread = try LoopThread()
        try other.attach(to: thread.loop)
        thread.start()
        // The first interrupt is the one that was pending when the state was taken.
        var used: DriverQueue.Used?
        while used == nil {
            try waitUntilReadable(other.interrupt.descriptor.raw)
            _ = other.interrupt.drain()
            used = try harness.queues[0].takeUsed()
        }
        #expect(used == DriverQueue.Used(head: try #require(head), count: 100))
        thread.end()
        #expect(other.captureState().record.queues[0].nextUsed == 6)
    }

    @Test func brokenDriverIsToldAndMayResetItself() throws {
        let harness = try DeviceHarness(try EntropyDevice(memory: try DeviceHarness.makeMemory()))
        _ = try harness.queues[0].add([DriverBuffer(.max - 5, 100, writable: true)])
        try harness.notify(0)
        try waitUntilReadable(harness.device.interrupt.descriptor.raw)
        #expect(harness.needsReset)
        #expect(harness.readRegister(MMIORegister.interruptStatus) == 2)
        try harness.bringUp()
        #expect(try harness.transact(0, [DriverBuffer(20 << 20, 8, writable: true)]).count == 8)
    }

    @Test(arguments: 0..<2 as Range<UInt64>)
    func randomRegisterAccesses(seed: UInt64) throws {
        var random = SeededGenerator(seed)
        let harness = try DeviceHarness(try EntropyDevice(memory: try DeviceHarness.makeMemory()))
        for _ in 0..<4000 {
            let offset = Bool.random(using: &random) ? random.next() % 0x110 & ~3 : random.next()
            var bytes = random.bytes([1, 2, 4, 4, 4, 8, 0].randomElement(using: &random) ?? 4)
            if offset == MMIORegister.status, bytes.count == 4 {
                bytes = [[0, 1, 3, 11, 15].randomElement(using: &random) ?? 0, 0, 0, 0]
            }
            bytes.withUnsafeBytes { harness.device.write(offset: offset, bytes: $0) }
            bytes.withUnsafeMutableBytes { harness.device.read(offset: offset, into: $0) }
        }
        try harness.bringUp()
        #expect(try harness.transact(0, [DriverBuffer(20 << 20, 8, writable: true)]).count == 8)
    }
}
