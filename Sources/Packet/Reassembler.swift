// SPDX-License-Identifier: Apache-2.0

/// Puts fragments of IPv4 and IPv6 packets together. Bounded in every direction: packets at a time, packets of one owner
/// at a time, bytes, time. Fragments that overlap end their packet (RFC 5722; for IPv4 nothing honest overlaps either).
package struct Reassembler: ~Copyable {
    package enum Outcome: Equatable, Sendable {
        /// Kept; more is to come.
        case incomplete
        /// The packet, so many bytes long, is in the caller's buffer: without fragment header or offset, its length
        /// and (IPv4) checksum right.
        case complete(Int)
        case dropped(Failure)
    }

    package enum Failure: Equatable, Sendable {
        case malformed
        case overlap
        /// The packet would be longer than 65,535 bytes.
        case tooLong
        /// The owner has as many unfinished packets as one may have.
        case tooMany
        /// A packet of more pieces than a sender with a sane path makes.
        case tooManyPieces
    }

    /// How long the first fragment waits for the last one (RFC 8200 §4.5 says 60 s; nothing here is that slow).
    package static let timeoutInNanoseconds: UInt64 = 15_000_000_000
    package static let packetLimit = 64
    package static let packetLimitOfOne = 4
    package static let pieceLimit = 128

    fileprivate struct Key: Equatable {
        let owner: UInt32
        let source: IPAddress
        let destination: IPAddress
        let identification: UInt32
        let protocolNumber: UInt8
    }

    fileprivate struct Packet {
        let key: Key
        let deadline: UInt64
        /// The header of the first fragment, up to where its fragment header was.
        var header: [UInt8] = []
        /// IPv6: where in the header the number lies that says what follows the fragment header.
        var nextHeaderOffset = 0
        var nextHeader: UInt8 = 0
        var payload: [UInt8] = []
        /// What has come, in order, without borders between neighbours.
        var ranges: [Range<Int>] = []
        var pieces = 0
        var length: Int?
    }

    private var packets: [Packet] = []

    package init() {}

    package var count: Int { packets.count }

    /// When `expire` has something to do next.
    package var nextDeadline: UInt64? { packets.first?.deadline }

    /// Forgets packets whose time is over; gives the owner of each.
    package mutating func expire(now: UInt64) -> [UInt32] {
        // The oldest are first.
        guard let first = packets.first, first.deadline <= now else { return [] }
        let owners = packets.compactMap { $0.deadline <= now ? $0.key.owner : nil }
        packets.removeAll { $0.deadline <= now }
        return owners
    }

    /// Forgets an owner's packets.
    package mutating func forget(owner: UInt32) { packets.removeAll { $0.key.owner == owner } }

    /// Adds a fragment of an IPv4 packet. The complete packet goes to `offset` of `output`, which has room for 65,535
    /// bytes there and does not overlap with the fragment.
    package mutating func add(
        _ view: borrowing IPv4View, owner: UInt32, now: UInt64, to output: inout MutableRawSpan, at offset: Int
    ) -> Outcome {
        let key = Key(
            owner: owner, source: .v4(view.source), destination: .v4(view.destination),
            identification: UInt32(view.identification), protocolNumber: view.protocolNumber)
        let payload = view.payload
        let outcome = add(
            key, payload, from: view.fragmentOffset, more: view.moreFragments, now: now, overhead: view.headerLength)
        guard case .found(let index) = outcome else { return outcome.result }
        if view.fragmentOffset == 0 { packets[index].header = view.header.array }
        guard let packet = takeComplete(index) else { return .incomplete }
        let length = packet.header.count + packet.payload.count
        guard length <= 65_535 else { return .dropped(.tooLong) }
        output.put(packet.header, at: offset)
        output.put(packet.payload, at: offset + packet.header.count)
        output.put(UInt16(length), at: offset + 2)
        output.put(0 as UInt32, at: offset + 4)
        output.put(0 as UInt16, at: offset + 10)
        output.put(Checksum.of(output.bytes.slice(offset, packet.header.count)), at: offset + 10)
        return .complete(length)
    }

    /// Adds a fragment of an IPv6 packet, likewise.
    package mutating func add(
        _ view: borrowing IPv6View, _ upper: IPv6Upper, owner: UInt32, now: UInt64, to output: inout MutableRawSpan,
        at offset: Int
    ) -> Outcome {
        guard let place = upper.fragmentHeader, place + 8 <= view.bytes.byteCount else { return .dropped(.malformed) }
        let key = Key(
            owner: owner, source: .v6(view.source), destination: .v6(view.destination),
            identification: upper.identification, protocolNumber: 0)
        // The fragmentable part begins behind the fragment header, wherever later extension headers end.
        let payload = view.bytes.dropping(place + 8)
        let outcome = add(
            key, payload, from: upper.fragmentOffset, more: upper.moreFragments, now: now,
            overhead: place - IPv6Header.length)
        guard case .found(let index) = outcome else { return outcome.result }
        if upper.fragmentOffset == 0 {
            packets[index].header = view.bytes.slice(0, place).array
            packets[index].nextHeader = view.bytes.byte(place)
            packets[index].nextHeaderOffset = Reassembler.placeOfNextHeader(view.bytes, before: place)
        }
        guard let packet = takeComplete(index) else { return .incomplete }
        let length = packet.header.count + packet.payload.count
        guard length <= 65_535 else { return .dropped(.tooLong) }
        output.put(packet.header, at: offset)
        output.put(packet.payload, at: offset + packet.header.count)
        output.put(UInt16(length - IPv6Header.length), at: offset + 4)
        output.put(packet.nextHeader, at: offset + packet.nextHeaderOffset)
        return .complete(length)
    }

    /// Where the number of the header at `place` lies: in the fixed header, or in the extension header before it.
    private static func placeOfNextHeader(_ bytes: RawSpan, before place: Int) -> Int {
        var field = 6
        var position = IPv6Header.length
        while position < place {
            field = position
            position += (Int(bytes.byte(position + 1)) + 1) * 8
        }
        return field
    }

    private enum Lookup {
        case found(Int)
        case failed(Failure)
        case duplicate

        var result: Outcome {
            switch self {
            case .failed(let failure): .dropped(failure)
            case .found, .duplicate: .incomplete
            }
        }
    }

    private mutating func add(
        _ key: Key, _ payload: RawSpan, from start: Int, more: Bool, now: UInt64, overhead: Int
    ) -> Lookup {
        let count = payload.byteCount
        // All but the last are multiples of 8 (RFC 791 §3.2, RFC 8200 §4.5).
        guard count > 0, !more || count.isMultiple(of: 8) else { return .failed(.malformed) }
        guard start + count + overhead <= 65_535 else { return .failed(.tooLong) }
        let known = packets.firstIndex { $0.key == key }
        let index: Int
        if let known, packets[known].deadline > now {
            index = known
        } else {
            if let known { packets.remove(at: known) }
            var ofOwner = 0
            for packet in packets where packet.key.owner == key.owner { ofOwner += 1 }
            guard ofOwner < Reassembler.packetLimitOfOne, packets.count < Reassembler.packetLimit else {
                return .failed(.tooMany)
            }
            packets.append(Packet(key: key, deadline: now &+ Reassembler.timeoutInNanoseconds))
            index = packets.count - 1
        }
        if let failure = packets[index].insert(payload, from: start, more: more) {
            if failure == .duplicate { return .duplicate }
            packets.remove(at: index)
            return .failed(failure == .overlap ? .overlap : failure == .tooMany ? .tooManyPieces : .malformed)
        }
        return .found(index)
    }

    /// Takes the packet out if it is whole.
    private mutating func takeComplete(_ index: Int) -> Packet? {
        guard let length = packets[index].length, packets[index].ranges == [0..<length], !packets[index].header.isEmpty
        else { return nil }
        return packets.remove(at: index)
    }
}

extension Reassembler.Packet {
    fileprivate enum Problem { case duplicate, overlap, malformed, tooMany }

    fileprivate mutating func insert(_ bytes: RawSpan, from start: Int, more: Bool) -> Problem? {
        let end = start + bytes.byteCount
        if let length { guard end <= length, more || end == length else { return .malformed } }
        guard pieces < Reassembler.pieceLimit else { return .tooMany }
        var place = 0
        while place < ranges.count, ranges[place].upperBound <= start { place += 1 }
        if place < ranges.count, ranges[place].lowerBound < end {
            // The same once more is the network's doing, and harmless.
            return ranges[place].lowerBound <= start && ranges[place].upperBound >= end ? .duplicate : .overlap
        }
        if !more {
            guard ranges.last.map({ $0.upperBound <= end }) ?? true else { return .malformed }
            length = end
        }
        pieces += 1
        if payload.count < end { payload.append(contentsOf: repeatElement(0, count: end - payload.count)) }
        for index in 0..<bytes.byteCount { payload[start + index] = bytes.byte(index) }
        ranges.insert(start..<end, at: place)
        if place + 1 < ranges.count, ranges[place + 1].lowerBound == end {
            ranges[place] = start..<ranges.remove(at: place + 1).upperBound
        }
        if place > 0, ranges[place - 1].upperBound == start {
            ranges[place - 1] = ranges[place - 1].lowerBound..<ranges.remove(at: place).upperBound
        }
        return nil
    }
}
