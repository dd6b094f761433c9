// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing
import Wire

extension EndToEnd {
    /// Networks that running containers get and leave.
    @Suite(.serialized) struct Connecting {
        let stage = Stage.shared

        private func inspect(_ name: String) throws -> JSON {
            try #require(try JSON(parsing: try stage.run(["inspect", name]).output).arrayValue?.first)
        }

        private func exec(_ name: String, _ script: String) throws -> String {
            let result = try stage.run(["exec", name, "sh", "-c", script], seconds: 90)
            #expect(result.status == 0, "\(result)")
            return result.text
        }

        /// Whether one container reaches others by these names; those that it does not are named.
        private func expectToReach(_ names: [String], from container: String) throws {
            let script = "for n in \(names.joined(separator: " ")); do ping -q -c 1 -W 20 $n >&2 || echo $n; done"
            #expect(try exec(container, script) == "", "from \(container)")
        }

        private func refused(_ arguments: [String], _ words: String) throws {
            let result = try stage.run(["network"] + arguments)
            #expect(result.status == 1 && result.errorText.contains(words), "\(arguments) \(result)")
        }

        @Test func aRunningContainerGetsAndLeavesNetworks() throws {
            defer {
                _ = try? stage.run(["rm", "-f", "middle", "peer", "middle-1", "second"])
                _ = try? stage.run(["network", "rm", "near", "far", "twin"])
            }
            for (name, subnet) in [("near", "10.95.0.0/24"), ("far", "10.94.0.0/24"), ("twin", "10.95.0.0/24")] {
                #expect(try stage.run(["network", "create", "--subnet", subnet, name]).status == 0)
            }
            for (name, more) in [
                ("middle", ["--network", "near", "--ip", "10.95.0.9", "-p", "127.0.0.1:0:80"]),
                ("peer", ["--network", "far"]),
            ] {
                let started = try stage.run(
                    ["run", "-d", "--name", name, "-m", "128m"] + more + [
                        stage.image, "sh", "-c", "mkdir /www; echo here >/www/index.html; exec httpd -f -p 80 -h /www",
                    ])
                #expect(started.status == 0, "\(started)")
            }

            try refused(["connect", "nowhere", "middle"], "no such network: nowhere")
            try refused(["connect", "far", "nobody"], "no such machine: nobody")
            try refused(["connect", "near", "middle"], "in network near already")
            try refused(["connect", "twin", "middle"], "have the same addresses")
            try refused(["connect", "bridged", "middle"], "bridged")
            try refused(["connect", "--ip", "10.94.0.1", "far", "middle"], "10.94.0.1")
            try refused(["disconnect", "far", "middle"], "not in network far")
            #expect(try exec("middle", "ls /sys/class/net") == "eth0\nlo\n")

            let connected = try stage.run([
                "network", "connect", "--ip", "10.94.0.77", "--alias", "between", "far", "middle",
            ])
            #expect(connected.status == 0, "\(connected)")
            let shown = try exec("middle", "ip -o -4 addr show eth1; ip route; cat /etc/resolv.conf /etc/hosts")
            #expect(shown.contains("inet 10.94.0.77/24") && shown.contains("default via 10.95.0.1"), "\(shown)")
            #expect(shown.contains("search near far\nnameserver 10.94.0.1\nnameserver 10.95.0.1\n"), "\(shown)")
            #expect(shown.contains("10.95.0.9\t") && shown.contains("10.94.0.77\t"), "\(shown)")
            try expectToReach(["peer", "peer.far", "middle.near", "gateway.near", "gateway.far"], from: "middle")
            try expectToReach(["middle", "between", "middle.far"], from: "peer")
            // A name that nobody has is known to be none, by the one server that has the last word.
            let missing = "nslookup nobody 2>&1; nslookup nobody.far 2>&1; true"
            #expect(try exec("middle", missing).contains("NXDOMAIN"))
            let networks = try inspect("middle")["state"]?["networks"]?.arrayValue ?? []
            #expect(networks.compactMap { $0["name"]?.stringValue } == ["near", "far"])
            #expect(networks.compactMap { $0["interface"]?.stringValue } == ["eth0", "eth1"])
            let far = try JSON(parsing: try stage.run(["network", "inspect", "far"]).output)
            let machines = far["fabric"]?["machines"]?.arrayValue ?? []
            #expect(Set(machines.compactMap { $0["name"]?.stringValue }) == ["middle", "peer"])

            // A capture of it has both, each as an interface.
            let capture = try stage.start(["network", "capture", "middle"])
            try capture.waitForOutput("martlet-fabric")
            let pings = "for n in gateway.near gateway.far; do ping -q -c 2 -W 20 $n >/dev/null; done; echo done"
            #expect(try exec("middle", pings) == "done\n")
            capture.signal(2)
            let captured = try capture.finish(input: [], seconds: 60)
            #expect(captured.status == 0 && captured.errorText.contains("frames captured"), "\(captured.errorText)")
            try Files.writeAtomically(captured.output, to: "\(stage.root)/both.pcapng")
            let seen = try stage.shell(
                "tshark -r \(stage.root)/both.pcapng -Y 'icmp.type == 0' -T fields -e frame.interface_name "
                    + "-e frame.interface_description -e ip.src 2>/dev/null | sort -u")
            #expect(seen.text == "eth0\tnear\t10.95.0.1\neth1\tfar\t10.94.0.1\n", "\(seen)")

            // A fork is in both, at places of its own.
            let forked = try stage.run(["fork", "middle"])
            #expect(forked.status == 0, "\(forked)")
            let own = try exec("middle-1", "ip -o -4 addr; ip route; cat /etc/resolv.conf")
            #expect(own.contains("10.95.0.") && own.contains("10.94.0.") && own.contains("default via 10.95.0.1"))
            #expect(!own.contains("10.95.0.9/") && !own.contains("10.94.0.77/"), "\(own)")
            try expectToReach(["peer", "middle.near", "middle.far"], from: "middle-1")
            try expectToReach(["middle-1"], from: "peer")

            // The first network goes: the other one leads, and the port is not published any more.
            let left = try stage.run(["network", "disconnect", "near", "middle"])
            #expect(left.status == 0, "\(left)")
            let after = try exec("middle", "ls /sys/class/net; ip route; cat /etc/resolv.conf /etc/hosts")
            #expect(after.hasPrefix("eth1\nlo\n") && after.contains("default via 10.94.0.1"), "\(after)")
            #expect(after.contains("search far\nnameserver 10.94.0.1\n") && !after.contains("10.95.0."), "\(after)")
            try expectToReach(["peer"], from: "middle")
            let published = networks.first?["published"]?.arrayValue?.first?["hostPort"]?.unsignedValue
            let port = try #require(published)
            #expect(try stage.shell("curl -sS -m 20 http://127.0.0.1:\(port)/ || echo gone").text == "gone\n")

            // Its address and its slot are free for the next.
            let again = try stage.run(["network", "connect", "--ip", "10.95.0.9", "near", "middle"])
            #expect(again.status == 0, "\(again)")
            #expect(try exec("middle", "ip -o -4 addr show eth0").contains("inet 10.95.0.9/24"))
            try expectToReach(["gateway.near"], from: "middle")
            #expect(try stage.run(["network", "disconnect", "-f", "near", "middle"]).status == 0)
            #expect(try stage.run(["network", "disconnect", "far", "middle"]).status == 0)
            #expect(try exec("middle", "ls /sys/class/net; ip route") == "lo\n")
            #expect(try stage.run(["stop", "-t", "0", "middle"]).status == 0)
            try refused(["connect", "far", "middle"], "is not running")
        }

        @Test func aContainerIsInSeveralNetworksFromItsBeginning() throws {
            defer { _ = try? stage.run(["network", "rm", "left", "right"]) }
            #expect(try stage.run(["network", "create", "--internal", "--subnet", "10.93.0.0/24", "left"]).status == 0)
            #expect(try stage.run(["network", "create", "--subnet", "10.92.0.0/24", "right"]).status == 0)
            let script = "ip -o -4 addr show; ip route; cat /etc/resolv.conf; ping -q -c 1 -W 20 both.right"
            let both = try stage.run([
                "run", "--rm", "--name", "both", "--network", "left", "--network", "right", "-m", "128m", stage.image,
                "sh", "-c", script,
            ])
            // The one that leads outside leads, though it is the second.
            #expect(both.status == 0 && both.text.contains("default via 10.92.0.1 dev eth1"), "\(both)")
            #expect(both.text.contains("inet 10.93.0.") && both.text.contains("inet 10.92.0."), "\(both)")
            #expect(both.text.contains("nameserver 10.93.0.1\nnameserver 10.92.0.1\n"), "\(both)")
            for (options, words) in [
                (["--network", "left", "--network", "left"], "twice"),
                (["--network", "left", "--network", "none"], "goes with no other"),
            ] {
                let result = try stage.run(["run", "--rm"] + options + [stage.image, "true"])
                #expect(result.status == 125 && result.errorText.contains(words), "\(result)")
            }
        }
    }
}
