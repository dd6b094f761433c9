// SPDX-License-Identifier: Apache-2.0

import Foundation
import GuestProtocol
import Testing
import Wire

/// The real program, as an ordinary process, against real programs. One after another: each test waits on a socket.
@Suite(.serialized) struct ProcessTests {
    @Test func outputAndErrorsStayApart() throws {
        let outcome = try Agent().run("sh", "-c", "echo out; echo err >&2; exit 7")
        #expect(outcome.outputText == "out\n")
        #expect(outcome.errorText == "err\n")
        let report = try #require(outcome.report)
        #expect(report.code == 7)
        #expect(!report.wasSignaled)
        #expect(report.bootedAt <= report.startedAt && report.startedAt <= report.exitedAt)
    }

    @Test(arguments: [0, 1, 127, 128, 255]) func exitCodes(code: Int) throws {
        let report = try #require(try Agent().run("sh", "-c", "exit \(code)").report)
        #expect(report.code == UInt8(code))
        #expect(report.shellStatus == UInt8(code))
    }

    @Test(
        arguments: [
            (["nope"], 127, "exec: \"nope\": executable file not found in $PATH"),
            (["/nope"], 127, "exec: \"/nope\": stat /nope: no such file or directory"),
            (["/etc/passwd"], 126, "exec: \"/etc/passwd\": permission denied"),
            (["/etc/passwd/x"], 127, "exec: \"/etc/passwd/x\": stat /etc/passwd/x: no such file or directory"),
            (["/etc"], 126, "exec: \"/etc\": is a directory: permission denied"),
        ] as [([String], UInt8, String)])
    func refusals(arguments: [String], exitCode: UInt8, message: String) throws {
        let outcome = try Agent().run(Agent.request(arguments))
        #expect(outcome.refusal?.exitCode == exitCode)
        #expect(outcome.refusalText == message)
    }

    @Test(
        arguments: [
            ("#!/nonexistent/interpreter\n", 127, "no such file or directory"),
            ("neither a script nor a program", 126, "exec format error"),
        ] as [(String, UInt8, String)])
    func refusalsAfterGo(contents: String, exitCode: UInt8, reason: String) throws {
        let path = FileManager.default.temporaryDirectory.appending(path: "martlet-init-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        #expect(
            FileManager.default.createFile(
                atPath: path, contents: Data(contents.utf8), attributes: [.posixPermissions: 0o755]))
        let outcome = try Agent().run(path)
        #expect(outcome.refusal?.exitCode == exitCode)
        #expect(outcome.refusalText?.hasPrefix("exec: \"\(path)\": \(reason)") == true)
    }

    @Test func unknownUserAndNul() throws {
        let agent = try Agent()
        let outcome = try agent.run("true", user: "no-such-user")
        #expect(outcome.refusal?.exitCode == 125)
        #expect(
            outcome.refusalText == "unable to find user no-such-user: no matching entries in passwd file")
        let nul = try agent.run("echo", "a\0b")
        #expect(nul.refusal?.exitCode == 125)
    }

    @Test func environmentAndDirectory() throws {
        let directory = FileManager.default.temporaryDirectory.appending(path: "martlet-init-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: directory) }
        let deep = directory.appending(path: "made/for it").path
        let outcome = try Agent().run(
            Agent.request(
                ["sh", "-c", "pwd; echo \"$A|$HOME\""], environment: ["PATH=/bin", "A=b c", "HOME=/here"],
                directory: deep))
        #expect(outcome.outputText == "\(deep)\nb c|/here\n")
    }

    /// A program begins as from a fresh shell: its own session, default signals, no descriptors but three.
    @Test func aCleanStart() throws {
        let agent = try Agent()
        let outcome = try agent.run(
            "sh", "-c",
            "ls /proc/self/fd; grep -E 'Sig(Blk|Ign|Cgt)|Umask' /proc/self/status; cut -d' ' -f6 /proc/$$/stat; echo $$"
        )
        let lines = outcome.outputText.split(separator: "\n")
        // Three, and the directory's own that ls has open.
        #expect(lines.prefix(4) == ["0", "1", "2", "3"])
        #expect(lines.contains("Umask:\t0022"))
        #expect(lines.contains("SigBlk:\t0000000000000000"))
        // 32 and 33 are the C library's own, and ignored or not as whoever runs the tests has left them.
        let ignored = try #require(lines.first { $0.hasPrefix("SigIgn:\t") })
        #expect(try #require(UInt64(ignored.dropFirst(8), radix: 16)) & ~0x1_8000_0000 == 0)
        #expect(lines.suffix(2).first == lines.last)
        #expect(try agent.run("cat").outputText.isEmpty, "without an input there is /dev/null")
    }

    @Test(arguments: [1, 2, 3, 9, 10, 12, 15]) func signalsEnd(signal: UInt64) throws {
        let agent = try Agent()
        let outcome = try agent.run(Agent.request(["sleep", "1000"])) {
            agent.send(Frame(.signal, session: 1, payload: NumberMessage(signal).payload))
        }
        let report = try #require(outcome.report)
        #expect(report.wasSignaled)
        #expect(report.code == UInt8(signal))
        #expect(report.shellStatus == 128 + UInt8(signal))
    }

    @Test func signalsAreHandled() throws {
        let agent = try Agent()
        let request = Agent.request([
            "sh", "-c", "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.01; done",
        ])
        var machine = SessionStateMachine(.host, hasInput: false)
        agent.send(Frame(.request, session: 1, payload: request.payload))
        var output = ""
        while machine.phase != .ended {
            let frame = try agent.next()
            #expect(machine.receive(frame.header) == .taken)
            if frame.kind == .accepted {
                machine.send(.go)
                agent.send(Frame(.go, session: 1))
            }
            if frame.kind == .data {
                output += String(decoding: frame.payload, as: UTF8.self)
                if output == "ready\n" {
                    agent.send(Frame(.signal, session: 1, payload: NumberMessage(15).payload))
                }
            }
            if frame.kind == .exited { #expect(ExitReport(frame.payload)?.code == 3) }
        }
        #expect(output == "ready\ncaught\n")
    }

    /// A signal that comes before the program is delivered to the program.
    @Test func signalsBeforeTheStartAreKept() throws {
        let agent = try Agent()
        agent.send(Frame(.request, session: 1, payload: Agent.request(["sleep", "1000"]).payload))
        agent.send(Frame(.signal, session: 1, payload: NumberMessage(15).payload))
        #expect(try agent.next().kind == .accepted)
        agent.send(Frame(.go, session: 1))
        #expect(try agent.next().kind == .started)
        #expect(try agent.awaitExit()?.code == 15)
    }

    @Test func hangUpEndsTheGroup() throws {
        let agent = try Agent()
        let request = Agent.request(["sh", "-c", "sleep 1000 & echo $!; wait"])
        agent.send(Frame(.request, session: 1, payload: request.payload))
        #expect(try agent.next().kind == .accepted)
        agent.send(Frame(.go, session: 1))
        #expect(try agent.next().kind == .started)
        let child = try #require(
            Int32(String(decoding: try agent.next().payload, as: UTF8.self).trimmingCharacters(in: .newlines)))
        agent.send(Frame(.hangUp, session: 1))
        let end = try agent.next()
        #expect(end.kind == .exited)
        #expect(ExitReport(end.payload)?.code == 9)
        // The orphan is the agent's to reap; once that has happened it reports that nobody is left.
        var activity: UInt64 = 1
        while activity != 0 {
            let frame = try agent.read()
            if frame.kind == .activity { activity = NumberMessage(payload: frame.payload)?.number ?? 0 }
        }
        #expect(kill(child, 0) == -1)
    }

    @Test func startsAtOnce() throws {
        let agent = try Agent()
        var request = Agent.request(["sh", "-c", "ls /proc/self/fd; cat; exit 3"], hasInput: true)
        request.startsAtOnce = true
        let outcome = try agent.run(request, input: Array("input\n".utf8))
        #expect(outcome.kinds.first == .started, "\(outcome.kinds)")
        // The last is the directory that is read.
        #expect(String(decoding: outcome.output, as: UTF8.self) == "0\n1\n2\n3\ninput\n")
        #expect(outcome.report?.code == 3)

        request.arguments = [Array("no-such-program".utf8)]
        let refused = try agent.run(request)
        #expect(refused.kinds == [.refused])
        #expect(refused.refusal?.exitCode == 127)
        request.arguments = [Array("/etc".utf8)]
        #expect(try agent.run(request).refusal?.exitCode == 126)
        #expect(agent.finish() == 0)
    }

    @Test func signalsAndHangUpsBeforeAStartAtOnce() throws {
        let agent = try Agent()
        var request = Agent.request(["sleep", "1000"])
        request.startsAtOnce = true
        agent.send(Frame(.request, session: 1, payload: request.payload))
        agent.send(Frame(.signal, session: 1, payload: NumberMessage(15).payload))
        #expect(try agent.next().kind == .started)
        #expect(try agent.awaitExit()?.code == 15)
        agent.send(Frame(.request, session: 2, payload: request.payload))
        agent.send(Frame(.hangUp, session: 2))
        var last = try agent.next(of: 2)
        if last.kind == .started { last = try agent.next(of: 2) }
        #expect(last.kind == .refused || last.kind == .exited)
        #expect(try agent.run(Agent.request(["true"]), session: 2).report?.code == 0, "the number may be used again")
    }

    @Test func hangUpBeforeTheStart() throws {
        let agent = try Agent()
        agent.send(Frame(.request, session: 1, payload: Agent.request(["sleep", "1000"]).payload))
        agent.send(Frame(.hangUp, session: 1))
        var last = try agent.next()
        while last.kind == .accepted { last = try agent.next() }
        #expect(last.kind == .refused)
        #expect(try agent.run("true").report?.code == 0, "the number may be used again")
    }

    /// Output is complete at the process's end although others keep the pipe open.
    @Test func aBackgroundProcessDoesNotHoldTheEndUp() throws {
        let agent = try Agent()
        let outcome = try agent.run("sh", "-c", "sleep 1000 & head -c 200000 /dev/zero; echo done")
        #expect(outcome.report?.code == 0)
        #expect(outcome.output.count == 200_005)
        #expect(agent.finish() == 0)
    }

    @Test func manyAtOnce() throws {
        let agent = try Agent()
        let count: UInt32 = 40
        for session in 1...count {
            agent.send(
                Frame(
                    .request, session: session,
                    payload: Agent.request(["sh", "-c", "echo \(session); exit \(session)"]).payload))
        }
        var exits = 0
        var outputs: [UInt32: String] = [:]
        while exits < count {
            let frame = try agent.next()
            let session = frame.header.session
            switch frame.kind {
            case .accepted: agent.send(Frame(.go, session: session))
            case .data: outputs[session, default: ""] += String(decoding: frame.payload, as: UTF8.self)
            case .exited:
                exits += 1
                #expect(ExitReport(frame.payload)?.code == UInt8(session))
            default: break
            }
        }
        for session in 1...count { #expect(outputs[session] == "\(session)\n") }
    }

    @Test func noMoreThanTheLimit() throws {
        let agent = try Agent()
        for session in 1...65 as ClosedRange<UInt32> {
            agent.send(Frame(.request, session: session, payload: Agent.request(["sleep", "1000"]).payload))
        }
        var accepted = 0
        while accepted < 64 {
            let frame = try agent.next()
            if frame.kind == .accepted {
                accepted += 1
            } else {
                #expect(frame.kind == .refused)
                #expect(frame.header.session == 65)
            }
        }
        #expect(agent.finish() == 0)
    }
}
