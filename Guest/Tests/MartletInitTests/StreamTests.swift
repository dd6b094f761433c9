// SPDX-License-Identifier: Apache-2.0

import Foundation
import GuestProtocol
import Testing
import Wire

@Suite(.serialized) struct StreamTests {
    /// Bytes that repeat after no power of two.
    private static func pattern(_ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: $0 % 251 ^ $0 >> 13) }
    }

    @Test(arguments: [0, 1, 65_536, 262_144, 262_145, 5_000_000]) func inputComesBack(count: Int) throws {
        let input = StreamTests.pattern(count)
        let outcome = try Agent().run(Agent.request(["cat"], hasInput: true), input: input)
        #expect(outcome.report?.code == 0)
        #expect(outcome.output == input)
    }

    @Test func muchOutput() throws {
        let outcome = try Agent().run("sh", "-c", "head -c 20000000 /dev/zero; head -c 3000000 /dev/zero >&2")
        #expect(outcome.output.count == 20_000_000)
        #expect(outcome.errors.count == 3_000_000)
    }

    /// What is sent to a process that has closed its input is taken all the same, so that the sender gets on.
    @Test func inputThatNobodyReads() throws {
        let agent = try Agent()
        let outcome = try agent.run(
            Agent.request(["sh", "-c", "exec sleep 1000 <&-"], hasInput: true), input: StreamTests.pattern(2_000_000),
            inputSent: { agent.send(Frame(.signal, session: 1, payload: NumberMessage(10).payload)) })
        #expect(outcome.report?.code == 10)
    }

    @Test func inputEnds() throws {
        let outcome = try Agent().run(Agent.request(["sh", "-c", "cat >/dev/null; echo end"], hasInput: true))
        #expect(outcome.outputText == "end\n")
    }

    /// Without credit not a byte more comes than the first window, however long one waits; other sessions go on.
    @Test func withoutCreditNothingComes() throws {
        let agent = try Agent()
        agent.send(Frame(.request, session: 1, payload: Agent.request(["head", "-c", "1000000", "/dev/zero"]).payload))
        #expect(try agent.next().kind == .accepted)
        agent.send(Frame(.go, session: 1))
        #expect(try agent.next().kind == .started)
        var received = 0
        while received < SendWindow.initial {
            let frame = try agent.next()
            #expect(frame.header.offset == UInt64(received))
            received += frame.payload.count
        }
        #expect(received == SendWindow.initial)
        #expect(try agent.run(Agent.request(["echo", "other"]), session: 2).outputText == "other\n")

        // Nothing of session 1 came in the meantime; byte by byte it goes on.
        var offset = UInt64(received)
        for _ in 0..<3 {
            offset += 1
            agent.send(Frame(.credit, session: 1, stream: .output, offset: offset))
            let frame = try agent.next()
            #expect(frame.kind == .data)
            #expect(frame.payload.count == 1)
        }
        agent.send(Frame(.credit, session: 1, stream: .output, offset: 1 << 40))
        var last = try agent.next()
        while last.kind == .data {
            offset += UInt64(last.payload.count)
            last = try agent.next()
        }
        while last.kind == .end { last = try agent.next() }
        #expect(last.kind == .exited)
        #expect(offset == 1_000_000)
    }

    /// A host that does not read for a while: the process waits, nothing is lost, memory stays bounded.
    @Test func aSlowReader() throws {
        let agent = try Agent()
        agent.send(
            Frame(.request, session: 1, payload: Agent.request(["sh", "-c", "yes | head -c 30000000"]).payload))
        agent.send(Frame(.credit, session: 1, stream: .output, offset: 1 << 40))
        #expect(try agent.next().kind == .accepted)
        agent.send(Frame(.go, session: 1))
        #expect(try agent.next().kind == .started)
        #expect(try agent.next().kind == .data)
        var last = try agent.next()
        while last.kind != .exited { last = try agent.next() }
        #expect(ExitReport(last.payload)?.code == 0)
        let status = try String(contentsOfFile: "/proc/\(agent.identifier)/status", encoding: .utf8)
        let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM") }
        let kibibytes = try #require(line?.split(separator: " ").dropLast().last.flatMap { Int($0) })
        #expect(kibibytes < 4096)
    }
}
