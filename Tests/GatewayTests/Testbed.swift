// SPDX-License-Identifier: Apache-2.0

import FabricAPI
import Glibc
import Packet
import Platform
import Testing
import Wire

/// Three network namespaces: a machine that is Linux's own stack behind a TAP, the host where `martlet-fabric` runs, and
/// the world outside, at the other end of a pair of Ethernet devices. Nothing else is reached from there.
final class Testbed {
    let machine: String
    let host: String
    let outside: String
    let directory: String
    private let fabric: ChildProcess
    private let tap: ChildProcess
    private let control: Descriptor
    private var unread: [UInt8] = []

    static let hostAddress = "192.0.2.1"
    static let outsideAddress = "192.0.2.2"
    static let outsideAddress6 = "2001:db8::2"
    static let machineAddress = "10.88.0.2"
    static let machineAddress6 = "fd00:88::2"

    /// - Parameters:
    ///   - loss: how many frames of a thousand get lost on the machine's link, and how many change places.
    ///   - resolver: the host's name server, instead of those of this machine.
    init(
        mtu: UInt32 = 65_520, hostAccess: Bool = false, published: [String] = [], egress: [String] = [], loss: Int = 0,
        token: String? = nil, resolver: String? = nil
    ) throws {
        var random = SystemRandomNumberGenerator()
        let id = String(random.next() % 1_000_000, radix: 36)
        (machine, host, outside) = ("mgm\(id)", "mgh\(id)", "mgo\(id)")
        directory = "/tmp/martlet-gateway-\(id)"
        try Files.makeDirectories("\(directory)/run", permissions: 0o700)
        for name in [machine, host, outside] {
            try #require(try shell("ip netns add \(name) && ip -n \(name) link set lo up") == .exited(0))
        }
        let lines = [
            "ip link add name e0 netns \(host) type veth peer name e0 netns \(outside)",
            "ip -n \(host) addr add \(Testbed.hostAddress)/24 dev e0",
            "ip -n \(host) addr add 2001:db8::1/64 dev e0 nodad", "ip -n \(host) link set e0 up",
            "ip -n \(outside) addr add \(Testbed.outsideAddress)/24 dev e0",
            "ip -n \(outside) addr add \(Testbed.outsideAddress6)/64 dev e0 nodad", "ip -n \(outside) link set e0 up",
            "ip netns exec \(host) sysctl -qw net.ipv4.ping_group_range='0 2147483647'",
        ]
        for line in lines { try #require(try shell(line) == .exited(0), "\(line)") }
        var definition = NetworkDefinition(name: "net")
        definition.subnet = IPv4Prefix("10.88.0.0/16")
        definition.gateway = IPv4Address("10.88.0.1")
        definition.subnet6 = IPv6Prefix("fd00:88::/64")
        definition.gateway6 = IPv6Address("fd00:88::1")
        definition.allowsHostAccess = hostAccess
        definition.mtu = mtu
        try Files.writeAtomically(definition.json.encoded(), to: "\(directory)/net.json")
        if let resolver {
            // What programs of that namespace find at /etc/resolv.conf (ip-netns(8)).
            try Files.makeDirectories("/etc/netns/\(host)")
            try Files.writeAtomically(Array("nameserver \(resolver)\n".utf8), to: "/etc/netns/\(host)/resolv.conf")
        }
        let ready = try Pipe()
        fabric = try Testbed.start(
            host, ["--definition", "\(directory)/net.json", "--directory", "\(directory)/run", "--ready-fd", "3"],
            [-1, 2, 2, ready.writing.raw])
        try Testbed.wait(consume ready)
        control = try UnixSocket.connect(to: "\(directory)/run/control")
        var attachment = FabricRequest.Attachment(id: "m", name: "m")
        attachment.address = IPv4Address(Testbed.machineAddress)
        attachment.address6 = IPv6Address(Testbed.machineAddress6)
        attachment.published = try published.map { try PublishedPorts(parsing: $0) }
        attachment.egress = try egress.map { try EgressRule(parsing: $0) }
        attachment.token = token
        var rest: [UInt8] = []
        guard case .attached(let endpoint) = try Testbed.ask(.attach(attachment), control, &rest) else {
            throw SystemError("attach", code: EPROTO)
        }
        let up = try Pipe()
        var arguments = ["tap", "tap0", endpoint.socketPath]
        if loss > 0 { arguments.append("\(loss)") }
        tap = try Testbed.start(machine, arguments, [-1, up.writing.raw, 2])
        try Testbed.wait(consume up)
        let setup = [
            "link set tap0 address \(endpoint.hardwareAddress) mtu \(endpoint.mtu) up",
            "addr add \(Testbed.machineAddress)/16 dev tap0",
            "-6 addr add \(Testbed.machineAddress6)/64 dev tap0 nodad", "route add default via 10.88.0.1",
            "-6 route add default via fd00:88::1",
        ]
        for line in setup { try #require(try shell("ip -n \(machine) \(line)") == .exited(0), "\(line)") }
    }

    deinit {
        _ = try? tap.killAndWait()
        _ = try? fabric.killAndWait()
        for name in [machine, host, outside] { _ = try? shell("ip netns del \(name)") }
        try? Files.removeTree("/etc/netns/\(host)")
        // Unless others have something there.
        rmdir("/etc/netns")
        try? Files.removeTree(directory)
    }

    /// Starts the fixture in a namespace.
    private static func start(
        _ namespace: String, _ arguments: [String], _ descriptors: [Int32]
    ) throws -> ChildProcess {
        let directory = splitPath(try Files.resolve("/proc/self/exe")).directory
        let candidates = [
            "\(directory)/fabric-fixture", "\(splitPath(#filePath).directory)/../../.build/debug/fabric-fixture",
        ]
        let fixture = try #require(candidates.first { Files.exists($0) })
        var specification = ProcessSpecification(
            "/usr/sbin/ip", ["ip", "netns", "exec", namespace, fixture] + arguments,
            environment: ["PATH=/usr/sbin:/usr/bin"])
        specification.descriptors = descriptors
        specification.parentDeathSignal = SIGKILL
        return try ChildProcess(specification)
    }

    /// Waits until the other end of a pipe says something or is closed.
    private static func wait(_ pipe: consuming Pipe) throws {
        let reading = pipe.reading
        pipe.writing.close()
        var event = pollfd(fd: reading.raw, events: Int16(POLLIN), revents: 0)
        guard poll(&event, 1, 300_000) == 1 else { throw SystemError("poll", code: ETIMEDOUT) }
    }

    private static func ask(
        _ request: FabricRequest, _ control: borrowing Descriptor, _ unread: inout [UInt8]
    ) throws -> FabricReply {
        try control.writeAll(request.json.encoded() + [10])
        while true {
            if let end = unread.firstIndex(of: 10) {
                let line = Array(unread[..<end])
                unread.removeFirst(end + 1)
                return try FabricReply(JSON(parsing: line))
            }
            var space = [UInt8](repeating: 0, count: 65_536)
            let count = read(control.raw, &space, space.count)
            guard count > 0 else { throw SystemError("read", "control") }
            unread += space[..<count]
        }
    }

    func ask(_ request: FabricRequest) throws -> FabricReply { try Testbed.ask(request, control, &unread) }

    /// A counter of the gateway's.
    func counter(_ name: String) throws -> UInt64 {
        guard case .inspected(let json) = try ask(.inspect) else { throw SystemError("inspect", code: EPROTO) }
        return try JSONView(json).required("gateway").required(name).unsigned()
    }

    /// What the machine has of the gateway.
    func usage(_ name: String) throws -> UInt64 {
        guard case .inspected(let json) = try ask(.inspect) else { throw SystemError("inspect", code: EPROTO) }
        let machines = try JSONView(json).required("machines").elements()
        return try #require(machines.first).required("outside").required(name).unsigned()
    }

    /// How many descriptors the fabric has.
    func descriptors() throws -> Int { try Files.list("/proc/\(fabric.pid)/fd").count }
}
