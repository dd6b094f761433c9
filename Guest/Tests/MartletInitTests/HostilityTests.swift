// SPDX-License-Identifier: Apache-2.0

import Foundation
import GuestProtocol
import Testing
import Wire

/// A host that does not keep the protocol: the agent says `failure` where it can, ends, and never crashes.
@Suite(.serialized) struct HostilityTests {
    static let illegal: [(String, [Frame])] = {
        let hello = Frame(.hello, payload: Hello().payload)
        let request = Frame(.request, session: 1, payload: Agent.request(["sleep", "1000"]).payload)
        let withInput = Frame(.request, session: 1, payload: Agent.request(["sleep", "1000"], hasInput: true).payload)
        var otherMajor = Hello()
        otherMajor.major = 2
        return [
            ("a request before hello", [request]),
            ("hello twice", [hello, hello]),
            ("another major version", [Frame(.hello, payload: otherMajor.payload)]),
            ("a hello without fields", [Frame(.hello)]),
            ("a malformed hello", [Frame(.hello, payload: [1, 0, 255, 255, 255, 255, 0])]),
            ("configure again", [hello, Frame(.configure, payload: Configuration().payload)]),
            ("a request of nothing", [hello, Frame(.request, session: 1)]),
            ("a number used twice", [hello, request, request]),
            ("go before accepted", [hello, request, Frame(.go, session: 1)]),
            ("input that is not there", [hello, request, Frame(.data, session: 1, payload: [1])]),
            ("input at another offset", [hello, withInput, Frame(.data, session: 1, offset: 1, payload: [1])]),
            ("an end at another offset", [hello, withInput, Frame(.end, session: 1, offset: 1)]),
            (
                "input after its end",
                [hello, withInput, Frame(.end, session: 1), Frame(.data, session: 1, payload: [1])]
            ),
            ("output from the host", [hello, request, Frame(.data, session: 1, stream: .output, payload: [1])]),
            ("credit of the input", [hello, withInput, Frame(.credit, session: 1, stream: .input, offset: 1)]),
            ("a signal without a number", [hello, request, Frame(.signal, session: 1)]),
            ("signal 0", [hello, request, Frame(.signal, session: 1, payload: NumberMessage(0).payload)]),
            ("signal 65", [hello, request, Frame(.signal, session: 1, payload: NumberMessage(65).payload)]),
            ("a frame of the guest's", [hello, Frame(.exited, session: 1)]),
        ]
    }()

    @Test(arguments: illegal.indices) func isAnsweredWithFailure(index: Int) throws {
        let (what, frames) = HostilityTests.illegal[index]
        let agent = try Agent(greets: false)
        // In one write: an answer must not come between.
        var bytes: [UInt8] = []
        for frame in frames { frame.write(to: &bytes) }
        agent.send(bytes)
        var last: Frame?
        do { while true { last = try agent.next() } } catch is Agent.ConnectionClosed {}
        #expect(last?.kind == .failure, "\(what)")
        #expect(last.flatMap { Refusal($0.payload) }?.message.isEmpty == false, "\(what)")
        #expect(agent.finish() == 0, "\(what)")
    }

    @Test func moreInputThanCredit() throws {
        let agent = try Agent()
        let request = Agent.request(["sleep", "1000"], hasInput: true)
        agent.send(Frame(.request, session: 1, payload: request.payload))
        #expect(try agent.next().kind == .accepted)
        agent.send(Frame(.go, session: 1))
        #expect(try agent.next().kind == .started)
        let chunk = [UInt8](repeating: 1, count: 65_536)
        // The pipe takes 64 KiB, for which no new credit has come yet: five chunks are one too many.
        for index in 0..<5 { agent.send(Frame(.data, session: 1, offset: UInt64(index * chunk.count), payload: chunk)) }
        var last = try agent.next()
        while last.kind == .credit { last = try agent.next() }
        #expect(last.kind == .failure)
    }

    @Test func unknownFramesAreSkipped() throws {
        let agent = try Agent()
        var frame = Frame(.hello, session: 9, payload: [1, 2, 3])
        frame.header.kind = 999
        agent.send(frame)
        frame.header.session = 1
        agent.send(frame)
        // Late ones, for sessions that are over or never were.
        for kind: FrameKind in [.go, .data, .end, .credit, .signal, .hangUp] { agent.send(Frame(kind, session: 77)) }
        #expect(try agent.run("echo", "still here").outputText == "still here\n")
    }

    @Test func aHeadBeyondItsLimit() throws {
        let agent = try Agent()
        agent.send([UInt8](repeating: 0xff, count: 24))
        #expect(try agent.next().kind == .failure)
        #expect(agent.finish() == 0)
    }

    /// A client that goes away leaves nothing behind.
    @Test func aLostConnectionEndsTheProcesses() throws {
        let agent = try Agent()
        agent.send(Frame(.request, session: 1, payload: Agent.request(["sh", "-c", "echo $$; sleep 1000"]).payload))
        #expect(try agent.next().kind == .accepted)
        agent.send(Frame(.go, session: 1))
        #expect(try agent.next().kind == .started)
        let process = try #require(
            Int32(String(decoding: try agent.next().payload, as: UTF8.self).trimmingCharacters(in: .newlines)))
        #expect(agent.finish() == 0)
        // Killed, and by now nobody's or a zombie that waits for its new parent.
        let state = (try? String(contentsOfFile: "/proc/\(process)/stat", encoding: .utf8))?.split(separator: " ")
        #expect(state.map { $0.count > 2 && ($0[2] == "Z" || $0[2] == "X") } ?? true)
    }

    /// Mutated conversations, thousands of them against the real code: it ends on its own terms, or the peer's absence
    /// ends it, with status 0 and no signal.
    @Test func fuzz() throws {
        var generator = Seeded(7)
        var corpus: [UInt8] = []
        for frame in [
            Frame(.hello, payload: Hello().payload),
            Frame(.request, session: 1, payload: Agent.request(["true"], hasInput: true).payload),
            Frame(.data, session: 1, payload: [1, 2, 3]), Frame(.end, session: 1, offset: 3),
            Frame(.credit, session: 1, stream: .output, offset: 300_000),
            Frame(.signal, session: 1, payload: NumberMessage(10).payload),
            Frame(.hangUp, session: 1), Frame(.request, session: 2, payload: Agent.request(["/nope"]).payload),
        ] { frame.write(to: &corpus) }
        for _ in 0..<150 {
            let agent = try Agent(greets: false)
            agent.send(generator.mutated(corpus))
            #expect(agent.finish() == 0)
        }
    }
}
