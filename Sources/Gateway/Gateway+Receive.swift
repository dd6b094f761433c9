// SPDX-License-Identifier: Apache-2.0

package import Fabric
internal import Packet
package import TCP

extension Gateway {
    /// Takes a packet that a machine sends to the outside.
    /// - Parameters:
    ///   - record: the whole record, virtio header first. It stays as it is until `flush`.
    ///   - wasInPieces: the machine sent it in fragments.
    package func receive(
        _ packet: OutsidePacket, record: UnsafeRawBufferPointer, wasInPieces: Bool = false, now: Microseconds
    ) {
        guard let machine = machines[packet.endpoint], packet.offset <= packet.transportOffset,
            packet.transportOffset <= record.count
        else {
            counters.malformed += 1
            return
        }
        let bytes = unsafe record.bytes
        let key: FlowKey
        let end: Int
        var mayFragment = wasInPieces
        if packet.isIPv6 {
            guard let view = IPv6View(bytes.dropping(packet.offset)) else { return dropMalformed() }
            end = packet.offset + view.bytes.byteCount
            key = FlowKey(
                endpoint: packet.endpoint, protocolNumber: packet.protocolNumber, inside: view.source,
                outside: view.destination, insidePort: 0, outsidePort: 0)
            guard view.source.mappedIPv4 == nil, view.destination.mappedIPv4 == nil else { return dropMalformed() }
        } else {
            guard let view = IPv4View(bytes.dropping(packet.offset)) else { return dropMalformed() }
            end = packet.offset + view.bytes.byteCount
            mayFragment = mayFragment || view.bytes.u16(6) & 0x4000 == 0
            key = FlowKey(
                endpoint: packet.endpoint, protocolNumber: packet.protocolNumber,
                inside: IPv6Address(mapping: view.source), outside: IPv6Address(mapping: view.destination),
                insidePort: 0, outsidePort: 0)
        }
        guard packet.transportOffset <= end else { return dropMalformed() }
        let transport = bytes.slice(packet.transportOffset, end - packet.transportOffset)
        guard checksumIsRight(transport, key, bytes) else {
            counters.badChecksum += 1
            return
        }
        let arrival = Arrival(
            machine: machine, packet: packet, start: packet.transportOffset, end: end, mayFragment: mayFragment)
        switch packet.protocolNumber {
        case IPProtocol.tcp: unsafe receiveTCP(arrival, key, record, now)
        case IPProtocol.udp: unsafe receiveUDP(arrival, key, record, now)
        case packet.isIPv6 ? IPProtocol.icmpv6 : IPProtocol.icmp: unsafe receiveICMP(arrival, key, record, now)
        default:
            counters.unknownProtocol += 1
            sendUnreachable(machine, key, .protocolUnknown, quoting: 0)
        }
    }

    func dropMalformed() { counters.malformed += 1 }

    /// A machine that says that the checksum is still missing, or that it was seen to be right, is believed: the bytes
    /// have been in memory only.
    private func checksumIsRight(_ transport: RawSpan, _ key: FlowKey, _ record: RawSpan) -> Bool {
        guard let header = VirtioNetHeader(record),
            header.flags & (VirtioNetHeader.needsChecksum | VirtioNetHeader.dataValid) == 0
        else { return true }
        var checksum: Checksum
        if key.protocolNumber == IPProtocol.udp, key.isIPv4, transport.byteCount >= 8, transport.u16(6) == 0 {
            return true
        }
        if key.protocolNumber == IPProtocol.icmp {
            checksum = Checksum()
        } else if let source = key.inside.mappedIPv4, let destination = key.outside.mappedIPv4 {
            checksum = Checksum(
                source, destination, protocolNumber: key.protocolNumber, length: transport.byteCount)
        } else {
            checksum = Checksum(
                key.inside, key.outside, protocolNumber: key.protocolNumber, length: transport.byteCount)
        }
        guard Transport.checksumOffset(of: key.protocolNumber) != nil || key.protocolNumber == IPProtocol.icmp else {
            return true
        }
        checksum.add(transport)
        return checksum.value == 0
    }

    /// Where the host is to connect to; nil when the machine may not, which is answered and counted here.
    func destination(_ arrival: Arrival, _ key: FlowKey, quoting: UInt32, _ now: Microseconds) -> IPv6Address? {
        let policy = arrival.machine.settings.policy
        guard
            case .reach(let address) = policy.decide(
                key.outside, key.outsidePort, key.protocolNumber, hostAddresses: hostAddresses, now: now)
        else {
            counters.forbiddenAddress += 1
            sendUnreachable(arrival.machine, key, .prohibited, quoting: quoting)
            return nil
        }
        switch policy.judge(key.outside, key.outsidePort, key.protocolNumber, now: now) {
        case .allowed: break
        case .audited:
            counters.audited += 1
            arrival.machine.audited.add(
                .address(key.outside, port: key.outsidePort, protocolNumber: key.protocolNumber))
        case .denied:
            counters.refusedByPolicy += 1
            sendUnreachable(arrival.machine, key, .prohibited, quoting: quoting)
            return nil
        }
        return address
    }
}

/// A packet on its way through the gateway; offsets in its record.
struct Arrival {
    let machine: Machine
    let packet: OutsidePacket
    /// The transport's header.
    let start: Int
    /// After the packet's last byte.
    let end: Int
    let mayFragment: Bool
}

extension Segment {
    init(_ view: borrowing TCPView) {
        var options = SegmentOptions()
        if view.headerLength > TCPHeader.length {
            let read = view.options
            options.maximumSegmentSize = read.maximumSegmentSize
            options.windowScale = read.windowScale
            options.allowsSelective = read.selectivePermitted
            if let timestamps = read.timestamps {
                options.timestamps = Timestamps(value: timestamps.value, echo: timestamps.echo)
            }
            for index in 0..<min(4, read.blockCount) {
                options.selective.append(
                    SequenceRange(
                        start: SequenceNumber(read.blocks[index].start), end: SequenceNumber(read.blocks[index].end)))
            }
        }
        self.init(
            sequence: SequenceNumber(view.sequence), acknowledgement: SequenceNumber(view.acknowledgment),
            flags: Flags(rawValue: view.flags.rawValue & 0x3F), window: view.window, options: options,
            payloadCount: view.payload.byteCount)
    }
}

extension TCPOptions {
    init(_ options: SegmentOptions) {
        self.init()
        maximumSegmentSize = options.maximumSegmentSize
        windowScale = options.windowScale
        selectivePermitted = options.allowsSelective
        if let timestamps = options.timestamps {
            self.timestamps = TCPTimestamps(value: timestamps.value, echo: timestamps.echo)
        }
        for index in 0..<options.selective.count {
            let block = options.selective[index]
            blocks[index] = TCPBlock(start: block.start.value, end: block.end.value)
        }
        blockCount = options.selective.count
    }
}
