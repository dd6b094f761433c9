// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import TestSupport
import Testing
import Virtio
import VirtioTestSupport

@testable import Machine

/// A frame with a UDP datagram of IPv4 between two ports of 10.9.0.2 and 10.9.0.1.
private func datagram(_ source: UInt16, _ destination: UInt16, isAnswer: Bool = false, fragment: UInt16 = 0) -> [UInt8]
{
    func big(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 0xff)] }
    let addresses: [[UInt8]] = [[10, 9, 0, 2], [10, 9, 0, 1]]
    let ip: [UInt8] = [0x45, 0, 0, 36, 0, 1] + big(fragment) + [64, 17, 0, 0]
    return [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0] + ip + (isAnswer ? addresses.reversed() : addresses).joined()
        + big(source) + big(destination) + [0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
}

private func flow(_ frame: [UInt8]) -> UInt32? { frame.withUnsafeBytes { FlowSteering.flow(of: $0) } }

private func setPairs(_ count: UInt16) -> [UInt8] { [4, 0, UInt8(count & 0xff), UInt8(count >> 8)] }

@Suite struct NetPairTests {
    private let network: SharedDescriptor
    private let own: SharedDescriptor

    init() throws {
        let pair = try UnixSocket.pair(kind: .records)
        own = SharedDescriptor(pair.first)
        network = SharedDescriptor(pair.second)
    }

    private func receiveRecord() throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 70_000)
        while true {
            try waitUntilReadable(network.raw)
            guard case .bytes(let count) = try bytes.withUnsafeMutableBytes({ try network.descriptor.read(into: $0) })
            else { return [] }
            // Not what the device says of its driver.
            if count > 16 { return Array(bytes[..<count]) }
        }
    }

    /// Sends a frame of a flow by a pair, has the network answer, and sees the answer come back by another.
    private func exchange(_ driver: NetDriver, port: UInt16, by pair: Int, back: Int) throws {
        let record = frame(datagram(port, 7))
        try driver.send([record], pair: pair)
        #expect(try receiveRecord() == record)
        let answer = frame(datagram(7, port, isAnswer: true))
        try network.descriptor.writeAll(answer)
        #expect(try driver.receive(pair: back)[12...] == answer[12...])
    }

    @Test func anAnswerComesByThePairThatAsked() throws {
        let driver = try NetDriver(.socket(own), pairs: 3)
        #expect(driver.harness.configuration(12)[8...9] == [3, 0])
        #expect(driver.harness.queues.count == 7)
        for pair in 0..<3 { try driver.supply(20, of: 1600, pair: pair) }
        // One pair is used until the driver says more.
        try exchange(driver, port: 4000, by: 0, back: 0)
        try exchange(driver, port: 4000, by: 1, back: 0)
        #expect(try driver.command(setPairs(3)) == [0])
        for round in 0..<2 {
            for port in 4000..<4040 as Range<UInt16> {
                let pair = (Int(port) + round) % 3
                try exchange(driver, port: port, by: pair, back: pair)
            }
        }
        #expect(try driver.command(setPairs(2)) == [0])
        for port in 4000..<4010 as Range<UInt16> {
            try exchange(driver, port: port, by: Int(port) % 2, back: Int(port) % 2)
        }
        #expect(try driver.command(setPairs(1)) == [0])
        for pair in 0..<3 { try exchange(driver, port: 4001, by: pair, back: 0) }
        let counters = try driver.counters()
        #expect(counters.droppedToGuest == 0 && counters.droppedFromGuest == 0)
        // A driver that starts anew has one pair again.
        #expect(try driver.command(setPairs(3)) == [0])
        try driver.harness.bringUp()
        let again = try #require(
            try? driver.device.attachedLoop.map { loop in
                try loop.performAndWait {}
                return driver.device.activePairs
            })
        #expect(again == 1)
    }

    static let refused: [([UInt8], Int)] = [
        ([], 1), ([4], 1), ([4, 0], 1), ([4, 0, 2], 1), ([4, 1, 2, 0], 1), ([4, 2, 1, 0], 1), ([3, 0, 2, 0], 1),
        ([0, 0, 1, 0], 1), (setPairs(0), 1), (setPairs(3), 1), (setPairs(0xffff), 1), (setPairs(0x8001), 1),
        (setPairs(2), 0), ([UInt8](repeating: 0xff, count: 60), 1), ([1, 0, 1, 2, 3, 4, 5, 6], 40),
    ]

    @Test(arguments: refused) func aCommandThatMeansNothingChangesNothing(bytes: [UInt8], room: Int) throws {
        let driver = try NetDriver(.socket(own), pairs: 2)
        for pair in 0..<2 { try driver.supply(4, of: 1600, pair: pair) }
        let answer = try driver.command(bytes, room: room)
        #expect(answer == (room > 0 ? [1] : []))
        // What has no room for an answer is done all the same.
        let used = room == 0 ? 1 : 0
        try exchange(driver, port: 4001, by: 1, back: used)
        #expect(!driver.harness.needsReset)
        #expect(try driver.command(setPairs(2) + [9, 9]) == [0])
        try exchange(driver, port: 4001, by: 1, back: 1)
    }

    /// Pairs whose queues the driver has not set up are not used; nor are any by a driver that knows of none.
    @Test(arguments: [~NetFeature.severalPairs, ~NetFeature.controlQueue])
    func pairsTakeBothFeatures(features: UInt64) throws {
        let driver = try NetDriver(.socket(own), features: features, pairs: 2)
        try driver.supply(4, of: 1600)
        if features & NetFeature.controlQueue != 0 {
            // The control queue is the third then (§5.1.2).
            let address = try driver.harness.allocate(setPairs(2))
            let answer = try driver.harness.allocate([0xee])
            _ = try driver.harness.transact(2, [DriverBuffer(address, 4), DriverBuffer(answer, 1, writable: true)])
            #expect(try driver.harness.memory.read(answer, count: 1) == [1])
        } else {
            _ = try driver.harness.queues[4].add([DriverBuffer(try driver.harness.allocate(setPairs(2)), 4)])
            driver.device.kickQueues()
        }
        try exchange(driver, port: 4001, by: 0, back: 0)
        #expect(!driver.harness.needsReset)
    }

    @Test func aKeptStateGoesOnWithItsPairs() throws {
        let first = try NetDriver(.socket(own), pairs: 2)
        #expect(try first.command(setPairs(2)) == [0])
        var state = first.device.captureState()
        #expect(state.queuePairs == 2 && state.record.queues.count == 5)
        #expect(NetDevice.pairs(queueCount: 5) == 2)
        func restored(_ state: VirtioDeviceState, pairs: Int) throws -> NetDevice? {
            let device = try NetDevice(
                peer: .path("/nowhere"), address: guestAddress, pairs: pairs, memory: first.harness.memory)
            return device.restore(state) ? device : nil
        }
        let second = try #require(try restored(state, pairs: 2))
        let thread = try LoopThread()
        try second.attach(to: thread.loop)
        thread.start()
        try thread.loop.performAndWait {}
        #expect(second.captureState().queuePairs == 2)
        try thread.loop.performAndWait { second.detach() }
        thread.end()
        // A state of another number of queues, or of more pairs than there are.
        #expect(try restored(state, pairs: 3) == nil && restored(state, pairs: 1) == nil)
        for pairs in [0, 3, .max] as [UInt16] {
            state.queuePairs = pairs
            #expect(try restored(state, pairs: 2) == nil)
        }
    }

    /// Snapshots from before there were several pairs have one.
    @Test func statesWithOnePairAreGoneOnFrom() throws {
        var found = 0
        for (name, bytes) in snapshotCorpus("state") {
            for saved in try MachineState(reading: bytes).devices {
                guard case .interface = saved.identity else { continue }
                found += 1
                let pairs = try #require(NetDevice.pairs(queueCount: saved.state.record.queues.count))
                let device = try NetDevice(
                    peer: .path("/nowhere"), address: guestAddress, pairs: pairs,
                    memory: try DeviceHarness.makeMemory())
                #expect(device.restore(saved.state), "\(name)")
                #expect(device.captureState().queuePairs == nil || pairs > 1)
            }
        }
        #expect(found > 0)
        #expect([0, 1, 3, 4, 6].allSatisfy { NetDevice.pairs(queueCount: $0) == nil })
    }

    @Test func bothDirectionsAreOneFlow() throws {
        #expect(flow(datagram(4000, 7)) == flow(datagram(7, 4000, isAnswer: true)))
        #expect(flow(datagram(4000, 7)) != flow(datagram(4001, 7)))
        #expect(flow(datagram(1, 2)) != flow(datagram(2, 1)))
        // Fragments: the first has ports, those after it have bytes in their place.
        #expect(flow(datagram(4000, 7, fragment: 0x2000)) == flow(datagram(9, 9, fragment: 0x2003)))
        let six: [UInt8] = [UInt8](repeating: 0, count: 12) + [0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 6, 64]
        let (one, other) = ((0..<16).map { UInt8($0 + 32) }, (0..<16).map { UInt8($0 * 3) })
        #expect(flow(six + one + other + [1, 2, 3, 4]) == flow(six + other + one + [3, 4, 1, 2]))
        #expect(flow(six + one + other + [1, 2, 3, 4]) != flow(six + one + other + [1, 2, 3, 5]))
        var random = SeededGenerator(8)
        var steering = FlowSteering()
        for _ in 0..<fuzzRounds(20_000) {
            var bytes = random.bytes(Int.random(in: 0...100, using: &random))
            if bytes.count > 14 {
                bytes.replaceSubrange(12..<14, with: Bool.random(using: &random) ? [8, 0] : [0x86, 0xdd])
            }
            let pairs = Int.random(in: 1...16, using: &random)
            bytes.withUnsafeBytes { frame in
                let pair = Int.random(in: 0..<pairs, using: &random)
                steering.note(frame, pair: pair)
                #expect(steering.pair(of: frame, among: pairs) == (FlowSteering.flow(of: frame) == nil ? 0 : pair))
                #expect((0..<2).contains(steering.pair(of: frame, among: 2)))
            }
        }
    }

    @Test(arguments: 0..<3 as Range<UInt64>) func hostileDriver(seed: UInt64) throws {
        let device = try NetDevice(
            peer: .socket(own), address: guestAddress, pairs: 3, memory: try DeviceHarness.makeMemory())
        try network.descriptor.setNonBlocking()
        var space = [UInt8](repeating: 0, count: 70_000)
        try fuzzQueues(device, seed: seed, rounds: 100) { random in
            let record = frame(datagram(UInt16.random(in: 0...9, using: &random), 7, isAnswer: true))
            _ = try? record.withUnsafeBytes { try network.descriptor.write($0) }
            _ = try? space.withUnsafeMutableBytes { try network.descriptor.read(into: $0) }
            switch Int.random(in: 0..<3, using: &random) {
            case 0: return setPairs(UInt16.random(in: 0...4, using: &random))
            case 1: return frame(datagram(7, UInt16.random(in: 0...9, using: &random)))
            default: return random.bytes([1, 4, 26, 60].randomElement(using: &random) ?? 1)
            }
        }
    }
}
