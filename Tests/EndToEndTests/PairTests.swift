// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing
import Wire

extension EndToEnd {
    /// Interfaces with a pair of queues for each processor.
    @Suite(.serialized) struct QueuePairs {
        let stage = Stage.shared

        private func exec(_ name: String, _ script: String, input: [UInt8] = []) throws -> String {
            let result = try stage.run(["exec", "-i", name, "sh", "-ec", script], input: input, seconds: 120)
            #expect(result.status == 0, "\(result)")
            return result.text
        }

        /// Bytes there and back (Tests/Tools/traffic.c looks at each of them), from each processor, which sends by its
        /// own queue.
        private func expectTraffic(of name: String) throws {
            #expect(try exec(name, "ls /sys/class/net/eth0/queues") == "rx-0\nrx-1\ntx-0\ntx-1\n")
            let script = """
                for processor in 1 2; do
                    taskset $processor /tmp/traffic down peer 7000 1048576; taskset $processor /tmp/traffic up peer 7000 1048576
                    taskset $processor /tmp/traffic udp peer 7001 32 1400
                done; echo done
                """
            #expect(try exec(name, script) == "done\n")
        }

        @Test func eachProcessorHasItsOwn() throws {
            defer {
                _ = try? stage.run(["rm", "-f", "peer", "two", "again", "fork-1"])
                _ = try? stage.run(["snapshot", "rm", "pairs"])
            }
            let path = "\(stage.root)/traffic-pairs"
            let compiled = try stage.shell("musl-gcc -static -Os -o '\(path)' '\(Stage.package)/Tests/Tools/traffic.c'")
            #expect(compiled.status == 0, "\(compiled)")
            let tool = try Files.read(path, limit: 1 << 20)
            for (name, processors) in [("peer", "1"), ("two", "2")] {
                let started = try stage.run([
                    "run", "-d", "--name", name, "--cpus", processors, "-m", "128m", stage.image, "sh", "-ec",
                    "mkfifo /tmp/go; read word < /tmp/go; exec /tmp/traffic serve 7000 7001",
                ])
                #expect(started.status == 0, "\(started)")
                _ = try exec(
                    name,
                    """
                    cat > /tmp/traffic; chmod 755 /tmp/traffic
                    until [ -p /tmp/go ]; do :; done; echo go > /tmp/go
                    until netstat -ltn | grep -q :7000; do :; done
                    """, input: tool)
            }
            #expect(try exec("peer", "ls /sys/class/net/eth0/queues") == "rx-0\ntx-0\n")
            try expectTraffic(of: "two")
            // The other way round.
            let called = try exec("peer", "for n in 1 2 3 4; do /tmp/traffic down two 7000 262144; done; echo done")
            #expect(called == "done\n")
            #expect(try stage.run(["snapshot", "create", "two", "--tag", "pairs"]).status == 0)
            let again = try stage.run(["run", "-d", "--snapshot", "pairs", "--name", "again"])
            #expect(again.status == 0, "\(again)")
            try expectTraffic(of: "again")
            let forked = try stage.run(["fork", "two", "--name-prefix", "fork"])
            #expect(forked.status == 0, "\(forked)")
            try expectTraffic(of: "fork-1")
            try expectTraffic(of: "two")
        }
    }
}
