// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing
import Wire

extension EndToEnd {
    /// Commands in containers that run, and containers that are saved and go on elsewhere.
    @Suite(.serialized) struct Running {
        let stage = Stage.shared

        private func withContainer(_ script: String, _ body: () throws -> Void) throws {
            let run = try stage.run(
                [
                    "run", "-d", "--name", "web", "-m", "128m", "-e", "COLOUR=blue", "-w", "/var", stage.image, "sh",
                    "-c", script,
                ])
            #expect(run.status == 0, "\(run)")
            defer { _ = try? stage.run(["rm", "-f", "web"]) }
            try body()
        }

        @Test func execHasTheContainersThings() throws {
            try withContainer("sleep 300") {
                let plain = try stage.run([
                    "exec", "web", "sh", "-c", "pwd; echo $COLOUR; id -u; echo oops >&2; exit 7",
                ])
                #expect(plain.status == 7)
                #expect(plain.text == "/var\nblue\n0\n")
                #expect(plain.errorText == "oops\n")
                let other = try stage.run(
                    [
                        "exec", "-u", "1000:100", "-w", "/tmp", "-e", "COLOUR=red", "web", "sh", "-c",
                        "pwd; echo $COLOUR; id -u; id -g",
                    ])
                #expect(other.text == "/tmp\nred\n1000\n100\n", "\(other)")
                // The main process is process 1 of the container, and seen.
                #expect(try stage.run(["exec", "web", "cat", "/proc/1/cmdline"]).text.contains("sleep"))
            }
        }

        @Test func execStreams() throws {
            try withContainer("sleep 300") {
                var generator = SystemRandomNumberGenerator()
                let bytes = (0..<1_500_000).map { _ in UInt8.random(in: 0...255, using: &generator) }
                let echoed = try stage.run(["exec", "-i", "web", "cat"], input: bytes)
                #expect(echoed.status == 0 && echoed.output == bytes)
                #expect(try stage.run(["exec", "web", "cat"], input: [1]).output == [])
                let several = try (0..<4).map { try stage.start(["exec", "web", "sh", "-c", "sleep 1; echo \($0)"]) }
                for (number, command) in several.enumerated() {
                    #expect(try command.finish(input: [], seconds: 60).text == "\(number)\n")
                }
            }
        }

        @Test func execEnds() throws {
            try withContainer("sleep 300") {
                #expect(try stage.run(["exec", "web", "nothere"]).status == 127)
                #expect(try stage.run(["exec", "web", "/etc"]).status == 126)
                #expect(try stage.run(["exec", "nobody", "true"]).status == 125)
                #expect(try stage.run(["exec", "web"]).status == 125)
                let trapped = try stage.start(
                    [
                        "exec", "web", "sh", "-c",
                        "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 1 & wait $!; done",
                    ])
                try trapped.waitForOutput("ready\n")
                trapped.signal(SIGTERM)
                let ended = try trapped.finish(input: [], seconds: 60)
                #expect(ended.status == 5 && ended.text == "ready\ngot\n", "\(ended)")
                // One whose client is gone ends too.
                let lost = try stage.start(["exec", "web", "sh", "-c", "echo up; exec sleep 4242"])
                try lost.waitForOutput("up\n")
                lost.signal(SIGKILL)
                _ = try? lost.finish(input: [], seconds: 60)
                let look =
                    "for p in /proc/[0-9]*; do [ \"$(tr '\\0' ' ' < $p/cmdline)\" = 'sleep 4242 ' ] && echo $p; done"
                let left = try stage.run(
                    [
                        "exec", "web", "sh", "-c",
                        "for i in 1 2 3 4 5 6 7 8 9 10; do [ -z \"$(\(look))\" ] && exit 0; sleep 1; done; exit 1",
                    ])
                #expect(left.status == 0, "\(left)")
                // One that runs when its container ends.
                let last = try stage.start(["exec", "web", "sh", "-c", "echo up; sleep 300"])
                try last.waitForOutput("up\n")
                _ = try stage.run(["stop", "-t", "0", "web"])
                #expect(try last.finish(input: [], seconds: 60).status == 137)
                #expect(try stage.run(["exec", "web", "true"]).status == 125)
            }
            try stage.expectNothingLeft()
        }

        private static let counter =
            "i=0; while :; do i=$((i+1)); echo $i > /tmp/next; mv /tmp/next /tmp/count; sleep 0.1 2>/dev/null || usleep 100000; done"
        private static let who =
            "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid "
            + "/dev/martlet/generation"

        /// Waits until a container counts, and has done all that comes before that.
        private func awaitCounter() throws {
            let wait = "until [ -e /tmp/count ]; do usleep 20000; done; echo there"
            #expect(try stage.run(["exec", "web", "sh", "-c", wait]).text == "there\n")
        }

        @Test func aSnapshotAndItsClones() throws {
            try withContainer(
                "mkdir -p /etc/martlet/hooks; for h in freeze thaw clone; do printf '#!/bin/sh\\necho '$h' >> /hooks; cat /dev/martlet/generation > /at-'$h'\\n' > /etc/martlet/hooks/$h; chmod +x /etc/martlet/hooks/$h; done; echo kept > /kept; \(Self.counter)"
            ) {
                try awaitCounter()
                let made = try stage.run(["snapshot", "create", "web", "--tag", "warm"])
                #expect(made.status == 0, "\(made)")
                let id = made.text.split(separator: "\n").first.map(String.init) ?? ""
                let list = try stage.run(["snapshot", "ls", "--format", "json"])
                #expect(try JSON(parsing: list.output)["tag"]?.stringValue == "warm", "\(list)")
                #expect(try stage.run(["snapshot", "verify"]).text == "\(id): whole\n")
                // The source goes on, as the machine that it was.
                let generation = "cmp /dev/martlet/generation /at-freeze && ls -l /dev/martlet/generation | cut -c 1-10"
                #expect(try stage.run(["exec", "web", "sh", "-c", generation]).text == "-rw-r--r--\n")
                #expect(try stage.run(["exec", "web", "cat", "/kept", "/hooks"]).text == "kept\nfreeze\nthaw\n")
                #expect(try stage.run(["run", "-d", "--snapshot", "warm", "--name", "two"]).status == 0)
                #expect(try stage.run(["restore", "web", String(id.prefix(8)), "three"]).status == 0)
                defer { _ = try? stage.run(["rm", "-f", "two", "three"]) }
                #expect(
                    try stage.run(["exec", "two", "cat", "/kept", "/hooks"]).text == "kept\nfreeze\nclone\nthaw\n")
                // It was another one before anything of it ran.
                let change =
                    "cmp /dev/martlet/generation /at-clone && cmp /at-clone /at-thaw && ! cmp -s /at-clone /at-freeze && "
                    + "echo another"
                #expect(try stage.run(["exec", "-u", "1000", "two", "sh", "-c", change]).text == "another\n")
                var seen: Set<Substring> = []
                for name in ["web", "two", "three"] {
                    let lines = try stage.run(["exec", name, "sh", "-c", Self.who]).text.split(separator: "\n")
                    #expect(lines.count == 5)
                    seen.formUnion(lines)
                }
                #expect(seen.count == 15, "\(seen)")
                let state = try JSON(parsing: try stage.run(["inspect", "two"]).output).arrayValue?.first?["state"]
                #expect(state?["origin"]?.stringValue == "snapshot")
                for step in ["entropy", "clock", "hostname", "files", "connections", "clone hook", "thaw"] {
                    #expect(state?["identityInMicroseconds"]?[step] != nil, "\(step)")
                }
                // It runs, and on its own: its count goes on from where it was saved.
                let count = try stage.run(
                    [
                        "exec", "two", "sh", "-c",
                        "a=$(cat /tmp/count); sleep 1; b=$(cat /tmp/count); [ $b -gt $a ] && echo on",
                    ])
                #expect(count.text == "on\n", "\(count)")
                // A command's output and status are the run's; with it the container ends, which is no more.
                let command = try stage.run(
                    [
                        "run", "--rm", "-i", "--name", "four", "-e", "COLOUR=red", "--snapshot", "warm", "sh", "-c",
                        "cat /kept -; echo $COLOUR; echo oops >&2; exit 7",
                    ], input: Array("in\n".utf8))
                #expect(command.status == 7 && command.errorText == "oops\n", "\(command)")
                #expect(command.text == "kept\nin\nred\n", "\(command)")
                #expect(try stage.run(["inspect", "four"]).status == 1)
                #expect(try stage.run(["run", "-d", "--snapshot", "warm", "true"]).status == 125)
                #expect(try stage.run(["run", "-u", "1", "--snapshot", "warm"]).status == 125)
                #expect(try stage.run(["snapshot", "rm", "warm"]).status == 0)
                #expect(try stage.run(["exec", "three", "echo", "still"]).text == "still\n")
                #expect(try stage.run(["run", "--snapshot", "warm"]).status == 125)
            }
            try stage.expectNothingLeft()
        }

        @Test func forks() throws {
            let hook =
                "mkdir -p /etc/martlet/hooks; printf '#!/bin/sh\\necho clone >> /hooks\\n' > /etc/martlet/hooks/clone; "
            try withContainer("\(hook)chmod +x /etc/martlet/hooks/clone; echo kept > /kept; \(Self.counter)") {
                try awaitCounter()
                let made = try stage.run(["fork", "web", "--count", "3", "--name-prefix", "child"])
                #expect(made.status == 0 && made.text.split(separator: "\n").count == 3, "\(made)")
                // A fork of a fork.
                #expect(try stage.run(["branch", "child-1", "grandchild"]).status == 0)
                let names = ["web", "child-1", "child-2", "child-3", "grandchild"]
                defer { _ = try? stage.run(["rm", "-f"] + names.dropFirst()) }
                var seen: Set<Substring> = []
                for name in names {
                    seen.formUnion(try stage.run(["exec", name, "sh", "-c", Self.who]).text.split(separator: "\n"))
                }
                #expect(seen.count == 25, "\(seen)")
                #expect(
                    try stage.run(["exec", "grandchild", "cat", "/kept", "/hooks"]).text == "kept\nclone\nclone\n")
                #expect(try stage.run(["snapshot", "ls", "-q"]).text == "")
                let parent = try JSON(parsing: try stage.run(["inspect", "web"]).output).arrayValue?.first?["state"]
                for step in ["freeze", "paused", "children made", "in all"] {
                    #expect(parent?["forkInMicroseconds"]?[step] != nil, "\(step): \(parent ?? .null)")
                }
                let child = try JSON(parsing: try stage.run(["inspect", "child-2"]).output).arrayValue?.first?["state"]
                #expect(child?["origin"]?.stringValue == "fork")
                for step in ["entropy", "clock", "hostname", "files", "connections", "clone hook", "thaw"] {
                    #expect(child?["identityInMicroseconds"]?[step] != nil, "\(step)")
                }
                // One that loses its monitor takes none along, and its supervisor says so.
                let pid = child?["monitor"]?["pid"]?.integerValue ?? 0
                #expect(try stage.onHost("kill -9 \(pid)") == "")
                #expect(try stage.run(["wait", "child-2"]).text == "125\n")
                // One that loses its supervisor ends with it.
                let orphan = try JSON(parsing: try stage.run(["inspect", "child-3"]).output).arrayValue?.first?["state"]
                let supervisor = orphan?["supervisor"]?["pid"]?.integerValue ?? 0
                let monitor = orphan?["monitor"]?["pid"]?.integerValue ?? 0
                #expect(
                    try stage.onHost("kill -9 \(supervisor); timeout 60 tail --pid=\(monitor) -f /dev/null; echo $?")
                        == "0\n")
                // Nor do children end with their parents.
                #expect(try stage.run(["rm", "-f", "child-1"]).status == 0)
                let count = try stage.run(
                    [
                        "exec", "grandchild", "sh", "-c",
                        "a=$(cat /tmp/count); sleep 1; b=$(cat /tmp/count); [ $b -gt $a ] && echo on",
                    ])
                #expect(count.text == "on\n", "\(count)")
                #expect(try stage.run(["exec", "web", "echo", "still"]).text == "still\n")
                // A name that is taken, or a machine that cannot be forked, leaves nothing of the others.
                let taken = try stage.run(["fork", "web", "--count", "2", "--name-prefix", "grandchild"])
                #expect(taken.status == 0, "\(taken)")
                #expect(try stage.run(["fork", "web", "--count", "3", "--name-prefix", "grandchild"]).status == 1)
                #expect(try stage.run(["rm", "-f", "grandchild-1", "grandchild-2"]).status == 0)
                #expect(try stage.run(["inspect", "grandchild-3"]).status == 1)
                #expect(try stage.run(["fork", "web", "--count", "0"]).status == 64)
            }
            try stage.expectNothingLeft()
        }
    }
}
