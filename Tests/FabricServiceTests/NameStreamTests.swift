// SPDX-License-Identifier: Apache-2.0

import Fabric
import FabricAPI
import Glibc
import Packet
import Platform
import TestSupport
import Testing
import Wire

/// A machine's TCP to port 53 of its gateway, by hand: nothing gets lost on the way.
final class Stream {
    private let machine: Machine
    private let port: UInt16
    private var sequence: UInt32 = 1000
    private var expected: UInt32 = 0
    private var input: [UInt8] = []
    private(set) var hasEnded = false

    init(_ machine: Machine, port: UInt16) throws {
        self.machine = machine
        self.port = port
        try send(.synchronize)
        sequence += 1
        try receive()
        try send(.acknowledge)
    }

    private func send(_ flags: TCPFlags, _ payload: [UInt8] = []) throws {
        let gateway = IPv4Address(10, 99, 0, 1)
        let length = 20 + payload.count
        try machine.send(
            built(12 + 34 + length) {
                VirtioNetHeader().write(to: &$0, at: 0)
                EthernetHeader(destination: Network.gatewayMAC, source: machine.mac, type: EtherType.ipv4)
                    .write(to: &$0, at: 12)
                IPv4Header(
                    protocolNumber: IPProtocol.tcp, source: machine.address, destination: gateway,
                    payloadLength: length
                ).write(to: &$0, at: 26)
                TCPHeader(
                    sourcePort: port, destinationPort: 53, sequence: sequence, acknowledgment: expected, flags: flags,
                    window: 65_535
                ).write(to: &$0, at: 46)
                $0.put(payload, at: 66)
                Transport.fillChecksum(
                    &$0, at: 46, length: length, protocolNumber: IPProtocol.tcp, source: machine.address,
                    destination: gateway)
            })
        sequence &+= UInt32(payload.count)
    }

    /// Takes the next segment of this stream and acknowledges what it brings.
    private func receive() throws {
        while true {
            let record = Array(try machine.receive().dropFirst(26))
            let found: (TCPFlags, UInt32, [UInt8])? = reading(record) { bytes in
                guard let packet = IPv4View(bytes), packet.protocolNumber == IPProtocol.tcp,
                    let view = TCPView(packet.payload), view.destinationPort == port
                else { return nil }
                return (view.flags, view.sequence, view.payload.array)
            }
            guard let (flags, number, payload) = found else { continue }
            if flags.contains(.reset) {
                hasEnded = true
                return
            }
            if flags.contains(.synchronize) {
                expected = number &+ 1
                return
            }
            guard number == expected else { continue }
            input += payload
            expected &+= UInt32(payload.count) + (flags.contains(.finish) ? 1 : 0)
            hasEnded = flags.contains(.finish)
            if hasEnded || !payload.isEmpty { try send(.acknowledge) }
            return
        }
    }

    /// Asks several questions at once.
    func ask(_ names: [String]) throws {
        var bytes: [UInt8] = []
        for name in names {
            let question = Machine.question(name)
            bytes += [UInt8(question.count >> 8), UInt8(question.count & 255)] + question
        }
        while !bytes.isEmpty {
            try send([.acknowledge, .push], Array(bytes.prefix(1400)))
            bytes.removeFirst(min(1400, bytes.count))
        }
    }

    /// The next answer; nil at the end.
    func answer() throws -> [UInt8]? {
        while true {
            if input.count >= 2, input.count >= 2 + Int(input[0]) << 8 + Int(input[1]) {
                let end = 2 + Int(input[0]) << 8 + Int(input[1])
                defer { input.removeFirst(end) }
                return Array(input[2..<end])
            }
            if hasEnded { return nil }
            try receive()
        }
    }
}

@Suite struct NameStreams {
    private func drops(_ client: Client, _ reason: String) throws -> UInt64? {
        guard case .inspected(let state) = try client.ask(.inspect) else { return nil }
        return state["machines"]?.arrayValue?.first?["dropped"]?[reason]?.unsignedValue
    }

    /// More questions at once than may be under way, from a server that takes its time, and many more from memory: each
    /// has its answer.
    @Test func everyQuestionIsAnswered() throws {
        let server = try InternetSocket.make(.datagram, ipv4: true)
        try InternetSocket.bind(server, to: SocketAddress(ipv4: 0x7F00_0001, port: 0))
        let served = try Served(
            resolvers: "nameserver 127.0.0.1\n", resolverPort: try InternetSocket.localAddress(server).port)
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let raw = server.raw
        // A slow server is asked more than once. What is no question ends it.
        let upstream = try Thread(name: "upstream") { while answerOne(raw) {} }
        let stream = try Stream(a, port: 4000)
        try stream.ask((0..<100).map { "n\($0).example.com" })
        for _ in 0..<100 {
            let answer = try #require(try stream.answer())
            #expect(addresses(answer) == (0, [IPv4Address(203, 0, 113, 5)]))
        }
        let end = try InternetSocket.make(.datagram, ipv4: true)
        _ = try InternetSocket.connect(end, to: try InternetSocket.localAddress(server))
        try end.writeAll([0])
        upstream.join()
        try stream.ask([String](repeating: "n7.example.com", count: 700))
        for _ in 0..<700 { #expect(addresses(try #require(try stream.answer())).code == 0) }
        #expect(try drops(client, "queryLimit") == 0)
    }

    /// Over TCP as over UDP: so many questions, and no more.
    @Test func questionsAreLimited() throws {
        let served = try Served(queryLimit: TokenBucket(perSecond: 1, burst: 10))
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let stream = try Stream(a, port: 4000)
        try stream.ask([String](repeating: "a", count: 50))
        var count = 0
        while try stream.answer() != nil { count += 1 }
        // A slow machine is given one more a second.
        #expect(count >= 10 && count < 50 && stream.hasEnded)
        #expect(try drops(client, "queryLimit") == 1)
    }

    @Test func streamsOfOneMachineAreLimited() throws {
        let served = try Served()
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let streams = try (0..<32).map { try Stream(a, port: 4000 + $0) }
        let other = try Stream(a, port: 5000)
        #expect(try other.answer() == nil)
        #expect(try drops(client, "streamLimit") == 1)
        try streams[31].ask(["a"])
        #expect(addresses(try #require(try streams[31].answer())) == (0, [a.address]))
    }

    @Test func idleStreamsEnd() throws {
        let served = try Served(streamIdleTimeInNanoseconds: 100_000_000)
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let stream = try Stream(a, port: 4000)
        #expect(try stream.answer() == nil && stream.hasEnded)
        #expect(try drops(client, "streamLimit") == 0)
    }
}
