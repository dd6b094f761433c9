// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import TestSupport
import Testing

@testable import Machine

let guestAddress = MACAddress([2, 0, 0, 0, 0, 1])

private func receiveRecord(_ socket: SharedDescriptor) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 70_000)
    try waitUntilReadable(socket.raw)
    guard case .bytes(let count) = try bytes.withUnsafeMutableBytes({ try socket.descriptor.read(into: $0) }) else {
        return []
    }
    return Array(bytes[..<count])
}

@Suite struct NetDeviceTests {
    private let peer: SharedDescriptor
    private let own: SharedDescriptor

    init() throws {
        let pair = try UnixSocket.pair(kind: .records)
        own = SharedDescriptor(pair.first)
        peer = SharedDescriptor(pair.second)
    }

    /// The peer's view of a driver that starts: a message without driver, one with.
    private func expectStart() throws -> UInt32 {
        #expect(try receiveRecord(peer) == [1, 1, 0, 0, 0, 0, 0, 0, 0x78, 5, 2, 0, 0, 0, 0, 1])
        let message = try receiveRecord(peer)
        #expect(message.count == 16 && message[2] == 1)
        return (0..<4).reduce(0) { $0 | UInt32(message[4 + $1]) << UInt32(8 * $1) }
    }

    @Test(arguments: [UInt64.max, ~NetFeature.mergeableBuffers])
    func framesCross(features: UInt64) throws {
        let driver = try NetDriver(.socket(own), features: features)
        #expect(driver.harness.configuration(12) == [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0x78, 5])
        let accepted = try expectStart()
        #expect(UInt64(accepted) & NetFeature.mergeableBuffers == features & NetFeature.mergeableBuffers & 0xffff_ffff)
        let isMerging = features == .max
        try driver.supply(isMerging ? 60 : 8, of: isMerging ? 1600 : 66_000)
        var random = SeededGenerator(4)
        for _ in 0..<12 {
            var sent: [[UInt8]] = []
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                let count = [14, 60, 1500, 9000, 65_550].randomElement(using: &random) ?? 14
                let record = frame(random.bytes(count))
                sent.append(record)
                try driver.submit(record, at: (40 << 20) + UInt64(sent.count) * 70_000)
            }
            try driver.harness.notify(1)
            for record in sent { #expect(try receiveRecord(peer) == record) }
            for _ in sent { _ = try driver.harness.nextUsed(1) }
            for record in sent {
                try peer.descriptor.writeAll(record)
                let got = try driver.receive()
                #expect(got.count == record.count && got[12...] == record[12...])
            }
        }
        let counters = try driver.counters()
        #expect(counters.toGuest == counters.fromGuest && counters.toGuest > 12)
        #expect(counters.droppedToGuest == 0 && counters.droppedFromGuest == 0)
    }

    @Test func offloadsAreForThoseWhoAcceptThem() throws {
        let driver = try NetDriver(.socket(own), features: ~NetFeature.guestTSO6)
        _ = try expectStart()
        try driver.supply(8, of: 4096)
        let payload = [UInt8](repeating: 3, count: 100)
        let segment4: [UInt8] = [1, 1, 54, 0, 20, 0, 34, 0, 16, 0]
        let segment6: [UInt8] = [1, 4, 74, 0, 20, 0, 54, 0, 16, 0]
        let beyond: [UInt8] = [1, 0, 0, 0, 0, 0, 90, 0, 9, 0]
        let unknown: [UInt8] = [0, 3, 0, 0, 20, 0, 0, 0, 0, 0]
        for header in [segment6, beyond, unknown, segment4] {
            try peer.descriptor.writeAll(frame(payload, header: header))
        }
        #expect(try driver.receive()[..<10] == segment4[...])
        #expect(try driver.counters().droppedToGuest == 3)
        // What the guest asks of the network crosses as it is.
        try driver.send([frame(payload, header: segment6)])
        #expect(try receiveRecord(peer)[..<10] == segment6[...])
    }

    @Test func runtsAndGiantsStayInside() throws {
        let driver = try NetDriver(.socket(own))
        _ = try expectStart()
        try driver.send([[1], frame([UInt8](repeating: 1, count: 13)), frame([UInt8](repeating: 1, count: 65_551))])
        try driver.send([frame([UInt8](repeating: 2, count: 14))])
        #expect(try receiveRecord(peer).count == 26)
        #expect(try driver.counters().droppedFromGuest == 3)
    }

    /// Frames wait for buffers, in the socket; nothing spins, nothing is lost.
    @Test func framesWaitForBuffers() throws {
        let driver = try NetDriver(.socket(own))
        _ = try expectStart()
        for number in 0..<5 as Range<UInt8> {
            try peer.descriptor.writeAll(frame([UInt8](repeating: number, count: 5000)))
        }
        // Too few for one frame: the rest is waited for.
        try driver.supply(2, of: 1600)
        try driver.device.attachedLoop?.performAndWait {}
        #expect(try driver.counters().toGuest == 0)
        try driver.supply(3, of: 1600)
        for number in 0..<5 as Range<UInt8> { #expect(try driver.receive()[12...].allSatisfy { $0 == number }) }
    }

    @Test func fullSocketHoldsTheGuestBack() throws {
        let driver = try NetDriver(.socket(own))
        _ = try expectStart()
        var random = SeededGenerator(8)
        let records = (0..<30).map { _ in frame(random.bytes(60_000)) }
        for (index, record) in records.enumerated() {
            try driver.submit(record, at: (36 << 20) + UInt64(index) * 70_000)
        }
        try driver.harness.notify(1)
        for record in records { #expect(try receiveRecord(peer) == record) }
        for _ in records { _ = try driver.harness.nextUsed(1) }
        #expect(try driver.counters().fromGuest == 30)
    }

    @Test func carrierFollowsTheNetwork() throws {
        let scratch = try ScratchDirectory()
        let path = "\(scratch.path)/net"
        let driver = try NetDriver(.path(path))
        #expect(driver.status == 0)
        try driver.send([frame([UInt8](repeating: 1, count: 60))])
        #expect(try driver.counters().droppedFromGuest == 1)
        for round in 0..<2 {
            let listener = try UnixSocket.listen(at: path, kind: .records, nonBlocking: false)
            guard let accepted = try UnixSocket.accept(on: listener, nonBlocking: false) else { return }
            let network = SharedDescriptor(accepted)
            let message = try receiveRecord(network)
            #expect(message.count == 16 && message[2] == 1)
            while driver.status == 0 { try driver.harness.waitForInterrupt() }
            try driver.send([frame([UInt8](repeating: 9, count: 60))])
            #expect(try receiveRecord(network).count == 72)
            if round == 0 {
                // The network takes the carrier away, and gives it back.
                try network.descriptor.writeAll([2, 1, 0, 0])
                while driver.status == 1 { try driver.harness.waitForInterrupt() }
                try network.descriptor.writeAll([2, 1, 1, 0])
                while driver.status == 0 { try driver.harness.waitForInterrupt() }
            }
            Files.remove(path)
            shutdown(network.raw, Int32(SHUT_RDWR))
            while driver.status == 1 { try driver.harness.waitForInterrupt() }
        }
    }

    @Test(arguments: 0..<4 as Range<UInt64>)
    func hostileDriver(seed: UInt64) throws {
        let device = try NetDevice(
            peer: .socket(own), address: guestAddress, memory: try DeviceHarness.makeMemory())
        var random = SeededGenerator(seed)
        let network = peer
        try network.descriptor.setNonBlocking()
        var space = [UInt8](repeating: 0, count: 70_000)
        try fuzzQueues(device, seed: seed, rounds: 150) { inner in
            // The network is no better.
            var record = random.bytes([1, 4, 25, 26, 100, 3000].randomElement(using: &random) ?? 1)
            if record.count > 25, Bool.random(using: &random) {
                record.replaceSubrange(0..<12, with: [UInt8](repeating: 0, count: 12))
            }
            _ = try? record.withUnsafeBytes { try network.descriptor.write($0) }
            _ = try? space.withUnsafeMutableBytes { try network.descriptor.read(into: $0) }
            return inner.bytes([10, 26, 60, 1000].randomElement(using: &inner) ?? 26)
        }
    }
}
