// SPDX-License-Identifier: Apache-2.0

import Packet
import TestSupport
import Testing

/// An IPv4 packet of these bytes, cut into fragments of at most `size` bytes of payload.
private func fragments(_ payload: [UInt8], size: Int, identification: UInt16 = 7) -> [[UInt8]] {
    let size = size / 8 * 8
    return stride(from: 0, to: payload.count, by: size).map { start in
        let part = Array(payload[start..<min(payload.count, start + size)])
        var header = IPv4Header(
            protocolNumber: IPProtocol.udp, source: IPv4Address(10, 0, 0, 2), destination: IPv4Address(10, 0, 0, 3),
            payloadLength: part.count)
        header.dontFragment = false
        header.identification = identification
        header.fragmentOffset = start
        header.moreFragments = start + part.count < payload.count
        return built(20 + part.count) {
            header.write(to: &$0, at: 0)
            $0.put(part, at: 20)
        }
    }
}

private func add(
    _ reassembler: inout Reassembler, _ packet: [UInt8], owner: UInt32 = 1, now: UInt64 = 0, to output: inout [UInt8]
) -> Reassembler.Outcome {
    let span = packet.span
    var space = output.mutableSpan
    var raw = space.mutableBytes
    if let view = IPv4View(span.bytes) { return reassembler.add(view, owner: owner, now: now, to: &raw, at: 0) }
    guard let view = IPv6View(span.bytes), let upper = view.upper else { return .dropped(.malformed) }
    return reassembler.add(view, upper, owner: owner, now: now, to: &raw, at: 0)
}

@Suite struct Fragments {
    @Test func anyOrderGivesThePacket() {
        var random = SeededGenerator(5)
        var output = [UInt8](repeating: 0, count: 65_535)
        for round in 0..<200 {
            var reassembler = Reassembler()
            let payload = random.bytes(Int(random.next() % 20_000) + 1)
            var parts = fragments(payload, size: 8 + Int(random.next() % 3000) + payload.count / 64)
            parts.shuffle(using: &random)
            // Some come twice.
            if let copy = parts.first, parts.count > 1 { parts.insert(copy, at: 1) }
            guard parts.count > 1 else { continue }
            var results: [Reassembler.Outcome] = []
            for part in parts { results.append(add(&reassembler, part, to: &output)) }
            #expect(results.last == .complete(20 + payload.count), "round \(round)")
            #expect(results.dropLast().allSatisfy { $0 == .incomplete })
            #expect(output[20..<(20 + payload.count)] == payload[...])
            #expect(slowChecksum(Array(output[..<20])) == 0)
            #expect(output[6] == 0 && output[7] == 0)
            #expect(reassembler.count == 0)
        }
    }

    @Test func ipv6() {
        var random = SeededGenerator(6)
        let payload = random.bytes(3000)
        var output = [UInt8](repeating: 0, count: 65_535)
        var reassembler = Reassembler()
        // A destination option before the fragment header, so that the number to mend is not in the fixed header.
        let parts = stride(from: 0, to: 3000, by: 1000).map { start -> [UInt8] in
            let more = start + 1000 < 3000
            let head: [UInt8] = [44, 0, 1, 4, 0, 0, 0, 0]
            let position = UInt16(start) | (more ? 1 : 0)
            let fragment: [UInt8] = [17, 0, UInt8(position >> 8), UInt8(position & 255), 0, 0, 0, 9]
            let rest = head + fragment + payload[start..<(start + 1000)]
            return built(40 + rest.count) {
                IPv6Header(nextHeader: 60, source: .loopback, destination: .allNodes, payloadLength: rest.count)
                    .write(to: &$0, at: 0)
                $0.put(rest, at: 40)
            }
        }
        #expect(add(&reassembler, parts[2], to: &output) == .incomplete)
        #expect(add(&reassembler, parts[0], to: &output) == .incomplete)
        #expect(add(&reassembler, parts[1], to: &output) == .complete(48 + 3000))
        reading(Array(output[..<3048])) { bytes in
            let view = IPv6View(bytes)
            #expect(view?.bytes.byteCount == 3048)
            #expect(view?.upper == IPv6Upper(protocolNumber: 17, offset: 48))
        }
        #expect(output[48..<3048] == payload[...])
    }

    @Test func overlapEndsThePacket() {
        var reassembler = Reassembler()
        var output = [UInt8](repeating: 0, count: 65_535)
        let first = fragments([UInt8](repeating: 1, count: 4000), size: 1600)
        let other = fragments([UInt8](repeating: 2, count: 4000), size: 1200)
        #expect(add(&reassembler, first[0], to: &output) == .incomplete)
        #expect(add(&reassembler, other[1], to: &output) == .dropped(.overlap))
        #expect(reassembler.count == 0)
    }

    @Test func boundsHold() {
        var reassembler = Reassembler()
        var output = [UInt8](repeating: 0, count: 65_535)
        // One owner has four; others still have room, until all is full; time makes room again.
        for identification in 0..<4 as Range<UInt16> {
            let part = fragments([UInt8](repeating: 0, count: 100), size: 64, identification: identification)[0]
            #expect(add(&reassembler, part, to: &output) == .incomplete)
        }
        let one = fragments([UInt8](repeating: 0, count: 100), size: 64, identification: 9)[0]
        #expect(add(&reassembler, one, to: &output) == .dropped(.tooMany))
        for owner in 2...60 as ClosedRange<UInt32> {
            for identification in 0..<4 as Range<UInt16> {
                let part = fragments([UInt8](repeating: 0, count: 100), size: 64, identification: identification)[0]
                _ = add(&reassembler, part, owner: owner, to: &output)
            }
        }
        #expect(reassembler.count == Reassembler.packetLimit)
        #expect(reassembler.expire(now: Reassembler.timeoutInNanoseconds - 1).isEmpty)
        #expect(reassembler.expire(now: Reassembler.timeoutInNanoseconds).count == Reassembler.packetLimit)
        // The ping of death.
        let large = built(28) {
            var header = IPv4Header(protocolNumber: 1, source: .any, destination: .any, payloadLength: 8)
            header.dontFragment = false
            header.fragmentOffset = 65_528
            header.write(to: &$0, at: 0)
        }
        #expect(add(&reassembler, large, to: &output) == .dropped(.tooLong))
        // A thousand tiny ones.
        let tiny = fragments([UInt8](repeating: 0, count: 8 * 400), size: 8)
        let results = stride(from: 0, to: 400, by: 2).map { add(&reassembler, tiny[$0], to: &output) }
        #expect(results.contains(.dropped(.tooManyPieces)))
    }

    @Test(arguments: [false, true])
    func segmentation(isIPv6: Bool) throws {
        var random = SeededGenerator(7)
        let ip = isIPv6 ? 40 : 20
        for _ in 0..<40 {
            let payload = random.bytes(Int(random.next() % 60_000))
            var tcp = TCPHeader(
                sourcePort: 1, destinationPort: 2, sequence: 0xFFFF_0000, acknowledgment: 3,
                flags: [.acknowledge, .push, .finish, .congestionReduced], window: 100)
            tcp.options.timestamps = TCPTimestamps(value: 1, echo: 2)
            let head = 14 + ip + tcp.encodedLength
            let frame = built(head + payload.count) {
                EthernetHeader(
                    destination: .zero, source: .zero, type: isIPv6 ? EtherType.ipv6 : EtherType.ipv4
                ).write(to: &$0, at: 0)
                if isIPv6 {
                    IPv6Header(
                        nextHeader: 6, source: .loopback, destination: .allNodes,
                        payloadLength: tcp.encodedLength + payload.count
                    ).write(to: &$0, at: 14)
                } else {
                    IPv4Header(
                        protocolNumber: 6, source: .loopback, destination: .any,
                        payloadLength: tcp.encodedLength + payload.count
                    ).write(to: &$0, at: 14)
                }
                tcp.write(to: &$0, at: 14 + ip)
                $0.put(payload, at: head)
            }
            var header = VirtioNetHeader()
            header.segmentation =
                isIPv6 ? VirtioNetHeader.segmentationTCPv6 : VirtioNetHeader.segmentationTCPv4
            header.segmentSize = UInt16(64 + random.next() % 3000)
            let plan = try #require(reading(frame) { Segmentation($0, header) })
            var together: [UInt8] = []
            for index in 0..<plan.count {
                let segment = built(plan.length(of: index)) { output in
                    _ = reading(frame) { plan.write(index, of: $0, to: &output, at: 0) }
                }
                reading(Array(segment[14...])) { bytes in
                    let (source, length): ([UInt8], Int)
                    if isIPv6 {
                        guard let packet = IPv6View(bytes), let upper = packet.upper else {
                            Issue.record("no packet")
                            return
                        }
                        let isValid = packet.checksumIsValid(upper)
                        #expect(isValid)
                        (source, length) = (packet.payload.array, packet.bytes.byteCount)
                    } else {
                        guard let packet = IPv4View(bytes) else {
                            Issue.record("no packet")
                            return
                        }
                        #expect(packet.checksumIsValid && packet.payloadChecksumIsValid)
                        (source, length) = (packet.payload.array, packet.bytes.byteCount)
                    }
                    #expect(length == segment.count - 14)
                    reading(source) { bytes in
                        let view = TCPView(bytes)
                        #expect(view?.sequence == 0xFFFF_0000 &+ UInt32(together.count))
                        let last = index == plan.count - 1
                        #expect(view?.flags.contains(.finish) == last && view?.flags.contains(.push) == last)
                        #expect(view?.flags.contains(.congestionReduced) == (index == 0))
                        together += view?.payload.array ?? []
                    }
                }
            }
            #expect(together == payload)
        }
    }
}
