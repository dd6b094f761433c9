// SPDX-License-Identifier: Apache-2.0

import Packet
import TestSupport
import Testing

@Suite struct Addresses {
    @Test(
        arguments: [
            ("::", 0, 0), ("::1", 0, 1), ("fe80::1", 0xFE80_0000_0000_0000, 1),
            ("2001:db8::ff00:42:8329", 0x2001_0DB8_0000_0000, 0x0000_FF00_0042_8329),
            ("1:2:3:4:5:6:7:8", 0x0001_0002_0003_0004, 0x0005_0006_0007_0008),
            ("1:0:0:2::", 0x0001_0000_0000_0002, 0), ("0:1::", 0x0000_0001_0000_0000, 0),
            ("2001:db8:0:1:1:1:1:1", 0x2001_0DB8_0000_0001, 0x0001_0001_0001_0001),
            ("::ffff:192.0.2.1", 0, 0xFFFF_C000_0201), ("fd00:0:0:1::", 0xFD00_0000_0000_0001, 0),
        ] as [(String, UInt64, UInt64)])
    func canonicalIPv6(text: String, high: UInt64, low: UInt64) throws {
        let address = try #require(IPv6Address(text))
        #expect(address == IPv6Address(high: high, low: low))
        let again = try #require(IPv6Address(address.description))
        #expect(again == address)
    }

    @Test(arguments: [
        ("1:0:0:2:0:0:0:3", "1:0:0:2::3"), ("1::2:0:0:3:4", "1::2:0:0:3:4"), ("0:0:0:0:0:0:0:0", "::"),
        ("2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"), ("::1.2.3.4", "::102:304"), ("1:0:0:0:0:0:0:0", "1::"),
    ])
    func shortForm(text: String, wanted: String) throws {
        #expect(try #require(IPv6Address(text)).description == wanted)
    }

    @Test(arguments: [
        "", ":", ":::", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "12345::", "::g", "1:2:3:4:5:6:7:", ":1::",
        "1:2:3:4:5:6:7:1.2.3.4", "::1.2.3", "::1.2.3.256", "fe80::1%eth0", "1:2:3:4:5:6:7::8:9",
    ])
    func refusedIPv6(text: String) { #expect(IPv6Address(text) == nil) }

    @Test func roundTrips() throws {
        var random = SeededGenerator(1)
        for _ in 0..<20_000 {
            // Sparse ones have the runs of zeros.
            let mask = random.next() & random.next()
            let v6 = IPv6Address(high: random.next() & mask, low: random.next() & mask & random.next())
            #expect(IPv6Address(v6.description) == v6)
            let v4 = IPv4Address(UInt32(truncatingIfNeeded: random.next()))
            #expect(IPv4Address(v4.description) == v4)
            let mac = MACAddress(random.next())
            #expect(MACAddress(mac.description) == mac)
        }
    }

    @Test(arguments: ["", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1..2.3", "1.2.3.4 ", "a.b.c.d", "1.2.3."])
    func refusedIPv4(text: String) { #expect(IPv4Address(text) == nil) }

    @Test(
        arguments: [
            ("10.0.0.0", true), ("10.255.255.255", true), ("9.255.255.255", false), ("11.0.0.0", false),
            ("172.15.255.255", false), ("172.16.0.0", true), ("172.31.255.255", true), ("172.32.0.0", false),
            ("192.168.0.1", true), ("192.167.255.255", false), ("192.169.0.0", false), ("100.63.255.255", false),
            ("100.64.0.0", true), ("100.127.255.255", true), ("100.128.0.0", false), ("127.0.0.1", true),
            ("0.0.0.0", true), ("169.254.1.1", true), ("192.0.2.9", true), ("192.0.3.0", false), ("198.51.100.1", true),
            ("203.0.113.255", true), ("203.0.114.0", false), ("8.8.8.8", false), ("fd00::1", true), ("fc00::", true),
            ("fe00::", false), ("fe80::1", true), ("::", true), ("::1", true), ("::2", false), ("2001:db8::1", true),
            ("2001:db9::1", false), ("2606:4700::1", false),
        ])
    func namesOfAddresses(text: String, isLocal: Bool) throws {
        #expect(try #require(IPAddress(text)).isNamedLocally == isLocal)
    }

    @Test(arguments: ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "2:0:0:0:0:0", "02:00:00:00:00:0g", "020000000000"])
    func refusedMAC(text: String) { #expect(MACAddress(text) == nil) }

    @Test func prefixes() throws {
        let net = try #require(IPv4Prefix("10.1.2.3/20"))
        #expect(net.description == "10.1.0.0/20")
        #expect(net.broadcast == IPv4Address(10, 1, 15, 255))
        #expect(net.contains(IPv4Address(10, 1, 15, 1)) && !net.contains(IPv4Address(10, 1, 16, 1)))
        #expect(try #require(IPv4Prefix("0.0.0.0/0")).contains(.broadcast))
        #expect(IPv4Prefix("1.2.3.4/33") == nil && IPv4Prefix("1.2.3.4/") == nil && IPv4Prefix("1.2.3.4/a") == nil)
        let wide = try #require(IPv6Prefix("fd00:1:2:3::5/48"))
        #expect(wide.description == "fd00:1:2::/48")
        #expect(wide.contains(try #require(IPv6Address("fd00:1:2:ffff::1"))))
        #expect(!wide.contains(try #require(IPv6Address("fd00:1:3::1"))))
        #expect(try #require(IPv6Prefix("::/0")).contains(.allNodes))
        #expect(try #require(IPv6Prefix("fd00::1")).length == 128)
        let host = try #require(IPv6Prefix("fd00::8/125"))
        #expect(host.contains(IPv6Address(high: 0xFD00_0000_0000_0000, low: 15)))
        #expect(!host.contains(IPv6Address(high: 0xFD00_0000_0000_0000, low: 16)))
    }

    @Test func derivedAddresses() throws {
        let mac = try #require(MACAddress("02:00:00:00:00:01"))
        #expect(IPv6Address(linkLocal: mac).description == "fe80::ff:fe00:1")
        let address = try #require(IPv6Address("fd00::12:3456"))
        #expect(address.solicitedNode.description == "ff02::1:ff12:3456")
        #expect(MACAddress(multicast: address.solicitedNode).description == "33:33:ff:12:34:56")
        #expect(MACAddress(multicast: IPv4Address(224, 129, 2, 3)).description == "01:00:5e:01:02:03")
    }
}
