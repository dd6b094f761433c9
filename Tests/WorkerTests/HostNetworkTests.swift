// SPDX-License-Identifier: Apache-2.0

import FabricAPI
import Glibc
import Packet
import Platform
import TestSupport
import Testing

@testable import Worker

/// A network namespace with loopback and a link to a second one, `uplink`, with addresses of a network that the host is
/// in. Making them takes root.
private final class Host: Sendable {
    let name: String
    let store: HostNetworkStore
    private var other: String { name + "o" }
    private let root: String

    init() throws {
        var random = SystemRandomNumberGenerator()
        name = "mw\(String(random.next() % 1_000_000, radix: 36))"
        root = "/tmp/martlet-host-network-\(name)"
        store = HostNetworkStore(root: root)
        for line in [
            "netns add \(name)", "netns add \(name)o", "-n \(name) link set lo up",
            "link add name uplink netns \(name) type veth peer name outside netns \(name)o",
            "-n \(name) addr add 192.0.2.1/24 dev uplink", "-n \(name) addr add 2001:db8::1/64 dev uplink nodad",
            "-n \(name) link set uplink up", "-n \(name)o link set outside up",
        ] {
            #expect(
                try Host.run("/usr/sbin/ip", line.split(separator: " ").map(String.init)).end == .exited(0), "\(line)")
        }
    }

    deinit {
        for name in [name, other] { _ = try? Host.run("/usr/sbin/ip", ["netns", "del", name]) }
        try? Files.removeTree(root)
    }

    static func run(_ program: String, _ arguments: [String]) throws -> (end: ProcessEnd, text: String) {
        let output = try Descriptor.memoryFile("output")
        var specification = ProcessSpecification(
            program, [program] + arguments, environment: ["PATH=/usr/sbin:/usr/bin"])
        specification.descriptors = [-1, output.raw, 2]
        let end = try ChildProcess(specification).wait()
        _ = lseek(output.raw, 0, SEEK_SET)
        return (end, String(decoding: try output.readAll(limit: 1 << 20), as: UTF8.self))
    }

    func shell(_ line: String) throws -> String {
        try Host.run("/usr/sbin/ip", ["netns", "exec", name, "/bin/sh", "-c", line]).text
    }

    /// Everything of the namespace that may be ours.
    func configuration() throws -> String {
        try shell(
            """
            ip -o link | sed 's/^[0-9]*: //; s/ .*//'; nft list ruleset; ip neigh show proxy
            ip -o route; ip -6 -o route | grep -v -e fe80 -e multicast
            cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding \
                /proc/sys/net/ipv6/conf/uplink/proxy_ndp /proc/sys/net/ipv6/conf/uplink/accept_ra
            """)
    }
}

/// A machine's place, as its supervisor holds it.
private final class Place {
    let machine: HostMachine
    let bridge: HostBridge?
    private(set) var tap: TapDevice?
    private var lock: HostNetworkStore.HeldLock?
    private let store: HostNetworkStore

    init(_ store: HostNetworkStore, _ number: UInt64, bridged: Bool, _ change: (inout NetworkWish) -> Void = { _ in })
        throws
    {
        self.store = store
        let address = MACAddress(local: number)
        var wish = NetworkWish(network: "host", hardwareAddress: address)
        change(&wish)
        let id = String(repeating: "\(number)", count: 64)
        // What the host sees of a clone is its namespace.
        let station = wish.kept == nil ? address : MACAddress(local: number + 100)
        let joined = try store.join(
            HostMachine(id: id, isBridged: bridged, device: "mlt\(id.prefix(10))", hardwareAddress: station), wish)
        machine = joined.machine
        bridge = joined.bridge
        tap = joined.tap
        lock = joined.lock
    }

    /// As a supervisor that ends.
    func leave() throws {
        tap = nil
        try store.leave(machine.id)
        lock = nil
    }

    /// As one that is killed, with its monitor.
    func die() throws {
        tap = nil
        lock = nil
        try waitUntilFree("\(store.root)/machines/\(machine.id).lock")
    }
}

/// A guest at the other end of a TAP device, which asks and listens.
private struct TapGuest {
    private let tap: TapDevice
    private let mac: MACAddress
    private let place: KeptPlace
    private var gateway = MACAddress.zero

    init(_ tap: TapDevice, _ mac: MACAddress, _ place: KeptPlace) {
        (self.tap, self.mac, self.place) = (tap, mac, place)
    }

    /// Sends a frame, and gives the first one that `judge` takes.
    private func exchange<Value>(_ frame: [UInt8], _ judge: ([UInt8]) -> Value?) throws -> Value {
        try tap.descriptor.writeAll([UInt8](repeating: 0, count: TapDevice.headerSize) + frame)
        var space = [UInt8](repeating: 0, count: 2048)
        while true {
            var entry = pollfd(fd: tap.raw, events: Int16(POLLIN), revents: 0)
            try #require(poll(&entry, 1, 30_000) == 1, "nothing comes")
            let count = read(tap.raw, &space, space.count)
            guard count > TapDevice.headerSize else { continue }
            if let value = judge(Array(space[TapDevice.headerSize..<count])) { return value }
        }
    }

    /// Who says that the address is his.
    mutating func station(of address: IPv4Address) throws -> MACAddress {
        let question = built(EthernetHeader.length + ARPPacket.length) {
            EthernetHeader(destination: .broadcast, source: mac, type: EtherType.arp).write(to: &$0, at: 0)
            ARPPacket(
                operation: ARPPacket.request, senderMAC: mac, senderAddress: place.address, targetMAC: .zero,
                targetAddress: address
            ).write(to: &$0, at: EthernetHeader.length)
        }
        let wanted = address.bytes
        gateway = try exchange(question) { frame in
            guard frame.count >= 42, frame[12..<14] == [8, 6], frame[20..<22] == [0, 2], Array(frame[28..<32]) == wanted
            else { return nil }
            return MACAddress(frame[22..<28].reduce(0) { $0 << 8 | UInt64($1) })
        }
        return gateway
    }

    /// Whether an address answers an echo that goes by way of the last station that was found.
    func echo(_ address: IPv4Address) throws -> Bool {
        let start = EthernetHeader.length + IPv4Header.length
        let question = built(start + 16) {
            EthernetHeader(destination: gateway, source: mac, type: EtherType.ipv4).write(to: &$0, at: 0)
            IPv4Header(
                protocolNumber: IPProtocol.icmp, source: place.address, destination: address, payloadLength: 16
            ).write(to: &$0, at: EthernetHeader.length)
            ICMPMessage(type: ICMPType.echoRequest, identifier: 7, sequence: 1).write(to: &$0, at: start)
            ICMPMessage.fillChecksum(&$0, at: start, length: 16)
        }
        let (source, own) = (address.bytes, place.address.bytes)
        return try exchange(question) { frame in
            guard frame.count >= 42, frame[12..<14] == [8, 0], frame[23] == 1, Array(frame[26..<30]) == source else {
                return nil
            }
            return Array(frame[30..<34]) == own && frame[34] == 0
        }
    }
}

/// A guest that sends what it has no right to.
private struct HostileGuest {
    private let tap: TapDevice
    private let machine: HostMachine
    private let other: IPv4Address
    private let other6: IPv6Address
    private var mac: MACAddress { machine.hardwareAddress }

    init(_ tap: TapDevice, _ machine: HostMachine, other: IPv4Address, other6: IPv6Address) {
        (self.tap, self.machine, self.other, self.other6) = (tap, machine, other, other6)
    }

    func send(_ frame: [UInt8]) throws {
        try tap.descriptor.writeAll([UInt8](repeating: 0, count: TapDevice.headerSize) + frame)
    }

    private func ipv4(
        _ station: MACAddress, from source: IPv4Address, to target: IPv4Address, mac: MACAddress? = nil
    ) -> [UInt8] {
        built(EthernetHeader.length + IPv4Header.length + 8) {
            EthernetHeader(destination: station, source: mac ?? self.mac, type: EtherType.ipv4).write(to: &$0, at: 0)
            IPv4Header(protocolNumber: IPProtocol.udp, source: source, destination: target, payloadLength: 8)
                .write(to: &$0, at: EthernetHeader.length)
            UDPHeader(sourcePort: 1, destinationPort: 9, payloadLength: 0).write(to: &$0, at: 34)
        }
    }

    private func ipv6(
        _ station: MACAddress, from source: IPv6Address, to target: IPv6Address, _ number: UInt8, _ payload: [UInt8]
    ) -> [UInt8] {
        built(EthernetHeader.length + IPv6Header.length + payload.count) {
            EthernetHeader(destination: station, source: mac, type: EtherType.ipv6).write(to: &$0, at: 0)
            var header = IPv6Header(
                nextHeader: number, source: source, destination: target, payloadLength: payload.count)
            header.hopLimit = 255
            header.write(to: &$0, at: EthernetHeader.length)
            $0.put(payload, at: 54)
            Transport.fillChecksum(
                &$0, at: 54, length: payload.count, protocolNumber: number, source: source, destination: target)
        }
    }

    func frames(to station: MACAddress) -> [[UInt8]] {
        let (own, own6) = (machine.address ?? .any, machine.address6 ?? .any)
        let udp = built(8) { UDPHeader(sourcePort: 1, destinationPort: 9, payloadLength: 0).write(to: &$0, at: 0) }
        var router = RouterAdvertisement(mac: mac)
        router.lifetime = 1800
        router.prefix = IPv6Prefix("2001:db8:bad::/64")
        let advertisement = built(1280) { bytes in
            var cursor = OutputCursor(from: 0, to: 1280)
            router.write(to: &bytes, at: &cursor)
        }
        let redirect: [UInt8] = [137, 0, 0, 0, 0, 0, 0, 0] + other6.bytes + own6.bytes
        let neighbor = built(NeighborAdvertisement.length) {
            NeighborAdvertisement(target: other6, mac: mac).write(to: &$0, at: 0)
        }
        let local = machine.linkLocal
        return [
            ipv4(station, from: own, to: other, mac: MACAddress(local: 999)), ipv4(station, from: other, to: own),
            ipv6(station, from: other6, to: own6, IPProtocol.udp, udp),
            ipv6(station, from: local, to: .allNodes, IPProtocol.icmpv6, advertisement),
            ipv6(station, from: local, to: .allNodes, IPProtocol.icmpv6, redirect),
            ipv6(station, from: local, to: .allNodes, IPProtocol.icmpv6, neighbor),
            ipv4(station, from: own, to: IPv4Address(169, 254, 169, 254)),
            ipv6(station, from: own6, to: IPv6Address("fd00:ec2::254") ?? .any, IPProtocol.udp, udp),
        ]
    }

    /// What only a bridge would pass on.
    func framesOfLinks(to station: MACAddress) -> [[UInt8]] {
        func arp(_ sender: MACAddress, _ address: IPv4Address) -> [UInt8] {
            built(EthernetHeader.length + ARPPacket.length) {
                EthernetHeader(destination: .broadcast, source: mac, type: EtherType.arp).write(to: &$0, at: 0)
                ARPPacket(
                    operation: 2, senderMAC: sender, senderAddress: address, targetMAC: .zero, targetAddress: address
                ).write(to: &$0, at: EthernetHeader.length)
            }
        }
        let own = machine.address ?? .any
        let foreign = built(60) {
            EthernetHeader(destination: station, source: mac, type: 0x88CC).write(to: &$0, at: 0)
        }
        return [
            arp(MACAddress(local: 998), own), arp(mac, other), foreign,
            ipv4(station, from: own, to: IPv4Address(127, 0, 0, 1)),
        ]
    }
}

extension Host {
    /// How many packets each of our rules has dropped, by the reason that it gives.
    fileprivate func dropped() throws -> [String: Int] {
        var counts: [String: Int] = [:]
        for line in try shell("nft list ruleset").split(separator: "\n") {
            let words = line.split(separator: " ")
            guard let place = words.firstIndex(of: "packets"), place + 1 < words.count,
                let count = Int(words[place + 1]), count > 0, let reason = line.split(separator: "\"").last
            else { continue }
            counts[String(reason), default: 0] += count
        }
        return counts
    }
}

@Suite(.enabled(if: geteuid() == 0, "network namespaces are made by root")) struct HostNetworkTests {
    @Test func whatIsMadeGoesAgain() throws {
        let host = try Host()
        let before = try host.configuration()
        let store = host.store
        try inside(host.name) {
            let one = try Place(store, 1, bridged: true)
            let two = try Place(store, 2, bridged: true) { $0.address = IPv4Address(10, 216, 0, 77) }
            let three = try Place(store, 3, bridged: false) {
                $0.address = IPv4Address("192.0.2.9")
                $0.address6 = IPv6Address("2001:db8::9")
            }
            #expect(one.machine.address == IPv4Address(10, 216, 0, 2) && one.bridge == two.bridge)
            #expect(one.machine.address6 != nil && one.machine.address6 != two.machine.address6)
            #expect(two.machine.address == IPv4Address(10, 216, 0, 77) && three.bridge == nil)
            #expect(three.machine.uplink == "uplink" && three.machine.uplink6 == "uplink")
            for address in ["10.216.0.77", "10.216.0.1", "10.216.0.0", "10.216.16.1"] {
                #expect(throws: HostNetworkError.self) {
                    try Place(store, 4, bridged: true) { $0.address = IPv4Address(address) }
                }
            }
            #expect(throws: HostNetworkError.self) {
                try Place(store, 4, bridged: false) { $0.address6 = IPv6Address("2001:db8::9") }
            }
            let all = try store.machines()
            #expect(all.count == 3)
            try one.leave()
            #expect(try store.machines().map(\.device) == [two, three].map(\.machine.device))
            try two.leave()
            #expect(try store.loadState().bridge == nil)
            try three.leave()
            #expect(try store.machines().isEmpty)
        }
        #expect(try host.configuration() == before)
        #expect(try Files.list(store.root).sorted() == ["lock", "machines"])
        #expect(try Files.list("\(store.root)/machines").isEmpty)
    }

    @Test func whatTheKilledLeaveIsSwept() throws {
        let host = try Host()
        let before = try host.configuration()
        let store = host.store
        try inside(host.name) {
            let one = try Place(store, 1, bridged: true)
            let two = try Place(store, 2, bridged: false) { $0.address6 = IPv6Address("2001:db8::9") }
            try store.sweep()
            #expect(try store.machines().count == 2)
            try two.die()
            // Whoever comes next takes it away, the living stay.
            let three = try Place(store, 3, bridged: true)
            #expect(try store.machines().map(\.id) == [one, three].map(\.machine.id))
            #expect(try HostRoutes().device(to: #require(IPv6Address("2001:db8::9"))) == "uplink")
            try one.die()
            try three.die()
            try store.sweep()
        }
        #expect(try host.configuration() == before)
        #expect(try Files.list(store.root).sorted() == ["lock", "machines"])
    }

    /// Clones have the address of the machine that they come from, each in a namespace of its own, and beside it one
    /// outside that stands for it; they reach the host, who sees these.
    @Test func clonesKeepTheirAddressInNamespaces() throws {
        let host = try Host()
        let before = try host.configuration()
        let store = host.store
        try inside(host.name) {
            let first = try Place(store, 1, bridged: true)
            let bridge = try #require(first.bridge)
            let kept = KeptPlace(
                address: try #require(first.machine.address), prefixLength: 20, gateway: bridge.gateway,
                address6: first.machine.address6)
            let clones = try [2, 3].map { number in try Place(store, number, bridged: true) { $0.kept = kept } }
            let outside = (clones + [first]).compactMap(\.machine.address)
            #expect(Set(outside).count == 3)
            for (index, clone) in clones.enumerated() {
                var guest = TapGuest(try #require(clone.tap), MACAddress(local: UInt64(index) + 2), kept)
                // The gateway, a machine beside it, and anything else that the host knows the way to.
                for target in [bridge.gateway, outside[1 - index], IPv4Address(10, 216, 1, 1)] {
                    #expect(try guest.station(of: target) != .zero)
                }
                for target in [bridge.gateway, IPv4Address(192, 0, 2, 1)] {
                    #expect(try guest.echo(target), "\(target)")
                }
            }
            try clones[0].leave()
            #expect(NetworkDevice.mtu(of: clones[0].machine.device) == nil)
            // One that is killed: the kernel takes the namespace away, whoever comes next the rest.
            try clones[1].die()
            try first.leave()
        }
        #expect(try host.configuration() == before)
        #expect(try Files.list("\(store.root)/machines").isEmpty)
    }

    /// A machine sends what is not its own to send: nothing of it arrives, all of it is counted.
    @Test(arguments: [true, false]) func whatIsNotTheSendersIsDropped(bridged: Bool) throws {
        let host = try Host()
        // Somewhere for what is let through, and a host that believes in routers.
        _ = try host.shell(
            """
            echo 1 > /proc/sys/net/ipv6/conf/default/accept_ra; ip route add default via 192.0.2.254
            ip -6 route add default via 2001:db8::fe dev uplink
            """)
        try inside(host.name) {
            let place = try Place(host.store, 1, bridged: bridged) { wish in
                if !bridged {
                    wish.address = IPv4Address("192.0.2.9")
                    wish.address6 = IPv6Address("2001:db8::9")
                }
            }
            let tap = try #require(place.tap)
            let hostile = HostileGuest(
                tap, place.machine, other: IPv4Address(192, 0, 2, 77),
                other6: try #require(IPv6Address("2001:db8::77")))
            // The device is up, and its rules are there.
            var expected: [String: Int] = [
                "spoofed Ethernet address": 1, "spoofed IPv4 address": 1, "spoofed IPv6 address": 1,
                "router that is none": 2, "spoofed neighbour": 1, "metadata": 2,
            ]
            if bridged { expected.merge(["spoofed ARP": 2, "other protocol": 1, "the host's loopback": 1]) { $1 } }
            let text = try host.shell("cat /sys/class/net/\(tap.name)/address").prefix(17)
            let station = try bridged ? #require(place.bridge).hardwareAddress : #require(MACAddress(String(text)))
            for frame in hostile.frames(to: station) { try hostile.send(frame) }
            if bridged { for frame in hostile.framesOfLinks(to: station) { try hostile.send(frame) } }
            // A frame that is written has been through the rules when the call returns, or soon.
            var counts: [String: Int] = [:]
            for _ in 0..<300 where counts != expected {
                counts = try host.dropped()
                usleep(10_000)
            }
            #expect(counts == expected)
            #expect(try !host.shell("ip -6 route").contains("proto ra"))
            #expect(KernelSettings.read("net/ipv6/conf/\(place.machine.device)/accept_ra") == "0")
            try place.leave()
        }
    }

    /// Somebody else's settings are put back, and what somebody else changed meanwhile is left.
    @Test func settingsAreRestored() throws {
        let host = try Host()
        _ = try host.shell("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/uplink/accept_ra")
        let store = host.store
        try inside(host.name) {
            let one = try Place(store, 1, bridged: true)
            #expect(KernelSettings.read("net/ipv6/conf/uplink/accept_ra") == "2")
            #expect(KernelSettings.read("net/ipv6/conf/all/forwarding") == "1")
            try KernelSettings.write("net/ipv6/conf/uplink/accept_ra", "0")
            try one.leave()
            #expect(KernelSettings.read("net/ipv4/ip_forward") == "1")
            #expect(KernelSettings.read("net/ipv6/conf/all/forwarding") == "0")
            #expect(KernelSettings.read("net/ipv6/conf/uplink/accept_ra") == "0")
        }
    }

    @Test func othersDevicesAreLeftAlone() throws {
        let host = try Host()
        _ = try host.shell("ip link add martlet0 type bridge")
        let store = host.store
        try inside(host.name) {
            do {
                _ = try Place(store, 1, bridged: true)
                Issue.record("a bridge of others was taken")
            } catch let error as HostNetworkError {
                #expect("\(error)".contains("not ours"))
            }
            #expect(NetworkDevice.mtu(of: "martlet0") != nil)
        }
        // A network that the host has is not taken for the bridge.
        _ = try host.shell("ip link del martlet0; ip route add 10.216.0.0/16 dev uplink")
        try inside(host.name) {
            let one = try Place(store, 1, bridged: true)
            #expect(one.bridge?.subnet == IPv4Prefix("10.217.0.0/20"))
            try one.leave()
        }
    }

    @Test func portsAreHeld() throws {
        let host = try Host()
        try inside(host.name) {
            let first = try PortReservation(try PublishedPorts(parsing: "8080:80"))
            #expect(first.ports.hostPort == 8080)
            do {
                _ = try PortReservation(try PublishedPorts(parsing: "127.0.0.1:8080:81"))
                Issue.record("a port was given twice")
            } catch let error as HostNetworkError {
                #expect("\(error)".contains("8080/tcp"))
            }
            _ = try PortReservation(try PublishedPorts(parsing: "8080:80/udp"))
            let any = try PortReservation(try PublishedPorts(parsing: "80"))
            #expect(any.ports.hostPort > 0 && any.ports.machinePort == 80)
            for text in ["80:80/tcp/proxy", "[::1]:81:80"] {
                #expect(throws: HostNetworkError.self) { _ = try PortReservation(try PublishedPorts(parsing: text)) }
            }
        }
    }
}

@Suite struct HostNetworkTexts {
    @Test func routesAreRead() {
        let ipv4 = """
            Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
            eth0\t00000000\t010A0A0A\t0003\t0\t0\t0\t00000000\t0\t0\t0
            eth0\t000A0A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
            eth1\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
            *\t00000A0A\t00000000\t0200\t0\t0\t0\t0000FFFF\t0\t0\t0
            broken line
            """
        let ipv6 = """
            20010db8000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001    eth1
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003    eth0
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200      lo
            """
        let routes = HostRoutes(ipv4: Array(ipv4.utf8), ipv6: Array(ipv6.utf8))
        #expect(routes.taken.map { "\($0)" } == ["10.10.10.0/24", "192.168.0.0/16"])
        #expect(routes.defaultDevice == "eth0")
        #expect(routes.device(to: IPv4Address(192, 168, 3, 4)) == "eth1")
        #expect(routes.device(to: IPv4Address(8, 8, 8, 8)) == "eth0")
        #expect(routes.device(to: IPv6Address(high: 0x2001_0DB8_0000_0000, low: 9)) == "eth1")
        #expect(routes.device(to: IPv6Address(high: 0x2002 << 48, low: 9)) == "eth0")
    }

    @Test func serversOfLoopbackAreLeftOut() {
        let text =
            "search a\nnameserver 127.0.0.53\n#nameserver 9.9.9.9\nnameserver\t10.0.2.3\nnameserver ::1\nnameserver x\n"
        #expect(HostResolver.nameServers(in: Array(text.utf8)) == ["10.0.2.3"])
    }

    @Test func recordsAreReadAgain() throws {
        var machine = HostMachine(id: "a", isBridged: true, device: "mlta", hardwareAddress: MACAddress(local: 5))
        machine.address = IPv4Address(10, 0, 0, 1)
        machine.published = [try PublishedPorts(parsing: "80:80")]
        machine.uplink6 = "eth0"
        #expect(try HostMachine(machine.json) == machine)
        var state = HostNetworkState()
        state.bridge = HostBridge(
            hardwareAddress: MACAddress(local: 1), subnet: IPv4Prefix(IPv4Address(10, 0, 0, 0), length: 20))
        state.settings = [KernelSetting(path: "a/b", before: "0", now: "1")]
        #expect(try HostNetworkState(state.json) == state)
    }
}
