// SPDX-License-Identifier: Apache-2.0

internal import CLinux
package import Fabric
package import FabricAPI
package import Gateway
internal import Glibc
internal import Packet
package import Platform
internal import Wire

/// A network's process: it owns the sockets, the router decides.
///
/// Zone: one thread, one epoll instance; nothing here is shared.
package final class FabricService {
    package struct Configuration: Sendable {
        package var definition: NetworkDefinition
        /// Where `control`, `lock` and `ports/` are.
        package var directory: String
        /// The same as the process itself names it: a socket's path has 107 bytes at most, of which a machine's name has 64.
        package var ownDirectory: String
        /// Where this user's networks are defined; nil where no others are to be known of.
        package var definitions: String?
        package var resolverPath = "/etc/resolv.conf"
        /// Where the host's servers listen.
        package var resolverPort: UInt16 = 53
        /// Another one has served this network and was killed: its machines come back with the addresses that they had,
        /// and a new machine must not have got one of those meanwhile.
        var followsAnother = false
        /// How often each machine may ask the name server.
        package var queryLimit = Router.queryLimit
        /// How long it stays without endpoints: the next machine then finds it there.
        package var idleTimeInSeconds: UInt64 = 60
        /// How long a machine's stream to the name server is kept that nothing whole comes or goes by.
        package var streamIdleTimeInNanoseconds: UInt64 = 10_000_000_000
        /// Where machines that may reach the host's loopback find it.
        package var hostLoopback = EgressPolicy.HostLoopback.here

        package init(definition: NetworkDefinition, directory: String) {
            self.definition = definition
            self.directory = directory
            ownDirectory = directory
        }
    }

    let configuration: Configuration
    /// The network's, as it is now.
    var definition: NetworkDefinition
    let epoll: Epoll
    let signals: SignalQueue
    let control: Descriptor
    private var events = EpollEvents(capacity: 64)
    var state: NamespaceState
    var neighbors = NeighborMemory()
    var router: Router
    var ports: [MachinePort?] = []
    var clients: [ControlClient?] = []
    var captures: [Capture?] = []
    /// Of the directories of resolv.conf and of the user's networks; nil where there can be none.
    let watch: DirectoryWatch?
    let names: NameService
    /// The user's other networks; nil where none are to be known of.
    let others: UserNetworks?
    /// Machines' connections to the name server, by numbers that are not used again soon.
    var streams: [Int: NameStream] = [:]
    var nextStream = 0
    /// When the next of them may have been idle for too long; not later than that.
    var streamsDue: UInt64?
    let received: FrameArena
    /// Segments that are cut here.
    let made: FrameArena
    /// For replies of the router's own, and for what the gateway sends to a machine that takes no offloads.
    let answer: FrameArena
    /// Heads of the gateway's packets in the outbox.
    let heads: FrameArena
    var headCount = 0
    let batch = RecordBatch()
    let sending = RecordBatch()
    /// Records of the batch at hand that have a way, in order.
    var outbox: [Outgoing] = []
    var madeCount = 0
    /// Ports that are being served; captures look at frames only where there is one.
    var isCapturing = false
    var emptySince: UInt64?
    /// Listeners that are not watched because there were no descriptors, until when, and how often that was.
    var resting: [Token] = []
    var restsUntil: UInt64?
    var outOfDescriptors: UInt64 = 0
    var isEnding = false

    /// A batch has come whose effects have not been sent yet.
    var hasUnfinishedBatch = false
    /// Bytes in the outbox.
    var unsentBytes = 0
    /// Endpoints whose queue is gone with its connection.
    var relieved: [EndpointID] = []
    let gateway: Gateway
    /// What of its confinement the process has; nil for one that has none.
    package var confinement: FabricConfinement?

    /// A record, in up to three pieces.
    @safe struct Outgoing {
        let port: Int
        let source: Int
        let record: UnsafeRawBufferPointer
        var second = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        var third = unsafe UnsafeRawBufferPointer(start: nil, count: 0)

        var count: Int { unsafe record.count + second.count + third.count }
        /// In one piece.
        var bytes: [UInt8] { unsafe Array(record) + second + third }
    }

    /// Takes over a control socket that listens.
    package init(_ configuration: Configuration, control: consuming Descriptor) throws(FabricError) {
        var state = NamespaceState(identity: randomBits())
        try state.add(Network(configuration.definition))
        if configuration.followsAnother, let subnet = configuration.definition.subnet {
            // Far from where addresses begin, and somewhere else each time.
            let size = UInt64(1) << UInt64(32 - subnet.length)
            let place = IPv4Address(subnet.network.value + UInt32(size / 4 + randomBits() % (size / 2)))
            state.beginAddresses(after: place, in: configuration.definition.name)
        }
        self.configuration = configuration
        definition = configuration.definition
        self.state = state
        router = Router(table: state.table, queryLimit: configuration.queryLimit)
        let link = GatewayLink()
        do throws(SystemError) {
            epoll = try Epoll()
            signals = try SignalQueue([SIGTERM, SIGINT])
            received = try FrameArena()
            made = try FrameArena()
            answer = try FrameArena()
            heads = try FrameArena()
            gateway = try Gateway(link: link, now: monotonicNanoseconds() / 1000)
            let watch = FabricService.makeWatch()
            self.watch = watch
            names = NameService(
                resolverPath: configuration.resolverPath, port: configuration.resolverPort, seed: randomBits(),
                watch: watch)
            others = configuration.definitions.map {
                UserNetworks(directory: $0, besides: configuration.definition.name, watch: watch)
            }
            try epoll.add(signals.descriptor.raw, .readable, token: Token.signal.value)
            try epoll.add(control.raw, .readable, token: Token.control.value)
            if let watch { try epoll.add(watch.descriptor.raw, .readable, token: Token.directories.value) }
            try epoll.add(gateway.eventDescriptor, .readable, token: Token.gateway.value)
        } catch {
            throw .system(error)
        }
        self.control = control
        link.service = self
        gateway.serve(port: 53) { [unowned self] endpoint, socket in acceptStream(socket, from: endpoint) }
        gateway.serve(port: FabricRequest.insidePort) { [unowned self] endpoint, socket in
            acceptInside(socket, from: endpoint)
        }
    }

    private static func makeWatch() -> DirectoryWatch? {
        do throws(SystemError) {
            return try DirectoryWatch()
        } catch {
            // A limit is no reason to have no network.
            say("changes of resolv.conf, and of this user's networks, are not noticed: \(error)")
            return nil
        }
    }

    private func readAgain() {
        guard let changes = watch?.take() else { return }
        names.reload(after: changes)
        others?.reload(after: changes)
    }

    /// What every machine of the network may reach outside.
    var networkRules: EgressPolicy.Rules {
        EgressPolicy.Rules(definition.egress, auditsOnly: definition.isEgressAudited)
    }

    /// Serves until a signal comes or nobody has been there for a while.
    package func run() throws(FabricError) {
        do throws(SystemError) {
            emptySince = monotonicNanoseconds()
            while !isEnding {
                try handleEvents()
                tick()
            }
        } catch {
            throw .system(error)
        }
        for index in ports.indices { removePort(index) }
    }

    /// The gateway has its turn last, so that what it sends goes out together with what a machine's batch has brought
    /// about: fewer calls, and fewer wake-ups of the machine.
    private func handleEvents() throws(SystemError) {
        let count = try epoll.wait(&events, timeoutInMilliseconds: timeout())
        var gatewayIsReady = false
        for index in 0..<count {
            let event = events[index]
            guard let token = Token(event.token) else { continue }
            if case .gateway = token {
                gatewayIsReady = true
                continue
            }
            // What comes now may end a machine that the last batch is about, or needs the batch's room.
            finishBatch()
            handle(token, event.readiness)
        }
        if gatewayIsReady { gateway.work(now: microseconds()) }
        finishBatch()
    }

    private func handle(_ token: Token, _ readiness: Readiness) {
        switch token {
        case .signal: if signals.next() != nil { isEnding = true }
        case .control: acceptClients()
        case .directories: readAgain()
        case .gateway: break
        case .client(let index): serve(client: index, readiness)
        case .listener(let index): acceptMachine(index)
        case .port(let index):
            if readiness.contains(.writable) { drain(index) }
            if !readiness.isDisjoint(with: [.readable, .hungUp, .failed]) { receive(from: index) }
        case .exchange(let index): perform(names.receive(exchange: index, readiness, now: monotonicNanoseconds()))
        case .stream(let number): serve(stream: number, readiness)
        case .capture(let index): writeCapture(index)
        }
    }

    private func timeout() -> Int32? {
        var next: UInt64?
        func consider(_ time: UInt64?) { if let time { next = min(next ?? time, time) } }
        consider(names.deadline)
        if gateway.deadline != .max { consider(gateway.deadline * 1000) }
        consider(router.expire(now: monotonicNanoseconds()))
        consider(idleDeadline)
        consider(restsUntil)
        consider(streamsDue)
        guard let next else { return nil }
        let now = monotonicNanoseconds()
        return next <= now ? 0 : Int32(clamping: (next - now + 999_999) / 1_000_000)
    }

    private func tick() {
        let now = monotonicNanoseconds()
        if !relieved.isEmpty {
            let endpoints = relieved
            relieved = []
            for endpoint in endpoints { gateway.resume(endpoint, now: now / 1000) }
        }
        if let deadline = names.deadline, deadline <= now { perform(names.advance(now: now)) }
        if gateway.deadline <= now / 1000 { gateway.work(now: now / 1000) }
        if let streamsDue, streamsDue <= now { endIdleStreams(now: now) }
        if let restsUntil, restsUntil <= now { listenAgain() }
        if let idleDeadline, now >= idleDeadline { isEnding = true }
    }

    /// When it ends, if nobody comes; who captures waits for somebody.
    private var idleDeadline: UInt64? {
        isCapturing ? nil : emptySince.map { $0 + configuration.idleTimeInSeconds * 1_000_000_000 }
    }

    /// The table has changed.
    func tableChanged() {
        router.replace(state.table)
        emptySince = state.table.endpoints.isEmpty ? monotonicNanoseconds() : nil
    }
}

/// How many descriptors the process may have.
func descriptorLimit() -> Int {
    var limit = rlimit()
    guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 1024 }
    return Int(clamping: limit.rlim_cur)
}

/// Bits from the system's random source.
func randomBits() -> UInt64 {
    var random = SystemRandomNumberGenerator()
    return random.next()
}

extension Network {
    package init(_ definition: NetworkDefinition) {
        self.init(
            name: definition.name, subnet: definition.subnet, gateway: definition.gateway ?? .any,
            prefix: definition.subnet6)
        gateway6Choice = definition.gateway6
        isInternal = definition.isInternal
        mtu = Int(definition.mtu)
    }
}
