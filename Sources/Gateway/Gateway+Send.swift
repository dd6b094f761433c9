// SPDX-License-Identifier: Apache-2.0

internal import Fabric
internal import Packet
internal import TCP

/// Why a packet does not get where it is to go.
enum Unreachable {
    case network, host, port, protocolUnknown, prohibited
    /// With the size that would.
    case tooBig(Int)

    func message(isIPv4: Bool) -> ICMPMessage {
        if isIPv4 {
            let code: UInt8
            var parameter: UInt32 = 0
            switch self {
            case .network: code = ICMPUnreachable.network
            case .host: code = ICMPUnreachable.host
            case .port: code = ICMPUnreachable.port
            case .protocolUnknown: code = ICMPUnreachable.protocolNumber
            case .prohibited: code = ICMPUnreachable.prohibited
            case .tooBig(let size):
                code = ICMPUnreachable.fragmentationNeeded
                parameter = UInt32(clamping: min(size, 65535))
            }
            return ICMPMessage(type: ICMPType.unreachable, code: code, parameter: parameter)
        }
        switch self {
        case .network: return ICMPMessage(type: ICMPv6Type.unreachable, code: ICMPv6Unreachable.noRoute)
        case .host: return ICMPMessage(type: ICMPv6Type.unreachable, code: ICMPv6Unreachable.address)
        case .port: return ICMPMessage(type: ICMPv6Type.unreachable, code: ICMPv6Unreachable.port)
        case .protocolUnknown: return ICMPMessage(type: ICMPv6Type.parameterProblem, code: 1, parameter: 6)
        case .prohibited: return ICMPMessage(type: ICMPv6Type.unreachable, code: ICMPv6Unreachable.prohibited)
        case .tooBig(let size):
            return ICMPMessage(type: ICMPv6Type.packetTooBig, code: 0, parameter: UInt32(clamping: size))
        }
    }
}

extension Gateway {
    /// Sends a segment to a machine. Its payload, if any, stays where it is until the link is flushed.
    func send(
        _ segment: OutgoingSegment, _ key: FlowKey, _ machine: Machine, payload first: UnsafeRawBufferPointer,
        _ second: UnsafeRawBufferPointer
    ) {
        var header = TCPHeader(
            sourcePort: key.outsidePort, destinationPort: key.insidePort, sequence: segment.sequence.value,
            acknowledgment: segment.acknowledgement.value, flags: TCPFlags(rawValue: segment.flags.rawValue),
            window: segment.window)
        header.options = TCPOptions(segment.options)
        let headerLength = header.encodedLength
        let length = headerLength + segment.payloadCount
        let isIPv4 = key.isIPv4
        let transport = FrameLayout.packet + (isIPv4 ? IPv4Header.length : IPv6Header.length)
        var packet = InsidePacket(
            endpoint: key.endpoint, length: transport - FrameLayout.packet + length, isIPv6: !isIPv4)
        packet.header.flags = VirtioNetHeader.needsChecksum
        packet.header.checksumStart = UInt16(truncatingIfNeeded: transport - FrameLayout.frame)
        packet.header.checksumOffset = UInt16(TCPHeader.checksumOffset)
        if segment.payloadCount > segment.segmentSize {
            packet.header.segmentation =
                isIPv4 ? VirtioNetHeader.segmentationTCPv4 : VirtioNetHeader.segmentationTCPv6
            packet.header.segmentSize = UInt16(clamping: segment.segmentSize)
            packet.header.headerLength = UInt16(truncatingIfNeeded: transport - FrameLayout.frame + headerLength)
        }
        unsafe head.withUnsafeMutableBytes { space in
            var bytes = unsafe space.mutableBytes
            writeIP(&bytes, key, IPProtocol.tcp, from: key.outside, length: length)
            header.write(to: &bytes, at: transport)
            fillPartial(&bytes, transport, key, IPProtocol.tcp, length)
        }
        unsafe sendHead(packet, transport + headerLength, first, second)
        counters.bytesIn += UInt64(segment.payloadCount)
    }

    /// Sends a datagram or an ICMP message: `header` writes what stands before the payload. What is longer than the
    /// link takes, or than `limit`, goes in fragments.
    func sendDatagram(
        _ key: FlowKey, protocolNumber: UInt8, from source: IPv6Address, headerLength: Int,
        payload: UnsafeRawBufferPointer, limit: Int = .max, header: (inout MutableRawSpan, Int) -> Void
    ) {
        guard link.hasRoom(for: key.endpoint) else {
            counters.linkFull += 1
            return
        }
        let isIPv4 = key.isIPv4
        let transport = FrameLayout.packet + (isIPv4 ? IPv4Header.length : IPv6Header.length)
        let length = headerLength + payload.count
        var packet = InsidePacket(
            endpoint: key.endpoint, length: transport - FrameLayout.packet + length, isIPv6: !isIPv4)
        guard packet.length <= 65535 else {
            counters.tooLarge += 1
            return
        }
        let mtu = min(limit, link.capabilities(of: key.endpoint).mtu)
        if packet.length > mtu {
            return unsafe sendInPieces(
                key, protocolNumber: protocolNumber, from: source, headerLength: headerLength, payload: payload,
                mtu: mtu, header: header)
        }
        unsafe head.withUnsafeMutableBytes { space in
            var bytes = unsafe space.mutableBytes
            writeIP(&bytes, key, protocolNumber, from: source, length: length)
            header(&bytes, transport)
            if protocolNumber == IPProtocol.icmp {
                // No pseudo header, and so nothing that an offload could finish.
                bytes.put(0 as UInt16, at: transport + 2)
                var checksum = Checksum()
                checksum.add(bytes.bytes.slice(transport, headerLength))
                checksum.add(unsafe payload.bytes)
                bytes.put(checksum.value, at: transport + 2)
            } else {
                packet.header.flags = VirtioNetHeader.needsChecksum
                packet.header.checksumStart = UInt16(truncatingIfNeeded: transport - FrameLayout.frame)
                packet.header.checksumOffset = UInt16(Transport.checksumOffset(of: protocolNumber) ?? 0)
                fillPartial(&bytes, transport, key, protocolNumber, length, from: source)
            }
        }
        unsafe sendHead(packet, transport + headerLength, payload, UnsafeRawBufferPointer(start: nil, count: 0))
    }

    func sendHead(
        _ packet: InsidePacket, _ length: Int, _ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer
    ) {
        unsafe head.withUnsafeBytes { space in
            unsafe link.send(
                packet, head: UnsafeRawBufferPointer(rebasing: space[..<length]), payload: first, second)
        }
    }

    private func writeIP(
        _ bytes: inout MutableRawSpan, _ key: FlowKey, _ protocolNumber: UInt8, from source: IPv6Address, length: Int
    ) {
        if let source = source.mappedIPv4, let destination = key.inside.mappedIPv4 {
            IPv4Header(
                protocolNumber: protocolNumber, source: source, destination: destination, payloadLength: length
            ).write(to: &bytes, at: FrameLayout.packet)
        } else {
            IPv6Header(nextHeader: protocolNumber, source: source, destination: key.inside, payloadLength: length)
                .write(to: &bytes, at: FrameLayout.packet)
        }
    }

    private func fillPartial(
        _ bytes: inout MutableRawSpan, _ offset: Int, _ key: FlowKey, _ protocolNumber: UInt8, _ length: Int,
        from source: IPv6Address? = nil
    ) {
        let source = source ?? key.outside
        if let from = source.mappedIPv4, let to = key.inside.mappedIPv4 {
            Transport.fillPartialChecksum(
                &bytes, at: offset, length: length, protocolNumber: protocolNumber, source: from, destination: to)
        } else {
            Transport.fillPartialChecksum(
                &bytes, at: offset, length: length, protocolNumber: protocolNumber, source: source,
                destination: key.inside)
        }
    }

    /// Tells a machine that a packet of a flow does not get there.
    /// - Parameter quoting: what followed the ports in the packet: a segment's number, a datagram's length, the second
    ///   half of an echo's header.
    func sendUnreachable(
        _ machine: Machine, _ key: FlowKey, _ reason: Unreachable, quoting: UInt32, from offender: IPv6Address? = nil
    ) {
        let isIPv4 = key.isIPv4
        guard let source = offender ?? machine.gatewayAddress(isIPv4: isIPv4) else { return }
        let ipLength = isIPv4 ? IPv4Header.length : IPv6Header.length
        var quote = [UInt8](repeating: 0, count: ipLength + 8)
        let isEcho = key.protocolNumber == IPProtocol.icmp || key.protocolNumber == IPProtocol.icmpv6
        unsafe quote.withUnsafeMutableBytes { space in
            var bytes = unsafe space.mutableBytes
            if let from = key.inside.mappedIPv4, let to = key.outside.mappedIPv4 {
                IPv4Header(protocolNumber: key.protocolNumber, source: from, destination: to, payloadLength: 8)
                    .write(to: &bytes, at: 0)
            } else {
                IPv6Header(
                    nextHeader: key.protocolNumber, source: key.inside, destination: key.outside, payloadLength: 8
                ).write(to: &bytes, at: 0)
            }
            if isEcho {
                bytes.put(isIPv4 ? ICMPType.echoRequest : ICMPv6Type.echoRequest, at: ipLength)
                bytes.put(key.insidePort, at: ipLength + 4)
                bytes.put(UInt16(truncatingIfNeeded: quoting), at: ipLength + 6)
            } else {
                bytes.put(key.insidePort, at: ipLength)
                bytes.put(key.outsidePort, at: ipLength + 2)
                bytes.put(quoting, at: ipLength + 4)
            }
        }
        let message = reason.message(isIPv4: isIPv4)
        unsafe quote.withUnsafeBytes { payload in
            unsafe sendDatagram(
                key, protocolNumber: isIPv4 ? IPProtocol.icmp : IPProtocol.icmpv6, from: source,
                headerLength: ICMPMessage.headerLength, payload: payload
            ) { message.write(to: &$0, at: $1) }
        }
        // The quotation lives in this call only.
        link.flush()
    }
}
