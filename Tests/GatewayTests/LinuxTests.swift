// SPDX-License-Identifier: Apache-2.0

import FabricAPI
import Glibc
import Packet
import Platform
import TestSupport
import Testing
import Wire

/// Linux's TCP and UDP on both sides of the gateway.
@Suite(.serialized, .enabled(if: geteuid() == 0, "network namespaces are made by root"))
struct AgainstLinux {
    /// Sends, finishes, and expects the same bytes back in the other order, then the end.
    private static func exchange(_ client: TestSocket, _ server: TestSocket, _ count: Int, seed: UInt64) throws {
        let echo = try Meanwhile {
            let (connection, _) = try server.accept()
            let bytes = try connection.receiveAll()
            try connection.send(bytes.reversed())
            connection.finish()
        }
        var random = SeededGenerator(seed)
        let bytes = random.bytes(count)
        let sending = try Meanwhile {
            try client.send(bytes)
            client.finish()
        }
        let back = try client.receiveAll()
        try sending.result()
        try echo.result()
        #expect(back.count == count && back.elementsEqual(bytes.reversed()))
    }

    @Test(arguments: [65_520, 1500] as [UInt32]) func bulkAndHalfCloseBothWays(mtu: UInt32) throws {
        let bed = try Testbed(mtu: mtu, published: ["8080:80"])
        for address in [Testbed.outsideAddress, Testbed.outsideAddress6] {
            let server = try TestSocket.listen(in: bed.outside, address)
            let client = try TestSocket.connect(in: bed.machine, address, try server.port)
            try AgainstLinux.exchange(client, server, 2 << 20, seed: 1)
        }
        // The same from outside, by the published port; the machine sees the gateway.
        for (host, own) in [
            (Testbed.hostAddress, Testbed.machineAddress), ("2001:db8::1", Testbed.machineAddress6),
        ] {
            let server = try TestSocket.listen(in: bed.machine, own, 80)
            let client = try TestSocket.connect(in: bed.outside, host, 8080)
            try AgainstLinux.exchange(client, server, 2 << 20, seed: 2)
        }
    }

    @Test func lossAndDisorder() throws {
        let bed = try Testbed(mtu: 1500, published: ["8080:80"], loss: 10)
        let server = try TestSocket.listen(in: bed.outside, Testbed.outsideAddress)
        let client = try TestSocket.connect(in: bed.machine, Testbed.outsideAddress, try server.port)
        try AgainstLinux.exchange(client, server, 1 << 20, seed: 3)
        let inner = try TestSocket.listen(in: bed.machine, Testbed.machineAddress, 80)
        try AgainstLinux.exchange(
            try TestSocket.connect(in: bed.outside, Testbed.hostAddress, 8080), inner, 1 << 20, seed: 4)
    }

    /// The names of the user's other networks, asked for by a machine whose host's name server is outside: that one is not
    /// asked, neither of those that were there before nor of those that come while the fabric runs.
    @Test func namesOfOtherNetworksStayHere() throws {
        let bed = try Testbed(resolver: Testbed.outsideAddress)
        let server = try TestSocket.datagrams(in: bed.outside, Testbed.outsideAddress, 53)
        var red = NetworkDefinition(name: "red")
        red.subnet = IPv4Prefix("10.77.0.0/16")
        red.gateway = IPv4Address("10.77.0.1")
        try Files.writeAtomically(red.json.encoded(), to: "\(bed.directory)/red.json")
        func dig(_ arguments: String, expecting words: String) throws {
            let line = "dig +time=30 +tries=1 @10.88.0.1 \(arguments) | grep -q 'status: \(words)'"
            #expect(try shell("ip netns exec \(bed.machine) \(line)") == .exited(0), "\(arguments)")
        }
        for question in ["db.red", "red", "-t aaaa db.red", "-t txt x.y.red", "-t srv _http._tcp.red", "-x 10.77.0.5"] {
            try dig(question, expecting: "NXDOMAIN")
            try dig("+tcp \(question)", expecting: "NXDOMAIN")
        }
        try dig("db.red.net", expecting: "NXDOMAIN")
        // The first question that it sees is the first one that is for it.
        let asked = try Meanwhile {
            let (question, peer) = try server.receiveDatagram()
            var answer = question
            answer[2] |= 0x80
            answer[3] = 0x80 | DNSCode.noSuchName
            _ = server.send(answer, to: peer)
            return String(decoding: question, as: UTF8.self)
        }
        try dig("www.example.org", expecting: "NXDOMAIN")
        #expect(try asked.result().contains("example"))
    }

    private func connectFailure(_ bed: Testbed, _ address: String, _ port: UInt16) -> Int32? {
        do {
            _ = try TestSocket.connect(in: bed.machine, address, port)
            return nil
        } catch {
            return (error as? SystemError)?.code ?? EIO
        }
    }

    @Test func whatIsNotThereIsSaidSo() throws {
        let bed = try Testbed()
        #expect(connectFailure(bed, Testbed.outsideAddress, 9) == ECONNREFUSED)
        #expect(connectFailure(bed, Testbed.outsideAddress6, 9) == ECONNREFUSED)
        // The host has no route there.
        #expect(connectFailure(bed, "198.51.100.1", 80) == ENETUNREACH)
        #expect(connectFailure(bed, "2001:db8:1::1", 80) == ENETUNREACH)
        // A call that is answered while it is being made is made again.
        #expect(try bed.counter("connectionsRefusedByHost") >= 4)
        #expect(try bed.usage("connections") == 0)
    }

    @Test func theHostIsOutOfReach() throws {
        let bed = try Testbed()
        // It listens everywhere, and nobody may come through.
        let servers = [
            try TestSocket.listen(in: bed.host, "0.0.0.0", 8000), try TestSocket.listen(in: bed.host, "::", 8000),
        ]
        let hostile = [
            Testbed.hostAddress, "2001:db8::1", "169.254.169.254", "198.19.255.254", "fd6d:6172:746c:6574::1",
            "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::1", "2002:a9fe:a9fe::1",
        ]
        for address in hostile { #expect(connectFailure(bed, address, 8000) != nil, "\(address)") }
        for server in servers {
            var event = pollfd(fd: server.descriptor.raw, events: Int16(POLLIN), revents: 0)
            #expect(poll(&event, 1, 0) == 0)
        }
        #expect(try bed.counter("connectionsOpened") == 0 || bed.counter("connectionsRefusedByHost") > 0)
    }

    @Test func theHostsLoopbackWhereItIsAllowed() throws {
        let bed = try Testbed(hostAccess: true)
        let server = try TestSocket.listen(in: bed.host, "127.0.0.1")
        let client = try TestSocket.connect(in: bed.machine, "198.19.255.254", try server.port)
        try AgainstLinux.exchange(client, server, 100_000, seed: 5)
        let server6 = try TestSocket.listen(in: bed.host, "::1")
        let client6 = try TestSocket.connect(in: bed.machine, "fd6d:6172:746c:6574::1", try server6.port)
        try AgainstLinux.exchange(client6, server6, 100_000, seed: 6)
    }

    @Test func resetsPassBothWays() throws {
        let bed = try Testbed()
        let server = try TestSocket.listen(in: bed.outside, Testbed.outsideAddress)
        for closesOutside in [true, false] {
            var client: TestSocket? = try TestSocket.connect(in: bed.machine, Testbed.outsideAddress, try server.port)
            try client?.send([1])
            var accepted: TestSocket? = try server.accept().0
            #expect(try accepted?.receive() == [1])
            if closesOutside {
                accepted?.resetOnClose()
                accepted = nil
                #expect(throws: SystemError("recv", code: ECONNRESET)) { try client?.receiveAll() }
            } else {
                client?.resetOnClose()
                client = nil
                #expect(throws: SystemError("recv", code: ECONNRESET)) { try accepted?.receiveAll() }
            }
        }
    }

    @Test func whoReadsNothingHoldsTheSenderBack() throws {
        let bed = try Testbed()
        let server = try TestSocket.listen(in: bed.outside, Testbed.outsideAddress)
        let client = try TestSocket.connect(in: bed.machine, Testbed.outsideAddress, try server.port)
        let (connection, _) = try server.accept()
        var random = SeededGenerator(7)
        let block = random.bytes(1 << 20)
        // Until nothing has moved for as long as a segment would take to be sent again.
        var sent = 0
        while true {
            var event = pollfd(fd: client.descriptor.raw, events: Int16(POLLOUT), revents: 0)
            guard poll(&event, 1, 1000) == 1 else { break }
            sent += max(0, send(client.descriptor.raw, block, block.count, Int32(MSG_DONTWAIT)))
            try #require(sent < 256 << 20)
        }
        #expect(try bed.usage("bufferedBytes") <= 2 << 20)
        client.finish()
        var received = 0
        while true {
            let bytes = try connection.receive()
            if bytes.isEmpty { break }
            received += bytes.count
        }
        #expect(received == sent)
    }

    @Test func publishedPorts() throws {
        let bed = try Testbed(published: ["8080:80", "127.0.0.2:8081:80/tcp/proxy", "9000-9002:9000-9002"])
        // Nobody listens in the machine: who has connected is told.
        let early = try TestSocket.connect(in: bed.host, "127.0.0.1", 8080)
        #expect(throws: SystemError.self) { try early.receiveAll() }
        let server = try TestSocket.listen(in: bed.machine, Testbed.machineAddress, 80)
        let client = try TestSocket.connect(in: bed.host, "127.0.0.2", 8081)
        let port = try client.port
        try client.send(Array("hello".utf8))
        client.finish()
        let (connection, peer) = try server.accept()
        #expect(peer.low == 0xFFFF_0A58_0001)
        let bytes = try connection.receiveAll()
        #expect(
            bytes.count == 33 && Array(bytes[12...13]) == [0x21, 0x11] && Array(bytes[28...]) == Array("hello".utf8))
        #expect(Array(bytes[16..<20]) == [127, 0, 0, 1] && Array(bytes[20..<24]) == [127, 0, 0, 2])
        #expect(UInt16(bytes[24]) << 8 | UInt16(bytes[25]) == port)
        for port in 9000...9002 as ClosedRange<UInt16> {
            let server = try TestSocket.listen(in: bed.machine, Testbed.machineAddress, port)
            let client = try TestSocket.connect(in: bed.outside, Testbed.hostAddress, port)
            try client.send([UInt8(port & 255)])
            #expect(try server.accept().0.receive() == [UInt8(port & 255)])
        }
        guard
            case .refused(.taken, let reason) = try bed.ask(
                .publish(id: "m", [try PublishedPorts(parsing: "7000:70"), try PublishedPorts(parsing: "8080:81")]))
        else {
            Issue.record("a port was published twice")
            return
        }
        #expect(reason.contains("0.0.0.0:8080/tcp"))
        // All or nothing: the first of the two is free again.
        _ = try TestSocket.listen(in: bed.host, "0.0.0.0", 7000)
        guard case .published(let ports) = try bed.ask(.publish(id: "m", [try PublishedPorts(parsing: "0:70")])) else {
            Issue.record("no port was published")
            return
        }
        #expect(ports.last?.hostPort ?? 0 > 0)
    }

    /// A machine that is a host of others asks its gateway, and what it publishes lasts as long as it is connected.
    @Test func aMachineWithATokenPublishesPortsOfItsOwn() throws {
        let token = String(repeating: "k9", count: 20)
        let bed = try Testbed(token: token)
        func ask(_ socket: TestSocket, _ request: FabricRequest) throws -> FabricReply {
            try socket.send(request.json.encoded() + [10])
            return try FabricReply(JSON(parsing: try socket.receive()))
        }
        func isRefused(_ reply: FabricReply) -> Bool { if case .refused(.forbidden, _) = reply { true } else { false } }
        let ports = [try PublishedPorts(parsing: "127.0.0.3:0:80")]
        let stranger = try TestSocket.connect(in: bed.machine, "10.88.0.1", FabricRequest.insidePort)
        #expect(isRefused(try ask(stranger, .publish(id: "m", ports))))
        #expect(isRefused(try ask(stranger, .present(token: String(repeating: "k8", count: 20)))))
        #expect(isRefused(try ask(stranger, .inspect)))
        #expect(isRefused(try bed.ask(.present(token: token))))
        let friend = try TestSocket.connect(in: bed.machine, "10.88.0.1", FabricRequest.insidePort)
        #expect(try ask(friend, .present(token: token)) == .done)
        #expect(isRefused(try ask(friend, .end)))
        guard case .published(let chosen) = try ask(friend, .publish(id: "m", ports)) else {
            Issue.record("nothing was published")
            return
        }
        let port = try #require(chosen.first?.hostPort)
        let server = try TestSocket.listen(in: bed.machine, Testbed.machineAddress, 80)
        let client = try TestSocket.connect(in: bed.host, "127.0.0.3", port)
        try client.send([7])
        #expect(try server.accept().0.receive() == [7])
        friend.finish()
        #expect(try friend.receiveAll().isEmpty)
        #expect(throws: (any Error).self) { try TestSocket.connect(in: bed.host, "127.0.0.3", port) }
    }

    @Test(arguments: [65_520, 1500] as [UInt32]) func datagrams(mtu: UInt32) throws {
        let bed = try Testbed(mtu: mtu, published: ["5353:53/udp"])
        for address in [Testbed.outsideAddress, Testbed.outsideAddress6] {
            let server = try TestSocket.datagrams(in: bed.outside, address)
            let client = try TestSocket.datagrams(in: bed.machine, address.contains(":") ? "::" : "0.0.0.0")
            try client.connect(address, try server.port)
            for count in [0, 1, 1400, 8000, 60_000] {
                var random = SeededGenerator(UInt64(count))
                let bytes = random.bytes(count)
                // Beyond the way's MTU, the first one brings its size back, which the second call says; the third one's
                // goes out in pieces.
                var answer: [UInt8]?
                for _ in 0..<3 where answer == nil {
                    _ = send(client.descriptor.raw, bytes, bytes.count, 0)
                    var event = pollfd(fd: server.descriptor.raw, events: Int16(POLLIN), revents: 0)
                    guard poll(&event, 1, 1000) == 1 else { continue }
                    let (received, peer) = try server.receiveDatagram()
                    #expect(received == bytes)
                    #expect(server.send(received.reversed(), to: peer) == 0)
                    answer = try client.receive()
                }
                #expect(answer == bytes.reversed(), "\(count) bytes to \(address)")
            }
        }
        // From outside, by the published port; and back from where it was sent to.
        let server = try TestSocket.datagrams(in: bed.machine, Testbed.machineAddress, 53)
        let client = try TestSocket.datagrams(in: bed.outside, "0.0.0.0")
        try client.connect(Testbed.hostAddress, 5353)
        try client.send([1, 2, 3])
        let (received, peer) = try server.receiveDatagram()
        #expect(received == [1, 2, 3] && peer.low == 0xFFFF_0A58_0001)
        #expect(server.send([4, 5], to: peer) == 0)
        #expect(try client.receive() == [4, 5])
        // Nobody there: the machine is told.
        let lonely = try TestSocket.datagrams(in: bed.machine, "0.0.0.0")
        try lonely.connect(Testbed.outsideAddress, 9)
        try lonely.send([1])
        #expect(throws: SystemError("recv", code: ECONNREFUSED)) { try lonely.receive() }
    }

    @Test func echoes() throws {
        let bed = try Testbed()
        for address in [Testbed.outsideAddress, Testbed.outsideAddress6] {
            #expect(
                try shell("ip netns exec \(bed.machine) ping -q -c 2 -i 0.05 -W 5 \(address) >/dev/null") == .exited(0))
        }
        #expect(try shell("ip netns exec \(bed.host) sysctl -qw net.ipv4.ping_group_range='1 0'") == .exited(0))
        // Where the host does not let it, that is said, not kept silent.
        #expect(
            try shell(
                "ip netns exec \(bed.machine) ping -c 1 -W 5 \(Testbed.outsideAddress) | grep -qi 'filtered\\|prohibited'"
            )
                == .exited(0))
        #expect(try bed.counter("noPingSockets") == 1)
    }

    @Test func rules() throws {
        let bed = try Testbed(egress: ["allow=192.0.2.2:8000"])
        let allowed = try TestSocket.listen(in: bed.outside, Testbed.outsideAddress, 8000)
        let denied = try TestSocket.listen(in: bed.outside, Testbed.outsideAddress, 8001)
        #expect(connectFailure(bed, Testbed.outsideAddress, 8001) == EHOSTUNREACH)
        let client = try TestSocket.connect(in: bed.machine, Testbed.outsideAddress, 8000)
        let (connection, _) = try allowed.accept()
        try client.send([1])
        #expect(try connection.receive() == [1])
        // What is no longer allowed ends.
        #expect(
            try bed.ask(.setEgress(id: "m", [try EgressRule(parsing: "allow=192.0.2.2:8001")], isAudited: false))
                == .done)
        #expect(throws: SystemError.self) { try client.receiveAll() }
        #expect(connectFailure(bed, Testbed.outsideAddress, 8000) == EHOSTUNREACH)
        _ = try TestSocket.connect(in: bed.machine, Testbed.outsideAddress, 8001)
        _ = try denied.accept()
        // Audited: let through and counted.
        #expect(try bed.ask(.setEgress(id: "m", [try EgressRule(parsing: "deny=all")], isAudited: true)) == .done)
        _ = try TestSocket.connect(in: bed.machine, Testbed.outsideAddress, 8000)
        #expect(try bed.counter("audited") == 1 && bed.counter("refusedByPolicy") == 2)
    }

    @Test func manyShortConnectionsLeaveNothing() throws {
        let bed = try Testbed()
        let server = try TestSocket.listen(in: bed.outside, Testbed.outsideAddress)
        let port = try server.port
        let rounds = 1000
        let descriptors = try bed.descriptors()
        let serving = try Meanwhile {
            for _ in 0..<rounds {
                let (connection, _) = try server.accept()
                let bytes = try connection.receiveAll()
                try connection.send(bytes)
            }
        }
        let name = bed.machine
        let calling = try Meanwhile {
            try inside(name) {
                for round in 0..<rounds {
                    let socket = try InternetSocket.make(.stream, ipv4: true)
                    try socket.setNonBlocking(false)
                    _ = try InternetSocket.connect(socket, to: try socketAddress(Testbed.outsideAddress, port))
                    let word = [UInt8(truncatingIfNeeded: round), UInt8(truncatingIfNeeded: round >> 8)]
                    try socket.writeAll(word)
                    InternetSocket.finishSending(socket)
                    #expect(try socket.readAll(limit: 16) == word)
                }
            }
        }
        try calling.result()
        try serving.result()
        // Each question is answered after all that has come before.
        var questions = 0
        while try bed.usage("connections") > 0, questions < 10_000 { questions += 1 }
        #expect(try bed.usage("connections") == 0 && bed.usage("bufferedBytes") == 0)
        #expect(try bed.counter("connectionsOpened") == UInt64(rounds) && bed.counter("evicted") == 0)
        #expect(try bed.descriptors() == descriptors)
    }
}
