// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing
import Wire

@testable import GuestProtocol

@Suite struct ForkTests {
    private static func report(_ generator: inout SeededGenerator) -> ForkedReport {
        var steps = StepReport()
        for _ in 0..<generator.number(0...5) {
            steps.steps.append(StepReport.Step(generator.bytes(0...20), nanoseconds: generator.next()))
        }
        steps.failure = generator.bytes(0...20)
        var report = ForkedReport(steps)
        for _ in 0..<generator.number(0...5) {
            report.failures.append(ForkedReport.Failure(index: generator.next(), reason: generator.bytes(0...40)))
        }
        return report
    }

    @Test func roundTrips() {
        var generator = SeededGenerator(1)
        var newer = FieldWriter()
        newer.append(60_000, [1, 2, 3])
        for _ in 0..<200 {
            let order = ForkOrder(machines: (0..<generator.number(1...20)).map { _ in generator.bytes(64...64) })
            #expect(ForkOrder(newer.bytes + order.payload + newer.bytes) == order)
            let report = Self.report(&generator)
            #expect(ForkedReport(newer.bytes + report.payload + newer.bytes) == report)
        }
    }

    @Test func tooManyAndNone() {
        let id = [UInt8](repeating: 7, count: 64)
        let most = ForkOrder(machines: Array(repeating: id, count: ForkOrder.limit))
        #expect(ForkOrder(most.payload) == most)
        #expect(Frame(.fork, payload: most.payload).header.isWithinLimits)
        #expect(ForkOrder(most.payload + ForkOrder(machines: [id]).payload) == nil)
        #expect(ForkOrder([]) == nil)
    }

    /// The longest report there can be is one frame.
    @Test func longReasonsAreCut() {
        var report = ForkedReport(StepReport())
        for index in 0..<UInt64(ForkOrder.limit) {
            report.failures.append(
                ForkedReport.Failure(index: index, reason: [UInt8](repeating: 0x61, count: 10_000)))
        }
        let payload = report.payload
        #expect(Frame(.forked, payload: payload).header.isWithinLimits)
        #expect(ForkedReport(payload)?.failures.map(\.index) == report.failures.map(\.index))
    }

    @Test(arguments: 0..<50 as Range<UInt64>) func hostileBytes(seed: UInt64) {
        var generator = SeededGenerator(seed)
        for _ in 0..<200 {
            var bytes = Self.report(&generator).payload
            for _ in 0..<generator.number(0...4) where !bytes.isEmpty {
                bytes[generator.number(0...bytes.count - 1)] = UInt8(generator.number(0...255))
            }
            bytes = Array(bytes.prefix(generator.number(0...max(1, bytes.count))))
            if let report = ForkedReport(bytes) { #expect(report.failures.count <= ForkOrder.limit) }
            if let order = ForkOrder(bytes) { #expect(!order.machines.isEmpty) }
        }
    }
}
