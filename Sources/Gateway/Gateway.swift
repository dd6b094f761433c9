// SPDX-License-Identifier: Apache-2.0

internal import CLinux
package import Fabric
internal import FabricAPI
internal import Glibc
package import Packet
package import Platform
package import TCP

/// The machines' way to the outside, without root: their TCP ends here and goes on as a socket of the host, bytes copied
/// from one to the other; their datagrams and echoes go out by sockets of the host.
///
/// For one thread. The router hands packets in with `receive`, a batch at a time, and calls `flush` after each batch;
/// the host's sockets are watched by an epoll instance of its own, which is readable (`eventDescriptor`) when `work` is
/// to be called. What goes to machines leaves by the `InsideLink`.
///
/// A connection is answered to the machine when the host's connect has succeeded, not before: a refusal is a reset, an
/// unreachable host an ICMP error. Windows are carried through: what the host's socket does not take stays in a bounded
/// buffer, whose room is the window; what the machine does not take is not read from the host's socket.
package final class Gateway {
    let link: any InsideLink
    let epoll: Epoll
    var events = EpollEvents(capacity: 256)
    package internal(set) var counters = GatewayCounters()

    var machines: [EndpointID: Machine] = [:]
    /// Flows by the machine's packets.
    var flows: [FlowKey: UInt32] = [:]
    /// What has a slot: the token of its descriptor, the number of its timer.
    var slots: [Slot] = []
    var freeSlots: [UInt32] = []
    /// Counts uses of a slot, so that an event for an earlier holder is not taken for one of the present.
    var generations: [UInt32] = []
    var timers: TimerWheel
    /// Flows that have something to do at the next `flush`.
    var dirty: [TCPFlow] = []
    private var working: [TCPFlow] = []
    /// Machines some of whose flows wait for memory.
    var hungry: [Machine] = []
    /// There is memory for more of those than one turn takes.
    var feedsLater = false
    /// Payload that goes to hosts at the next `flush`, in the records where it came.
    var pieces: [Piece] = []
    var head = [UInt8](repeating: 0, count: 256)
    /// A datagram that is sent in pieces.
    var scratch: [UInt8] = []
    /// Of the last such.
    var identification = UInt32.random(in: 0...UInt32.max)
    /// Room for a burst of datagrams from the host.
    let datagrams: DatagramSpace
    var hostAddresses: Set<IPv6Address> = []
    var addressChanges: Descriptor?
    var nextPort: UInt16 = 0
    /// Slots of listeners, by the endpoint that they publish.
    var listeners: [EndpointID: [UInt32]] = [:]
    var services: [UInt16: (EndpointID, consuming Descriptor) -> Void] = [:]
    let configuration: GatewayConfiguration

    package init(
        link: any InsideLink, configuration: GatewayConfiguration = GatewayConfiguration(), now: Microseconds
    ) throws(SystemError) {
        self.link = link
        self.configuration = configuration
        epoll = try Epoll()
        timers = TimerWheel(now: now)
        datagrams = DatagramSpace()
        nextPort = UInt16.random(in: GatewayConfiguration.publishedPorts)
        try watchAddresses()
    }

    /// Readable when `work` has something to do.
    package var eventDescriptor: Int32 { epoll.raw }

    /// When `work` has to be called at the latest, in microseconds; `UInt64.max` for never.
    package var deadline: Microseconds { feedsLater ? 0 : timers.deadline }

    /// Handles what has become ready outside, and timers that have run out.
    package func work(now: Microseconds) {
        // Once: what is still ready makes `eventDescriptor` readable, and comes after the machines have had their turn.
        if let count = try? epoll.wait(&events, timeoutInMilliseconds: 0), count > 0 {
            for index in 0..<count {
                let (token, readiness) = events[index]
                dispatch(token, readiness, now)
            }
            flush(now: now)
        }
        while let slot = timers.popExpired(now: now) {
            switch slots[Int(slot)] {
            case .tcp(let flow): expire(flow, now)
            case .datagram(let flow): expire(flow, now)
            case .listener(let listener): listenAgain(listener, slot)
            case .free, .datagramListener, .addresses: break
            }
        }
        flush(now: now)
    }

    /// Does what a batch of packets has brought about: bytes to sockets, segments to machines. Records handed to
    /// `receive` are not read any more afterwards.
    package func flush(now: Microseconds) {
        var turns = Gateway.feedLimit
        repeat {
            feed(&turns)
            // Each flow once, then the link: what a flow has given to the link stays where it is until then.
            swap(&dirty, &working)
            for flow in working {
                flow.isDirty = false
                pump(flow, now)
            }
            working.removeAll(keepingCapacity: true)
            link.flush()
        } while !dirty.isEmpty || turns > 0 && canFeed
        feedsLater = canFeed
        pieces.removeAll(keepingCapacity: true)
    }

    /// There is room again on the way to a machine.
    package func resume(_ endpoint: EndpointID, now: Microseconds) {
        guard let machine = machines[endpoint], !machine.waiting.isEmpty else { return }
        let waiting = machine.waiting
        machine.waiting = []
        for slot in waiting {
            if case .tcp(let flow) = slots[Int(slot)] { mark(flow) }
        }
        flush(now: now)
    }

    /// Adds a machine, or says anew what it may do. Flows that exist go on, unless the policy refuses them now.
    package func set(_ machine: InsideMachine, now: Microseconds) {
        if let known = machines[machine.endpoint] {
            let isStricter = known.settings.policy != machine.policy
            known.settings = machine
            if isStricter { endRefused(known, now) }
            flush(now: now)
        } else {
            machines[machine.endpoint] = Machine(machine)
        }
    }

    /// See `EgressPolicy.concerns`.
    package func concerns(_ name: String, for endpoint: EndpointID) -> Bool {
        machines[endpoint]?.settings.policy.concerns(name) ?? false
    }

    /// A machine was told an address of a name; see `EgressPolicy.pin`.
    package func pin(
        _ address: IPv6Address, name: String, for endpoint: EndpointID, until: Microseconds, now: Microseconds
    ) -> Bool {
        machines[endpoint]?.settings.policy.pin(address, name: name, until: until, now: now) ?? false
    }

    /// A machine was let ask for a name that its rules deny, because those are only tried out.
    package func noteAudited(_ name: String, for endpoint: EndpointID) {
        counters.auditedNames += 1
        machines[endpoint]?.audited.add(.name(name))
    }

    /// What a machine was let do that its rules deny.
    package func audited(of endpoint: EndpointID) -> AuditTrail { machines[endpoint]?.audited ?? AuditTrail() }

    /// Says anew what a machine may reach; names that it has asked for stay known.
    package func setRules(
        own: EgressPolicy.Rules, network: EgressPolicy.Rules, of endpoint: EndpointID, now: Microseconds
    ) {
        guard let machine = machines[endpoint] else { return }
        machine.settings.policy.own = own
        machine.settings.policy.network = network
        endRefused(machine, now)
        flush(now: now)
    }

    /// Ends all that belongs to a machine; what is published for it is withdrawn.
    package func remove(_ endpoint: EndpointID, now: Microseconds) {
        guard machines[endpoint] != nil else { return }
        for slot in slots {
            switch slot {
            case .tcp(let flow) where flow.key.endpoint == endpoint: abandon(flow, now)
            case .datagram(let flow) where flow.key.endpoint == endpoint: remove(flow)
            default: break
            }
        }
        withdraw(endpoint)
        hungry.removeAll { $0.settings.endpoint == endpoint }
        machines[endpoint] = nil
        flush(now: now)
    }

    /// Streams to a port of the gateway's own address end in the process: each gives the service a connected socket.
    package func serve(port: UInt16, _ accept: @escaping (EndpointID, consuming Descriptor) -> Void) {
        services[port] = accept
    }

    /// What a machine has now, for those who ask.
    package func usage(of endpoint: EndpointID) -> GatewayUsage? {
        guard let machine = machines[endpoint] else { return nil }
        return GatewayUsage(
            connections: machine.connections, connecting: machine.connecting.count { self.connectingFlow($0) != nil },
            datagramFlows: machine.datagramFlows,
            bufferInBytes: machine.pool.usedInBytes)
    }
}

/// What a machine has of the gateway.
package struct GatewayUsage: Equatable, Sendable {
    package var connections: Int
    package var connecting: Int
    package var datagramFlows: Int
    package var bufferInBytes: Int
}
