// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Fabric
internal import Packet
internal import Platform
package import TCP

package struct GatewayConfiguration: Sendable {
    /// Where connections that come in from the host seem to come from, on the gateway's address.
    static let publishedPorts: ClosedRange<UInt16> = 1024...65535

    /// The most that a buffer holds, of a direction of a connection; one of `BufferPool.sizes`.
    package var bufferLimit = 1 << 20
    package var keepaliveInSeconds: Int32? = 300
    package var tcp = Configuration()
    /// How long a UDP flow is kept that has seen an answer, and one that has not; echoes as the latter.
    package var answeredTimeout: Microseconds = 180_000_000
    package var unansweredTimeout: Microseconds = 30_000_000
    /// How long the host may take to connect.
    package var connectTimeout: Microseconds = 60_000_000

    package init() {
        // Twice a segment's life, as Linux has it; `Quotas.resting` bounds how many wait that long.
        tcp.timeWait = 60_000_000
        tcp.keepaliveIdle = 300_000_000
        tcp.keepaliveInterval = 30_000_000
        tcp.receiveCapacity = 1 << 20
    }
}

/// What the gateway has done and refused, since it began.
package struct GatewayCounters: Equatable, Sendable {
    package var connectionsOpened: UInt64 = 0
    package var connectionsPublished: UInt64 = 0
    package var connectionsRefusedByHost: UInt64 = 0
    package var connectionsClosed: UInt64 = 0
    package var datagramFlowsOpened: UInt64 = 0
    package var bytesOut: UInt64 = 0
    package var bytesIn: UInt64 = 0

    // Why packets went no further.
    package var malformed: UInt64 = 0
    package var badChecksum: UInt64 = 0
    package var forbiddenAddress: UInt64 = 0
    package var refusedByPolicy: UInt64 = 0
    package var audited: UInt64 = 0
    package var auditedNames: UInt64 = 0
    package var unknownConnection: UInt64 = 0
    package var overQuota: UInt64 = 0
    package var evicted: UInt64 = 0
    package var outOfDescriptors: UInt64 = 0
    package var unknownProtocol: UInt64 = 0
    package var noPingSockets: UInt64 = 0
    package var hostWouldNotTake: UInt64 = 0
    package var linkFull: UInt64 = 0
    package var tooLarge: UInt64 = 0
    package var publishedRefused: UInt64 = 0
    package init() {}

    /// All of them, by name.
    package var named: [(String, UInt64)] {
        [
            ("connectionsOpened", connectionsOpened), ("connectionsPublished", connectionsPublished),
            ("connectionsRefusedByHost", connectionsRefusedByHost), ("connectionsClosed", connectionsClosed),
            ("datagramFlowsOpened", datagramFlowsOpened), ("bytesOut", bytesOut), ("bytesIn", bytesIn),
            ("malformed", malformed), ("badChecksum", badChecksum), ("forbiddenAddress", forbiddenAddress),
            ("refusedByPolicy", refusedByPolicy), ("audited", audited), ("auditedNames", auditedNames),
            ("unknownConnection", unknownConnection),
            ("overQuota", overQuota), ("evicted", evicted), ("outOfDescriptors", outOfDescriptors),
            ("unknownProtocol", unknownProtocol), ("noPingSockets", noPingSockets),
            ("hostWouldNotTake", hostWouldNotTake), ("linkFull", linkFull), ("tooLarge", tooLarge),
            ("publishedRefused", publishedRefused),
        ]
    }
}

/// What a slot holds.
enum Slot {
    case free
    case tcp(TCPFlow)
    case datagram(DatagramFlow)
    case listener(Listener)
    case datagramListener(DatagramListener)
    case addresses
}

/// A machine and what it has.
final class Machine {
    var settings: InsideMachine
    let pool: BufferPool
    var audited = AuditTrail()
    var connections = 0
    /// Tokens of flows whose connect is under way, the oldest first, and of some that have got on since.
    var connecting = TokenQueue()
    var datagramFlows = 0
    /// Tokens of datagram flows, in the order in which they came or were last passed over: the front is looked at when
    /// one has to go.
    var oldestFirst = TokenQueue()
    /// Slots of flows that wait for room on the link.
    var waiting: Set<UInt32> = []
    /// Tokens of flows that wait for memory, the first to come first, some of them gone since.
    var hungry = TokenQueue()
    /// Tokens of flows that have come to TIME-WAIT, the oldest first, some of them gone since.
    var resting = TokenQueue()

    init(_ settings: InsideMachine) {
        self.settings = settings
        pool = BufferPool(limitInBytes: settings.quotas.bufferInBytes)
    }

    /// The gateway's address of the family of `address`.
    func gatewayAddress(isIPv4: Bool) -> IPv6Address? {
        isIPv4 ? settings.gatewayIPv4.map { IPv6Address(mapping: $0) } : settings.gatewayIPv6
    }
}

extension Gateway {
    /// A slot for what is to be entered at once.
    func take() -> UInt32 {
        if let free = freeSlots.popLast() { return free }
        slots.append(.free)
        generations.append(0)
        return UInt32(slots.count - 1)
    }

    func take(for entry: Slot) -> UInt32 {
        let index = take()
        slots[Int(index)] = entry
        return index
    }

    func release(_ slot: UInt32) {
        timers.set(slot, .max)
        slots[Int(slot)] = .free
        generations[Int(slot)] &+= 1
        freeSlots.append(slot)
    }

    /// What the events of a slot's descriptor carry.
    func token(_ slot: UInt32) -> UInt64 { UInt64(generations[Int(slot)]) << 32 | UInt64(slot) }

    func dispatch(_ token: UInt64, _ readiness: Readiness, _ now: Microseconds) {
        let slot = UInt32(truncatingIfNeeded: token)
        guard Int(slot) < slots.count, generations[Int(slot)] == UInt32(token >> 32) else { return }
        switch slots[Int(slot)] {
        case .free: break
        case .tcp(let flow): ready(flow, readiness, now)
        case .datagram(let flow): ready(flow, readiness, now)
        case .listener(let listener): accept(listener, slot, now)
        case .datagramListener(let listener): receive(listener, now)
        case .addresses: rereadAddresses()
        }
    }

    /// Learns the host's own addresses, and when they change.
    func watchAddresses() throws(SystemError) {
        let raw = clinux_address_changes()
        if raw >= 0 {
            let descriptor = Descriptor(owning: raw)
            let slot = take(for: .addresses)
            try epoll.add(descriptor.raw, .readable, token: token(slot))
            addressChanges = consume descriptor
        }
        hostAddresses = try Set(SocketAddress.ofThisHost().map(\.address))
    }

    private func rereadAddresses() {
        let space = UnsafeMutableRawBufferPointer.allocate(byteCount: 8192, alignment: 8)
        defer { unsafe space.deallocate() }
        switch addressChanges {
        case .some(let descriptor):
            // What they say does not matter, only that they came; an overrun says the same.
            while case .bytes? = try? unsafe descriptor.read(into: space) {}
        case .none: break
        }
        if let addresses = try? SocketAddress.ofThisHost() { hostAddresses = Set(addresses.map(\.address)) }
    }

    /// The number that a connection begins with: not to be guessed, and ahead of an earlier one's (RFC 6528).
    func initialSequence(_ key: FlowKey, _ now: Microseconds) -> SequenceNumber {
        var hasher = Hasher()
        hasher.combine(key)
        return SequenceNumber(UInt32(truncatingIfNeeded: hasher.finalize()) &+ UInt32(truncatingIfNeeded: now / 4))
    }
}
