// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing
import Wire

extension EndToEnd {
    @Suite(.serialized) struct Lifecycle {
        let stage = Stage.shared

        @Test func aDetachedContainer() throws {
            let script = "echo one; echo two >&2; trap 'echo bye; exit 3' TERM; while :; do sleep 1 & wait $!; done"
            let run = try stage.run(["run", "-d", "--name", "web", stage.image, "sh", "-c", script])
            let id = run.text.split(separator: "\n").first.map(String.init) ?? ""
            #expect(run.status == 0 && id.count == 64, "\(run)")
            let list = try stage.run(["ps", "--format", "json"])
            let row = try JSON(parsing: list.output)
            #expect(row["ID"]?.stringValue == id, "\(list)")
            #expect(row["Names"]?.stringValue == "web")
            #expect(row["State"]?.stringValue == "running")
            #expect(try stage.run(["ps", "-q"]).text == "\(id.prefix(12))\n")

            let taken = try stage.run(["run", "--rm", "--name", "web", stage.image, "true"])
            #expect(taken.status == 125)
            #expect(taken.errorText.contains("in use"), "\(taken)")
            let refused = try stage.run(["rm", "web"])
            #expect(refused.status == 1 && refused.errorText.contains("running"), "\(refused)")

            let follower = try stage.start(["logs", "-f", String(id.prefix(8))])
            try follower.waitForOutput("one\n")
            let waiter = try stage.start(["wait", "web"])
            #expect(try stage.run(["stop", "web"]).text == "web\n")
            let followed = try follower.finish(input: [], seconds: 60)
            #expect(followed.text == "one\nbye\n" && followed.errorText == "two\n", "\(followed)")
            #expect(try waiter.finish(input: [], seconds: 60).text == "3\n")

            #expect(try stage.run(["ps"]).text.split(separator: "\n").count == 1)
            #expect(try stage.run(["ps", "-a"]).text.contains("Exited (3)"))
            let inspected = try JSON(parsing: try stage.run(["inspect", "web"]).output).arrayValue?.first
            #expect(inspected?["exitCode"]?.integerValue == 3)
            #expect(inspected?["condition"]?.stringValue == "exited")
            #expect(try stage.run(["logs", "--tail", "1", "web"]).text == "bye\n")
            let stamped = try stage.run(["logs", "-t", "web"]).text
            #expect(stamped.split(separator: "\n").allSatisfy { $0.hasPrefix("20") && $0.contains("Z ") }, "\(stamped)")
            #expect(try stage.run(["rm", "web"]).text == "web\n")
            try stage.expectNothingLeft()
        }

        @Test func killAndForcedRemoval() throws {
            #expect(try stage.run(["run", "-d", "--name", "one", stage.image, "sleep", "300"]).status == 0)
            #expect(try stage.run(["run", "-d", "--name", "two", "--rm", stage.image, "sleep", "300"]).status == 0)
            #expect(try stage.run(["kill", "-s", "KILL", "one"]).text == "one\n")
            #expect(try stage.run(["wait", "one"]).text == "137\n")
            let removal = try stage.run(["rm", "-f", "one", "nobody", "two"])
            #expect(removal.text == "one\ntwo\n" && removal.status == 1, "\(removal)")
            try stage.expectNothingLeft()
        }

        @Test func aFailedStartOfADetachedOne() throws {
            let result = try stage.run(["run", "-d", stage.image, "/nowhere"])
            #expect(result.status == 127 && result.text == "", "\(result)")
            try stage.expectNothingLeft()
        }

        @Test func eightAtOnce() throws {
            let commands = try (0..<8).map { number in
                try stage.start([
                    "run", "--rm", "-m", "128m", stage.image, "sh", "-c", "echo \(number); exit \(number)",
                ])
            }
            for (number, command) in commands.enumerated() {
                let result = try command.finish(input: [], seconds: 300)
                #expect(result.text == "\(number)\n" && result.status == number, "\(result)")
            }
            try stage.expectNothingLeft()
        }
    }

    /// Every process of a run is killed once; nothing is ever left.
    @Suite(.serialized) struct Losses {
        let stage = Stage.shared

        private func start(_ options: [String] = []) throws -> RunningCommand {
            let command = try stage.start(
                ["run", "--rm"] + options + [stage.image, "sh", "-c", "echo ready; exec sleep 300"])
            try command.waitForOutput("ready\n")
            return command
        }

        private func killOnHost(_ name: String) throws {
            _ = try stage.onHost(
                "for p in /proc/[0-9]*; do read c < $p/comm; case $c in \(name)*) kill -9 ${p#/proc/};; esac; done 2>/dev/null; true"
            )
        }

        /// Waits for the end of all that runs on the host, by the supervisors' locks.
        private func settle() throws {
            _ = try stage.onHost(
                "for l in \"$XDG_STATE_HOME\"/martlet/machines/*/lock; do flock -w 20 \"$l\" true; done; true")
        }

        @Test func theCommand() throws {
            let command = try start()
            command.signal(SIGKILL)
            _ = try command.finish(input: [], seconds: 10)
            try settle()
            try stage.expectNothingLeft()
        }

        @Test func theSupervisor() throws {
            let command = try start()
            try killOnHost("martlet-superv")
            let result = try command.finish(input: [], seconds: 30)
            #expect(result.status == 125 && result.errorText.contains("supervisor was lost"), "\(result)")
            try stage.expectNothingLeft()
        }

        @Test func theMonitor() throws {
            let command = try start()
            try killOnHost("martlet-vmm")
            let result = try command.finish(input: [], seconds: 30)
            #expect(result.status == 125 && result.errorText.contains("SIGKILL"), "\(result)")
            try stage.expectNothingLeft()
        }

        @Test func theSupervisorOfADetachedContainer() throws {
            #expect(try stage.run(["run", "-d", "--name", "lost", stage.image, "sleep", "300"]).status == 0)
            try killOnHost("martlet-superv")
            try settle()
            #expect(try stage.run(["ps", "-a"]).text.contains("Crashed"))
            #expect(try stage.run(["wait", "lost"]).status == 1)
            #expect(try stage.run(["rm", "lost"]).status == 0)
            try stage.expectNothingLeft()
        }
    }
}
