// SPDX-License-Identifier: Apache-2.0

import Packet
import Platform
import TestSupport
import Testing

/// What we build, as Wireshark's dissectors read it.
@Suite struct Judged {
    /// Writes the frames as a capture and asks tshark for fields; one line a frame.
    private func decode(_ frames: [[UInt8]], _ fields: [String], filter: String? = nil) throws -> [[String]] {
        var file = PCAPNG.begin(application: "tests") + PCAPNG.interface(name: "blue", lengthLimit: 65_536)
        for (index, frame) in frames.enumerated() {
            file += reading(frame) {
                PCAPNG.packet(
                    $0, originalLength: frame.count, interface: 0,
                    nanoseconds: 1_700_000_000_000_000_000 + UInt64(index),
                    direction: .inbound, comment: "frame \(index)")
            }
        }
        let directory = try TemporaryDirectory()
        let path = "\(directory.path)/capture.pcapng"
        let descriptor = try Descriptor.open(path, .createNew)
        try descriptor.writeAll(file)
        var arguments = [
            "tshark", "-r", path, "-T", "fields", "-E", "separator=|", "-o", "ip.check_checksum:TRUE", "-o",
            "tcp.relative_sequence_numbers:FALSE", "-o",
            "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE",
        ]
        if let filter { arguments += ["-Y", filter] }
        for field in fields { arguments += ["-e", field] }
        let text = try run("/usr/bin/tshark", arguments)
        return text.split(separator: "\n", omittingEmptySubsequences: false).dropLast().map {
            $0.split(separator: "|", omittingEmptySubsequences: false).map(String.init)
        }
    }

    @Test func nothingIsMalformed() throws {
        let frames = Corpus.all.dropLast(2).map { $0 }
        let lines = try decode(
            frames,
            [
                "_ws.malformed", "ip.checksum.status", "tcp.checksum.status", "udp.checksum.status",
                "icmp.checksum.status", "icmpv6.checksum.status", "frame.comment",
            ])
        #expect(lines.count == frames.count)
        for (index, line) in lines.enumerated() {
            #expect(line[0].isEmpty, "frame \(index)")
            for status in line[1...5] { #expect(status.isEmpty || status == "1", "frame \(index): \(line)") }
            #expect(line[6] == "frame \(index)")
        }
    }

    @Test func headers() throws {
        let tcp = try decode(
            [Corpus.tcp],
            [
                "eth.src", "ip.src", "ip.dst", "tcp.srcport", "tcp.dstport", "tcp.seq_raw", "tcp.flags.syn",
                "tcp.options.mss_val", "tcp.options.wscale.shift", "tcp.options.timestamp.tsval",
                "tcp.options.timestamp.tsecr",
            ])
        #expect(
            tcp == [
                ["02:00:00:00:00:01", "10.0.0.2", "10.0.0.1", "4000", "9999", "100", "1", "1460", "7", "11", "12"]
            ])
        #expect(
            try decode([Corpus.blocks], ["ipv6.src", "tcp.options.sack_le", "tcp.options.sack_re"])
                == [["fd00::2", "1000,3000", "2000,4000"]])
        #expect(
            try decode([Corpus.arp], ["arp.opcode", "arp.src.hw_mac", "arp.src.proto_ipv4", "arp.dst.proto_ipv4"])
                == [["2", "02:00:00:00:00:01", "10.0.0.2", "10.0.0.1"]])
        #expect(try decode([Corpus.echo], ["icmp.type", "icmp.ident", "icmp.seq"]) == [["8", "3", "4"]])
    }

    @Test func neighbours() throws {
        #expect(
            try decode([Corpus.solicitation], ["icmpv6.type", "icmpv6.nd.ns.target_address", "icmpv6.opt.linkaddr"])
                == [["135", "fd00::1", "02:00:00:00:00:01"]])
        #expect(
            try decode([Corpus.advertisement], ["icmpv6.type", "icmpv6.nd.na.target_address", "icmpv6.nd.na.flag.s"])
                == [["136", "fd00::2", "1"]])
        #expect(
            try decode(
                [Corpus.router],
                [
                    "icmpv6.nd.ra.router_lifetime", "icmpv6.nd.ra.flag.m", "icmpv6.opt.mtu", "icmpv6.opt.prefix",
                    "icmpv6.opt.prefix.length", "icmpv6.opt.rdnss", "icmpv6.opt.dnssl",
                ]) == [["1800", "1", "1500", "fd00::", "64", "fd00::1", "blue.internal"]])
    }

    @Test func leases() throws {
        #expect(
            try decode(
                [Corpus.lease],
                [
                    "dhcp.option.dhcp", "dhcp.ip.your", "dhcp.option.subnet_mask", "dhcp.option.router",
                    "dhcp.option.domain_name_server", "dhcp.option.ip_address_lease_time", "dhcp.option.domain_name",
                    "dhcp.option.hostname", "dhcp.option.interface_mtu", "dhcp.flags.bc",
                ]) == [
                    [
                        "2", "10.0.0.2", "255.255.255.0", "10.0.0.1", "10.0.0.1", "3600", "blue.internal", "web",
                        "1500", "1",
                    ]
                ])
        #expect(
            try decode(
                [Corpus.lease6],
                ["dhcpv6.msgtype", "dhcpv6.xid", "dhcpv6.iaaddr.ip", "dhcpv6.dns_server"])
                == [["7", "0xabcdef", "fd00::2", "fd00::1"]])
        #expect(try decode([Corpus.lease6], ["frame.number"], filter: "frame contains 04:62:6c:75:65:08").count == 1)
    }

    @Test func names() throws {
        let lines = try decode(
            [Corpus.answer],
            [
                "dns.qry.name", "dns.a", "dns.aaaa", "dns.cname", "dns.txt", "dns.srv.target", "dns.srv.port",
                "dns.soa.mname", "dns.count.answers", "dns.count.auth_rr", "dns.count.add_rr",
            ])
        #expect(
            lines == [
                [
                    "web.blue.internal", "10.0.0.2", "fd00::2", "db.blue.internal", "hello", "web.blue.internal", "80",
                    "blue.internal", "5", "1", "1",
                ]
            ])
    }
}

/// Runs a program and gives what it prints; its failure is the test's.
func run(_ path: String, _ arguments: [String]) throws -> String {
    let output = try TemporaryDirectory()
    let file = try Descriptor.open("\(output.path)/out", .createNew)
    var specification = ProcessSpecification(path, arguments, environment: ["PATH=/usr/bin:/bin", "HOME=/nonexistent"])
    specification.descriptors = [-1, file.raw, 2]
    let child = try ChildProcess(specification)
    let end = try child.wait()
    #expect(end == .exited(0), "\(arguments.joined(separator: " "))")
    let result = try Descriptor.open("\(output.path)/out", .readOnly)
    return String(decoding: try result.readAll(limit: 1 << 20), as: UTF8.self)
}
