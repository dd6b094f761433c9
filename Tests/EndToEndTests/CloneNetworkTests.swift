// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing
import Wire

extension EndToEnd {
    /// Clones of machines that are in a network: each has a place of its own there before anything of it runs.
    @Suite(.serialized) struct CloneNetworks {
        let stage = Stage.shared

        /// Holds a connection to an echo server: what is written to /in goes to it, /out has what comes back, /end what
        /// became of it.
        private static let client = """
            mkfifo /in /out /end; exec 3<>/in 4<>/out 5<>/end
            (nc 10.97.0.7 7000 <&3 >&4 3>&- 5>&-; echo ended >&5) &
            echo one >&3; read line <&4; echo "got $line"; exec sleep 1000000
            """
        private static let server = "exec nc -ll -p 7000 -e /bin/cat"

        private func state(_ name: String) throws -> JSON {
            try #require(try JSON(parsing: try stage.run(["inspect", name]).output).arrayValue?.first?["state"])
        }

        private func exec(_ name: String, _ script: String) throws -> String {
            let result = try stage.run(["exec", name, "sh", "-c", script], seconds: 60)
            #expect(result.status == 0, "\(result)")
            return result.text
        }

        @Test func aCloneHasItsOwnPlaceAndItsConnectionsAreReset() throws {
            defer {
                _ = try? stage.run(["rm", "-f", "echo", "one", "two", "three", "four", "fork-1"])
                _ = try? stage.run(["network", "rm", "herd", "other"])
            }
            #expect(try stage.run(["network", "create", "--subnet", "10.97.0.0/24", "herd"]).status == 0)
            #expect(try stage.run(["network", "create", "--subnet", "10.96.0.0/24", "other"]).status == 0)
            for (name, more, script) in [
                ("echo", ["--ip", "10.97.0.7"], Self.server), ("one", ["-p", "127.0.0.1:0:80"], Self.client),
            ] {
                let started = try stage.run(
                    ["run", "-d", "--name", name, "--network", "herd", "-m", "128m"] + more
                        + [stage.image, "sh", "-c", script])
                #expect(started.status == 0, "\(started)")
            }
            // The client's connection is there once it has answered.
            let logs = try stage.start(["logs", "-f", "one"])
            try logs.waitForOutput("got one")
            let saved = try stage.run(["snapshot", "create", "one", "--tag", "held"])
            #expect(saved.status == 0, "\(saved)")

            let two = try stage.run(["run", "-d", "--snapshot", "held", "--name", "two"])
            #expect(two.status == 0, "\(two)")
            #expect(try exec("two", "read line </end; echo $line") == "ended\n")
            // The source knows nothing of it.
            #expect(try exec("one", "echo two >/in; read line </out; echo $line") == "two\n")

            let (first, second) = (try state("one"), try state("two"))
            for step in ["connections", "network", "files", "thaw"] {
                #expect(second["identityInMicroseconds"]?[step] != nil, "\(second)")
            }
            let mine = try #require(first["network"])
            let its = try #require(second["network"])
            for member in ["mac", "address"] { #expect(mine[member] != its[member], "\(mine) \(its)") }
            #expect(mine["published"]?.arrayValue?.count == 1 && its["published"]?.arrayValue?.isEmpty == true)
            let address = try #require(its["address"]?.stringValue)
            let station = try #require(its["mac"]?.stringValue)
            // The guest has these, and none but these.
            let shown = try exec("two", "ip -o addr show eth0; cat /sys/class/net/eth0/address /etc/hosts; ip route")
            #expect(shown.contains("inet \(address)/24") && shown.contains(station), "\(shown)")
            #expect(shown.contains("\(address)\t") && shown.contains("default via 10.97.0.1"), "\(shown)")
            let former = try #require(mine["address"]?.stringValue)
            #expect(!shown.contains("\(former)/") && !shown.contains("\(former)\t"), "\(shown)")
            // Both reach the server, and each the other by its name.
            #expect(try exec("two", "echo hello | nc -w 20 10.97.0.7 7000 | head -n 1") == "hello\n")
            #expect(try exec("one", "ping -q -c 1 -W 20 two >/dev/null; echo $?") == "0\n")
            #expect(try exec("two", "ping -q -c 1 -W 20 one >/dev/null; echo $?") == "0\n")

            // A fork has a place of its own too, and lets go of the connection.
            let forked = try stage.run(["fork", "one", "--name-prefix", "fork"])
            #expect(forked.status == 0, "\(forked)")
            #expect(try exec("fork-1", "read line </end; echo $line") == "ended\n")
            #expect(try exec("one", "echo three >/in; read line </out; echo $line") == "three\n")
            let third = try #require(try state("fork-1")["network"])
            for member in ["mac", "address"] { #expect(third[member] != its[member] && third[member] != mine[member]) }
            #expect(try exec("fork-1", "echo hello | nc -w 20 10.97.0.7 7000 | head -n 1") == "hello\n")
            #expect(try exec("one", "ping -q -c 1 -W 20 fork-1 >/dev/null; echo $?") == "0\n")

            // A fork of the clone, in another network, with a port and an address that are asked for.
            let three = try stage.run([
                "branch", "--network", "other", "--ip", "10.96.0.33", "-p", "127.0.0.1:0:80", "two", "three",
            ])
            #expect(three.status == 0, "\(three)")
            let moved = try exec("three", "ip -o -4 addr show eth0; cat /etc/resolv.conf")
            #expect(moved.contains("inet 10.96.0.33/24") && moved.contains("nameserver 10.96.0.1"), "\(moved)")
            #expect(!moved.contains("10.97."), "\(moved)")
            #expect(try state("three")["network"]?["published"]?.arrayValue?.count == 1)

            // What cannot be had is told, and nothing comes of it.
            let taken = try stage.run(["restore", "--ip", former, "one", "held", "four"])
            #expect(taken.status == 125 && taken.errorText.contains(former), "\(taken)")
            let four = try stage.run(["restore", "one", "held", "four"])
            #expect(four.status == 0, "\(four)")
            #expect(try state("four")["network"]?["address"] != its["address"])
            logs.signal(2)
            _ = try logs.finish(input: [], seconds: 60)
            #expect(try stage.run(["snapshot", "rm", "held"]).status == 0)
        }

        @Test func aCloneCanBePutIntoANetworkThatItsOriginalWasNotIn() throws {
            defer {
                _ = try? stage.run(["rm", "-f", "apart", "met"])
                _ = try? stage.run(["snapshot", "rm", "alone"])
            }
            // The second start goes on from a template, or the first has made one: places for devices are left.
            let started = try stage.run([
                "run", "-d", "--name", "apart", "--network", "none", "-m", "128m", stage.image, "sleep", "1000000",
            ])
            #expect(started.status == 0, "\(started)")
            // A fork has the devices that its original has.
            let branch = try stage.run(["branch", "--network", "default", "apart", "met"])
            #expect(branch.status == 1 && branch.errorText.contains("is in no network"), "\(branch)")
            #expect(try stage.run(["snapshot", "create", "apart", "--tag", "alone"]).status == 0)
            let met = try stage.run(["restore", "--network", "default", "apart", "alone", "met"])
            #expect(met.status == 0, "\(met)")
            let address = try #require(try state("met")["network"]?["address"]?.stringValue)
            #expect(try exec("met", "ip -o addr show eth0").contains("inet \(address)/"))
            #expect(try exec("apart", "ls /sys/class/net") == "lo\n")
        }
    }
}
