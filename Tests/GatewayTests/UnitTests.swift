// SPDX-License-Identifier: Apache-2.0

import Fabric
import FabricAPI
import Glibc
import Packet
import Platform
import TestSupport
import Testing

@testable import Gateway

private func address(_ text: String) -> IPv6Address {
    IPv4Address(text).map { IPv6Address(mapping: $0) } ?? IPv6Address(text) ?? .any
}

@Suite struct Policy {
    private func policy(_ rules: String...) throws -> EgressPolicy {
        var policy = EgressPolicy()
        policy.own = EgressPolicy.Rules(try rules.map { try EgressRule(parsing: $0) })
        return policy
    }

    @Test func theFirstRuleThatFitsDecides() throws {
        let policy = try policy("deny=10.0.0.0/8:22", "allow=10.0.0.0/8", "allow=2001:db8::/32", "deny=all")
        #expect(policy.judge(address("10.1.2.3"), 80, IPProtocol.tcp, now: 0) == .allowed)
        #expect(policy.judge(address("10.1.2.3"), 22, IPProtocol.tcp, now: 0) == .denied)
        #expect(policy.judge(address("11.1.2.3"), 80, IPProtocol.udp, now: 0) == .denied)
        #expect(policy.judge(address("2001:db8::1"), 0, IPProtocol.icmpv6, now: 0) == .allowed)
        #expect(policy.judge(address("10.1.2.3"), 0, IPProtocol.icmp, now: 0) == .allowed)
    }

    @Test func whatFitsNoneIsDeniedWhereOneAllows() throws {
        #expect(try policy("allow=10.0.0.0/8").judge(address("11.0.0.1"), 80, IPProtocol.tcp, now: 0) == .denied)
        #expect(try policy("deny=10.0.0.0/8").judge(address("11.0.0.1"), 80, IPProtocol.tcp, now: 0) == .allowed)
        #expect(try policy().judge(address("11.0.0.1"), 80, IPProtocol.tcp, now: 0) == .allowed)
    }

    @Test func theNetworkHasItsSayToo() throws {
        var policy = try policy("allow=10.0.0.0/8")
        policy.network = EgressPolicy.Rules([try EgressRule(parsing: "deny=10.1.0.0/16")])
        func judge(_ text: String) -> EgressPolicy.Judgement { policy.judge(address(text), 80, IPProtocol.tcp, now: 0) }
        #expect(judge("10.2.0.1") == .allowed && judge("10.1.0.1") == .denied && judge("11.0.0.1") == .denied)
        policy.network.auditsOnly = true
        #expect(judge("10.1.0.1") == .audited && judge("11.0.0.1") == .denied)
        policy.own.auditsOnly = true
        #expect(judge("11.0.0.1") == .audited)
    }

    @Test func namesHoldForAsLongAsTheySay() throws {
        var policy = try policy("name=*.example.org:443", "allow=example.net")
        #expect(policy.concerns("a.example.org") && !policy.concerns("example.org") && policy.concerns("example.net"))
        #expect(!policy.concerns("aexample.org"))
        let one = address("203.0.113.1")
        var isPinned = policy.pin(one, name: "a.example.org", until: 100, now: 0)
        #expect(isPinned)
        #expect(
            policy.judge(one, 443, IPProtocol.tcp, now: 99) == .allowed
                && policy.judge(one, 443, IPProtocol.tcp, now: 100) == .denied)
        #expect(policy.judge(one, 80, IPProtocol.tcp, now: 99) == .denied)
        isPinned = policy.pin(one, name: "example.net", until: 200, now: 0)
        #expect(isPinned)
        #expect(policy.judge(one, 80, IPProtocol.tcp, now: 150) == .allowed)
        for index in 0..<20_000 as Range<UInt32> {
            _ = policy.pin(IPv6Address(mapping: IPv4Address(index)), name: "example.net", until: 100, now: 0)
        }
        isPinned = policy.pin(address("2001:db8::5"), name: "example.net", until: 200, now: 50)
        #expect(!isPinned)
        isPinned = policy.pin(address("2001:db8::5"), name: "example.net", until: 200, now: 150)
        #expect(isPinned)
    }

    @Test(arguments: [
        "127.0.0.1", "127.255.255.255", "0.0.0.0", "169.254.169.254", "169.254.0.1", "224.0.0.1", "255.255.255.255",
        "::", "::1", "::ffff:127.0.0.1", "fe80::1", "ff02::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::", "2002:a9fe:a9fe::1", "::7f00:1", "64:ff9b:1::1", "64:ff9b::1:102:304", "fd00:ec2::254",
        "fd20:ce::254",
    ]) func someAddressesAreNobodys(text: String) {
        var policy = EgressPolicy()
        policy.reachesHost = true
        #expect(policy.decide(address(text), 80, IPProtocol.tcp, hostAddresses: [], now: 0) == .refuse)
    }

    /// An IPv4 address that is denied is denied behind NAT64 and 6to4 as well, and so is the host's own.
    @Test(arguments: ["64:ff9b::a01:203", "2002:a01:203::1"]) func translatorsAreNoWayRound(text: String) throws {
        func judge(_ rules: [String], _ port: UInt16 = 80) throws -> EgressPolicy.Judgement {
            var policy = EgressPolicy()
            policy.own = EgressPolicy.Rules(try rules.map { try EgressRule(parsing: $0) })
            return policy.judge(address(text), port, IPProtocol.tcp, now: 0)
        }
        #expect(try judge([]) == .allowed && judge(["deny=10.2.0.0/16"]) == .allowed)
        #expect(try judge(["deny=10.1.0.0/16"]) == .denied && judge(["allow=::/0", "deny=10.0.0.0/8"]) == .denied)
        #expect(try judge(["deny=10.1.0.0/16:22"]) == .allowed && judge(["deny=10.1.0.0/16:22"], 22) == .denied)
        #expect(try judge(["allow=10.1.2.3", "deny=10.0.0.0/8"]) == .allowed)
        #expect(try judge(["allow=::/0"]) == .allowed && judge(["allow=192.0.2.0/24"]) == .denied)
        let policy = EgressPolicy()
        let own: Set = [address("10.1.2.3")]
        #expect(policy.decide(address(text), 80, IPProtocol.tcp, hostAddresses: own, now: 0) == .refuse)
        #expect(policy.decide(address(text), 80, IPProtocol.tcp, hostAddresses: [], now: 0) == .reach(address(text)))
    }

    @Test func theHostIsReachedAtItsSpecialAddressOnly() {
        var policy = EgressPolicy()
        let own = address("192.0.2.1")
        func decide(_ text: String) -> EgressPolicy.Verdict {
            policy.decide(address(text), 80, IPProtocol.tcp, hostAddresses: [own], now: 0)
        }
        #expect(decide("192.0.2.1") == .refuse && decide("192.0.2.2") == .reach(address("192.0.2.2")))
        #expect(decide("198.19.255.254") == .refuse && decide("fd6d:6172:746c:6574::1") == .refuse)
        policy.hostLoopback = .at(address("192.0.2.9"))
        #expect(decide("198.19.255.254") == .reach(address("192.0.2.9")))
        policy.hostLoopback = .here
        #expect(decide("198.19.255.254") == .reach(address("127.0.0.1")))
        #expect(decide("fd6d:6172:746c:6574::1") == .reach(.loopback))
        #expect(decide("192.0.2.1") == .refuse && decide("127.0.0.1") == .refuse)
    }
}

@Suite struct Audits {
    @Test func theLastThatDifferAreKept() {
        var trail = AuditTrail()
        for index in 0..<100 {
            trail.add(.name("n\(index).example"))
            trail.add(.name("often.example"))
        }
        #expect(trail.entries.count == AuditTrail.limit)
        #expect(trail.entries.last == AuditTrail.Entry(target: .name("often.example"), count: 100))
        #expect(trail.entries.first?.target == .name("n69.example"))
    }
}

@Suite struct Timers {
    @Test(arguments: 0..<20 as Range<UInt64>) func runOutInTimeAndNotBefore(seed: UInt64) {
        var random = SeededGenerator(seed)
        var now = random.next() % 1_000_000_000_000
        var wheel = TimerWheel(now: now)
        var due: [UInt32: UInt64] = [:]
        for _ in 0..<3000 {
            let slot = UInt32(random.next() % 200)
            switch random.next() % 8 {
            case 0:
                wheel.set(slot, .max)
                due[slot] = nil
            case 1...5:
                // Up to days ahead; some in the past.
                let time = now &+ random.next() % (1 << (random.next() % 40)) &- 1000
                wheel.set(slot, time)
                due[slot] = time
            default:
                now += random.next() % (1 << (random.next() % 36))
                while let slot = wheel.popExpired(now: now) {
                    let time = due.removeValue(forKey: slot)
                    #expect(time != nil && time ?? .max <= now)
                }
                // A bucket is a little more than a millisecond.
                for time in due.values { #expect(time + 2048 > now) }
                if let next = due.values.min() {
                    #expect(wheel.deadline <= next + 2048)
                } else {
                    #expect(wheel.deadline == .max)
                }
            }
        }
    }
}

@Suite struct GatewayAlone {
    private let machine = EndpointID(7)

    private func gateway(_ link: FakeLink) throws -> Gateway {
        let gateway = try Gateway(link: link, now: 1_000_000)
        var settings = InsideMachine(
            endpoint: machine, gatewayIPv4: IPv4Address(10, 0, 0, 1), gatewayIPv6: IPv6Address("fd00::1"))
        settings.ipv4 = IPv4Address(10, 0, 0, 2)
        settings.ipv6 = IPv6Address("fd00::2")
        // Nothing leaves this host: its loopback is all that may be reached.
        settings.policy.own = EgressPolicy.Rules(
            try ["allow=198.19.255.254/32", "allow=fd6d:6172:746c:6574::1/128"].map { try EgressRule(parsing: $0) })
        settings.policy.hostLoopback = .here
        settings.quotas.datagramFlows = 16
        settings.quotas.connections = 64
        settings.quotas.connecting = 8
        gateway.set(settings, now: 1_000_000)
        return gateway
    }

    @Test func aTakenPortIsSaidToBe() throws {
        let link = FakeLink()
        let gateway = try gateway(link)
        let first = try gateway.publish([try PublishedPorts(parsing: "127.0.0.1:0:80")], for: machine)
        let port = try #require(first.ports.first).hostPort
        #expect(port > 0)
        #expect(throws: PublishProblem.taken("127.0.0.1:\(port)", .tcp)) {
            try gateway.publish([try PublishedPorts(parsing: "127.0.0.1:\(port):81")], for: machine)
        }
        // The same port of another address of the loopback is another port.
        _ = try gateway.publish([try PublishedPorts(parsing: "127.0.0.2:\(port):80")], for: machine)
        #expect(throws: PublishProblem.noSuchAddress("192.0.2.77")) {
            try gateway.publish([try PublishedPorts(parsing: "192.0.2.77:0:80")], for: machine)
        }
        gateway.remove(machine, now: 2_000_000)
        #expect(throws: PublishProblem.unknownMachine) {
            try gateway.publish([try PublishedPorts(parsing: "127.0.0.1:0:80")], for: machine)
        }
    }

    @Test func errorsQuoteThePacket() throws {
        let link = FakeLink()
        let gateway = try gateway(link)
        receive(gateway, packet(IPProtocol.tcp, to: IPv4Address(203, 0, 113, 1), Self.syn), IPProtocol.tcp)
        let (packet, bytes) = try #require(link.packets.first)
        #expect(packet.length == bytes.count - FrameLayout.packet && packet.length == 56)
        let span = bytes.span
        guard let view = IPv4View(span.bytes.dropping(FrameLayout.packet)), let message = ICMPView(view.payload) else {
            Issue.record("no ICMP message came")
            return
        }
        let isSound = view.checksumIsValid && message.checksumIsValid && view.protocolNumber == IPProtocol.icmp
        #expect(isSound)
        let (type, code) = (message.type, message.code)
        #expect(type == ICMPType.unreachable && code == ICMPUnreachable.prohibited)
        #expect(gateway.counters.refusedByPolicy == 1)
    }

    /// A name's rule holds for what it let in for as long as that lives, not as the answer does.
    @Test(arguments: [IPProtocol.tcp, IPProtocol.udp]) func theSameRulesEndNothingThatTheyLetIn(number: UInt8) throws {
        let link = FakeLink()
        let gateway = try gateway(link)
        let target = EgressPolicy.loopbackAddresses.ipv4
        let listener = try InternetSocket.listen(at: SocketAddress(ipv4: 0x7F00_0001, port: 0), backlog: 8)
        let port = try InternetSocket.localAddress(listener).port
        let rules = EgressPolicy.Rules([try EgressRule(parsing: "name=a.example")])
        gateway.setRules(own: rules, network: EgressPolicy.Rules(), of: machine, now: 1_000_000)
        let isPinned = gateway.pin(
            IPv6Address(mapping: target), name: "a.example", for: machine, until: 2_000_000, now: 1_000_000)
        #expect(isPinned)
        var payload = number == IPProtocol.tcp ? Self.syn : [0x9C, 0x40, 0, 0, 0, 12, 0, 0, 1, 2, 3, 4]
        (payload[2], payload[3]) = (UInt8(port >> 8), UInt8(truncatingIfNeeded: port))
        receive(gateway, packet(number, to: target, payload), number)
        func flows() -> Int? { gateway.usage(of: machine).map { $0.connections + $0.datagramFlows } }
        #expect(flows() == 1)
        gateway.setRules(own: rules, network: EgressPolicy.Rules(), of: machine, now: 9_000_000)
        #expect(flows() == 1)
        let others = EgressPolicy.Rules([try EgressRule(parsing: "name=b.example")])
        gateway.setRules(own: others, network: EgressPolicy.Rules(), of: machine, now: 9_000_000)
        #expect(flows() == 0)
    }

    @Test func whatGoesNoFurtherIsCounted() throws {
        let link = FakeLink()
        let gateway = try gateway(link)
        let target = EgressPolicy.loopbackAddresses.ipv4
        // The end of a connection that nobody knows.
        let stray: [UInt8] = [0x9C, 0x40, 0, 80, 1, 2, 3, 4, 0, 0, 0, 1, 0x50, 0x11, 0xFF, 0xFF, 0, 0, 0, 0]
        receive(gateway, packet(IPProtocol.tcp, to: target, stray), IPProtocol.tcp)
        #expect(gateway.counters.unknownConnection == 1)
        // GRE, and an answer to an echo that nobody has sent.
        receive(gateway, packet(47, to: target, [1, 2, 3, 4, 5, 6, 7, 8]), 47)
        receive(gateway, packet(IPProtocol.icmp, to: target, [0, 0, 0, 0, 1, 2, 3, 4]), IPProtocol.icmp)
        #expect(gateway.counters.unknownProtocol == 2)
        // What the host's kernel refuses at once: it sends to nobody's broadcast address.
        let datagram: [UInt8] = [0x9C, 0x40, 0, 9, 0, 12, 0, 0, 1, 2, 3, 4]
        gateway.machines[machine]?.settings.policy.hostLoopback = .at(address("255.255.255.255"))
        receive(gateway, packet(IPProtocol.udp, to: target, datagram), IPProtocol.udp)
        #expect(gateway.counters.hostWouldNotTake == 1)
        // A machine whose link is full.
        link.packets.removeAll()
        link.room = 0
        receive(gateway, packet(IPProtocol.udp, to: IPv4Address(203, 0, 113, 1), datagram), IPProtocol.udp)
        #expect(gateway.counters.linkFull == 1 && link.packets.isEmpty)
        let names = gateway.counters.named.map(\.0)
        #expect(Set(names).count == names.count)
    }

    private static let syn: [UInt8] =
        [0x9C, 0x40, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x60, 0x02, 0xFF, 0xFF, 0, 0, 0, 0, 2, 4, 5, 0xB4]

    private func packet(_ number: UInt8, to destination: IPv4Address, _ payload: [UInt8]) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: FrameLayout.packet + IPv4Header.length + payload.count)
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        var header = VirtioNetHeader()
        header.flags = VirtioNetHeader.needsChecksum
        header.write(to: &raw, at: 0)
        IPv4Header(
            protocolNumber: number, source: IPv4Address(10, 0, 0, 2), destination: destination,
            payloadLength: payload.count
        ).write(to: &raw, at: FrameLayout.packet)
        raw.put(payload, at: FrameLayout.packet + IPv4Header.length)
        return bytes
    }

    private func receive(_ gateway: Gateway, _ record: [UInt8], _ number: UInt8, offset: Int = 20) {
        record.withUnsafeBytes {
            gateway.receive(
                OutsidePacket(
                    endpoint: machine, offset: FrameLayout.packet, isIPv6: false, protocolNumber: number,
                    transportOffset: FrameLayout.packet + offset, isForGateway: false), record: $0, now: 1_000_000)
        }
        gateway.flush(now: 1_000_000)
    }

    /// Packets of all kinds, their transport's bytes changed at random: none traps, and what they get stays bounded.
    @Test func fuzz() throws {
        let link = FakeLink()
        let gateway = try gateway(link)
        var random = SeededGenerator(42)
        let corpus: [(UInt8, [UInt8])] = [
            (IPProtocol.tcp, Self.syn),
            (IPProtocol.tcp, [0x9C, 0x40, 0, 80, 1, 2, 3, 5, 0, 0, 0, 1, 0x50, 0x18, 0xFF, 0xFF, 0, 0, 0, 0, 1, 2, 3]),
            (IPProtocol.udp, [0x9C, 0x40, 0, 9, 0, 12, 0, 0, 1, 2, 3, 4]),
            (IPProtocol.icmp, [8, 0, 0, 0, 1, 2, 3, 4, 5, 6]), (47, [1, 2, 3, 4, 5, 6, 7, 8]),
        ]
        var now: UInt64 = 1_000_000
        for round in 0..<4000 {
            var (number, payload) = corpus[Int(random.next() % UInt64(corpus.count))]
            for _ in 0..<random.next() % 4 where !payload.isEmpty {
                switch random.next() % 3 {
                case 0: payload[Int(random.next() % UInt64(payload.count))] = UInt8(truncatingIfNeeded: random.next())
                case 1: payload.removeLast(Int(random.next() % UInt64(payload.count)))
                default: payload += random.bytes(Int(random.next() % 64))
                }
            }
            if random.next() % 16 == 0 { number = UInt8(truncatingIfNeeded: random.next()) }
            let record = packet(number, to: EgressPolicy.loopbackAddresses.ipv4, payload)
            receive(gateway, record, number)
            link.packets.removeAll()
            if round % 16 == 0 {
                now += 50_000
                gateway.work(now: now)
            }
            let usage = try #require(gateway.usage(of: machine))
            #expect(usage.datagramFlows <= 16 && usage.connections <= 64 && usage.connecting <= 9)
        }
        gateway.remove(machine, now: now)
        #expect(gateway.usage(of: machine) == nil && gateway.counters.malformed > 0)
    }
}
