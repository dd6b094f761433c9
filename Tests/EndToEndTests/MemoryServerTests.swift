// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing
import Wire

extension EndToEnd {
    /// Containers whose memory a page server hands over, and pages that are there beforehand.
    @Suite(.serialized) struct Restores {
        private var stage: Stage { Stage.shared }

        private func withSnapshot(_ body: (_ directory: String) throws -> Void) throws {
            let run = try stage.run([
                "run", "-d", "--name", "source", "-m", "128m", stage.image, "sh", "-c",
                "head -c 8000000 /dev/urandom > /data; md5sum < /data > /sum; touch /done; sleep 100000",
            ])
            #expect(run.status == 0, "\(run)")
            defer { _ = try? stage.run(["rm", "-f", "source"]) }
            let ready = try stage.run(["exec", "source", "sh", "-c", "until [ -e /done ]; do sleep 0.1; done"])
            #expect(ready.status == 0, "\(ready)")
            let made = try stage.run(["snapshot", "create", "source", "--tag", "warm"])
            #expect(made.status == 0, "\(made)")
            defer { _ = try? stage.run(["snapshot", "rm", "warm"]) }
            let id = made.text.split(separator: "\n").first.map(String.init) ?? ""
            try body("\"$XDG_DATA_HOME\"/martlet/snapshots/\(id)")
        }

        /// What the container wrote before it was saved is as it was.
        private func expectWhole(_ name: String) throws {
            let check = try stage.run(["exec", name, "sh", "-c", "md5sum < /data | cmp - /sum && echo whole"])
            #expect(check.text == "whole\n", "\(check)")
        }

        @Test func twoClonesOfAPageServerAndItsEnd() throws {
            try withSnapshot { _ in
                let server = try stage.start(["serve-memory", "warm"])
                try server.waitForOutput(".sock\n")
                let socket = String(decoding: server.outputBytes, as: UTF8.self).split(separator: "\n")[0]
                for name in ["one", "two"] {
                    let run = try stage.run([
                        "run", "-d", "--snapshot", "warm", "--name", name, "--memory-server", String(socket),
                    ])
                    #expect(run.status == 0, "\(run)")
                }
                defer { _ = try? stage.run(["rm", "-f", "one", "two"]) }
                try expectWhole("one")
                // One that ends leaves the other as it is.
                #expect(try stage.run(["rm", "-f", "one"]).status == 0)
                try expectWhole("two")
                // Without its server it ends, and says why.
                server.signal(15)
                _ = try server.finish(input: [], seconds: 60)
                #expect(try stage.run(["wait", "two"]).text == "125\n")
                let state = try JSON(parsing: try stage.run(["inspect", "two"]).output).arrayValue?.first?["state"]
                #expect(state?["reason"]?.stringValue?.contains("the memory server at \(socket) is gone") == true)
                #expect(try stage.onHost("ls \(socket) 2>&1 | grep -c 'No such file'") == "1\n")
                let late = try stage.run(["run", "--snapshot", "warm", "--memory-server", String(socket)])
                #expect(late.status == 125 && late.errorText.contains("martlet serve-memory"), "\(late)")
            }
            try stage.expectNothingLeft()
        }

        @Test func theFirstCloneLeavesItsWorkingSetToTheNext() throws {
            try withSnapshot { directory in
                func clone() throws {
                    #expect(try stage.run(["run", "-d", "--snapshot", "warm", "--name", "clone"]).status == 0)
                    try expectWhole("clone")
                    #expect(try stage.run(["rm", "-f", "clone"]).status == 0)
                }
                func workingSet() throws -> String { try stage.onHost("cksum < \(directory)/working-set 2>&1") }
                try clone()
                let first = try workingSet()
                #expect(first.split(separator: " ").count == 2, "\(first)")
                // It is used, and stays.
                try clone()
                #expect(try workingSet() == first)
                // What the first only read is in huge pages from then on, where the kernel knows such of files: the
                // emulated host's is the project's own.
                #expect(try stage.run(["run", "-d", "--snapshot", "warm", "--name", "clone"]).status == 0)
                let huge = try stage.onHost(
                    """
                    p=$(pgrep -x martlet-vmm | tail -n 1)
                    awk '/^FilePmdMapped:/ { sum += $2 } END { print sum }' /proc/$p/smaps; uname -r
                    """)
                let lines = huge.split(separator: "\n").map(String.init)
                try #require(lines.count == 2, "\(huge)")
                if lines[1].hasSuffix("-martlet") { #expect(Int(lines[0]) ?? 0 >= 4096, "\(huge)") }
                try expectWhole("clone")
                #expect(try stage.run(["rm", "-f", "clone"]).status == 0)
                // A damaged one does no harm, and is replaced by the clone after the one that has noticed.
                _ = try stage.onHost("printf x | dd of=\(directory)/working-set bs=1 seek=70 conv=notrunc 2>/dev/null")
                let damaged = try workingSet()
                #expect(damaged != first)
                try clone()
                try clone()
                let last = try workingSet()
                #expect(last != damaged && last.split(separator: " ").count == 2, "\(last)")
                #expect(try stage.run(["snapshot", "verify", "warm"]).text.hasSuffix(": whole\n"))
            }
            try stage.expectNothingLeft()
        }
    }
}
