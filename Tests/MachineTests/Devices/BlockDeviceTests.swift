// SPDX-License-Identifier: Apache-2.0

import MachineAPI
import Platform
import TestSupport
import Testing
import Virtio
import VirtioTestSupport

@testable import Machine

/// A driver's view of a disk.
private struct Disk {
    let harness: DeviceHarness

    /// Adds a request; gives the addresses of its data and its status byte.
    func submit(
        _ type: UInt32, sector: UInt64 = 0, data: [UInt8] = [], room: Int = 0, split: Int? = nil,
        indirect: Bool = false
    ) throws -> (data: UInt64, status: UInt64, head: UInt16) {
        var header: [UInt8] = []
        for index in 0..<4 { header.append(UInt8(truncatingIfNeeded: type >> UInt32(8 * index))) }
        header += [0, 0, 0, 0]
        for index in 0..<8 { header.append(UInt8(truncatingIfNeeded: sector >> UInt64(8 * index))) }
        let headerAddress = try harness.allocate(header)
        let dataAddress = data.isEmpty ? harness.allocate(max(room, 1)) : try harness.allocate(data)
        let status = try harness.allocate([0xee])
        var buffers = [DriverBuffer(headerAddress, 16)]
        let count = max(data.count, room)
        if let split, split < count {
            buffers.append(DriverBuffer(dataAddress, split, writable: room > 0))
            buffers.append(DriverBuffer(dataAddress + UInt64(split), count - split, writable: room > 0))
        } else if count > 0 {
            buffers.append(DriverBuffer(dataAddress, count, writable: room > 0))
        }
        buffers.append(DriverBuffer(status, 1, writable: true))
        let head = try #require(try harness.queues[0].add(buffers, indirect: indirect))
        return (dataAddress, status, head)
    }

    func request(
        _ type: UInt32, sector: UInt64 = 0, data: [UInt8] = [], room: Int = 0, split: Int? = nil,
        indirect: Bool = false
    ) throws -> (status: UInt8, data: [UInt8], written: UInt32) {
        let request = try submit(type, sector: sector, data: data, room: room, split: split, indirect: indirect)
        try harness.notify(0)
        let used = try harness.nextUsed(0)
        #expect(used.head == request.head)
        return (
            try harness.memory.load(UInt8.self, at: request.status),
            try harness.memory.read(request.data, count: room), used.count
        )
    }
}

private func range(_ sector: UInt64, _ count: UInt32, flags: UInt32 = 0) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: sector >> UInt64(8 * $0)) }
        + (0..<4).map { UInt8(truncatingIfNeeded: count >> UInt32(8 * $0)) }
        + (0..<4).map { UInt8(truncatingIfNeeded: flags >> UInt32(8 * $0)) }
}

@Suite struct BlockDeviceTests {
    let scratch: ScratchDirectory
    let workers = IOWorkers()

    init() throws { scratch = try ScratchDirectory() }

    private func file(_ name: String, _ bytes: [UInt8]) throws -> SharedDescriptor {
        let file = try Descriptor.open("\(scratch.path)/\(name)", .create)
        try file.writeAll(bytes)
        return SharedDescriptor(file)
    }

    private func disk(
        _ backend: BlockBackend, cacheType: BlockCacheType = .unsafe, features: UInt64 = .max, limit: RateLimit? = nil
    ) throws -> Disk {
        let device = try BlockDevice(
            id: "root-disk", backend: backend, cacheType: cacheType, limit: limit, workers: workers,
            memory: try DeviceHarness.makeMemory())
        return Disk(harness: try DeviceHarness(device, features: features))
    }

    @Test(arguments: [UInt64.max, 0])
    func writesAreReadBack(features: UInt64) throws {
        let backing = try file("disk", [UInt8](repeating: 0, count: 1 << 20))
        let disk = try disk(try BlockBackend(writable: backing), cacheType: .writeback, features: features)
        #expect(disk.harness.configuration(8) == [0, 8, 0, 0, 0, 0, 0, 0])
        var random = SeededGenerator(7)
        for round in 0..<60 {
            let count = 512 * Int.random(in: 1...64, using: &random)
            let sector = UInt64.random(in: 0...(2048 - UInt64(count / 512)), using: &random)
            let bytes = random.bytes(count)
            let split = Int.random(in: 1..<count, using: &random)
            let indirect = features != 0 && round % 2 == 0
            let write = try disk.request(1, sector: sector, data: bytes, split: split, indirect: indirect)
            #expect(write.status == 0 && write.written == 1)
            let read = try disk.request(0, sector: sector, room: count, split: count - split, indirect: indirect)
            #expect(read.status == 0 && read.written == UInt32(count + 1))
            #expect(read.data == bytes)
            var kept = [UInt8](repeating: 0, count: count)
            let got = try kept.withUnsafeMutableBytes {
                try backing.descriptor.readFully(into: $0, at: sector * 512)
            }
            #expect(got == count && kept == bytes)
        }
        #expect(try disk.request(4).status == 0)
    }

    @Test func requestsGoInTheirTime() throws {
        let disk = try disk(
            try BlockBackend(writable: try file("disk", [UInt8](repeating: 7, count: 1 << 20))),
            limit: RateLimit(
                bandwidth: .init(size: 4096, refillTime: 5), operations: .init(size: 3, refillTime: 5)))
        var reads: [(data: UInt64, status: UInt64, head: UInt16)] = []
        for index in 0..<8 as Range<UInt64> { reads.append(try disk.submit(0, sector: 4 * index, room: 2048)) }
        try disk.harness.notify(0)
        for _ in reads { _ = try disk.harness.nextUsed(0) }
        for read in reads {
            #expect(try disk.harness.memory.load(UInt8.self, at: read.status) == 0)
            #expect(try disk.harness.memory.read(read.data, count: 2048).allSatisfy { $0 == 7 })
        }
        #expect(disk.harness.device.throttles[0].holdCount > 0)
        // One that is larger than the bucket goes as well.
        #expect(try disk.request(0, room: 65_536).status == 0)
        #expect(try disk.request(0, room: 512).status == 0)
    }

    @Test func requestsAreRefusedBeyondTheEndOrOddOrUnknown() throws {
        let disk = try disk(try BlockBackend(writable: try file("disk", [UInt8](repeating: 1, count: 4096))))
        #expect(try disk.request(0, sector: 8, room: 512).status == 1)
        #expect(try disk.request(0, sector: 7, room: 1024).status == 1)
        #expect(try disk.request(0, sector: .max, room: 512).status == 1)
        #expect(try disk.request(0, sector: 0, room: 100).status == 1)
        #expect(try disk.request(99, room: 512).status == 2)
        #expect(try disk.request(11, data: range(0, 9)).status == 1)
        #expect(try disk.request(11, data: range(0, 1, flags: 1)).status == 1)
        #expect(try disk.request(11, data: [1, 2, 3]).status == 1)
        #expect(try disk.request(0, sector: 7, room: 512).status == 0)
    }

    @Test func identity() throws {
        let disk = try disk(try BlockBackend(writable: try file("disk", [UInt8](repeating: 1, count: 4096))))
        #expect(
            try disk.request(8, room: 20).data == Array("root-disk".utf8) + [UInt8](repeating: 0, count: 11))
    }

    @Test func discardAndWriteZeroes() throws {
        let backing = try file("disk", [UInt8](repeating: 7, count: 1 << 20))
        let disk = try disk(try BlockBackend(writable: backing))
        #expect(try disk.request(11, data: range(8, 8) + range(64, 64)).status == 0)
        #expect(try disk.request(0, sector: 7, room: 5120).data[512..<4608].allSatisfy { $0 == 0 })
        #expect(try disk.request(0, sector: 64, room: 32768).data.allSatisfy { $0 == 0 })
        #expect(try disk.request(13, data: range(256, 3)).status == 0)
        #expect(try disk.request(13, data: range(300, 16, flags: 1)).status == 0)
        let after = try disk.request(0, sector: 255, room: 5 * 512).data
        #expect(after[..<512].allSatisfy { $0 == 7 } && after[512..<2048].allSatisfy { $0 == 0 })
        #expect(after[2048...].allSatisfy { $0 == 7 })
        #expect(try disk.request(0, sector: 300, room: 8192).data.allSatisfy { $0 == 0 })
        #expect(try backing.descriptor.size() == 1 << 20)
    }

    /// Metadata and layers as one disk: each padded with zeros, requests across borders, parts from within a file.
    @Test func extentsAreOneDisk() throws {
        var random = SeededGenerator(3)
        var parts: [BlockExtent] = []
        var expected: [UInt8] = []
        for (index, count) in [5000, 4096, 1, 12345, 100_000].enumerated() {
            let bytes = random.bytes(count)
            let before = index * 777
            let backing = try file("part\(index)", random.bytes(before) + bytes + random.bytes(99))
            parts.append(BlockExtent(file: backing, offset: UInt64(before), count: UInt64(count)))
            expected += bytes + [UInt8](repeating: 0, count: (4096 - count % 4096) % 4096)
        }
        let backend = try BlockBackend(parts)
        #expect(backend.byteCount == UInt64(expected.count))
        let disk = try disk(backend)
        #expect(disk.harness.readRegister(MMIORegister.status) == 15)
        #expect(try disk.request(0, room: expected.count).data == expected)
        for _ in 0..<100 {
            let sector = Int.random(in: 0..<(expected.count / 512), using: &random)
            let count = 512 * Int.random(in: 1...min(40, expected.count / 512 - sector), using: &random)
            let read = try disk.request(0, sector: UInt64(sector), room: count)
            #expect(read.data == Array(expected[(sector * 512)..<(sector * 512 + count)]))
        }
        #expect(try disk.request(1, data: [UInt8](repeating: 0, count: 512)).status == 1)
    }

    @Test func extentBeyondItsFileIsRefused() throws {
        let backing = try file("short", [1, 2, 3])
        #expect(throws: DeviceError.extentBeyondFile(index: 0, end: 4, size: 3)) {
            _ = try BlockBackend([BlockExtent(file: backing, offset: 1, count: 3)])
        }
        #expect(throws: DeviceError.emptyDisk) { _ = try BlockBackend([]) }
        #expect(throws: DeviceError.emptyDisk) { _ = try BlockBackend(writable: backing) }
    }

    /// A file that is cut while in use gives errors, not zeros.
    @Test func fileCutShortIsAnError() throws {
        let backing = try file("cut", [UInt8](repeating: 5, count: 8192))
        let disk = try disk(try BlockBackend(readOnly: backing))
        try backing.descriptor.truncate(to: 4096)
        #expect(try disk.request(0, sector: 0, room: 4096).status == 0)
        #expect(try disk.request(0, sector: 8, room: 4096).status == 1)
    }

    /// Many at once, answered in any order, each right; large ones by the workers.
    @Test func manyInFlight() throws {
        var random = SeededGenerator(11)
        let content = random.bytes(8 << 20)
        let disk = try disk(try BlockBackend(readOnly: try file("large", content)))
        for _ in 0..<3 {
            var waiting: [UInt16: (sector: Int, count: Int, data: UInt64, status: UInt64)] = [:]
            for index in 0..<24 {
                let count = index % 8 == 0 ? (1 << 20) + 4096 : 4096
                let sector = Int.random(in: 0...((content.count - count) / 512), using: &random)
                let request = try disk.submit(0, sector: UInt64(sector), room: count)
                waiting[request.head] = (sector, count, request.data, request.status)
            }
            try disk.harness.notify(0)
            while !waiting.isEmpty {
                let used = try disk.harness.nextUsed(0)
                let found = waiting.removeValue(forKey: used.head)
                let request = try #require(found)
                #expect(try disk.harness.memory.load(UInt8.self, at: request.status) == 0)
                let bytes = try disk.harness.memory.read(request.data, count: request.count)
                #expect(bytes == Array(content[(request.sector * 512)..<(request.sector * 512 + request.count)]))
            }
            // Room for the next round.
            try disk.harness.bringUp()
        }
    }

    @Test func resetWaitsForWhatIsInFlight() throws {
        let disk = try disk(try BlockBackend(writable: try file("disk", [UInt8](repeating: 1, count: 4 << 20))))
        for _ in 0..<20 {
            for _ in 0..<8 { _ = try disk.submit(13, data: range(0, 2048)) }
            try disk.harness.notify(0)
            try disk.harness.bringUp()
            #expect(try disk.request(0, room: 512).status == 0)
        }
    }
}

@Suite struct BlockDeviceFuzz {
    @Test(arguments: 0..<4 as Range<UInt64>)
    func hostileDriver(seed: UInt64) throws {
        let scratch = try ScratchDirectory()
        let file = try Descriptor.open("\(scratch.path)/disk", .create)
        try file.truncate(to: 1 << 20)
        let device = try BlockDevice(
            id: "fuzz", backend: try BlockBackend(writable: SharedDescriptor(file)), cacheType: .writeback,
            workers: IOWorkers(), memory: try DeviceHarness.makeMemory())
        try fuzzQueues(device, seed: seed, rounds: 150) { random in
            // A request that is nearly right.
            let type = [0, 1, 4, 8, 11, 13, 99].randomElement(using: &random) ?? 0
            return [UInt8(type), 0, 0, 0, 0, 0, 0, 0, UInt8.random(in: 0...255, using: &random), 0, 0, 0, 0, 0, 0, 0]
        }
    }
}
