// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing
import VirtioTestSupport

@testable import Machine

private func packet(
    _ operation: UInt16, count: UInt32 = 0, flags: UInt32 = 0, bufferSize: UInt32 = 65536, forwarded: UInt32 = 0
) -> VsockHeader {
    var header = VsockHeader()
    header.operation = operation
    header.count = count
    header.flags = flags
    header.bufferSize = bufferSize
    header.forwarded = forwarded
    return header
}

private typealias Operation = VsockHeader.Operation

@Suite struct VsockConnectionTests {
    @Test func headerBytes() {
        var header = packet(5, count: 0x0102_0304, flags: 3, forwarded: 9)
        header.sourceCID = 2
        header.destinationCID = 0x0102_0304_0506_0708
        header.sourcePort = 10
        header.destinationPort = 11
        var bytes = [UInt8](repeating: 0xff, count: 44)
        bytes.withUnsafeMutableBytes { header.store(into: $0) }
        #expect(
            bytes == [
                2, 0, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 10, 0, 0, 0, 11, 0, 0, 0, 4, 3, 2, 1, 1, 0, 5, 0,
                3, 0, 0, 0, 0, 0, 1, 0, 9, 0, 0, 0,
            ])
        #expect(bytes.withUnsafeBytes { VsockHeader($0) } == header)
    }

    @Test func hostOpens() {
        var connection = VsockConnection()
        #expect(connection.nextControl()?.operation == Operation.request)
        #expect(connection.nextControl() == nil)
        #expect(connection.credit == 0)
        var refused = connection
        #expect(refused.receive(packet(Operation.reset)) == .reset)
        var confused = connection
        #expect(confused.receive(packet(Operation.data, count: 1)) == .breach)
        #expect(connection.receive(packet(Operation.response)) == .established)
        #expect(connection.credit == 65536)
        #expect(connection.receive(packet(Operation.response)) == .breach)
    }

    @Test(arguments: [
        (UInt32(1000), UInt32(0), 400, 600), (1000, 400, 400, 1000), (100, 0, 100, 0), (50, 0, 0, 50),
        // It says that it passed on what it never got: no room, no trap.
        (1000, 500, 400, 0),
    ])
    func creditIsWhatTheGuestSays(bufferSize: UInt32, forwarded: UInt32, sent: Int, credit: Int) {
        var connection = VsockConnection(accepting: packet(Operation.request, bufferSize: 1000))
        if sent > 0 { _ = connection.data(sent) }
        _ = connection.receive(packet(Operation.creditUpdate, bufferSize: bufferSize, forwarded: forwarded))
        #expect(connection.credit == credit)
    }

    @Test func moreThanOurBufferIsABreach() {
        var connection = VsockConnection(accepting: packet(Operation.request))
        let half = VsockConnection.bufferSize / 2
        #expect(connection.receive(packet(Operation.data, count: half)) == .deliver)
        #expect(connection.receive(packet(Operation.data, count: half)) == .deliver)
        var greedy = connection
        #expect(greedy.receive(packet(Operation.data, count: 1)) == .breach)
        connection.forwarded(1)
        #expect(connection.receive(packet(Operation.data, count: 1)) == .deliver)
    }

    @Test func shutdownsAddUp() {
        var connection = VsockConnection(accepting: packet(Operation.request))
        #expect(connection.nextControl()?.operation == Operation.response)
        connection.hostEnded(sending: true, receiving: false)
        #expect(connection.nextControl()?.flags == VsockHeader.Shutdown.send)
        connection.hostEnded(sending: true, receiving: false)
        #expect(connection.nextControl() == nil)
        connection.hostEnded(sending: false, receiving: true)
        #expect(connection.nextControl()?.flags == 3)
        #expect(connection.credit == 0)
        #expect(connection.receive(packet(Operation.shutdown, flags: 2)) == .shutdown)
        #expect(!connection.guestSends && connection.guestReceives)
        #expect(connection.receive(packet(Operation.data, count: 1)) == .breach)
    }

    @Test func creditIsAskedForOnce() {
        var connection = VsockConnection(accepting: packet(Operation.request, bufferSize: 10))
        _ = connection.nextControl()
        _ = connection.data(10)
        #expect(connection.isOutOfCredit && connection.wantsData)
        #expect(connection.creditRequest()?.operation == Operation.creditRequest)
        _ = connection.receive(packet(Operation.creditUpdate, bufferSize: 10, forwarded: 0))
        #expect(connection.creditRequest() == nil)
        #expect(!connection.wantsData)
        _ = connection.receive(packet(Operation.creditUpdate, bufferSize: 10, forwarded: 10))
        #expect(connection.wantsData && !connection.isOutOfCredit)
    }

    /// Two connections that keep the rules, over a wire that delays: no byte beyond credit, none lost, no standstill,
    /// and the counts may wrap.
    @Test(arguments: 0..<20 as Range<UInt64>)
    func creditsNeitherLeakNorStall(seed: UInt64) {
        var random = SeededGenerator(seed)
        let guestBuffer = UInt32.random(in: 1...200_000, using: &random)
        var connection = VsockConnection(accepting: packet(Operation.request, bufferSize: guestBuffer))
        // The guest, from the text of the specification.
        var guestSent: UInt32 = 0
        var hostBuffer: UInt32 = 0
        var hostForwarded: UInt32 = 0
        var guestReceived: UInt32 = 0
        var guestForwarded: UInt32 = 0
        var toHost: [VsockHeader] = []
        var hostHolds = 0
        var moved = (toGuest: 0, toHost: 0)
        let goal = 3_000_000
        var idleRounds = 0
        func hear(_ header: VsockHeader) {
            hostBuffer = header.bufferSize
            hostForwarded = header.forwarded
            if header.operation == Operation.creditRequest {
                toHost.append(packet(Operation.creditUpdate, bufferSize: guestBuffer, forwarded: guestForwarded))
            }
            guestReceived &+= header.count
            #expect(guestReceived &- guestForwarded <= guestBuffer)
        }
        while moved.toGuest < goal || moved.toHost < goal {
            let before = moved
            for _ in 0..<10 {
                switch Int.random(in: 0..<6, using: &random) {
                case 0:
                    if let header = connection.nextControl() { hear(header) }
                case 1:
                    let count = min(connection.credit, Int.random(in: 1...70_000, using: &random))
                    if count > 0 {
                        hear(connection.data(count))
                        moved.toGuest += count
                    } else if let request = connection.creditRequest() {
                        hear(request)
                    }
                case 2:
                    let room = hostBuffer &- (guestSent &- hostForwarded)
                    let count = min(room, UInt32.random(in: 1...70_000, using: &random))
                    if count > 0 {
                        guestSent &+= count
                        toHost.append(
                            packet(
                                Operation.data, count: count, bufferSize: guestBuffer, forwarded: guestForwarded))
                    }
                case 3:
                    guard !toHost.isEmpty else { continue }
                    let header = toHost.removeFirst()
                    let action = connection.receive(header)
                    #expect(action == (header.count > 0 ? .deliver : .none))
                    hostHolds += Int(header.count)
                case 4:
                    let count = Int.random(in: 0...hostHolds, using: &random)
                    hostHolds -= count
                    moved.toHost += count
                    connection.forwarded(count)
                default:
                    let held = guestReceived &- guestForwarded
                    guard held > 0 else { continue }
                    guestForwarded &+= UInt32.random(in: 1...held, using: &random)
                    // As Linux does: when room is short, it tells.
                    if held > guestBuffer / 4 {
                        toHost.append(
                            packet(Operation.creditUpdate, bufferSize: guestBuffer, forwarded: guestForwarded))
                    }
                }
            }
            idleRounds = moved == before ? idleRounds + 1 : 0
            guard idleRounds < 1000 else {
                Issue.record("standstill")
                return
            }
        }
    }

    @Test(arguments: 0..<4 as Range<UInt64>)
    func randomPackets(seed: UInt64) {
        var random = SeededGenerator(seed)
        var connection = VsockConnection()
        for _ in 0..<100_000 {
            let bytes = random.bytes(44)
            var header = bytes.withUnsafeBytes { VsockHeader($0) }
            if Bool.random(using: &random) { header.operation %= 9 }
            if Bool.random(using: &random) { header.count %= 70_000 }
            switch connection.receive(header) {
            case .reset, .breach:
                connection =
                    Bool.random(using: &random) ? VsockConnection() : VsockConnection(accepting: header)
            case .deliver: connection.forwarded(Int.random(in: 0...Int(connection.held), using: &random))
            default: break
            }
            if connection.credit > 0 { _ = connection.data(Int.random(in: 1...connection.credit, using: &random)) }
            if Bool.random(using: &random) { _ = connection.nextControl() }
            _ = connection.creditRequest()
            #expect(connection.held <= VsockConnection.bufferSize)
        }
    }
}
