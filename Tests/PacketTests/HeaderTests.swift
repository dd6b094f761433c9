// SPDX-License-Identifier: Apache-2.0

import Packet
import TestSupport
import Testing

@Suite struct Headers {
    @Test func checksums() {
        var random = SeededGenerator(2)
        for count in (0..<200).map({ $0 }) + [1500, 9001, 65_535] {
            let bytes = random.bytes(count)
            #expect(reading(bytes) { Checksum.of($0) } == slowChecksum(bytes), "\(count) bytes")
        }
        // All ones add up to the highest sum there is.
        let ones = [UInt8](repeating: 255, count: 65_535)
        #expect(reading(ones) { Checksum.of($0) } == slowChecksum(ones))
    }

    @Test func checksumsAdjust() {
        var random = SeededGenerator(3)
        for _ in 0..<2000 {
            var bytes = random.bytes(40)
            let before = reading(bytes) { Checksum.of($0) }
            let place = Int(random.next() % 18) * 2
            let old = UInt16(bytes[place]) << 8 | UInt16(bytes[place + 1])
            let new = UInt16(truncatingIfNeeded: random.next())
            bytes[place] = UInt8(new >> 8)
            bytes[place + 1] = UInt8(new & 255)
            let after = reading(bytes) { Checksum.of($0) }
            #expect(Checksum.adjust(before, from: old, to: new) == after)
        }
    }

    @Test func ethernet() {
        let header = EthernetHeader(destination: .broadcast, source: MACAddress(0x0200_0000_0001), type: EtherType.arp)
        let bytes = built(60) { header.write(to: &$0, at: 0) }
        reading(bytes) { bytes in
            guard let view = EthernetView(bytes) else {
                Issue.record("no view")
                return
            }
            #expect(view.destination == .broadcast && view.source == header.source && view.type == EtherType.arp)
            #expect(view.payload.byteCount == 46)
        }
        var tagged = Array(bytes[..<12]) + [0x88, 0xA8, 0, 5, 0x81, 0, 0x20, 7, 0x08, 0] + [1, 2, 3]
        reading(tagged) { bytes in
            let view = EthernetView(bytes)
            #expect(view?.type == EtherType.ipv4 && view?.headerLength == 22 && view?.tag == 0x2007)
        }
        tagged.replaceSubrange(20..<22, with: [0x81, 0])
        #expect(reading(tagged) { EthernetView($0) == nil ? 1 : 0 } == 1)
    }

    @Test func ipv4() {
        var header = IPv4Header(
            protocolNumber: IPProtocol.udp, source: IPv4Address(10, 0, 0, 2), destination: IPv4Address(10, 0, 0, 3),
            payloadLength: 12)
        header.identification = 7
        header.timeToLive = 9
        var bytes = built(40) { header.write(to: &$0, at: 0) }
        #expect(slowChecksum(Array(bytes[..<20])) == 0)
        reading(bytes) { bytes in
            guard let view = IPv4View(bytes) else {
                Issue.record("no view")
                return
            }
            #expect(view.bytes.byteCount == 32 && view.payload.byteCount == 12)
            #expect(view.checksumIsValid && view.timeToLive == 9 && view.identification == 7 && view.dontFragment)
            #expect(view.source == header.source && view.destination == header.destination && !view.isFragment)
        }
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        IPv4Header.decrementTimeToLive(&raw, at: 0)
        #expect(bytes[8] == 8 && slowChecksum(Array(bytes[..<20])) == 0)
    }

    @Test func ipv6() {
        let header = IPv6Header(nextHeader: IPProtocol.tcp, source: .loopback, destination: .allNodes, payloadLength: 4)
        let bytes = built(50) { header.write(to: &$0, at: 0) }
        reading(bytes) { bytes in
            let view = IPv6View(bytes)
            #expect(view?.source == .loopback && view?.destination == .allNodes && view?.payload.byteCount == 4)
            #expect(view?.upper == IPv6Upper(protocolNumber: IPProtocol.tcp, offset: 40))
        }
    }

    @Test func ipv6Extensions() {
        // Hop-by-hop, destination options, a first fragment, UDP.
        let payload: [UInt8] =
            [60, 0, 1, 4, 0, 0, 0, 0] + [44, 0, 1, 4, 0, 0, 0, 0] + [17, 0, 0, 1, 0, 0, 0, 9]
            + [UInt8](repeating: 0, count: 8)
        let header = IPv6Header(nextHeader: 0, source: .loopback, destination: .loopback, payloadLength: payload.count)
        var bytes = built(40) { header.write(to: &$0, at: 0) } + payload
        reading(bytes) { bytes in
            let upper = IPv6View(bytes)?.upper
            #expect(upper?.protocolNumber == IPProtocol.udp && upper?.offset == 64 && upper?.isFragment == true)
            #expect(upper?.fragmentHeader == 56 && upper?.identification == 9)
        }
        bytes[41] = 200
        #expect(reading(bytes) { IPv6View($0)?.upper } == nil)
        // A chain that is too long.
        let long = (0..<9).flatMap { _ in [0, 0, 1, 4, 0, 0, 0, 0] as [UInt8] }
        let head = IPv6Header(nextHeader: 0, source: .loopback, destination: .loopback, payloadLength: long.count)
        let chain = built(40) { head.write(to: &$0, at: 0) } + long
        #expect(reading(chain) { IPv6View($0)?.upper } == nil)
    }

    @Test func tcp() {
        var header = TCPHeader(
            sourcePort: 1000, destinationPort: 80, sequence: 0xFFFF_FFF0, acknowledgment: 5,
            flags: [.synchronize, .acknowledge], window: 64240)
        header.options.maximumSegmentSize = 1460
        header.options.windowScale = 7
        header.options.selectivePermitted = true
        header.options.timestamps = TCPTimestamps(value: 9, echo: 8)
        #expect(header.encodedLength == 44)
        let source = IPv4Address(10, 0, 0, 2)
        let destination = IPv4Address(10, 0, 0, 3)
        let bytes = built(50) {
            header.write(to: &$0, at: 0)
            Transport.fillChecksum(
                &$0, at: 0, length: 50, protocolNumber: IPProtocol.tcp, source: source, destination: destination)
        }
        #expect(slowChecksum([10, 0, 0, 2, 10, 0, 0, 3, 0, 6, 0, 50] + bytes) == 0)
        reading(bytes) { bytes in
            guard let view = TCPView(bytes) else {
                Issue.record("no view")
                return
            }
            #expect(view.flags == header.flags && view.sequence == header.sequence && view.window == 64240)
            #expect(view.payload.byteCount == 6)
            let options = view.options
            #expect(options.maximumSegmentSize == 1460 && options.windowScale == 7 && options.selectivePermitted)
            #expect(options.timestamps == header.options.timestamps && options.blockCount == 0)
        }
    }

    @Test func tcpBlocks() {
        var header = TCPHeader(
            sourcePort: 1, destinationPort: 2, sequence: 0, acknowledgment: 0, flags: .acknowledge, window: 0)
        header.options.timestamps = TCPTimestamps(value: 1, echo: 2)
        header.options.blockCount = 3
        for index in 0..<3 {
            header.options.blocks[index] = TCPBlock(start: UInt32(index * 10), end: UInt32(index * 10 + 5))
        }
        #expect(header.encodedLength == 60)
        let bytes = built(60) { header.write(to: &$0, at: 0) }
        reading(bytes) { bytes in
            let options = TCPView(bytes)?.options
            #expect(options?.blockCount == 3 && options?.blocks[2] == TCPBlock(start: 20, end: 25))
        }
    }

    @Test func udpAndICMP() {
        let source = IPv6Address(high: 0xFD00_0000_0000_0000, low: 2)
        let bytes = built(13) {
            UDPHeader(sourcePort: 5, destinationPort: 53, payloadLength: 5).write(to: &$0, at: 0)
            Transport.fillChecksum(
                &$0, at: 0, length: 13, protocolNumber: IPProtocol.udp, source: source, destination: .loopback)
        }
        reading(bytes) { bytes in
            var checksum = Checksum(source, .loopback, protocolNumber: IPProtocol.udp, length: 13)
            checksum.add(bytes)
            #expect(checksum.value == 0)
            #expect(UDPView(bytes)?.payload.byteCount == 5 && UDPView(bytes)?.destinationPort == 53)
        }
        let echo = built(16) {
            ICMPMessage(type: ICMPType.echoRequest, identifier: 3, sequence: 4).write(to: &$0, at: 0)
            ICMPMessage.fillChecksum(&$0, at: 0, length: 16)
        }
        reading(echo) { bytes in
            let view = ICMPView(bytes)
            #expect(view?.checksumIsValid == true && view?.identifier == 3 && view?.sequence == 4)
        }
    }

    @Test func virtioChecksumIsCompleted() {
        let source = IPv4Address(10, 0, 0, 2)
        let destination = IPv4Address(10, 0, 0, 3)
        var random = SeededGenerator(4)
        for count in [0, 1, 7, 1400] {
            let payload = random.bytes(count)
            var frame = built(34 + 20 + count) {
                TCPHeader(
                    sourcePort: 1, destinationPort: 2, sequence: 3, acknowledgment: 4, flags: .acknowledge, window: 5
                ).write(to: &$0, at: 34)
                $0.put(payload, at: 54)
                Transport.fillPartialChecksum(
                    &$0, at: 34, length: 20 + count, protocolNumber: IPProtocol.tcp, source: source,
                    destination: destination)
            }
            var header = VirtioNetHeader()
            header.flags = VirtioNetHeader.needsChecksum
            header.checksumStart = 34
            header.checksumOffset = UInt16(TCPHeader.checksumOffset)
            let written = built(12) { header.write(to: &$0, at: 0) }
            #expect(reading(written) { VirtioNetHeader($0) } == header && written[6] == 34)
            var span = frame.mutableSpan
            var raw = span.mutableBytes
            let done = header.completeChecksum(&raw)
            #expect(done)
            let length = UInt16(20 + count)
            #expect(
                slowChecksum([10, 0, 0, 2, 10, 0, 0, 3, 0, 6, UInt8(length >> 8), UInt8(length & 255)] + frame[34...])
                    == 0)
            header.checksumOffset = 60_000
            var other = frame.mutableSpan
            var outside = other.mutableBytes
            let refused = !header.completeChecksum(&outside)
            #expect(refused)
        }
    }

    @Test func arp() {
        let packet = ARPPacket(
            operation: ARPPacket.request, senderMAC: MACAddress(1), senderAddress: IPv4Address(1),
            targetMAC: .zero, targetAddress: IPv4Address(2))
        let bytes = built(46) { packet.write(to: &$0, at: 0) }
        reading(bytes) { bytes in
            let view = ARPView(bytes)
            #expect(view?.operation == 1 && view?.senderMAC == MACAddress(1) && view?.targetAddress == IPv4Address(2))
        }
        #expect(reading(Array(bytes[..<27])) { ARPView($0) == nil ? 1 : 0 } == 1)
    }
}
