// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

@testable import GuestProtocol

@Suite struct WindowTests {
    @Test func theFirstWindow() {
        var window = SendWindow()
        #expect(window.available == 262_144)
        #expect(window.send(262_144) == 0)
        #expect(window.available == 0)
        window.extend(to: 100)
        #expect(window.available == 0, "an older word changes nothing")
        window.extend(to: 262_145)
        #expect(window.available == 1)
        #expect(window.send(1) == 262_144)
        #expect(window.end() == 262_145)
        #expect(window.available == 0)
    }

    @Test func whatAReceiverDoesNotTake() {
        var window = ReceiveWindow()
        #expect(window.receive(1, at: 1) == false, "bytes are missing")
        #expect(window.receive(262_145, at: 0) == false, "more than was granted")
        #expect(window.receive(10, at: 0) == true)
        #expect(window.receive(1, at: 9) == false, "the same byte again")
        #expect(window.end(at: 9) == false)
        #expect(window.end(at: 10) == true)
        #expect(window.receive(0, at: 10) == false, "nothing follows the end")
        #expect(window.end(at: 10) == false)
    }

    @Test func consumingMoreThanCameCountsForNothing() {
        var window = ReceiveWindow()
        #expect(window.consume(1_000_000) == nil)
        #expect(window.receive(262_144, at: 0) == true)
        #expect(window.consume(1_000_000) == 524_288)
        #expect(window.consume(1) == nil)
    }

    /// Two ends over a link that delays at will, a reader that reads at will: no byte is lost or comes twice, the
    /// receiver never holds more than a window, nobody waits for ever, and credit is rarer than data.
    @Test(arguments: 0..<40 as Range<UInt64>) func aRandomLink(seed: UInt64) {
        var generator = SeededGenerator(seed)
        let total = generator.number(0...3_000_000)
        var sender = SendWindow()
        var receiver = ReceiveWindow()
        var data: [(offset: UInt64, count: Int)] = []
        var credit: [UInt64] = []
        var held = 0
        var consumed = 0
        var dataFrames = 0
        var creditFrames = 0
        var steps = 0
        while consumed < total {
            steps += 1
            guard steps < 1_000_000 else {
                Issue.record("the stream stands still")
                return
            }
            switch generator.number(0...3) {
            case 0:
                let count = min(sender.available, total - Int(sender.sent), generator.number(1...65_536))
                guard count > 0 else { continue }
                data.append((sender.send(count), count))
                dataFrames += 1
            case 1:
                guard !data.isEmpty else { continue }
                let chunk = data.removeFirst()
                #expect(receiver.receive(chunk.count, at: chunk.offset) == true)
                held += chunk.count
                #expect(held <= Int(SendWindow.initial))
            case 2:
                let count = min(held, generator.number(1...200_000))
                held -= count
                consumed += count
                if let offset = receiver.consume(count) {
                    credit.append(offset)
                    creditFrames += 1
                }
            default:
                guard !credit.isEmpty else { continue }
                // Credit is absolute: one that is lost is made good by the next, and twice does no harm.
                if generator.number(0...9) > 0 || credit.count == 1 { sender.extend(to: credit[0]) }
                if generator.number(0...9) > 0 { credit.removeFirst() }
            }
        }
        #expect(sender.sent == UInt64(total))
        #expect(creditFrames <= total / (Int(SendWindow.initial) / 2))
        #expect(receiver.end(at: sender.end()) == true)
    }
}
