// SPDX-License-Identifier: Apache-2.0

import Fabric
import Packet
import TestSupport
import Testing

/// What a machine leaves to the device: checksums and segments.
@Suite struct OffloadWishes {
    private func wish(start: Int, offset: Int, segmentation: UInt8 = 0, size: Int = 0) -> VirtioNetHeader {
        var header = VirtioNetHeader()
        header.flags = VirtioNetHeader.needsChecksum
        header.checksumStart = UInt16(start)
        header.checksumOffset = UInt16(offset)
        header.segmentation = segmentation
        header.segmentSize = UInt16(size)
        return header
    }

    private func tcp(_ length: Int) -> [UInt8] {
        [0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x10, 0, 0, 0, 0, 0, 0] + [UInt8](repeating: 1, count: 12 + length)
    }

    @Test func ofIPv4() throws {
        let bench = try Bench()
        let (a, b) = (bench.a, bench.b)
        func verdict(_ header: VirtioNetHeader, _ number: UInt8 = 17, _ payload: [UInt8] = Record.udp(1, 2)) -> Verdict
        {
            bench.verdict(
                Record.frame(
                    a.mac, b.mac, EtherType.ipv4, Record.ipv4(a.v4, b.v4, number, payload), header: header))
        }
        #expect(verdict(wish(start: 34, offset: 6)) == .forward(PortID(1)))
        // Of what is in a tunnel.
        #expect(verdict(wish(start: 42, offset: 1)) == .forward(PortID(1)))
        #expect(verdict(wish(start: 34, offset: 16), 6, tcp(0)) == .forward(PortID(1)))
        #expect(verdict(wish(start: 34, offset: 2), 1, Record.echo()) == .forward(PortID(1)))
        var unasked = wish(start: 34, offset: 16, segmentation: 1, size: 1000)
        unasked.flags = 0
        let wrong: [(VirtioNetHeader, UInt8, [UInt8])] = [
            (wish(start: 60_000, offset: 6), 17, Record.udp(1, 2)), (wish(start: 34, offset: 60), 17, Record.udp(1, 2)),
            // In addresses, ports, lengths, types.
            (wish(start: 0, offset: 6), 17, Record.udp(1, 2)), (wish(start: 26, offset: 4), 17, Record.udp(1, 2)),
            (wish(start: 34, offset: 2), 17, Record.udp(1, 2)), (wish(start: 36, offset: 0), 17, Record.udp(1, 2)),
            (wish(start: 34, offset: 0), 6, tcp(0)), (wish(start: 40, offset: 10), 6, tcp(0)),
            (wish(start: 34, offset: 0), 1, Record.echo()),
            // Of datagrams, of the other protocol, of none that there is, without a checksum.
            (wish(start: 34, offset: 6, segmentation: 1, size: 1000), 17, Record.udp(1, 2)),
            (wish(start: 34, offset: 16, segmentation: 4, size: 1000), 6, tcp(3000)),
            (wish(start: 34, offset: 16, segmentation: 77, size: 1000), 6, tcp(3000)),
            (wish(start: 34, offset: 16, segmentation: 3, size: 1000), 6, tcp(3000)), (unasked, 6, tcp(3000)),
        ]
        for (index, (header, number, payload)) in wrong.enumerated() {
            #expect(verdict(header, number, payload) == .drop(.malformedOffload), "case \(index)")
        }
        #expect(bench.count(.malformedOffload) == UInt64(wrong.count))
    }

    /// A segment with its headers fits the link: 20 bytes of IPv4 or 40 of IPv6, and 32 of TCP.
    @Test func segmentsFitTheLink() throws {
        let bench = try Bench()
        let (a, b) = (bench.a, bench.b)
        let mtu = bench.router.mtu(of: a.id)
        func verdict(isIPv6: Bool, size: Int) -> Verdict {
            let header = wish(
                start: isIPv6 ? 54 : 34, offset: 16, segmentation: isIPv6 ? 4 : 1, size: size)
            let packet = isIPv6 ? Record.ipv6(a.v6, b.v6, 6, tcp(100)) : Record.ipv4(a.v4, b.v4, 6, tcp(100))
            let type = isIPv6 ? EtherType.ipv6 : EtherType.ipv4
            return bench.verdict(Record.frame(a.mac, b.mac, type, packet, header: header))
        }
        #expect(verdict(isIPv6: false, size: mtu - 52) == .forward(PortID(1)))
        #expect(verdict(isIPv6: false, size: mtu - 51) == .drop(.malformedOffload))
        #expect(verdict(isIPv6: true, size: mtu - 72) == .forward(PortID(1)))
        #expect(verdict(isIPv6: true, size: mtu - 71) == .drop(.malformedOffload))
    }

    /// An address, a header of the network's, the type of a message: all that was checked stays as it was.
    @Test func nothingCheckedIsWrittenTo() throws {
        let bench = try Bench()
        let (a, b) = (bench.a, bench.b)
        func verdict(_ packet: [UInt8], start: Int, offset: Int) -> Verdict {
            bench.verdict(
                Record.frame(a.mac, b.mac, EtherType.ipv6, packet, header: wish(start: start, offset: offset)))
        }
        let udp = Record.ipv6(a.v6, b.v6, 17, Record.udp(1, 2))
        for start in 34..<54 {
            #expect(verdict(udp, start: start, offset: 2) == .drop(.malformedOffload), "\(start)")
        }
        let echo = Record.ipv6(a.v6, b.v6, 58, Record.echo(ICMPv6Type.echoRequest), hopLimit: 255)
        #expect(verdict(echo, start: 54, offset: 0) == .drop(.malformedOffload))
        #expect(verdict(echo, start: 54, offset: 2) == .forward(PortID(1)))
        // Destination options before the datagram.
        let options = Record.ipv6(a.v6, b.v6, 60, [17, 0, 1, 4, 0, 0, 0, 0] + Record.udp(1, 2))
        #expect(verdict(options, start: 54, offset: 0) == .drop(.malformedOffload))
        #expect(verdict(options, start: 62, offset: 6) == .forward(PortID(1)))
        // A part of a packet has none, and neither has ARP.
        let part = Record.frame(
            a.mac, b.mac, EtherType.ipv4, Record.ipv4(a.v4, b.v4, 17, Record.udp(1, 2), more: true),
            header: wish(start: 34, offset: 6))
        #expect(bench.verdict(part) == .drop(.malformedOffload))
        let arp = Record.frame(
            a.mac, .broadcast, EtherType.arp, Record.arp(from: a.mac, a.v4, for: b.v4),
            header: wish(start: 34, offset: 6))
        #expect(bench.verdict(arp) == .drop(.malformedOffload))
    }
}
