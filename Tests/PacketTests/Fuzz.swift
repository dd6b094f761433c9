// SPDX-License-Identifier: Apache-2.0

import Packet
import TestSupport
import Testing

/// Reads all that there is to read of a frame, as deep as it goes. What it gives is only there to be used.
func readEverything(_ bytes: RawSpan, _ reassembler: inout Reassembler, _ output: inout MutableRawSpan) -> UInt64 {
    var sum: UInt64 = 0
    guard let ethernet = EthernetView(bytes) else { return 0 }
    sum &+= ethernet.source.value &+ ethernet.destination.value
    switch ethernet.type {
    case EtherType.arp:
        if let arp = ARPView(ethernet.payload) { sum &+= arp.senderMAC.value &+ UInt64(arp.targetAddress.value) }
    case EtherType.ipv4:
        guard let packet = IPv4View(ethernet.payload) else { break }
        sum &+= packet.checksumIsValid ? 1 : 0
        sum &+= packet.hasSourceRoute ? 1 : 0
        if packet.isFragment { _ = reassembler.add(packet, owner: 1, now: sum, to: &output, at: 0) }
        sum &+= readTransport(packet.protocolNumber, packet.payload)
        if packet.protocolNumber == IPProtocol.icmp, let icmp = ICMPView(packet.payload) {
            if let quoted = IPv4View(quoted: icmp.payload) { sum &+= UInt64(quoted.source.value) }
        }
    case EtherType.ipv6:
        guard let packet = IPv6View(ethernet.payload), let upper = packet.upper else { break }
        sum &+= packet.checksumIsValid(upper) ? 1 : 0
        if upper.fragmentHeader != nil {
            _ = reassembler.add(packet, upper, owner: 1, now: sum, to: &output, at: 0)
        }
        sum &+= readTransport(upper.protocolNumber, packet.bytes.dropping(upper.offset))
    default: break
    }
    var header = VirtioNetHeader()
    header.segmentation = ethernet.type == EtherType.ipv4 ? 1 : 4
    header.segmentSize = 64
    if let plan = Segmentation(bytes, header) {
        for index in 0..<plan.count { sum &+= UInt64(plan.write(index, of: bytes, to: &output, at: 0)) }
    }
    return sum
}

private func readTransport(_ number: UInt8, _ bytes: RawSpan) -> UInt64 {
    switch number {
    case IPProtocol.tcp:
        guard let view = TCPView(bytes) else { return 0 }
        return UInt64(view.sequence) &+ UInt64(view.options.blockCount) &+ UInt64(view.payload.byteCount)
    case IPProtocol.udp:
        guard let view = UDPView(bytes) else { return 0 }
        return readDNS(view.payload) &+ readDHCP(view.payload)
    case IPProtocol.icmpv6:
        guard let view = NDPView(bytes) else { return 0 }
        return (view.mac(1)?.value ?? 0) &+ (view.target?.low ?? 0) &+ UInt64(view.option(3)?.byteCount ?? 0)
    default: return 0
    }
}

private func readDHCP(_ bytes: RawSpan) -> UInt64 {
    var sum: UInt64 = 0
    if let view = DHCPv4View(bytes) {
        sum &+= UInt64(view.kind ?? 0) &+ UInt64(view.address(50)?.value ?? 0) &+ view.clientMAC.value
    }
    if let view = DHCPv6View(bytes) {
        sum &+= UInt64(view.association ?? 0) &+ (view.associationAddress?.low ?? 0)
        sum &+= UInt64(view.option(1)?.byteCount ?? 0)
    }
    return sum
}

private func readDNS(_ bytes: RawSpan) -> UInt64 {
    guard let view = DNSView(bytes) else { return 0 }
    var sum = UInt64(view.question.name.count) &+ UInt64(view.extensionRecord?.payloadSize ?? 0)
    var records = view.records
    var record = DNSRecord()
    var count = 0
    while records.next(&record) {
        count += 1
        var name = DNSName()
        if let after = name.read(bytes, at: record.dataOffset) { sum &+= UInt64(after) }
        sum &+= UInt64(bytes.slice(record.dataOffset, record.dataLength).byteCount)
    }
    // Each record takes eleven bytes at least.
    precondition(count <= bytes.byteCount / 11 + 1)
    return sum &+ UInt64(name(view.question.name))
}

private func name(_ name: DNSName) -> Int { name.text.utf8.count + name.labelCount }

@Suite struct Fuzz {
    @Test func frames() {
        var random = SeededGenerator(0xF0)
        let corpus = Corpus.all
        var reassembler = Reassembler()
        var output = [UInt8](repeating: 0, count: 70_000)
        var space = output.mutableSpan
        var raw = space.mutableBytes
        var sum: UInt64 = 0
        for round in 0..<20_000 {
            var bytes = corpus[round % corpus.count]
            for _ in 0..<(random.next() % 6) where !bytes.isEmpty {
                let place = Int(random.next() % UInt64(bytes.count))
                switch random.next() % 5 {
                case 0: bytes[place] = UInt8(truncatingIfNeeded: random.next())
                case 1: bytes[place] = [0, 1, 0x7F, 0x80, 0xFF, 0xC0][Int(random.next() % 6)]
                case 2: bytes.removeSubrange(place...)
                case 3: bytes.insert(contentsOf: random.bytes(Int(random.next() % 20)), at: place)
                default: bytes[place] ^= 1 << UInt8(random.next() % 8)
                }
            }
            let span = bytes.span
            sum &+= readEverything(span.bytes, &reassembler, &raw)
        }
        #expect(sum != 0 && reassembler.count <= Reassembler.packetLimit)
    }

    @Test func texts() {
        var random = SeededGenerator(0xF1)
        let letters = Array("0123456789abcdef:::...//%[]x".utf8)
        for _ in 0..<20_000 {
            let text = String(
                decoding: (0..<(random.next() % 30)).map { _ in letters[Int(random.next() % UInt64(letters.count))] },
                as: UTF8.self)
            if let address = IPv6Address(text) { #expect(IPv6Address(address.description) == address) }
            if let address = IPv4Address(text) { #expect(address.description == text) }
            if let prefix = IPv6Prefix(text) { #expect(IPv6Prefix(prefix.description) == prefix) }
            if let prefix = IPv4Prefix(text) { #expect(IPv4Prefix(prefix.description) == prefix) }
            _ = MACAddress(text)
            _ = DNSName(text)?.reversedAddress
        }
    }
}
