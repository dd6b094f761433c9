// SPDX-License-Identifier: Apache-2.0

import Glibc
import MachineAPI
import Platform
import TestSupport
import Testing
import Virtio
import VirtioTestSupport

@testable import Machine

/// Limits as devices keep them: nothing is lost, all of it comes, and what an hour would hold back goes when the limit
/// is taken away.
@Suite struct ThrottleTests {
    private static let anHour = RateLimit(operations: .init(size: 2, refillTime: 3_600_000))
    private static let unlimited = RateLimitUpdate(operations: .init(size: 0, refillTime: 0))

    private static func read(_ socket: SharedDescriptor) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 4096)
        try waitUntilReadable(socket.raw)
        let count = recv(socket.raw, &bytes, bytes.count, 0)
        return Array(bytes[..<max(0, count)])
    }

    private static func update(_ device: VirtioMMIODevice, _ index: Int, _ update: RateLimitUpdate) throws {
        try device.attachedLoop?.performAndWait { try? device.updateLimit(index, update) }
    }

    /// A driver whose other side has read what a fresh one is told.
    private static func pair(
        receive: RateLimit? = nil, transmit: RateLimit? = nil
    ) throws -> (driver: NetDriver, peer: SharedDescriptor) {
        let pair = try UnixSocket.pair(kind: .records)
        let peer = SharedDescriptor(pair.second)
        let driver = try NetDriver(
            .socket(SharedDescriptor(pair.first)), receiveLimit: receive, transmitLimit: transmit)
        for _ in 0..<2 { _ = try read(peer) }
        return (driver, peer)
    }

    /// Frames on their way from the guest.
    private static func submit(_ count: UInt8, _ driver: NetDriver) throws {
        for number in 0..<count { try driver.submit(numbered(number), at: (40 << 20) + UInt64(number) << 12) }
        try driver.harness.notify(1)
    }

    private static func numbered(_ number: UInt8) -> [UInt8] { frame([UInt8](repeating: number, count: 200)) }

    @Test func framesCrossInTheirTime() throws {
        let limit = RateLimit(
            bandwidth: .init(size: 1000, refillTime: 10), operations: .init(size: 2, refillTime: 5, oneTimeBurst: 1))
        let (driver, peer) = try Self.pair(receive: limit, transmit: limit)
        try driver.supply(20, of: 1600)
        try Self.submit(12, driver)
        for number in 0..<12 as Range<UInt8> { #expect(try Self.read(peer) == Self.numbered(number)) }
        for _ in 0..<12 { _ = try driver.harness.nextUsed(1) }
        for number in 0..<12 as Range<UInt8> { try peer.descriptor.writeAll(Self.numbered(number)) }
        for number in 0..<12 as Range<UInt8> { #expect(try driver.receive()[12...].allSatisfy { $0 == number }) }
        #expect(try driver.holds(NetDevice.Queue.receive) > 0 && driver.holds(NetDevice.Queue.transmit) > 0)
        let counters = try driver.counters()
        #expect(counters.droppedToGuest == 0 && counters.droppedFromGuest == 0)
    }

    @Test func aLimitThatGoesLetsGo() throws {
        let (driver, peer) = try Self.pair(receive: Self.anHour, transmit: Self.anHour)
        try driver.supply(20, of: 1600)
        try Self.submit(6, driver)
        for number in 0..<2 as Range<UInt8> { #expect(try Self.read(peer) == Self.numbered(number)) }
        try driver.device.attachedLoop?.performAndWait {}
        #expect(try driver.counters().fromGuest == 2)
        try Self.update(driver.device, NetDevice.Queue.transmit, Self.unlimited)
        for number in 2..<6 as Range<UInt8> { #expect(try Self.read(peer) == Self.numbered(number)) }
        for _ in 0..<6 { _ = try driver.harness.nextUsed(1) }

        for number in 0..<6 as Range<UInt8> { try peer.descriptor.writeAll(Self.numbered(number)) }
        for number in 0..<2 as Range<UInt8> { #expect(try driver.receive()[12...].allSatisfy { $0 == number }) }
        #expect(try driver.counters().toGuest == 2)
        // Another limit begins with full buckets.
        try Self.update(driver.device, NetDevice.Queue.receive, Self.anHour)
        for number in 2..<4 as Range<UInt8> { #expect(try driver.receive()[12...].allSatisfy { $0 == number }) }
        try Self.update(driver.device, NetDevice.Queue.receive, Self.unlimited)
        for number in 4..<6 as Range<UInt8> { #expect(try driver.receive()[12...].allSatisfy { $0 == number }) }
    }

    /// A device that had no limit gets one while it runs.
    @Test func aLimitThatComes() throws {
        let (driver, peer) = try Self.pair()
        try driver.send([Self.numbered(1)])
        #expect(try Self.read(peer) == Self.numbered(1))
        try Self.update(driver.device, NetDevice.Queue.transmit, RateLimit(operations: .init(size: 1, refillTime: 3)))
        try driver.send((2..<6).map { Self.numbered($0) })
        for number in 2..<6 as Range<UInt8> { #expect(try Self.read(peer) == Self.numbered(number)) }
        #expect(try driver.holds(NetDevice.Queue.transmit) > 0)
    }

    @Test func randomBytesInTheirTime() throws {
        let device = try EntropyDevice(
            limit: RateLimit(bandwidth: .init(size: 64, refillTime: 4)), memory: try DeviceHarness.makeMemory())
        let harness = try DeviceHarness(device)
        for index in 0..<6 {
            _ = try harness.queues[0].add([DriverBuffer(UInt64(index + 20) << 20, 64, writable: true)])
        }
        try harness.notify(0)
        for _ in 0..<6 { #expect(try harness.nextUsed(0).count == 64) }
        #expect(device.throttles[0].holdCount > 0)
    }

    /// What a queue was held back at is where a device that goes on from its state begins.
    @Test func levelsAreInTheState() throws {
        let limit = RateLimit(
            bandwidth: .init(size: 1000, refillTime: 3_600_000, oneTimeBurst: 100), operations: nil)
        let (driver, peer) = try Self.pair(transmit: limit)
        try driver.send([Self.numbered(1), Self.numbered(2)])
        for number in 1..<3 as Range<UInt8> { #expect(try Self.read(peer) == Self.numbered(number)) }
        let state = driver.device.captureState()
        #expect(state.levels.count == 2 && state.levels[0] == RateLimiter.Level())
        let level = try #require(state.levels[1].bandwidth)
        #expect(level.burst == 0 && level.available <= 1100 - 2 * 212 && level.debt == 0)
        let other = try UnixSocket.pair(kind: .records)
        let device = try NetDevice(
            peer: .socket(SharedDescriptor(other.first)), address: guestAddress, mtu: 1400, transmitLimit: limit,
            memory: driver.harness.memory)
        #expect(device.restore(state))
        #expect(device.throttles[1].level == state.levels[1])
    }
}
