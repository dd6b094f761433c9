// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing
import Wire

extension EndToEnd {
    /// Snapshots of running containers, in all the ways in which they are made, kept and carried away.
    @Suite(.serialized) struct Snapshots {
        let stage = Stage.shared
        private static let memory = ["-m", "128m"]

        private func start(_ name: String, more: [String] = ["--network", "none"], _ script: String) throws {
            let result = try stage.run(
                ["run", "-d", "--name", name] + Self.memory + more + [stage.image, "sh", "-c", script])
            #expect(result.status == 0, "\(result)")
        }

        private func exec(_ name: String, _ script: String) throws -> String {
            let result = try stage.run(["exec", name, "sh", "-c", script], seconds: 60)
            #expect(result.status == 0, "\(result)")
            return result.text
        }

        private func create(_ arguments: String...) throws {
            let result = try stage.run(["snapshot", "create"] + arguments)
            #expect(result.status == 0, "\(result)")
        }

        private func snapshot(_ tag: String) throws -> JSON {
            try #require(try JSON(parsing: try stage.run(["snapshot", "inspect", tag]).output).arrayValue?.first)
        }

        private func clear(_ names: String...) {
            _ = try? stage.run(["rm", "-f"] + names)
            _ = try? stage.run(["snapshot", "rm"] + ((try? stage.run(["snapshot", "ls", "-q"]).text) ?? "").words)
        }

        /// What a container has put in the place of the files that a clone gets anew does not hold it up.
        @Test func namedPipesInPlaceOfFiles() throws {
            defer { clear("box", "other", "box-f-1") }
            try start("box", "exec sleep 1000000")
            _ = try exec("box", "rm -f /etc/hostname /etc/machine-id; mkfifo /etc/hostname /etc/machine-id")
            try create("box", "--tag", "pipes")
            #expect(try stage.run(["restore", "box", "pipes", "other"]).status == 0)
            #expect(try stage.run(["fork", "box", "--name-prefix", "box-f"]).status == 0)
            for name in ["other", "box-f-1"] {
                #expect(try exec(name, "hostname") == exec(name, "cat /etc/hostname"), "\(name)")
                #expect(try exec(name, "cat /etc/machine-id").words.first?.count == 32, "\(name)")
            }
        }

        @Test func diffsRestoreAndBecomeWhole() throws {
            defer { clear("box", "second", "third", "fourth") }
            try start("box", "exec sleep 1000000")
            _ = try exec("box", "echo one >/one")
            try create("box", "--diff", "--tag", "d1")
            let sum = try exec("box", "echo two >/two; head -c 3000000 /dev/urandom >/big; md5sum </big")
            try create("box", "--diff", "--tag", "d2")
            _ = try exec("box", "echo three >/three; rm /one")
            try create("box", "--diff", "--tag", "d3")
            // The first is whole; the others have what was written alone.
            let all = try ["d1", "d2", "d3"].map(snapshot)
            #expect(all[0]["parent"] == nil)
            #expect(all[1]["parent"] == all[0]["id"] && all[2]["parent"] == all[1]["id"])
            let blocks = try stage.onHost(
                all.compactMap { $0["id"]?.stringValue }
                    .map { "du -k \"$XDG_DATA_HOME\"/martlet/snapshots/\($0)/*memory | cut -f1" }
                    .joined(separator: "; ")
            ).words.compactMap { Int($0) }
            #expect(blocks.count == 3 && blocks[1] < blocks[0] / 2 && blocks[2] < blocks[0] / 2, "\(blocks)")
            #expect(try stage.run(["snapshot", "verify"]).status == 0)

            // One in the middle goes, whose successor is made whole; the last is made so for its container.
            #expect(try stage.run(["snapshot", "rm", "d1"]).status == 0)
            #expect(try snapshot("d2")["parent"] == nil)
            #expect(try stage.run(["restore", "box", "d3", "third"]).status == 0)
            #expect(try snapshot("d3")["parent"] == nil)
            let verified = try stage.run(["snapshot", "verify"])
            #expect(verified.status == 0, "\(verified)")
            #expect(try exec("third", "cat /two /three; ls /one 2>/dev/null; md5sum </big") == "two\nthree\n\(sum)")
            #expect(try stage.run(["restore", "box", "d2", "second"]).status == 0)
            #expect(try exec("second", "cat /one /two; ls /three 2>/dev/null; md5sum </big") == "one\ntwo\n\(sum)")

            // A clone's first diff is one of what it was made of.
            try create("second", "--diff", "--tag", "d4")
            #expect(try snapshot("d4")["parent"] == snapshot("d2")["id"])
            // One that is served is made whole first; of another's memory nothing is made.
            let server = try stage.start(["serve-memory", "d4"])
            try server.waitForOutput(".sock\n")
            #expect(try snapshot("d4")["parent"] == nil)
            let socket = String(decoding: server.outputBytes, as: UTF8.self).split(separator: "\n")[0]
            let stranger = try stage.run(["run", "--rm", "--snapshot", "d2", "--memory-server", String(socket)])
            #expect(stranger.status == 125 && stranger.errorText.contains("goes on from the snapshot"), "\(stranger)")
            server.signal(15)
            _ = try server.finish(input: [], seconds: 60)
            #expect(try stage.run(["restore", "second", "d4", "fourth"]).status == 0)
            #expect(try exec("fourth", "cat /one; md5sum </big") == "one\n\(sum)")
        }

        @Test func liveOnesAreWhole() throws {
            defer { clear("busy", "after") }
            // What is written meanwhile is never half in it: each round leaves a file with its own sum.
            try start(
                "busy",
                "n=0; while :; do head -c 200000 /dev/urandom >/new; md5sum </new >/sum.new; "
                    + "mv /new /file; mv /sum.new /sum; n=$((n+1)); [ $n = 3 ] && echo going; done")
            let logs = try stage.start(["logs", "-f", "busy"])
            try logs.waitForOutput("going")
            try create("busy", "--live", "--tag", "live")
            #expect(try snapshot("live")["stepsInMicroseconds"]?["copied while it ran"] != nil)
            #expect(try stage.run(["snapshot", "verify", "live"]).status == 0)
            #expect(try stage.run(["run", "-d", "--snapshot", "live", "--name", "after"]).status == 0)
            let check = "until [ \"$(md5sum </file)\" = \"$(cat /sum)\" ]; do :; done; echo same"
            #expect(try exec("after", check) == "same\n")
            #expect(try exec("busy", check) == "same\n")
            logs.signal(2)
            _ = try logs.finish(input: [], seconds: 60)
        }

        @Test func anArchiveIsASnapshotElsewhere() throws {
            defer { clear("box", "back") }
            try start("box", "exec sleep 1000000")
            _ = try exec("box", "echo kept >/kept")
            try create("box", "--tag", "away")
            let path = "\(stage.root)/away.archive"
            let exported = try stage.run(["snapshot", "export", "away", path])
            #expect(exported.status == 0, "\(exported)")
            let bytes = try Files.read(path, limit: 1 << 30)
            #expect(bytes.starts(with: Array("MARTARCH".utf8)))

            // Into a store that has neither the snapshot nor the image.
            let martlet = "XDG_DATA_HOME=$d \(stage.tree)/bin/martlet"
            let elsewhere = try stage.onHost(
                """
                d=$(mktemp -d); \(martlet) snapshot import --tag here \(path) >/dev/null &&
                \(martlet) snapshot verify here >/dev/null && \(martlet) run -d --snapshot here --name there >/dev/null &&
                \(martlet) exec there cat /kept /bin/busybox | head -n 1; \(martlet) rm -f there >/dev/null
                head -c 100000 \(path) | \(martlet) snapshot import 2>&1; ls -A $d/martlet/snapshots | wc -l; rm -r $d
                """)
            #expect(elsewhere.hasPrefix("kept\n") && elsewhere.contains("cut short"), "\(elsewhere)")
            #expect(elsewhere.hasSuffix("2\n"), "\(elsewhere)")

            // Back again without its image, which is here.
            let small = try stage.run(["snapshot", "export", "--without-image", "away"])
            #expect(small.output.count < bytes.count && small.output.count > 1 << 20)
            #expect(try stage.run(["snapshot", "import", "--tag", "back"], input: small.output).status == 0)
            #expect(try stage.run(["restore", "box", "back", "back"]).status == 0)
            #expect(try exec("back", "cat /kept") == "kept\n")
        }

        @Test func damageIsFound() throws {
            defer { clear("box") }
            try start("box", "exec sleep 1000000")
            try create("box", "--tag", "whole")
            let id = try #require(try snapshot("whole")["id"]?.stringValue)
            let directory = "\"$XDG_DATA_HOME\"/martlet/snapshots/\(id)"
            for (damage, words) in [
                (
                    "dd if=/dev/urandom of=\(directory)/memory bs=4096 seek=512 count=1 conv=notrunc",
                    "not what was saved"
                ),
                ("dd if=/dev/urandom of=\(directory)/state bs=64 seek=20 count=1 conv=notrunc", "damaged"),
                ("truncate -s 4096 \(directory)/memory", "bytes instead of"),
            ] {
                #expect(try stage.onHost("(\(damage)) 2>/dev/null; echo done") == "done\n")
                let found = try stage.run(["snapshot", "verify", "whole"])
                #expect(found.status == 1 && found.text.contains(words), "\(found)")
            }
        }

        /// A disk that is full, and a command that is killed while its container cannot go on: nothing is left, the
        /// container runs, and the next one finds a store that is whole. It waits for what the killed one began.
        @Test func whatFailsLeavesNothing() throws {
            defer { clear("box") }
            try start("box", "exec sleep 1000000")
            let martlet = "\(stage.tree)/bin/martlet"
            for manner in ["", "--live", "--diff"] {
                let full = try stage.onHost(
                    """
                    d=$(mktemp -d); mount -t tmpfs -o size=4m none $d || exit
                    XDG_DATA_HOME=$d \(martlet) snapshot create \(manner) box 2>&1; echo "status $?"
                    ls -A $d/martlet/snapshots; umount $d; rmdir $d
                    """)
                #expect(full.contains("No space left") && full.hasSuffix("status 1\nlock\n"), "\(full)")
                #expect(try exec("box", "echo alive") == "alive\n")
            }
            let inspected = try JSON(parsing: try stage.run(["inspect", "box"]).output).arrayValue?.first
            let monitor = try #require(inspected?["state"]?["monitor"]?["pid"]?.unsignedValue)
            let killed = try stage.onHost(
                """
                s="$XDG_DATA_HOME"/martlet/snapshots; kill -STOP \(monitor)
                \(martlet) snapshot create box & p=$!
                until [ -e "$s"/.new-*/lock ]; do :; done
                kill -9 $p; wait $p; left=$(ls -d "$s"/.new-*)
                \(martlet) snapshot create box >/dev/null & p=$!
                until ls -d "$s"/.new-* | grep -qvF "$left"; do :; done
                kill -CONT \(monitor); wait $p; echo "status $?"; \(martlet) exec box echo alive
                ls -A "$s" | grep -c new-
                """)
            #expect(killed == "status 0\nalive\n0\n", "\(killed)")
        }

        @Test func clonesInANetworkHaveNothingInCommon() throws {
            let names = (1...5).map { "clone\($0)" }
            defer {
                _ = try? stage.run(["rm", "-f", "origin"] + names)
                clear()
            }
            let hook = "cat /proc/sys/kernel/random/uuid >/first"
            try start(
                "origin", more: ["--network", "default"],
                "mkdir -p /etc/martlet/hooks; printf '#!/bin/sh\\n\(hook)\\n' >/etc/martlet/hooks/clone; "
                    + "chmod +x /etc/martlet/hooks/clone; \(hook); exec sleep 1000000")
            let who = """
                cat /first /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id /etc/machine-id; hostname
                head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '; cat /sys/class/net/eth0/address
                ip -o addr show eth0 | sed -n 's/.* inet6* \\([^ ]*\\) .*/\\1/p' | sort
                """
            var seen = Set(try exec("origin", who).words)
            #expect(seen.count >= 9, "\(seen)")
            try create("origin", "--tag", "seed")
            for name in names {
                #expect(try stage.run(["run", "-d", "--snapshot", "seed", "--name", name]).status == 0)
            }
            for name in names {
                let its = Set(try exec(name, who).words)
                #expect(its.count >= 9 && its.isDisjoint(with: seen), "\(its) \(seen)")
                seen.formUnion(its)
            }
        }
    }
}

extension String {
    fileprivate var words: [String] { split { $0 == " " || $0 == "\n" }.map(String.init) }
}
