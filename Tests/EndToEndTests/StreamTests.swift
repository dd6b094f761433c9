// SPDX-License-Identifier: Apache-2.0

import Glibc
import Testing

extension EndToEnd {
    @Suite struct Streams {
        let stage = Stage.shared

        @Test func outputAndErrorsStayApart() throws {
            let result = try stage.run(["run", "--rm", stage.image, "sh", "-c", "echo out; echo err >&2; exit 7"])
            #expect(result.text == "out\n", "\(result)")
            #expect(result.errorText == "err\n")
            #expect(result.status == 7)
        }

        @Test func everyByteInAndOut() throws {
            var bytes = (0..<256).map { UInt8($0) }
            for index in 0..<(1 << 20) { bytes.append(UInt8(truncatingIfNeeded: index &* 2_654_435_761 >> 13)) }
            let result = try stage.run(["run", "--rm", "-i", stage.image, "cat"], input: bytes)
            #expect(result.status == 0, "\(result.errorText)")
            #expect(result.output == bytes)
        }

        @Test func withoutInteractiveThereIsNoInput() throws {
            let result = try stage.run(["run", "--rm", stage.image, "cat"], input: Array("unseen".utf8))
            #expect(result.status == 0)
            #expect(result.output == [])
        }

        @Test func aReaderThatLeaves() throws {
            // `yes` ends by SIGPIPE inside only if its output is closed there; here the container is stopped by a signal
            // after its reader left.
            let command = try stage.start(["run", "--rm", stage.image, "sh", "-c", "echo first; sleep 300"])
            try command.waitForOutput("first\n")
            command.signal(SIGTERM)
            #expect(try command.finish(input: [], seconds: 60).status == 143)
        }

        @Test func muchOutput() throws {
            let result = try stage.run([
                "run", "--rm", stage.image, "sh", "-c", "yes 0123456789abcde | head -c 8388608",
            ])
            #expect(result.output.count == 8 << 20)
            #expect(result.output.suffix(16) == ArraySlice("0123456789abcde\n".utf8))
        }
    }

    @Suite struct Signals {
        let stage = Stage.shared

        @Test(arguments: [
            ("INT", SIGINT), ("TERM", SIGTERM), ("HUP", SIGHUP), ("QUIT", SIGQUIT), ("USR1", SIGUSR1),
            ("USR2", SIGUSR2),
        ])
        func reachTheProcess(name: String, number: Int32) throws {
            let script = "trap 'echo got \(name); exit 5' \(name); echo ready; while :; do sleep 1 & wait $!; done"
            let command = try stage.start(["run", "--rm", stage.image, "sh", "-c", script])
            try command.waitForOutput("ready\n")
            command.signal(number)
            let result = try command.finish(input: [], seconds: 60)
            #expect(result.text == "ready\ngot \(name)\n", "\(result)")
            #expect(result.status == 5)
        }

        @Test func haveTheirDefaultEffect() throws {
            let command = try stage.start(["run", "--rm", stage.image, "sh", "-c", "echo ready; exec sleep 300"])
            try command.waitForOutput("ready\n")
            // Not SIGINT: a shell with -c has a handler for that one, and loses what comes while it becomes the sleep.
            command.signal(SIGTERM)
            #expect(try command.finish(input: [], seconds: 60).status == 143)
        }
    }
}
