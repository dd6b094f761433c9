// SPDX-License-Identifier: Apache-2.0

import FabricAPI
import Glibc
import Networks
import Packet
import Platform
import Testing
import Wire

/// Linux's own stack and its tools as the machines: two network namespaces, each with a TAP that a helper bridges to the
/// fabric's sockets, and `martlet-fabric` as it is run. Nothing leaves the machine: the namespaces have no other link.
/// Making them takes root.
@Suite(.enabled(if: geteuid() == 0, "network namespaces are made by root")) struct LinuxAsTheMachine {
    private final class Room {
        let name: String
        let endpoint: FabricReply.Endpoint
        private let process: ChildProcess

        init(_ suffix: String, _ endpoint: FabricReply.Endpoint) throws {
            var random = SystemRandomNumberGenerator()
            name = "mf\(suffix)\(String(random.next() % 1_000_000, radix: 36))"
            self.endpoint = endpoint
            try Room.command("ip netns add \(name)")
            let ready = try Pipe()
            var specification = ProcessSpecification(
                "/usr/sbin/ip", ["ip", "netns", "exec", name, try fixture(), "tap", "tap0", endpoint.socketPath],
                environment: ["PATH=/usr/sbin:/usr/bin"])
            specification.descriptors = [-1, ready.writing.raw, 2]
            specification.parentDeathSignal = SIGKILL
            process = try ChildProcess(specification)
            var word: [UInt8] = [0, 0, 0]
            try #require(read(ready.reading.raw, &word, 3) == 3)
            try command("ip link set lo up")
            try command("ip link set tap0 address \(endpoint.hardwareAddress) mtu \(endpoint.mtu) up")
        }

        deinit {
            _ = try? process.killAndWait()
            _ = try? Room.command("ip netns del \(name)")
        }

        /// Runs a command in the room; its failure is the test's.
        @discardableResult
        func command(_ line: String) throws -> String { try Room.command("ip netns exec \(name) \(line)") }

        func attempt(_ line: String) throws -> ProcessEnd {
            try run("/bin/sh", ["-c", "ip netns exec \(name) \(line)"]).end
        }

        @discardableResult
        static func command(_ line: String) throws -> String {
            let (end, text) = try run("/bin/sh", ["-c", line])
            #expect(end == .exited(0), "\(line): \(text)")
            return text
        }

        /// Addresses as a guest that is told them has them, at once: nobody else can have them.
        func configure() throws {
            try command("ip addr add \(endpoint.address ?? .any)/\(endpoint.prefixLength) dev tap0")
            try command("ip -6 addr add \(endpoint.address6 ?? .any)/64 dev tap0 nodad")
            try command("ip route add default via \(endpoint.gateway ?? .any)")
        }
    }

    private static func store(_ directory: TemporaryDirectory, isInternal: Bool = false) throws -> NetworkStore {
        let store = NetworkStore(definitions: "\(directory.path)/networks", running: "\(directory.path)/running")
        _ = try store.create(definition(isInternal: isInternal), choosesIPv6: false, random: 1)
        return store
    }

    private static func attach(
        _ connection: inout FabricConnection, _ name: String, id: String? = nil
    ) throws -> FabricReply.Endpoint {
        guard case .attached(let endpoint) = try connection.ask(.attach(.init(id: id ?? name, name: name))) else {
            throw SystemError("attach", name, code: EPROTO)
        }
        return endpoint
    }

    @Test func pingDigAndBulk() throws {
        let directory = try TemporaryDirectory()
        let store = try Self.store(directory)
        var connection = try FabricConnection(to: "blue", of: store, program: try fixture())
        let a = try Room("a", try Self.attach(&connection, "a"))
        let b = try Room("b", try Self.attach(&connection, "b"))
        try a.configure()
        try b.configure()
        for target in [
            b.endpoint.address.map { "\($0)" }, b.endpoint.address6.map { "\($0)" }, "10.99.0.1", "fd00:99::1",
        ] {
            // Succeeds with three answers, however many it has asked for until then.
            try a.command("ping -c 3 -i 0.05 -w 300 \(target ?? "")")
        }
        // Large ones are cut into fragments by the sender and put together by the receiver.
        try a.command("ping -c 2 -i 0.05 -s 9000 -w 300 \(b.endpoint.address ?? .any)")
        let dig = "dig +timeout=60"
        #expect(try a.command("\(dig) +short @10.99.0.1 b.blue").hasPrefix("\(b.endpoint.address ?? .any)"))
        #expect(try a.command("\(dig) +short @fd00:99::1 -x \(b.endpoint.address ?? .any)").hasPrefix("b.blue."))
        #expect(try a.command("\(dig) @10.99.0.1 nobody.blue").contains("NXDOMAIN"))
        // Over TCP, several questions on one connection.
        let streamed = try a.command("\(dig) +tcp +keepopen +short @10.99.0.1 b.blue a.blue gateway.blue")
        #expect(streamed.split(separator: "\n").count == 3 && streamed.contains("10.99.0.1"))

        // A file each way, over TCP with segments and checksums left to the fabric.
        try Room.command("head -c 67108864 /dev/urandom >\(directory.path)/file")
        var server = ProcessSpecification(
            "/usr/sbin/ip",
            ["ip", "netns", "exec", b.name, "busybox", "httpd", "-f", "-p", "8080", "-h", directory.path],
            environment: ["PATH=/usr/sbin:/usr/bin:/bin"])
        server.parentDeathSignal = SIGKILL
        let httpd = try ChildProcess(server)
        for address in ["\(b.endpoint.address ?? .any)", "[\(b.endpoint.address6 ?? .any)]"] {
            try a.command(
                "curl -sS --retry 300 --retry-connrefused --retry-delay 1 -g -o \(directory.path)/copy http://\(address):8080/file"
            )
            try Room.command("cmp \(directory.path)/file \(directory.path)/copy")
        }
        try httpd.killAndWait()

        // A machine that pretends to be its neighbour is not heard.
        try b.command("ip addr flush dev tap0 scope global")
        try b.command("ip addr add 10.99.0.77/24 dev tap0")
        var spoofed: UInt64 = 0
        // It asks for the other's address at once; when the network has it, is up to the machine that this runs on.
        for _ in 0..<300 where spoofed == 0 {
            #expect(try b.attempt("ping -c 1 -W 1 \(a.endpoint.address ?? .any)") != .exited(0))
            guard case .inspected(let state) = try connection.ask(.inspect) else { continue }
            spoofed = state["machines"]?.arrayValue?.last?["dropped"]?["spoofedARP"]?.unsignedValue ?? 0
        }
        #expect(spoofed > 0)
    }

    /// A machine that comes with the address of one that has gone is reached at once, by those who are still sure of
    /// where that one was.
    @Test func neighborsHearOfANewStation() throws {
        let directory = try TemporaryDirectory()
        let store = try Self.store(directory)
        var connection = try FabricConnection(to: "blue", of: store, program: try fixture())
        let a = try Room("a", try Self.attach(&connection, "a"))
        try a.configure()
        // Nothing is asked again for an hour.
        for family in ["ipv4", "ipv6"] {
            try a.command("sysctl -q -w net.\(family).neigh.tap0.base_reachable_time_ms=7200000")
        }
        var stations: [MACAddress] = []
        for (name, mac) in [("first", "02:00:00:00:0a:01"), ("second", "02:00:00:00:0a:02")] {
            var wanted = FabricRequest.Attachment(id: name, name: name)
            wanted.hardwareAddress = MACAddress(mac)
            (wanted.address, wanted.address6) = (IPv4Address(10, 99, 0, 77), IPv6Address("fd00:99::77"))
            guard case .attached(let endpoint) = try connection.ask(.attach(wanted)) else {
                Issue.record("not attached")
                return
            }
            let b = try Room("b", endpoint)
            try b.configure()
            for target in ["10.99.0.77", "fd00:99::77"] { try a.command("ping -c 2 -i 0.2 -w 30 \(target)") }
            stations.append(endpoint.hardwareAddress)
            #expect(try a.command("ip neigh show 10.99.0.77").contains(mac))
            #expect(try a.command("ip neigh show fd00:99::77").contains(mac))
            guard case .done = try connection.ask(.detach(id: name)) else {
                Issue.record("not detached")
                return
            }
        }
        #expect(stations.count == 2)
    }

    @Test func addressesByTheUsualProtocols() throws {
        let directory = try TemporaryDirectory()
        let store = try Self.store(directory)
        var connection = try FabricConnection(to: "blue", of: store, program: try fixture())
        let a = try Room("a", try Self.attach(&connection, "a"))
        let script = "\(directory.path)/dhcp"
        try Files.writeAtomically(
            Array("#!/bin/sh\n[ \"$1\" = bound ] && env >\(directory.path)/lease\nexit 0\n".utf8), to: script,
            permissions: 0o755)
        try a.command("udhcpc -i tap0 -n -q -f -t 300 -T 1 -s \(script)")
        let lease = String(decoding: try Files.read("\(directory.path)/lease", limit: 65_536), as: UTF8.self)
            .split(separator: "\n")
        for line in [
            "ip=\(a.endpoint.address ?? .any)", "router=10.99.0.1", "dns=10.99.0.1", "subnet=255.255.255.0",
            "domain=blue", "mtu=1500", "hostname=a",
        ] {
            #expect(lease.contains { $0 == line }, "\(line)")
        }
        // The kernel's own solicitation is answered: its address becomes the one that the table has.
        let address = a.endpoint.address6 ?? .any
        try Files.writeAtomically(
            Array(
                """
                exec 3< <(exec ip -o monitor address)
                ip -6 -o addr show dev tap0 | grep -F "$1" || grep -m1 -F "$1" <&3
                kill $!
                ip -6 route
                """.utf8), to: "\(directory.path)/wait")
        let text = try a.command("timeout 300 bash \(directory.path)/wait \(address)/64")
        #expect(text.contains("\(address)/64"))
        #expect(text.contains("default via fe80::1"))
    }

    @Test func confined() throws {
        let directory = try TemporaryDirectory()
        let store = try Self.store(directory)
        var connection = try FabricConnection(to: "blue", of: store, program: try fixture())
        // Its socket's path is longer than a socket's address may be.
        let endpoint = try Self.attach(&connection, "a", id: String(repeating: "f", count: 64))
        try #require(endpoint.socketPath.utf8.count > 107)
        try UnixSocket.connect(to: endpoint.socketPath, kind: .records).close()
        let process = try #require(try fabricProcess(directory.path))
        let status = String(decoding: try Files.read("/proc/\(process)/status", limit: 65_536), as: UTF8.self)
        #expect(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"))
        // It says so itself; its log is empty unless something is missing.
        guard case .inspected(let state) = try connection.ask(.inspect) else { return }
        let confinement = try #require(state["confinement"])
        #expect(confinement["seccomp"] == true)
        let isWhole = confinement["landlock"]?.unsignedValue ?? 0 >= 6 && confinement["namespaces"] == true
        let log = String(decoding: try Files.read("\(store.directory("blue"))/log", limit: 65_536), as: UTF8.self)
        #expect(isWhole == !log.contains("less confined"), "\(log)")
        // It sees other networks come, and go.
        for isThere in [true, false] {
            var red = NetworkDefinition(name: "red")
            red.subnet = IPv4Prefix("10.77.0.0/24")
            if isThere { _ = try store.create(red, choosesIPv6: false, random: 0) } else { try store.remove("red") }
            guard case .inspected(let state) = try connection.ask(.inspect) else { return }
            #expect(state["names"]?["otherNetworks"]?.unsignedValue == (isThere ? 1 : 0))
        }
        // A second one leaves the network to the first.
        let second = try run(
            try fixture(),
            ["--definition", store.definitionPath("blue"), "--directory", store.directory("blue")])
        #expect(second.end == .exited(0), "\(second.text)")
        _ = try Self.attach(&connection, "b")
        // Ended, it leaves nothing but its lock and its log.
        kill(process, SIGTERM)
        let raw = connection.descriptor
        var byte: UInt8 = 0
        while read(raw, &byte, 1) > 0 {}
        #expect(try Files.list("\(store.directory("blue"))/ports").isEmpty)
    }

    @Test func machinesComeBackAfterAKill() throws {
        let directory = try TemporaryDirectory()
        let store = try Self.store(directory)
        var connection = try FabricConnection(to: "blue", of: store, program: try fixture())
        let before = try Self.attach(&connection, "a")
        let process = try #require(try fabricProcess(directory.path))
        kill(process, SIGKILL)
        let raw = connection.descriptor
        var byte: UInt8 = 0
        while read(raw, &byte, 1) > 0 {}
        // A new machine comes first, and does not get what the old one will ask for.
        var again = try FabricConnection(to: "blue", of: store, program: try fixture())
        let other = try Self.attach(&again, "b")
        var attachment = FabricRequest.Attachment(id: "a", name: "a")
        (attachment.address, attachment.address6) = (before.address, before.address6)
        attachment.hardwareAddress = before.hardwareAddress
        guard case .attached(let after) = try again.ask(.attach(attachment)) else { return }
        #expect(after == before && other.address != before.address)
        let next = try #require(try fabricProcess(directory.path))
        kill(next, SIGTERM)
        let second = again.descriptor
        while read(second, &byte, 1) > 0 {}
    }

    /// The process whose directory this is, by its arguments.
    private func fabricProcess(_ directory: String) throws -> pid_t? {
        for name in try Files.list("/proc") {
            guard let pid = pid_t(name), let line = try? Files.read("/proc/\(name)/cmdline", limit: 65_536) else {
                continue
            }
            let text = String(decoding: line, as: UTF8.self)
            if text.hasPrefix("martlet-fabric\0"), text.contains(directory) { return pid }
        }
        return nil
    }
}
