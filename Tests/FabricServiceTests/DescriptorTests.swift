// SPDX-License-Identifier: Apache-2.0

import Fabric
import FabricAPI
import Glibc
import Packet
import Platform
import TestSupport
import Testing
import Wire

/// A fabric that has no descriptors left, in a process of its own.
@Suite struct Descriptors {
    private final class Limited {
        let directory: TemporaryDirectory
        let process: ChildProcess
        /// Connections that take what there is; the last ones wait.
        var clients: [Client] = []

        init() throws {
            directory = try TemporaryDirectory()
            let path = "\(directory.path)/net.json"
            try Files.writeAtomically(definition().json.encoded(), to: path)
            let ready = try Pipe()
            var specification = ProcessSpecification(
                "/bin/sh",
                [
                    "sh", "-c", "ulimit -n 48; exec \"$0\" \"$@\"", try fixture(), "--definition", path, "--directory",
                    directory.path, "--ready-fd", "3",
                ], environment: ["PATH=/usr/bin:/bin"])
            specification.descriptors = [-1, 2, 2, ready.writing.raw]
            specification.parentDeathSignal = SIGKILL
            process = try ChildProcess(specification)
            let reading = ready.reading
            ready.writing.close()
            var byte: UInt8 = 0
            try #require(read(reading.raw, &byte, 1) == 0)
            clients = [try client()]
        }

        deinit { _ = try? process.killAndWait() }

        func client() throws -> Client { try Client("\(directory.path)/control") }

        /// Takes all descriptors that there are.
        func exhaust() throws {
            for _ in 0..<60 { clients.append(try client()) }
            // The first one is served; the last one's turn has not come.
            _ = try clients[0].ask(.inspect)
        }

        func inspect() throws -> JSON {
            guard case .inspected(let state) = try clients[0].ask(.inspect) else {
                throw SystemError("inspect", code: EPROTO)
            }
            return state
        }
    }

    /// It sleeps, and takes who waits when there are some.
    @Test func whoComesWithoutDescriptorsLeftWaits() throws {
        let fabric = try Limited()
        try fabric.exhaust()
        let last = fabric.clients.removeLast()
        try last.socket.writeAll(FabricRequest.inspect.json.encoded() + [10])
        func isAsleep() throws -> Bool {
            let status = String(
                decoding: try Files.read("/proc/\(fabric.process.pid)/stat", limit: 4096), as: UTF8.self)
            return status.split(separator: ")").last?.hasPrefix(" S") ?? false
        }
        let patience = monotonicNanoseconds() + 60_000_000_000
        while try !isAsleep(), monotonicNanoseconds() < patience { sched_yield() }
        #expect(try isAsleep())
        #expect(try fabric.inspect()["outOfDescriptors"]?.unsignedValue ?? 0 > 0)
        var event = pollfd(fd: last.socket.raw, events: Int16(POLLIN), revents: 0)
        #expect(poll(&event, 1, 0) == 0)
        fabric.clients.removeAll()
        #expect(poll(&event, 1, 60_000) == 1)
    }

    /// What a machine begins then is counted, and told nothing that would end it: it asks again, and has its answer when
    /// there are some. A client of a published port waits.
    @Test func whatMachinesBeginWithoutDescriptorsLeftWaits() throws {
        let server = try InternetSocket.make(.datagram, ipv4: true)
        try InternetSocket.bind(server, to: SocketAddress(ipv4: 0x7F00_0001, port: 0))
        let port = try InternetSocket.localAddress(server).port
        let listener = try InternetSocket.listen(at: SocketAddress(ipv4: 0x7F00_0001, port: 0), backlog: 1)
        let listened = try InternetSocket.localAddress(listener).port

        let fabric = try Limited()
        let published = try PublishedPorts(parsing: "127.0.0.1:0:80")
        let endpoint = try fabric.clients[0].attach("a") {
            $0.hasHostAccess = true
            $0.published = [published]
        }
        let a = try Machine(endpoint)
        _ = try a.resolve("a")
        let outside = try #require(endpoint.published.first)
        try fabric.exhaust()

        // The host's loopback, as the machine knows it.
        let loopback = IPv4Address(198, 19, 255, 254)
        let datagram = a.datagram(to: loopback, Network.gatewayMAC, 4000, port, Array("again".utf8))
        let call = built(12 + 34 + 20) {
            EthernetHeader(destination: Network.gatewayMAC, source: a.mac, type: EtherType.ipv4).write(to: &$0, at: 12)
            IPv4Header(protocolNumber: IPProtocol.tcp, source: a.address, destination: loopback, payloadLength: 20)
                .write(to: &$0, at: 26)
            TCPHeader(
                sourcePort: 4001, destinationPort: listened, sequence: 1, acknowledgment: 0, flags: .synchronize,
                window: 1000
            ).write(to: &$0, at: 46)
            Transport.fillChecksum(
                &$0, at: 46, length: 20, protocolNumber: IPProtocol.tcp, source: a.address, destination: loopback)
        }
        func waiting() throws -> UInt64 { try fabric.inspect()["gateway"]?["outOfDescriptors"]?.unsignedValue ?? 0 }
        #expect(try waiting() == 0)
        try a.send(datagram)
        try a.send(call)
        // An answer that needs no descriptor, and the first that the machine gets.
        #expect(addresses(try a.resolve("a")) == (0, [a.address]))
        #expect(try waiting() == 2)
        let client = try InternetSocket.make(.stream, ipv4: true)
        try client.setNonBlocking(false)
        _ = try InternetSocket.connect(client, to: SocketAddress(ipv4: 0x7F00_0001, port: outside.hostPort))
        let patience = monotonicNanoseconds() + 60_000_000_000
        while try waiting() < 3, monotonicNanoseconds() < patience { sched_yield() }
        #expect(try waiting() >= 3)

        // The client in the port's backlog first: the machine is called.
        fabric.clients.removeLast(fabric.clients.count - 1)
        #expect(try tcp(a.receive()) { $0.destinationPort == 80 && $0.flags == .synchronize })
        try a.send(datagram)
        var space = [UInt8](repeating: 0, count: 100)
        var event = pollfd(fd: server.raw, events: Int16(POLLIN), revents: 0)
        try #require(poll(&event, 1, 60_000) == 1)
        #expect(read(server.raw, &space, space.count) == 5)
        try a.send(call)
        #expect(try tcp(a.receive()) { $0.destinationPort == 4001 && $0.flags == [.synchronize, .acknowledge] })
    }

    /// Whether a record is a segment of which something holds.
    private func tcp(_ record: [UInt8], _ holds: (borrowing TCPView) -> Bool) -> Bool {
        reading(Array(record.dropFirst(26))) { bytes in
            guard let packet = IPv4View(bytes), packet.protocolNumber == IPProtocol.tcp,
                let view = TCPView(packet.payload)
            else { return false }
            return holds(view)
        }
    }
}
