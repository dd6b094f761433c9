// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing
import Wire

extension EndToEnd {
    /// Starts from machines that have booted already.
    @Suite(.serialized) struct Templates {
        let stage = Stage.shared
        /// What makes one machine tell itself from another.
        private static let who =
            "cat /proc/sys/kernel/random/uuid /etc/machine-id /proc/sys/kernel/random/boot_id; hostname; "
            + "head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '"

        private func inspected(_ name: String) throws -> JSON {
            try #require(try JSON(parsing: try stage.run(["inspect", name]).output).arrayValue?.first?["state"])
        }

        private func clear() throws {
            _ = try stage.onHost("rm -rf \"$XDG_CACHE_HOME\"/martlet/templates")
        }

        private func run(_ name: String, _ more: [String] = []) throws -> (output: CommandResult, state: JSON) {
            let result = try stage.run(
                ["run", "--name", name, "-m", "128m"] + more + [stage.image, "sh", "-c", Self.who])
            #expect(result.status == 0, "\(result)")
            let state = try inspected(name)
            _ = try stage.run(["rm", name])
            return (result, state)
        }

        @Test func theSecondRunGoesOnFromTheFirst() throws {
            try clear()
            let first = try run("first")
            #expect(first.state["origin"]?.stringValue == "boot", "\(first.state)")
            #expect(first.state["originNote"]?.stringValue == "a template was made")
            let second = try run("second")
            #expect(second.state["origin"]?.stringValue == "template", "\(second.state)")
            for step in ["entropy", "clock", "hostname", "machine-id"] {
                #expect(second.state["identityInMicroseconds"]?[step] != nil, "\(second.state)")
            }
            let booted = try run("third", ["--no-template"])
            #expect(booted.state["origin"]?.stringValue == "boot")
            #expect(booted.state["originNote"] == nil)
            // Another size is another machine.
            let other = try run("fourth", ["--cpus", "2"])
            #expect(other.state["origin"]?.stringValue == "boot")
            try stage.expectNothingLeft()
        }

        /// The interface of its first network is the template's, and its addresses are not.
        @Test func theInterfaceIsTheMachinesOwn() throws {
            defer { _ = try? stage.run(["network", "rm", "second"]) }
            #expect(try stage.run(["network", "create", "second"]).status == 0)
            try clear()
            let script = """
                cat /sys/class/net/eth0/address; ip -4 -o addr show eth0 | awk '{ print $4 }'
                ping -c 1 -w 10 "$(ip route | awk '/^default/ { print $3 }')" >/dev/null && echo reached
                [ ! -e /sys/class/net/eth1 ] || cat /sys/class/net/eth1/address
                """
            for (name, origin, more) in [
                ("booted", "boot", []), ("restored", "template", []), ("again", "template", []),
                ("both", "template", ["--network", "default", "--network", "second"]),
            ] {
                let result = try stage.run(
                    ["run", "--name", name, "-m", "128m"] + more + [stage.image, "sh", "-c", script])
                let state = try inspected(name)
                _ = try stage.run(["rm", name])
                #expect(state["origin"]?.stringValue == origin, "\(state)")
                let networks = try #require(state["networks"]?.arrayValue)
                let address = networks[0]["address"]?.stringValue ?? ""
                var lines = [networks[0]["mac"]?.stringValue ?? "", "\(address)/20", "reached"]
                if networks.count > 1 { lines.append(networks[1]["mac"]?.stringValue ?? "") }
                #expect(result.text.split(separator: "\n").map(String.init) == lines, "\(result)")
            }
            try stage.expectNothingLeft()
        }

        @Test func noTwoAreAlike() throws {
            _ = try run("warm")
            let runs = try (0..<6).map { _ in
                try stage.start(["run", "--rm", "-m", "128m", stage.image, "sh", "-c", Self.who])
            }
            var seen: Set<Substring> = []
            var count = 0
            for result in try runs.map({ try $0.finish(input: [], seconds: 240) }) {
                #expect(result.status == 0, "\(result)")
                let lines = result.text.split(separator: "\n")
                #expect(lines.count == 5)
                count += lines.count
                seen.formUnion(lines)
            }
            #expect(seen.count == count)
            try stage.expectNothingLeft()
        }

        @Test(arguments: [
            "truncate -s 100 \"$d/state\"", "truncate -s 4096 \"$d/memory\"", "rm \"$d/memory\"",
            "dd if=/dev/urandom of=\"$d/state\" bs=1 seek=200 count=64 conv=notrunc 2>/dev/null",
            "dd if=/dev/zero of=\"$d/memory\" bs=1M count=100 conv=notrunc 2>/dev/null",
        ])
        func aDamagedTemplateIsReplaced(damage: String) throws {
            _ = try run("whole")
            let done = try stage.onHost(
                "for d in \"$XDG_CACHE_HOME\"/martlet/templates/*/; do \(damage); done; echo done")
            #expect(done == "done\n")
            let next = try run("next")
            #expect(next.state["origin"]?.stringValue == "boot", "\(next.state)")
            let after = try run("after")
            // Where the damage showed only at the restore, this run makes the new one.
            let again = after.state["origin"]?.stringValue == "template" ? after : try run("again")
            #expect(again.state["origin"]?.stringValue == "template", "\(again.state)")
            try stage.expectNothingLeft()
        }

        @Test func severalFirstRunsAtOnce() throws {
            try clear()
            let runs = try (0..<3).map { number in
                try stage.start(["run", "--rm", "-m", "128m", stage.image, "echo", "\(number)"])
            }
            for (number, run) in runs.enumerated() {
                #expect(try run.finish(input: [], seconds: 240).text == "\(number)\n")
            }
            let kept = try stage.onHost("ls -A \"$XDG_CACHE_HOME\"/martlet/templates | grep -v lock | wc -l")
            #expect(kept == "1\n")
            #expect(try run("after").state["origin"]?.stringValue == "template")
        }
    }
}
