// SPDX-License-Identifier: Apache-2.0

import MachineAPI
import Testing
import Virtio
import VirtioTestSupport

@testable import Machine

/// A guest's network driver.
final class NetDriver {
    let harness: DeviceHarness
    let device: NetDevice
    private var buffers: [Place: (address: UInt64, count: Int)] = [:]

    /// A buffer in a pair's receive queue.
    private struct Place: Hashable {
        let pair: Int
        let head: UInt16
    }

    init(
        _ peer: NetPeer, features: UInt64 = .max, pairs: Int = 1, receiveLimit: RateLimit? = nil,
        transmitLimit: RateLimit? = nil
    ) throws {
        device = try NetDevice(
            peer: peer, address: guestAddress, mtu: 1400, pairs: pairs, receiveLimit: receiveLimit,
            transmitLimit: transmitLimit, memory: try DeviceHarness.makeMemory())
        harness = try DeviceHarness(device, features: features)
    }

    /// Gives the device buffers, each cut in two.
    func supply(_ number: Int, of count: Int, pair: Int = 0) throws {
        for _ in 0..<number { try supply((harness.allocate(count), count), pair) }
        try harness.notify(2 * pair)
    }

    private func supply(_ buffer: (address: UInt64, count: Int), _ pair: Int) throws {
        let head = try harness.queues[2 * pair].add([
            DriverBuffer(buffer.address, 100, writable: true),
            DriverBuffer(buffer.address + 100, buffer.count - 100, writable: true),
        ])
        buffers[Place(pair: pair, head: try #require(head))] = buffer
    }

    /// The next frame, header included; its buffers are given back.
    func receive(pair: Int = 0) throws -> [UInt8] {
        var record: [UInt8] = []
        var left = 1
        var isFirst = true
        while left > 0 {
            let used = try harness.nextUsed(2 * pair)
            let found = buffers.removeValue(forKey: Place(pair: pair, head: used.head))
            let buffer = try #require(found)
            let bytes = try harness.memory.read(buffer.address, count: Int(used.count))
            if isFirst { left = Int(bytes[10]) | Int(bytes[11]) << 8 }
            isFirst = false
            left -= 1
            record += bytes
            try supply(buffer, pair)
        }
        try harness.notify(2 * pair)
        return record
    }

    func submit(_ record: [UInt8], at address: UInt64, pair: Int = 0) throws {
        try harness.memory.write(record, at: address)
        let half = record.count / 2
        let head = try harness.queues[2 * pair + 1].add(
            half == 0
                ? [DriverBuffer(address, record.count)]
                : [DriverBuffer(address, half), DriverBuffer(address + UInt64(half), record.count - half)])
        _ = try #require(head)
    }

    func send(_ records: [[UInt8]], pair: Int = 0) throws {
        for (index, record) in records.enumerated() {
            try submit(record, at: (40 << 20) + UInt64(index) * 70_000, pair: pair)
        }
        try harness.notify(2 * pair + 1)
        for _ in records { _ = try harness.nextUsed(2 * pair + 1) }
    }

    /// Gives the device a command, and has what it answers in a buffer of `room` bytes.
    func command(_ bytes: [UInt8], room: Int = 1) throws -> [UInt8] {
        let address = harness.allocate(64)
        let answer = try harness.allocate([UInt8](repeating: 0xee, count: max(1, room)))
        try harness.memory.write(bytes, at: address)
        var buffers: [DriverBuffer] = bytes.isEmpty ? [] : [DriverBuffer(address, bytes.count)]
        if room > 0 { buffers.append(DriverBuffer(answer, room, writable: true)) }
        let used = try harness.transact(harness.queues.count - 1, buffers)
        return try harness.memory.read(answer, count: Int(used.count))
    }

    var status: UInt16 { UInt16(harness.configuration(12)[6]) }

    func counters() throws -> NetCounters {
        let box = CountersBox()
        try device.attachedLoop?.performAndWait { [device] in box.counters = device.counters }
        return box.counters
    }

    /// How often the throttle of a direction has held something back.
    func holds(_ queue: Int) throws -> UInt64 {
        let box = CountersBox()
        try device.attachedLoop?.performAndWait { [device] in box.holds = device.throttles[queue].holdCount }
        return box.holds
    }
}

/// Handed from the loop's thread to a waiting one.
private final class CountersBox: @unchecked Sendable {
    var counters = NetCounters()
    var holds: UInt64 = 0
}

/// A record of the network socket.
func frame(_ payload: [UInt8], header: [UInt8] = [UInt8](repeating: 0, count: 10)) -> [UInt8] {
    header + [0, 0] + payload
}
