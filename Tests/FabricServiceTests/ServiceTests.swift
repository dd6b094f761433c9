// SPDX-License-Identifier: Apache-2.0

import CLinux
import Fabric
import FabricAPI
import FabricService
import Glibc
import Packet
import Platform
import TestSupport
import Testing
import Wire

@Suite struct Service {
    @Test func machinesReachEachOther() throws {
        let served = try Served()
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let b = try Machine(try client.attach("b"))
        #expect(a.endpoint.gateway == IPv4Address(10, 99, 0, 1) && a.endpoint.prefixLength == 24)
        #expect(a.address != b.address && a.endpoint.nameServers == ["10.99.0.1", "fd00:99::1"])
        // Until b's hello has been read nobody knows what it takes; a name's answer says that it has.
        _ = try b.resolve("a")
        for index in 0..<100 as Range<UInt8> { try a.send(a.datagram(to: b.address, b.mac, 1, 2, [index])) }
        for index in 0..<100 as Range<UInt8> {
            let record = try b.receive()
            #expect(record.last == index && record.count == 55)
        }
        #expect(addresses(try a.resolve("b.blue")) == (0, [b.address]))
        #expect(addresses(try a.resolve("nobody")) == (3, []))
    }

    @Test func whatAMachineDoesNotTakeIsDoneForIt() throws {
        let served = try Served()
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let b = try Machine(try client.attach("b"), features: 0)
        _ = try b.resolve("a")
        // A segment of 20,000 bytes, its checksum missing.
        let payload = (0..<20_000).map { UInt8(truncatingIfNeeded: $0 * 7) }
        var header = VirtioNetHeader()
        header.flags = VirtioNetHeader.needsChecksum
        header.segmentation = VirtioNetHeader.segmentationTCPv4
        header.segmentSize = 1448
        header.checksumStart = 34
        header.checksumOffset = 16
        let record = built(12 + 54 + payload.count) {
            header.write(to: &$0, at: 0)
            EthernetHeader(destination: b.mac, source: a.mac, type: EtherType.ipv4).write(to: &$0, at: 12)
            IPv4Header(
                protocolNumber: IPProtocol.tcp, source: a.address, destination: b.address,
                payloadLength: 20 + payload.count
            ).write(to: &$0, at: 26)
            TCPHeader(
                sourcePort: 1, destinationPort: 2, sequence: 100, acknowledgment: 0, flags: .acknowledge, window: 1
            ).write(to: &$0, at: 46)
            $0.put(payload, at: 66)
            Transport.fillPartialChecksum(
                &$0, at: 46, length: 20 + payload.count, protocolNumber: IPProtocol.tcp, source: a.address,
                destination: b.address)
        }
        try a.send(record)
        var together: [UInt8] = []
        while together.count < payload.count {
            let segment = try b.receive()
            #expect(segment.count <= 12 + 14 + 1500 && segment[..<10].allSatisfy { $0 == 0 })
            let span = segment.span
            let packet = IPv4View(span.bytes.dropping(26))
            #expect(packet?.checksumIsValid == true && packet?.payloadChecksumIsValid == true)
            together += segment[66...]
        }
        #expect(together == payload)
    }

    @Test func aFloodLeavesTheOthersTheirShare() throws {
        let served = try Served()
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let b = try Machine(try client.attach("b"))
        let c = try Machine(try client.attach("c"))
        _ = try b.resolve("a")
        // b reads nothing while a floods it and c sends a little; answers from the fabric say that all has been handled.
        let payload = [UInt8](repeating: 7, count: 1000)
        for index in 0..<6000 as Range<UInt16> { try a.send(a.datagram(to: b.address, b.mac, index, 1, payload)) }
        _ = try a.resolve("b")
        for index in 0..<50 as Range<UInt16> { try c.send(c.datagram(to: b.address, b.mac, index, 2, payload)) }
        _ = try c.resolve("b")
        guard case .inspected(let state) = try client.ask(.inspect) else {
            Issue.record("no inspection")
            return
        }
        let drops = (state["machines"]?.arrayValue ?? []).map { $0["dropped"]?["queueFull"]?.unsignedValue ?? 0 }
        #expect(drops[0] > 1000 && drops[2] == 0, "\(drops)")
        // What was taken comes, each sender's in order, and nothing else.
        var next: [UInt16] = [0, 0]
        var count: [UInt64] = [0, 0]
        while count[0] < 6000 - drops[0] || count[1] < 50 {
            let record = try b.receive()
            let span = record.span
            let sender = span.bytes.u16(48) == 1 ? 0 : 1
            #expect(span.bytes.u16(46) >= next[sender])
            next[sender] = span.bytes.u16(46) + 1
            count[sender] += 1
        }
        #expect(next[1] == 50)
    }

    @Test func aLeaseEndsWithItsConnection() throws {
        let served = try Served()
        let first = try served.client()
        let second = try served.client()
        let endpoint = try first.attach("a") { $0.address = IPv4Address(10, 99, 0, 50) }
        let machine = try Machine(endpoint)
        guard case .refused(.taken, _) = try second.ask(.attach(.init(id: "a", name: "x"))) else {
            Issue.record("attached twice")
            return
        }
        guard case .refused(.unknown, _) = try second.ask(.detach(id: "a")) else {
            Issue.record("detached another's")
            return
        }
        shutdown(first.socket.raw, Int32(SHUT_RDWR))
        // The machine's socket ends with the lease.
        var byte: UInt8 = 0
        #expect(read(machine.socket.raw, &byte, 1) == 0)
        #expect(!Files.exists(endpoint.socketPath))
        #expect(try second.attach("a") { $0.address = IPv4Address(10, 99, 0, 50) }.address == endpoint.address)
    }

    @Test func aMonitorConnectsAgain() throws {
        let served = try Served()
        let client = try served.client()
        let endpoint = try client.attach("a")
        for _ in 0..<5 {
            let machine = try Machine(endpoint)
            #expect(addresses(try machine.resolve("a")) == (0, [machine.address]))
        }
    }

    @Test func requestsAreRefusedWithAReason() throws {
        let served = try Served()
        let client = try served.client()
        _ = try client.attach("a")
        let cases: [(String, FabricReply.Refusal)] = [
            ("{", .malformed), ("[]", .malformed), (#"{"do":"dance"}"#, .malformed),
            (#"{"do":"attach","id":"../x","name":"x"}"#, .malformed),
            (#"{"do":"attach","id":"x","name":"a"}"#, .taken),
            (#"{"do":"attach","id":"x","name":"x","address":"10.98.0.1"}"#, .malformed),
            (#"{"do":"attach","id":"x","name":"x","address":"10.99.0.2"}"#, .taken),
            (#"{"do":"attach","id":"x","name":"-x"}"#, .malformed), (#"{"do":"detach","id":"zzz"}"#, .unknown),
            (#"{"do":"capture"}"#, .malformed),
        ]
        for (line, refusal) in cases {
            guard case .refused(let found, let reason) = try client.send(Array(line.utf8)) else {
                Issue.record("\(line) is not refused")
                continue
            }
            #expect(found == refusal && !reason.isEmpty, "\(line): \(reason)")
        }
        // A request without an end ends the connection.
        let other = try served.client()
        guard case .refused(.malformed, _) = try other.send([UInt8](repeating: 32, count: 70_000)) else {
            Issue.record("taken")
            return
        }
    }

    @Test func spoofedFramesAreCounted() throws {
        let served = try Served()
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let b = try Machine(try client.attach("b"))
        var forged = a.datagram(to: b.address, b.mac, 1, 2, [9])
        for _ in 0..<7 {
            forged[12 + 6] ^= 2
            try a.send(forged)
            forged[12 + 6] ^= 2
        }
        try a.send([UInt8](repeating: 0, count: 26))
        _ = try a.resolve("b")
        guard case .inspected(let state) = try client.ask(.inspect) else {
            Issue.record("no inspection")
            return
        }
        let machine = try #require(state["machines"]?.arrayValue?.first)
        #expect(machine["dropped"]?["spoofedMAC"]?.unsignedValue == 8)
        #expect(machine["address"] == .string("\(a.address)") && machine["connected"] == true)
        #expect(state["network"]?["name"] == "blue")
    }

    @Test func capturesAreReadByWireshark() throws {
        let served = try Served()
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let b = try Machine(try client.attach("b"))
        let directory = try TemporaryDirectory()
        let path = "\(directory.path)/capture.pcapng"
        let file = try Descriptor.open(path, .createNew)
        let reply = try client.send(FabricRequest.capture(id: nil).json.encoded(), descriptor: file.raw)
        #expect(reply == .done)
        try a.send(a.datagram(to: b.address, b.mac, 7, 8, Array("hello".utf8)))
        _ = try b.receive()
        var forged = a.datagram(to: b.address, b.mac, 7, 8, [])
        forged[12 + 6] ^= 2
        try a.send(forged)
        _ = try a.resolve("b")
        let (end, text) = try run(
            "/usr/bin/tshark",
            [
                "-r", path, "-T", "fields", "-e", "frame.interface_name", "-e", "udp.dstport", "-e", "frame.comment",
                "-e", "_ws.malformed",
            ])
        #expect(end == .exited(0))
        let lines = text.split(separator: "\n").filter { !$0.hasPrefix("Running as") }.map {
            $0.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
        }
        #expect(
            lines == [
                ["a", "8", "", ""], ["b", "8", "", ""], ["a", "8", "dropped: spoofedMAC", ""], ["a", "53", "", ""],
                ["a", "5000", "", ""],
            ], "\(text)")
    }

    @Test func namesAreForwarded() throws {
        // A server of the host's, on its loopback.
        let server = try InternetSocket.make(.datagram, ipv4: true)
        try InternetSocket.bind(server, to: SocketAddress(ipv4: 0x7F00_0001, port: 0))
        let port = try InternetSocket.localAddress(server).port
        let served = try Served(resolvers: "nameserver 127.0.0.1\n", resolverPort: port)
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let raw = server.raw
        let upstream = try Thread(name: "upstream") {
            for _ in 0..<2 { answerOne(raw) }
        }
        #expect(addresses(try a.resolve("www.example.com")) == (0, [IPv4Address(203, 0, 113, 5)]))
        // From memory: the server is not asked.
        #expect(addresses(try a.resolve("www.example.com")) == (0, [IPv4Address(203, 0, 113, 5)]))
        #expect(addresses(try a.resolve("other.example.com")) == (0, [IPv4Address(203, 0, 113, 5)]))
        upstream.join()
        // The network's own names never get there.
        #expect(addresses(try a.resolve("secret.blue")) == (3, []))
        var waiting = pollfd(fd: server.raw, events: Int16(POLLIN), revents: 0)
        #expect(poll(&waiting, 1, 0) == 0)
    }

    @Test func namesThatAreNotAllowedAreNotAskedFor() throws {
        let server = try InternetSocket.make(.datagram, ipv4: true)
        try InternetSocket.bind(server, to: SocketAddress(ipv4: 0x7F00_0001, port: 0))
        let port = try InternetSocket.localAddress(server).port
        let served = try Served(resolvers: "nameserver 127.0.0.1\n", resolverPort: port)
        let client = try served.client()
        let rules = try ["name=*.good.example:443", "allow=192.0.2.0/24"].map { try EgressRule(parsing: $0) }
        let a = try Machine(try client.attach("a") { $0.egress = rules })
        for name in ["data.evil.example", "good.example", "xgood.example"] {
            #expect(addresses(try a.resolve(name)) == (DNSCode.noSuchName, []))
        }
        #expect(addresses(try a.resolve("a.blue")) == (0, [a.address]))
        let raw = server.raw
        let upstream = try Thread(name: "upstream") { answerOne(raw) }
        #expect(addresses(try a.resolve("www.good.example")) == (0, [IPv4Address(203, 0, 113, 5)]))
        upstream.join()
        var waiting = pollfd(fd: server.raw, events: Int16(POLLIN), revents: 0)
        #expect(poll(&waiting, 1, 0) == 0)
        guard case .inspected(let state) = try client.ask(.inspect) else {
            Issue.record("no inspection")
            return
        }
        #expect(state["machines"]?.arrayValue?.first?["dropped"]?["nameDenied"]?.unsignedValue == 3)
    }

    /// What rules that are only tried out would deny is let through, and told: it is no drop.
    @Test func whatIsAuditedIsTold() throws {
        let server = try InternetSocket.make(.datagram, ipv4: true)
        try InternetSocket.bind(server, to: SocketAddress(ipv4: 0x7F00_0001, port: 0))
        let port = try InternetSocket.localAddress(server).port
        let served = try Served(resolvers: "nameserver 127.0.0.1\n", resolverPort: port)
        let client = try served.client()
        let rules = try ["name=*.good.example:443"].map { try EgressRule(parsing: $0) }
        let a = try Machine(
            try client.attach("a") {
                $0.egress = rules
                $0.isEgressAudited = true
                $0.hasHostAccess = true
            })
        let raw = server.raw
        let upstream = try Thread(name: "upstream") { answerOne(raw) }
        for _ in 0..<2 {
            #expect(addresses(try a.resolve("data.evil.example")) == (0, [IPv4Address(203, 0, 113, 5)]))
        }
        upstream.join()
        // The host's loopback, so that nothing leaves it.
        try a.send(a.datagram(to: IPv4Address(198, 19, 255, 254), Network.gatewayMAC, 4000, port, [1]))
        _ = try a.resolve("a")
        guard case .inspected(let state) = try client.ask(.inspect) else {
            Issue.record("no inspection")
            return
        }
        let machine = try #require(state["machines"]?.arrayValue?.first)
        #expect(machine["dropped"]?["nameDenied"]?.unsignedValue == 0)
        #expect(state["gateway"]?["auditedNames"]?.unsignedValue == 2)
        #expect(state["gateway"]?["audited"]?.unsignedValue == 1)
        let audited = try #require(machine["audited"]?.arrayValue)
        #expect(audited.count == 2 && audited[0]["name"] == "data.evil.example")
        #expect(audited[0]["times"]?.unsignedValue == 2)
        #expect(audited[1]["address"] == "198.19.255.254" && audited[1]["transport"] == "udp")
        #expect(audited[1]["port"]?.unsignedValue == UInt64(port))
    }

    /// A reader that reads nothing: what it loses is told.
    @Test func whatACaptureLosesIsTold() throws {
        let served = try Served()
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let b = try Machine(try client.attach("b"))
        let pipe = try Pipe()
        // A reader that stays for as long as the process: the fabric in it writes when the test has ended.
        _ = dup(pipe.reading.raw)
        let reply = try client.send(FabricRequest.capture(id: "a").json.encoded(), descriptor: pipe.writing.raw)
        #expect(reply == .done)
        let payload = [UInt8](repeating: 7, count: 1400)
        for index in 0..<4000 as Range<UInt16> { try a.send(a.datagram(to: b.address, b.mac, index, 1, payload)) }
        _ = try a.resolve("b")
        guard case .inspected(let state) = try client.ask(.inspect) else {
            Issue.record("no inspection")
            return
        }
        let captures = try #require(state["captures"]?.arrayValue)
        #expect(captures.count == 1 && captures[0]["id"] == "a")
        #expect(captures[0]["lost"]?.unsignedValue ?? 0 > 0)
    }

    @Test func aNetworksRulesHoldAtOnceForAllOfItsMachines() throws {
        let served = try Served(resolvers: "nameserver 127.0.0.1\n", resolverPort: 9)
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        #expect(try client.ask(.setPolicy([EgressRule(parsing: "name=good.example")], isAudited: false)) == .done)
        #expect(addresses(try a.resolve("evil.example")) == (DNSCode.noSuchName, []))
        let b = try Machine(try client.attach("b"))
        #expect(addresses(try b.resolve("evil.example")) == (DNSCode.noSuchName, []))
        guard case .inspected(let state) = try client.ask(.inspect) else {
            Issue.record("no inspection")
            return
        }
        #expect(state["network"]?["egress"]?.arrayValue?.count == 1)
        #expect(state["machines"]?.arrayValue?.map { $0["dropped"]?["nameDenied"]?.unsignedValue } == [1, 1])
    }

    @Test func aFabricEndsWhereNobodyNeedsIt() throws {
        let served = try Served()
        let client = try served.client()
        _ = try client.attach("a")
        guard case .refused(.taken, _) = try served.client().ask(.end) else {
            Issue.record("ended with a machine")
            return
        }
        #expect(try client.ask(.detach(id: "a")) == .done)
        #expect(try client.ask(.end) == .done)
        var byte: UInt8 = 0
        #expect(read(client.socket.raw, &byte, 1) == 0)
    }

    @Test(
        arguments: [
            ([], "x.example", true), (["allow=10.0.0.0/8"], "x.example", true),
            (["name=a.example"], "x.example", false),
            (["name=a.example"], "a.example", true), (["name=*.example"], "example", false),
            (["deny=bad.example", "name=*.example"], "bad.example", false), (["deny=bad.example"], "x.example", true),
            (["deny=bad.example:80", "allow=all"], "bad.example", true),
            (["name=a.example", "allow=all"], "x.example", true),
            (["deny=all"], "x.example", false),
        ] as [([String], String, Bool)])
    func whatRulesSayOfNames(rules: [String], name: String, isAllowed: Bool) throws {
        #expect(try rules.map { try EgressRule(parsing: $0) }.permitAsking(for: name) == isAllowed)
    }

    @Test func theHostsServersAreReadAgain() throws {
        let server = try InternetSocket.make(.datagram, ipv4: true)
        try InternetSocket.bind(server, to: SocketAddress(ipv4: 0x7F00_0002, port: 0))
        let port = try InternetSocket.localAddress(server).port
        let served = try Served(resolvers: "nameserver 127.0.0.3\n", resolverPort: port)
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        #expect(addresses(try a.resolve("x.example.com")).code == DNSCode.serverFailure)
        try Files.writeAtomically(Array("nameserver 127.0.0.2\n".utf8), to: "\(served.directory.path)/resolv.conf")
        let raw = server.raw
        let upstream = try Thread(name: "upstream") { answerOne(raw) }
        #expect(addresses(try a.resolve("y.example.com")).code == DNSCode.noError)
        upstream.join()
    }

    /// A link into nowhere, or to where the fabric may not read: the servers stay who they were.
    @Test func anUnreadableListChangesNothing() throws {
        let server = try InternetSocket.make(.datagram, ipv4: true)
        try InternetSocket.bind(server, to: SocketAddress(ipv4: 0x7F00_0002, port: 0))
        let port = try InternetSocket.localAddress(server).port
        let served = try Served(resolvers: "nameserver 127.0.0.2\n", resolverPort: port)
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let path = "\(served.directory.path)/resolv.conf"
        try #require(symlink("/nonexistent/resolv.conf", "\(path).new") == 0)
        try Files.rename("\(path).new", to: path)
        let raw = server.raw
        let upstream = try Thread(name: "upstream") { answerOne(raw) }
        #expect(addresses(try a.resolve("x.example.com")).code == DNSCode.noError)
        upstream.join()
        guard case .inspected(let state) = try client.ask(.inspect) else { return }
        #expect(state["names"]?["servers"]?.arrayValue == ["127.0.0.2"])
    }
}

/// Answers one query with an address; false where none came.
@discardableResult
func answerOne(_ socket: Int32) -> Bool {
    var waiting = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
    guard poll(&waiting, 1, 10_000) == 1 else { return false }
    var space = [UInt8](repeating: 0, count: 1500)
    var from = sockaddr_storage()
    var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
    let count = withUnsafeMutablePointer(to: &from) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { recvfrom(socket, &space, space.count, 0, $0, &size) }
    }
    guard count > 0 else { return false }
    let asked = Array(space[..<count])
    var length = 0
    let message = built(512) { output in
        let span = asked.span
        guard let view = DNSView(span.bytes) else { return }
        var builder = DNSBuilder(identifier: view.identifier, flags: 0x8180, at: 0, limit: 512)
        builder.addQuestions(of: view, to: &output)
        builder.answer(view.question.name, .v4(IPv4Address(203, 0, 113, 5)), timeToLive: 60, to: &output)
        length = builder.finish(&output) ?? 0
    }
    guard length > 0 else { return false }
    _ = withUnsafePointer(to: &from) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { sendto(socket, message, length, 0, $0, size) }
    }
    return true
}
