// SPDX-License-Identifier: Apache-2.0

package import Packet

/// A question to the namespace's name server, in a record that `receive` was given.
package struct NameQuery: Equatable, Sendable {
    package var endpoint: EndpointID
    package var network: Int
    /// Where the DNS message lies in the record.
    package var offset: Int
    package var length: Int
    package var isIPv6: Bool
    package var clientPort: UInt16
}

/// What is to be done with a frame.
package enum Verdict: Equatable, Sendable {
    /// The record, whose headers may have been rewritten, goes to this port.
    case forward(PortID)
    /// The record goes to all ports of the network but the one that it came from.
    case flood(network: Int)
    /// The first so many bytes of the reply buffer go back to where the record came from.
    case reply(Int)
    /// The record is for the gateway.
    case outside(OutsidePacket)
    /// The reply buffer holds a record that was put together of fragments, for the gateway.
    case outsideReassembled(OutsidePacket)
    /// The record asks for a name.
    case query(NameQuery)
    case drop(DropReason)
}

/// Decides where frames go: a pure core. Nothing here does I/O, reads a clock or allocates for a frame that is passed on.
///
/// Zone: the thread that owns the ports; not shared.
package struct Router: ~Copyable {
    /// Replaced as a whole, between two frames.
    package private(set) var table: EndpointTable
    var ports: [PortState] = []
    var reassembler = Reassembler()
    /// What ports counted that are gone.
    package private(set) var retired = PortCounters()

    struct PortState {
        var offloads = Offloads()
        var counters = PortCounters()
        /// The address on the link that the machine chose itself, if it is not the one made of its Ethernet address.
        var linkLocal = IPv6Address.any
        var floods = TokenBucket(perSecond: 200, burst: 400)
        var errors = TokenBucket(perSecond: 100, burst: 100)
        var queries: TokenBucket
    }

    /// What each port may ask the name server, by default 2000 times a second.
    package static let queryLimit = TokenBucket(perSecond: 2000, burst: 1000)
    private let queryLimit: TokenBucket

    package init(table: EndpointTable = .empty, queryLimit: TokenBucket = Router.queryLimit) {
        self.table = table
        self.queryLimit = queryLimit
    }

    package mutating func replace(_ table: EndpointTable) { self.table = table }

    // MARK: - Ports

    /// Begins to know a port; one that was known is as new.
    package mutating func open(_ port: PortID) {
        while ports.count <= port.index { ports.append(PortState(queries: queryLimit)) }
        ports[port.index] = PortState(queries: queryLimit)
    }

    /// Forgets all that was learned of a port. Its counts go to the sum of those that are gone.
    package mutating func close(_ port: PortID) {
        guard port.index < ports.count else { return }
        retired.add(ports[port.index].counters)
        if let index = table.endpoint(of: port) { reassembler.forget(owner: table.facts[index].id.value) }
        ports[port.index] = PortState(queries: queryLimit)
    }

    package mutating func setOffloads(_ offloads: Offloads, of port: PortID) {
        guard port.index < ports.count else { return }
        ports[port.index].offloads = offloads
    }

    package func offloads(of port: PortID) -> Offloads {
        port.index < ports.count ? ports[port.index].offloads : Offloads()
    }

    /// The longest packet on an endpoint's link.
    package func mtu(of endpoint: EndpointID) -> Int {
        guard let index = table.endpoint(endpoint) else { return 1280 }
        return table.links[table.facts[index].network].mtu
    }

    package func counters(of port: PortID) -> PortCounters {
        port.index < ports.count ? ports[port.index].counters : PortCounters()
    }

    package mutating func countDrop(_ reason: DropReason, at port: PortID) {
        guard port.index < ports.count else { return }
        ports[port.index].counters[reason] &+= 1
    }

    /// Counts what was for a machine that is not there any more, with those that are gone.
    package mutating func countLost(_ reason: DropReason) { retired[reason] &+= 1 }

    package mutating func countSent(_ bytes: Int, to port: PortID) {
        guard port.index < ports.count else { return }
        ports[port.index].counters.framesToMachine &+= 1
        ports[port.index].counters.bytesToMachine &+= UInt64(bytes)
    }

    /// Hands the ports that a flooded frame goes to one by one to `body`.
    package func forEachMember(of network: Int, except port: PortID, _ body: (PortID) -> Void) {
        guard network < table.members.count else { return }
        for index in table.members[network] where table.facts[index].port != port.index {
            body(PortID(table.facts[index].port))
        }
    }

    // MARK: - Frames from machines

    /// What goes on with a frame while it is only looked at.
    enum Decision {
        case verdict(Verdict)
        case deliver(to: Int)
        /// Through the gateway: rewritten on the way.
        case route(to: Int)
    }

    /// One frame's sender and circumstances.
    struct Arrival {
        let port: Int
        let endpoint: Int
        let sender: EndpointFacts
        let link: LinkFacts
        let header: VirtioNetHeader
        let now: UInt64
    }

    /// Decides about a record, counts it, and says why where it goes nowhere.
    /// - Parameters:
    ///   - record: a virtio header and a frame, as it came from the port.
    ///   - now: in nanoseconds; never less than before.
    ///   - reply: room for `FrameLayout.longest` bytes, for what the router itself answers.
    package mutating func receive(
        _ record: inout MutableRawSpan, from port: PortID, now: UInt64, reply: inout MutableRawSpan
    ) -> Verdict {
        guard port.index < ports.count, let index = table.endpoint(of: port) else {
            countDrop(.unattachedPort, at: port)
            return .drop(.unattachedPort)
        }
        ports[port.index].counters.framesFromMachine &+= 1
        ports[port.index].counters.bytesFromMachine &+= UInt64(record.byteCount)
        let sender = table.facts[index]
        let verdict: Verdict
        switch decide(record.bytes, port.index, index, sender, now, &reply) {
        case .verdict(let final): verdict = final
        case .deliver(let peer): verdict = deliver(to: peer, from: index)
        case .route(let peer):
            route(&record, to: peer)
            verdict = deliver(to: peer, from: index)
        }
        if case .drop(let reason) = verdict { ports[port.index].counters[reason] &+= 1 }
        return verdict
    }

    private func deliver(to peer: Int, from index: Int) -> Verdict {
        guard peer != index else { return .drop(.misdirected) }
        let port = table.facts[peer].port
        return port < 0 ? .drop(.notAttached) : .forward(PortID(port))
    }

    private mutating func decide(
        _ record: RawSpan, _ port: Int, _ index: Int, _ sender: EndpointFacts, _ now: UInt64,
        _ reply: inout MutableRawSpan
    ) -> Decision {
        guard let header = VirtioNetHeader(record), record.byteCount <= FrameLayout.longest,
            let ethernet = EthernetView(record.dropping(FrameLayout.frame))
        else { return .verdict(.drop(.malformedFrame)) }
        guard ethernet.source == sender.mac else { return .verdict(.drop(.spoofedMAC)) }
        guard !ethernet.isTagged else { return .verdict(.drop(.vlanTag)) }
        let link = table.links[sender.network]
        let arrival = Arrival(port: port, endpoint: index, sender: sender, link: link, header: header, now: now)
        switch ethernet.type {
        case EtherType.ipv4: return receiveIPv4(ethernet, arrival, &reply)
        case EtherType.ipv6: return receiveIPv6(ethernet, arrival, &reply)
        case EtherType.arp:
            // Nothing of it is computed by a device.
            guard !header.asksForWork else { return .verdict(.drop(.malformedOffload)) }
            return receiveARP(ethernet, arrival, &reply)
        default: return .verdict(.drop(.otherEtherType))
        }
    }

    /// Writes new Ethernet addresses and counts the hop.
    private func route(_ record: inout MutableRawSpan, to peer: Int) {
        let isIPv6 = record.bytes.u16(FrameLayout.frame + 12) == EtherType.ipv6
        record.put(table.facts[peer].mac, at: FrameLayout.frame)
        record.put(Network.gatewayMAC, at: FrameLayout.frame + 6)
        if isIPv6 {
            record.put(record.bytes.byte(FrameLayout.packet + 7) &- 1, at: FrameLayout.packet + 7)
        } else {
            IPv4Header.decrementTimeToLive(&record, at: FrameLayout.packet)
        }
    }

    // MARK: - Packets from the gateway

    /// Puts the headers before a packet that the gateway wrote at `FrameLayout.packet`.
    /// - Returns: the port that the record goes to, or why it goes nowhere. Its length is `FrameLayout.packet` more than
    ///   the packet's.
    package func deliver(_ packet: InsidePacket, in record: inout MutableRawSpan) -> Verdict {
        guard let index = table.endpoint(packet.endpoint) else { return .drop(.notAttached) }
        let facts = table.facts[index]
        guard facts.port >= 0 else { return .drop(.notAttached) }
        packet.header.write(to: &record, at: 0)
        EthernetHeader(
            destination: facts.mac, source: Network.gatewayMAC,
            type: packet.isIPv6 ? EtherType.ipv6 : EtherType.ipv4
        ).write(to: &record, at: FrameLayout.frame)
        return .forward(PortID(facts.port))
    }

    /// The port of an endpoint, if it has one.
    package func port(of endpoint: EndpointID) -> PortID? {
        guard let index = table.endpoint(endpoint), table.facts[index].port >= 0 else { return nil }
        return PortID(table.facts[index].port)
    }

    // MARK: - Frames to machines

    /// How a record reaches a port.
    package enum Shape: Equatable, Sendable {
        case whole
        /// The machine takes no segments: the record's frame is to be cut.
        case segments(Segmentation)
        case drop(DropReason)
    }

    /// Makes a record into what the machine at a port takes.
    package func shape(_ record: inout MutableRawSpan, for port: PortID) -> Shape {
        guard port.index < ports.count, let header = VirtioNetHeader(record.bytes) else {
            return .drop(.receiverLacksOffload)
        }
        if ports[port.index].offloads.accept(header) { return .whole }
        if header.isSegmented {
            guard let plan = Segmentation(record.bytes.dropping(FrameLayout.frame), header) else {
                return .drop(.receiverLacksOffload)
            }
            return .segments(plan)
        }
        guard header.checksumLies(inFrameOf: record.byteCount - FrameLayout.frame) else {
            return .drop(.receiverLacksOffload)
        }
        let start = FrameLayout.frame + Int(header.checksumStart)
        var checksum = Checksum()
        checksum.add(record.bytes.dropping(start))
        let value = checksum.value
        record.put(value == 0 ? 0xFFFF : value, at: start + Int(header.checksumOffset))
        VirtioNetHeader().write(to: &record, at: 0)
        return .whole
    }

    /// Whether a port may ask the name server once more, over whatever transport; counted where not.
    package mutating func takeQuery(at port: PortID, now: UInt64) -> Bool {
        guard port.index < ports.count else { return false }
        if ports[port.index].queries.take(now: now) { return true }
        countDrop(.queryLimit, at: port)
        return false
    }

    /// Forgets fragments that wait for others for too long; gives when to ask again.
    package mutating func expire(now: UInt64) -> UInt64? {
        for owner in reassembler.expire(now: now) {
            if let port = port(of: EndpointID(owner)) { countDrop(.fragmentTimeout, at: port) }
        }
        return reassembler.nextDeadline
    }
}
