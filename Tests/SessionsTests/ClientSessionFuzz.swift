// SPDX-License-Identifier: Apache-2.0

import GuestProtocol
import Sessions
import TestSupport
import Testing

@Suite struct Fuzz {
    /// Hostile frames in any order: no trap, and never more output than the credit given.
    @Test(arguments: 0..<8)
    func hostileFrames(seed: UInt64) {
        var random = SeededGenerator(seed)
        for _ in 0..<150 {
            var session = ClientSession(identifier: 1)
            var taken = 0
            var expected: [UInt64] = [0, 0, 0]
            for step in 0..<60 {
                let kind = FrameKind(rawValue: UInt16.random(in: 0...20, using: &random)) ?? .data
                let stream = UInt16.random(in: 0...3, using: &random)
                let mostlyRight = Bool.random(using: &random)
                let index = min(Int(stream), 2)
                let count = Int.random(in: 0...70, using: &random) * 1000
                var frame = Frame(
                    step == 0 ? .accepted : kind, session: mostlyRight ? 1 : UInt32.random(in: 0...2, using: &random),
                    offset: mostlyRight ? expected[index] : UInt64.random(in: 0 ... .max, using: &random),
                    payload: [UInt8](repeating: 7, count: count))
                frame.header.stream = stream
                guard let event = try? session.receive(frame) else { break }
                if case .output(let stream, let bytes) = event {
                    expected[Int(stream.rawValue)] += UInt64(bytes.count)
                    taken += bytes.count
                }
                if session.inputRoom > 0 && Bool.random(using: &random) {
                    _ = session.input([UInt8](repeating: 1, count: session.inputRoom))
                }
            }
            #expect(taken <= 2 * 262_144)
        }
    }

    @Test(arguments: [
        Frame(.data, session: 1, stream: .output, payload: [1]),
        Frame(.exited, session: 1, payload: ExitReport().payload),
        Frame(.started, session: 1),
        Frame(.request, session: 1),
        Frame(.credit, session: 1, stream: .output),
        Frame(.end, session: 1, stream: .errors),
    ])
    func illegalFirst(frame: Frame) {
        var session = ClientSession(identifier: 1)
        #expect(throws: SessionError.self) { _ = try session.receive(frame) }
    }
}
