// SPDX-License-Identifier: Apache-2.0

import Packet
import TestSupport
import Testing
import Wire

@testable import FabricAPI

@Suite struct PublishedPortsTests {
    @Test(arguments: [
        ("80", "0.0.0.0:0->80/tcp"),
        ("8080:80", "0.0.0.0:8080->80/tcp"),
        ("127.0.0.2:53:53/udp", "127.0.0.2:53->53/udp"),
        ("127.0.0.1::80", "127.0.0.1:0->80/tcp"),
        ("9000-9010:9000-9010", "0.0.0.0:9000-9010->9000-9010/tcp"),
        ("[::1]:8080:80/tcp", "[::1]:8080->80/tcp"),
        ("[fd00::1]:80", "[fd00::1]:0->80/tcp"),
        ("65535:65535/udp", "0.0.0.0:65535->65535/udp"),
        ("8080:80/tcp/proxy", "0.0.0.0:8080->80/tcp"),
    ])
    func readsWhatDockerTakes(text: String, shown: String) throws {
        let ports = try PublishedPorts(parsing: text)
        #expect("\(ports)" == shown)
        #expect(ports.tellsClientAddress == text.hasSuffix("proxy"))
        #expect(try PublishedPorts(JSONView(ports.json)) == ports)
    }

    @Test(arguments: [
        "", ":", "80:", "0", "65536", "80:70000", "a:80", "80/sctp", "80/", "1-2:3", "5-4", "-1:80", "1.2.3:80:80",
        "1.2.3.4:80:80:80", "[::1]80:80", "[::1:80", "[zz]:80:80", "80-", "+80:80", "53:53/udp/proxy", "0-1:80-81",
        "1-65535-2:80",
    ])
    func refusesTheRest(text: String) {
        #expect(throws: PublishedPorts.Problem.self) { try PublishedPorts(parsing: text) }
    }
}

@Suite struct EgressRuleTests {
    @Test(arguments: [
        ("allow=10.0.0.0/8", EgressRule(allows: true, target: .v4(IPv4Prefix(IPv4Address(10, 0, 0, 0), length: 8)))),
        (
            "deny=192.0.2.1:443",
            EgressRule(allows: false, target: .v4(IPv4Prefix(IPv4Address(192, 0, 2, 1), length: 32)), port: 443)
        ),
        ("deny=all", EgressRule(allows: false, target: .everything)),
        ("name=*.Example.org", EgressRule(allows: true, target: .name("*.example.org"))),
        ("allow=example.org:443", EgressRule(allows: true, target: .name("example.org"), port: 443)),
        (
            "deny=[fd00::/8]:22",
            EgressRule(
                allows: false, target: .v6(IPv6Prefix(IPv6Address(high: 0xFD00 << 48, low: 0), length: 8)), port: 22)
        ),
        (
            "allow=fd00::/8",
            EgressRule(allows: true, target: .v6(IPv6Prefix(IPv6Address(high: 0xFD00 << 48, low: 0), length: 8)))
        ),
    ])
    func reads(text: String, rule: EgressRule) throws {
        #expect(try EgressRule(parsing: text) == rule)
        #expect(try EgressRule(JSONView(rule.json)) == rule)
        #expect(try EgressRule(parsing: "\(rule)") == rule)
    }

    @Test(arguments: [
        "", "allow", "permit=all", "allow=", "deny=10.0.0.0/33", "allow=1.2.3.4.5", "allow=a..b", "name=*", "name=-%",
        "allow=example.org:0", "allow=example.org:70000", "deny=[fd00::/8", "deny=[fd00::/8]22", "name=10.0.0.1",
    ])
    func refuses(text: String) {
        #expect(throws: EgressRule.Problem.self) { try EgressRule(parsing: text) }
    }
}

@Suite struct NetworkDefinitionTests {
    private func definition() -> NetworkDefinition {
        var definition = NetworkDefinition(name: "back.end-1")
        definition.subnet = IPv4Prefix("10.88.0.0/16")
        definition.gateway = IPv4Address(10, 88, 0, 1)
        definition.subnet6 = IPv6Prefix("fd12:3456:789a:1::/64")
        definition.gateway6 = IPv6Address("fd12:3456:789a:1::1")
        definition.isInternal = true
        definition.allowsHostAccess = true
        definition.egress = [EgressRule(allows: false, target: .everything, port: 25)]
        definition.isEgressAudited = true
        return definition
    }

    @Test func survivesItsFile() throws {
        let text = definition().json.encoded()
        #expect(try NetworkDefinition(JSON(parsing: text)) == definition())
    }

    @Test(arguments: [
        ("subnet", JSON("10.88.0.0/31")), ("subnet", "10.88.0.0/4"), ("gateway", "10.89.0.1"), ("gateway", "10.88.0.0"),
        ("gateway", "10.88.255.255"), ("subnet6", "fd00::/48"), ("gateway6", "fd00::1"), ("name", "-a"), ("name", ""),
        ("name", "web-"), ("name", "a..b"), ("name", "a."), ("name", "a.-b"), ("name", "a-.b"),
        ("subnet", "127.0.0.0/24"), ("subnet", "0.0.0.0/8"), ("subnet", "224.0.0.0/24"), ("subnet6", "fe80::/64"),
        ("subnet6", "ff02::/64"), ("subnet6", "::/64"),
        ("mtu", 1000), ("mtu", 70000), ("version", 2), ("colour", "red"),
    ])
    func namesWhatIsWrong(field: String, value: JSON) throws {
        guard case .object(var object) = definition().json else { return }
        object[field] = value
        #expect(throws: JSONMismatch.self) { try NetworkDefinition(.object(object)) }
    }
}

@Suite struct FabricRecordTests {
    private var attachment: FabricRequest.Attachment {
        var attachment = FabricRequest.Attachment(id: "abc-12", name: "web")
        attachment.aliases = ["www", "web.example"]
        attachment.hardwareAddress = MACAddress("02:00:5e:00:53:01")
        attachment.address = IPv4Address(10, 0, 0, 9)
        attachment.address6 = IPv6Address("fd00::9")
        attachment.published = [
            PublishedPorts(transport: .udp, hostAddress: .v4(.loopback), hostPort: 53, machinePort: 53, count: 3)
        ]
        attachment.egress = [EgressRule(allows: true, target: .name("example.org"), port: 443)]
        attachment.isEgressAudited = true
        attachment.hasHostAccess = true
        attachment.token = String(repeating: "a1", count: 16)
        attachment.others = OtherNetworks(
            [
                OtherNetworks.Network(name: "back.end", subnet: IPv4Prefix("10.1.0.0/16"), subnet6: nil),
                OtherNetworks.Network(name: "six", subnet: nil, subnet6: IPv6Prefix("fd00:6::/64")),
            ], hasLastWord: true)
        return attachment
    }

    private var requests: [FabricRequest] {
        [
            .attach(attachment), .attach(FabricRequest.Attachment(id: "1", name: "a")), .detach(id: "1"),
            .publish(id: "1", attachment.published), .setEgress(id: "1", attachment.egress, isAudited: false),
            .setOthers(id: "1", attachment.others), .setOthers(id: "1", nil), .inspect, .capture(id: nil),
            .capture(id: "1"), .setPolicy(attachment.egress, isAudited: true),
            .present(token: String(repeating: "Z", count: 128)), .end,
        ]
    }

    private var replies: [FabricReply] {
        var endpoint = FabricReply.Endpoint(
            socketPath: "/run/x", hardwareAddress: MACAddress(0x0200_0000_0001), mtu: 1500)
        endpoint.address = IPv4Address(10, 0, 0, 9)
        endpoint.prefixLength = 24
        endpoint.gateway = IPv4Address(10, 0, 0, 1)
        endpoint.address6 = IPv6Address("fd00::9")
        endpoint.prefixLength6 = 64
        endpoint.gateway6 = IPv6Address("fd00::1")
        endpoint.nameServers = ["10.0.0.1"]
        endpoint.searchDomains = ["default"]
        endpoint.published = attachment.published
        return [
            .attached(endpoint), .done, .published(attachment.published), .inspected(["endpoints": []]),
            .refused(.taken, "port 80 is taken"),
        ]
    }

    @Test func surviveTheirText() throws {
        for request in requests { #expect(try FabricRequest(JSON(parsing: request.json.encoded())) == request) }
        for reply in replies { #expect(try FabricReply(JSON(parsing: reply.json.encoded())) == reply) }
    }

    /// Whatever a client or a fabric says is read, or refused with words; a text that is read says the same when it is
    /// written again.
    @Test func hostileTextsAreReadOrRefused() {
        var generator = SeededGenerator(20_26)
        let corpus = requests.map { $0.json.encoded() } + replies.map { $0.json.encoded() }
        var read = 0
        for round in 0..<20_000 {
            var text = corpus[round % corpus.count]
            for _ in 0...generator.next(upTo: 4) where !text.isEmpty {
                let place = Int(generator.next(upTo: UInt64(text.count)))
                switch generator.next(upTo: 4) {
                case 0: text[place] = UInt8(truncatingIfNeeded: generator.next())
                case 1: text.remove(at: place)
                case 2: text.insert(UInt8(truncatingIfNeeded: generator.next()), at: place)
                default: text[place] ^= 1 << UInt8(generator.next(upTo: 8))
                }
            }
            guard let json = try? JSON(parsing: text) else { continue }
            if let request = try? FabricRequest(json) {
                read += 1
                #expect((try? FabricRequest(request.json)) == request)
            }
            if let reply = try? FabricReply(json) {
                read += 1
                #expect((try? FabricReply(reply.json)) == reply)
            }
        }
        #expect(read > 100)
    }
}

extension SeededGenerator {
    fileprivate mutating func next(upTo bound: UInt64) -> UInt64 { next() % bound }
}
