// SPDX-License-Identifier: Apache-2.0

import Fabric
import FabricAPI
import Glibc
import Packet
import Platform
import TestSupport
import Testing
import Wire

/// What cannot be passed on or is too much is counted where a user sees it, frame by frame. (What is hostile is in
/// `Isolation`.)
@Suite struct Drops {
    private func inspect(_ client: Client, _ id: String) throws -> JSON {
        guard case .inspected(let state) = try client.ask(.inspect) else { throw SystemError("inspect", code: EPROTO) }
        return try #require(state["machines"]?.arrayValue?.first { $0["id"] == .string(id) })
    }

    private func drops(_ client: Client, _ id: String, _ reason: DropReason) throws -> UInt64 {
        try inspect(client, id)["dropped"]?[reason.name]?.unsignedValue ?? 0
    }

    /// Asks until it is so: what happens at one socket of the fabric's is not seen at another.
    private func wait(until isSo: () throws -> Bool) throws {
        let patience = monotonicNanoseconds() + 60_000_000_000
        while try !isSo(), monotonicNanoseconds() < patience { sched_yield() }
        #expect(try isSo())
    }

    /// A machine whose monitor has not come yet, or has gone: what is for it is counted at who sent it; what waited for
    /// it, and what comes from outside, at the machine itself.
    @Test func whatIsForSomebodyWhoIsNotThere() throws {
        let served = try Served()
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let place = try client.attach("b") {
            $0.published = [try? PublishedPorts(parsing: "127.0.0.1:0:53/udp")].compactMap(\.self)
        }
        let payload = [UInt8](repeating: 7, count: 1000)
        let record = a.datagram(to: place.address ?? .any, place.hardwareAddress, 1, 2, payload)
        for _ in 0..<3 { try a.send(record) }
        _ = try a.resolve("a")
        #expect(try drops(client, "a", .receiverGone) == 3 && drops(client, "b", .receiverGone) == 0)

        let sender = try InternetSocket.make(.datagram, ipv4: true)
        let port = try #require(place.published.first).hostPort
        _ = try InternetSocket.connect(sender, to: SocketAddress(ipv4: 0x7F00_0001, port: port))
        try sender.writeAll([1])
        try wait { try drops(client, "b", .receiverGone) == 1 }

        // It comes, reads one answer and no more, and goes when its queue is full.
        let b = try Machine(place)
        _ = try b.resolve("b")
        for _ in 0..<6000 { try a.send(record) }
        _ = try a.resolve("a")
        #expect(try drops(client, "a", .queueFull) > 0 && drops(client, "b", .receiverGone) == 1)
        shutdown(b.socket.raw, Int32(SHUT_RDWR))
        try wait { try inspect(client, "b")["connected"] == false }
        // None is lost uncounted; beside the 6000 there were the datagram from outside and the answer.
        let machine = try inspect(client, "b")
        let passed = try #require(machine["framesToMachine"]?.unsignedValue)
        let gone = try drops(client, "b", .receiverGone)
        #expect(try gone > 1 && passed + gone + drops(client, "a", .queueFull) == 6002)
        #expect(machine["queuedBytes"]?.unsignedValue == 0)
    }

    /// A segment that is to be cut for its receiver, and whose header is longer than the frame.
    @Test func whatCannotBeDoneForItsReceiver() throws {
        let served = try Served()
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let plain = try Machine(try client.attach("plain"), features: 0)
        let able = try Machine(try client.attach("able"))
        for machine in [plain, able] { _ = try machine.resolve("a") }
        for machine in [plain, able] {
            var header = VirtioNetHeader()
            header.flags = VirtioNetHeader.needsChecksum
            header.segmentation = VirtioNetHeader.segmentationTCPv4
            header.segmentSize = 1000
            header.checksumStart = 34
            header.checksumOffset = 16
            try a.send(
                built(12 + 34 + 20 + 30) {
                    header.write(to: &$0, at: 0)
                    EthernetHeader(destination: machine.mac, source: a.mac, type: EtherType.ipv4).write(to: &$0, at: 12)
                    IPv4Header(
                        protocolNumber: IPProtocol.tcp, source: a.address, destination: machine.address,
                        payloadLength: 50
                    ).write(to: &$0, at: 26)
                    TCPHeader(
                        sourcePort: 1, destinationPort: 2, sequence: 1, acknowledgment: 0, flags: .acknowledge,
                        window: 1
                    ).write(to: &$0, at: 46)
                    // 15 words of header, of which there are 12.
                    $0.put(0xF0 as UInt8, at: 46 + 12)
                })
        }
        _ = try a.resolve("a")
        #expect(try drops(client, "a", .receiverLacksOffload) == 1)
        // Who does that work by itself gets it as it is.
        #expect(try able.receive()[58] == 0xF0)
        try a.send(a.datagram(to: plain.address, plain.mac, 1, 2, [9]))
        #expect(try plain.receive().last == 9)
    }

    /// More of what the fabric answers by itself than it answers: the rest is counted, and a sibling has its answers.
    @Test func answersAreLimited() throws {
        let served = try Served()
        let client = try served.client()
        let a = try Machine(try client.attach("a"))
        let b = try Machine(try client.attach("b"))
        func ask(_ who: Machine) throws {
            let message = built(244) {
                $0.put(0x0101_0600 as UInt32, at: 0)
                $0.put(who.address, at: 12)
                $0.put(who.mac, at: 28)
                $0.put([0x63, 0x82, 0x53, 0x63, 53, 1, DHCPv4Kind.request, 255] as [UInt8], at: 236)
            }
            try who.send(who.datagram(to: IPv4Address(10, 99, 0, 1), Network.gatewayMAC, 68, 67, message))
        }
        // However slowly they are taken, at some time there are more than fit.
        try wait {
            for _ in 0..<1000 { try ask(a) }
            return try drops(client, "a", .errorLimit) > 0
        }
        try ask(b)
        #expect(try b.receive()[54] == 2)
        #expect(try drops(client, "b", .errorLimit) == 0)
    }
}
