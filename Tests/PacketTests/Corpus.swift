// SPDX-License-Identifier: Apache-2.0

import Packet
import TestSupport

/// Frames of every kind that the library builds, for the outside judge to read and for the fuzzers to spoil.
enum Corpus {
    static let mac = MACAddress(0x0200_0000_0001)
    static let peer = MACAddress(0x0200_0000_0002)
    static let v4 = (IPv4Address(10, 0, 0, 2), IPv4Address(10, 0, 0, 1))
    static let v6 = (
        IPv6Address(high: 0xFD00_0000_0000_0000, low: 2), IPv6Address(high: 0xFD00_0000_0000_0000, low: 1)
    )

    static func frame(_ type: UInt16, _ payload: [UInt8]) -> [UInt8] {
        built(14 + payload.count) {
            EthernetHeader(destination: peer, source: mac, type: type).write(to: &$0, at: 0)
            $0.put(payload, at: 14)
        }
    }

    static func ipv4(_ number: UInt8, _ payload: [UInt8]) -> [UInt8] {
        frame(
            EtherType.ipv4,
            built(20 + payload.count) {
                IPv4Header(protocolNumber: number, source: v4.0, destination: v4.1, payloadLength: payload.count)
                    .write(to: &$0, at: 0)
                $0.put(payload, at: 20)
                Transport.fillChecksum(
                    &$0, at: 20, length: payload.count, protocolNumber: number, source: v4.0, destination: v4.1)
            })
    }

    static func ipv6(_ number: UInt8, _ payload: [UInt8], hopLimit: UInt8 = 255) -> [UInt8] {
        frame(
            EtherType.ipv6,
            built(40 + payload.count) {
                var header = IPv6Header(
                    nextHeader: number, source: v6.0, destination: v6.1, payloadLength: payload.count)
                header.hopLimit = hopLimit
                header.write(to: &$0, at: 0)
                $0.put(payload, at: 40)
                Transport.fillChecksum(
                    &$0, at: 40, length: payload.count, protocolNumber: number, source: v6.0, destination: v6.1)
            })
    }

    static func udp(_ source: UInt16, _ destination: UInt16, _ payload: [UInt8]) -> [UInt8] {
        built(8 + payload.count) {
            UDPHeader(sourcePort: source, destinationPort: destination, payloadLength: payload.count)
                .write(to: &$0, at: 0)
            $0.put(payload, at: 8)
        }
    }

    static func written(_ limit: Int, _ body: (inout MutableRawSpan, inout OutputCursor) -> Void) -> [UInt8] {
        var length = 0
        let bytes = built(limit) {
            var cursor = OutputCursor(from: 0, to: limit)
            body(&$0, &cursor)
            length = cursor.overflowed ? 0 : cursor.position
        }
        return Array(bytes[..<length])
    }

    static var arp: [UInt8] {
        frame(
            EtherType.arp,
            built(28) {
                ARPPacket(
                    operation: ARPPacket.reply, senderMAC: mac, senderAddress: v4.0, targetMAC: peer,
                    targetAddress: v4.1
                ).write(to: &$0, at: 0)
            })
    }

    static var tcp: [UInt8] {
        var header = TCPHeader(
            sourcePort: 4000, destinationPort: 9999, sequence: 100, acknowledgment: 0, flags: .synchronize,
            window: 64240)
        header.options.maximumSegmentSize = 1460
        header.options.windowScale = 7
        header.options.selectivePermitted = true
        header.options.timestamps = TCPTimestamps(value: 11, echo: 12)
        return ipv4(IPProtocol.tcp, built(header.encodedLength) { header.write(to: &$0, at: 0) })
    }

    static var blocks: [UInt8] {
        var header = TCPHeader(
            sourcePort: 4000, destinationPort: 9999, sequence: 100, acknowledgment: 5, flags: .acknowledge, window: 1)
        header.options.blockCount = 2
        header.options.blocks[0] = TCPBlock(start: 1000, end: 2000)
        header.options.blocks[1] = TCPBlock(start: 3000, end: 4000)
        return ipv6(IPProtocol.tcp, built(header.encodedLength) { header.write(to: &$0, at: 0) })
    }

    static var echo: [UInt8] {
        ipv4(
            IPProtocol.icmp,
            built(16) {
                ICMPMessage(type: ICMPType.echoRequest, identifier: 3, sequence: 4).write(to: &$0, at: 0)
                ICMPMessage.fillChecksum(&$0, at: 0, length: 16)
            })
    }

    static var solicitation: [UInt8] {
        ipv6(IPProtocol.icmpv6, built(32) { NeighborSolicitation(target: v6.1, mac: mac).write(to: &$0, at: 0) })
    }

    static var advertisement: [UInt8] {
        ipv6(IPProtocol.icmpv6, built(32) { NeighborAdvertisement(target: v6.0, mac: mac).write(to: &$0, at: 0) })
    }

    static var router: [UInt8] {
        var message = RouterAdvertisement(mac: mac)
        message.mtu = 1500
        message.isManaged = true
        message.prefix = IPv6Prefix(v6.0, length: 64)
        message.nameServers = [v6.1]
        message.searchDomains = DNSName("blue.internal").map { [$0] } ?? []
        return ipv6(IPProtocol.icmpv6, written(512) { message.write(to: &$0, at: &$1) })
    }

    static var lease: [UInt8] {
        var reply = DHCPv4Reply(
            kind: DHCPv4Kind.offer, transaction: 0x1234_5678, wantsBroadcast: true, yourAddress: v4.0, server: v4.1,
            clientMAC: mac)
        reply.leaseTime = 3600
        reply.subnet = IPv4Prefix(v4.0, length: 24)
        reply.router = v4.1
        reply.nameServers = [v4.1]
        reply.searchDomains = DNSName("blue.internal").map { [$0] } ?? []
        reply.hostName = Array("web".utf8)
        reply.mtu = 1500
        return ipv4(IPProtocol.udp, udp(67, 68, written(600) { reply.write(to: &$0, at: &$1) }))
    }

    static var lease6: [UInt8] {
        var reply = DHCPv6Reply(
            kind: DHCPv6Kind.reply, transaction: 0xABCDEF, client: [0, 3, 0, 1, 2, 0, 0, 0, 0, 2], serverMAC: mac)
        reply.association = 7
        reply.address = v6.0
        reply.nameServers = [v6.1]
        reply.searchDomains = DNSName("blue.internal").map { [$0] } ?? []
        return ipv6(IPProtocol.udp, udp(547, 546, written(600) { reply.write(to: &$0, at: &$1) }))
    }

    static var answer: [UInt8] {
        let name = DNSName("web.blue.internal") ?? DNSName()
        var length = 0
        let message = built(512) { bytes in
            var builder = DNSBuilder(identifier: 9, flags: 0x8580, at: 0, limit: 512)
            builder.add(DNSQuestion(name: name, type: DNSType.any), to: &bytes)
            builder.answer(name, .v4(v4.0), timeToLive: 5, to: &bytes)
            builder.answer(name, .v6(v6.0), timeToLive: 5, to: &bytes)
            builder.answer(
                name, type: DNSType.cname, pointingTo: DNSName("db.blue.internal") ?? name, timeToLive: 5, to: &bytes)
            builder.answer(name, text: [Array("hello".utf8)], timeToLive: 5, to: &bytes)
            builder.answer(name, priority: 1, weight: 2, port: 80, target: name, timeToLive: 5, to: &bytes)
            builder.authority(zone: name.dropping(1), negativeTimeToLive: 30, to: &bytes)
            builder.extend(payloadSize: 1232, to: &bytes)
            length = builder.finish(&bytes) ?? 0
        }
        return ipv4(IPProtocol.udp, udp(53, 4000, Array(message[..<length])))
    }

    static var all: [[UInt8]] {
        [
            arp, tcp, blocks, echo, solicitation, advertisement, router, lease, lease6, answer,
            frame(EtherType.vlan, [0, 5, 8, 0] + tcp[14...]),
            ipv6(44, [17, 0, 0, 1, 0, 0, 0, 9] + [UInt8](repeating: 1, count: 32)),
            ipv6(0, [60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0] + udp(1, 2, [1, 2, 3])),
        ]
    }
}
