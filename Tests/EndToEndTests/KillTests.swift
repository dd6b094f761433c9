// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing

extension EndToEnd {
    /// Processes that are killed in the middle of saving, restoring and forking, and disks that are full: a few points of
    /// each. `./soak` does all (Tests/Tools/kill-steps, Tests/Tools/full-steps).
    @Suite(.serialized) struct Kills {
        private var stage: Stage { Stage.shared }

        /// Runs a script with a container to try it on.
        private func run(_ script: (_ source: String) -> String) throws -> String {
            let name = "victim"
            let started = try stage.run([
                "run", "-d", "--name", name, "--network", "none", "-m", "64m", stage.image, "sh", "-c",
                "exec sleep 1000000",
            ])
            #expect(started.status == 0, "\(started)")
            defer {
                _ = try? stage.run(["rm", "-f", name, "made"])
                _ = try? stage.run(["snapshot", "rm", "kept"])
            }
            return try stage.onHost(script(name))
        }

        @Test(arguments: [
            ("create", "command", 4), ("restore", "command", 4), ("fork", "new-supervisor", 4),
        ])
        func nothingIsLeftOfAKilledProcess(operation: String, victim: String, count: Int) throws {
            let tool = "\(stage.root)/kill-at"
            let made = try stage.shell("musl-gcc -O2 -static -o '\(tool)' '\(Stage.package)/Tests/Tools/kill-at.c'")
            try #require(made.status == 0, "\(made)")
            let output = try run {
                "'\(Stage.package)/Tests/Tools/kill-steps' '\(stage.tree)/bin/martlet' '\(tool)' \($0) "
                    + "\(operation) \(victim) \(count) 2>&1"
            }
            // It was killed each time, and there is nothing else to say.
            #expect(output.hasPrefix("\(operation) \(victim): \(count) of "), "\(output)")
        }

        @Test(arguments: ["live", "fork"]) func nothingIsLeftWhereADiskIsFull(operation: String) throws {
            let output = try run {
                "'\(Stage.package)/Tests/Tools/full-steps' '\(stage.tree)/bin/martlet' \($0) \(operation) 4 2>&1"
            }
            #expect(output == "\(operation): 4 points\n", "\(output)")
        }
    }
}
