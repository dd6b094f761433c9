// SPDX-License-Identifier: Apache-2.0

import Fabric
import Packet
import TestSupport
import Testing

@Suite struct Queues {
    @Test func orderWithinASender() {
        var queue = EgressQueue<Int>(limitInBytes: 1 << 20)
        for index in 0..<500 {
            let isTaken = queue.push(index, bytes: 100, from: 1)
            #expect(isTaken)
        }
        for index in 0..<500 {
            let front = queue.front()
            #expect(front == index)
            queue.removeFront()
        }
        let nothing = queue.front()
        #expect(queue.isEmpty && queue.bytes == 0 && nothing == nil)
    }

    @Test func aFloodLeavesTheOthersTheirShare() {
        var queue = EgressQueue<Int>(limitInBytes: 1 << 20)
        // One floods with large frames; three others send a little, after it.
        var accepted = 0
        while queue.push(0, bytes: 1500, from: 0) { accepted += 1 }
        #expect(abs(accepted * 1500 - (1 << 19)) <= 1500)
        for source in 1...3 {
            for _ in 0..<20 {
                let isTaken = queue.push(source, bytes: 1500, from: source)
                #expect(isTaken)
            }
        }
        // In turns of bytes: the others' 20 frames each are through when the flood has had about as many.
        var served = [0, 0, 0, 0]
        while served[1] < 20 || served[2] < 20 || served[3] < 20, let source = queue.front() {
            served[source] += 1
            queue.removeFront()
        }
        #expect(served[0] <= 45, "\(served)")
    }

    @Test func eachSendersBytesAreKnown() {
        var queue = EgressQueue<Int>(limitInBytes: 1 << 20)
        _ = queue.push(1, bytes: 100, from: 1)
        _ = queue.push(2, bytes: 200, from: 2)
        _ = queue.push(3, bytes: 300, from: 2)
        #expect(queue.bytes(from: 1) == 100 && queue.bytes(from: 2) == 500 && queue.bytes(from: 3) == 0)
        while let item = queue.front() {
            queue.removeFront()
            #expect(queue.bytes(from: 1) == (item == 1 ? 0 : queue.bytes - queue.bytes(from: 2)))
        }
        #expect(queue.bytes(from: 2) == 0 && queue.bytes == 0)
    }

    @Test func sharesAreOfBytes() {
        var queue = EgressQueue<Int>(limitInBytes: 8 << 20)
        for _ in 0..<60 { _ = queue.push(0, bytes: 64_000, from: 0) }
        for _ in 0..<10_000 { _ = queue.push(1, bytes: 64, from: 1) }
        var bytes = [0, 0]
        for _ in 0..<5000 {
            guard let source = queue.front() else { break }
            bytes[source] += source == 0 ? 64_000 : 64
            queue.removeFront()
        }
        #expect(abs(bytes[0] - bytes[1]) < 130_000, "\(bytes)")
    }

    @Test func boundsHoldWhateverHappens() {
        var random = SeededGenerator(11)
        var queue = EgressQueue<Int>(limitInBytes: 100_000)
        var inside: [Int: [Int]] = [:]
        var next = 0
        for _ in 0..<50_000 {
            if random.next() % 3 > 0 {
                let source = Int(random.next() % 5)
                if queue.push(next, bytes: Int(random.next() % 3000) + 1, from: source) {
                    inside[source, default: []].append(next)
                }
                next += 1
            } else if let item = queue.front() {
                queue.removeFront()
                let source = inside.first { $0.value.first == item }?.key
                #expect(source != nil)
                if let source { inside[source]?.removeFirst() }
            }
            #expect(queue.bytes <= 100_000)
        }
        let rest = queue.removeAll()
        #expect(rest == inside.values.reduce(0) { $0 + $1.count } && queue.isEmpty)
    }
}

@Suite struct Fuzz {
    /// Whatever a machine sends, the router says what becomes of it, and only what is its own gets through.
    @Test func hostileRecords() throws {
        let bench = try Bench()
        var random = SeededGenerator(0xFAB)
        let (a, b) = (bench.a, bench.b)
        let corpus: [[UInt8]] = [
            a.send4(Record.udp(1, 2), to: b.mac, b.v4), a.send6(Record.udp(1, 2), to: b.mac, b.v6),
            a.send4(Record.udp(68, 67, Leases.message(1, a.mac)), to: .broadcast, .broadcast),
            a.send4(Record.udp(5, 53, query("b.blue", edns: 4096)), to: gatewayMAC, gateway4),
            a.send4(Record.echo(), to: gatewayMAC, gateway4, number: 1),
            a.send4(Record.udp(1, 2), to: gatewayMAC, v4("192.0.2.1"), ttl: 1),
            a.send6(Record.probe(for: b.v6), to: .broadcast, b.v6.solicitedNode, number: 58, from: .any, hopLimit: 255),
            a.send6(Record.solicitation(for: b.v6, from: a.mac), to: b.mac, b.v6, number: 58, hopLimit: 255),
            a.send6(Record.udp(546, 547, [1, 1, 2, 3, 0, 1, 0, 2, 9, 9]), to: gatewayMAC, .allDHCPServers),
            Record.frame(a.mac, .broadcast, EtherType.arp, Record.arp(from: a.mac, a.v4, for: b.v4)),
            Record.frame(
                a.mac, gatewayMAC, EtherType.ipv4,
                Record.ipv4(a.v4, v4("192.0.2.1"), 17, [UInt8](repeating: 0, count: 64), fragmentOffset: 64, more: true)
            ),
        ]
        for round in 0..<20_000 {
            var record = corpus[round % corpus.count]
            for _ in 0..<(random.next() % 5) where !record.isEmpty {
                let place = Int(random.next() % UInt64(record.count))
                switch random.next() % 4 {
                case 0: record[place] = UInt8(truncatingIfNeeded: random.next())
                case 1: record[place] ^= 1 << UInt8(random.next() % 8)
                case 2: record.removeSubrange(place...)
                default: record.insert(contentsOf: random.bytes(Int(random.next() % 12)), at: place)
                }
            }
            guard !record.isEmpty else { continue }
            let (verdict, after) = bench.send(record)
            guard case .forward(let port) = verdict else { continue }
            #expect(port == PortID(1))
            reading(after[12...]) { bytes in
                let source = EthernetView(bytes)?.source
                #expect(source == a.mac || source == gatewayMAC)
                #expect(EthernetView(bytes)?.destination == b.mac)
            }
        }
        // Nothing was lost without a reason.
        let counters = bench.router.counters(of: PortID(0))
        #expect(counters.dropped > 3000 && counters.dropped < counters.framesFromMachine)
    }
}
