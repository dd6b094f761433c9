// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing
import Wire

extension EndToEnd {
    /// Machines in the network of the host that they run on. What is outside of that is a network namespace.
    @Suite(.serialized, .enabled(if: geteuid() == 0, "the host's network is changed by root")) struct HostNetwork {
        let stage = Stage.shared

        /// Gives the host a neighbour, and takes it away again.
        private func withNeighbour(_ body: () throws -> Void) throws {
            _ = try stage.onHost(
                """
                ip netns add neighbour; ip link add name mte0 type veth peer name mte1 netns neighbour
                ip addr add 203.0.113.1/24 dev mte0; ip addr add 2001:db8:5::1/64 dev mte0 nodad; ip link set mte0 up
                ip -n neighbour addr add 203.0.113.2/24 dev mte1
                ip -n neighbour addr add 2001:db8:5::2/64 dev mte1 nodad; ip -n neighbour link set mte1 up
                """)
            defer { _ = try? stage.onHost("ip link del mte0; ip netns del neighbour") }
            try body()
        }

        /// What of the host's network is ours.
        private func traces() throws -> String {
            try stage.onHost(
                """
                ip -o link | grep -oE '(martlet|mlt|mtap)[0-9a-f]*' | sort -u; nft list tables; ip neigh show proxy
                cat /proc/sys/net/ipv4/ip_forward; find /run/martlet/host-network -type f ! -name lock
                """)
        }

        private func address(_ name: String) throws -> String {
            let network = try JSON(parsing: try stage.run(["inspect", name]).output).arrayValue?.first?["state"]?[
                "network"]
            return try #require(network?["address"]?.stringValue)
        }

        @Test func bridgedMachinesMeetAndGoOutside() throws {
            let before = try traces()
            let server = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www"
            let started = try stage.run([
                "run", "-d", "--name", "server", "--network", "bridged", "-p", "8088:80", stage.image, "sh", "-c",
                server,
            ])
            #expect(started.status == 0, "\(started)")
            let address = try address("server")
            try withNeighbour {
                // The neighbour knows the host alone.
                let script = "ping -q -c 1 -W 20 203.0.113.2 >&2 && timeout 20 wget -q -O - http://\(address)/"
                let client = try stage.run(["run", "--rm", "--network", "bridged", stage.image, "sh", "-c", script])
                #expect(client.status == 0 && client.text == "hello\n", "\(client)")
                for (place, url) in [("", "127.0.0.1:8088"), ("ip netns exec neighbour ", "203.0.113.1:8088")] {
                    #expect(try stage.onHost("\(place)curl -sS -m 20 http://\(url)/ 2>&1") == "hello\n", "\(url)")
                }
                let taken = try stage.run([
                    "run", "--rm", "--network", "bridged", "-p", "8088:81", stage.image, "true",
                ])
                #expect(taken.status == 125 && taken.errorText.contains("8088"), "\(taken)")
            }
            // A supervisor that is killed takes its monitor along; the next command clears up.
            _ = try stage.onHost("kill -9 $(pidof martlet-supervisor)")
            #expect(try stage.run(["rm", "-f", "server"]).status == 0)
            #expect(try traces() == before)
        }

        /// A fork, a container of a snapshot and a restored one, all with their original's address inside, at the same
        /// time; outside each has one of its own, by which it is reached.
        @Test func clonesOfBridgedMachinesKeepTheirAddress() throws {
            let before = try traces()
            defer { _ = try? stage.run(["rm", "-f", "origin", "forked", "run-again", "restored"]) }
            let page = "saved\n"
            let server = "mkdir /www; echo saved > /www/index.html; exec httpd -f -p 80 -h /www"
            let started = try stage.run([
                "run", "-d", "--name", "origin", "--network", "bridged", "-m", "128m", stage.image, "sh", "-c", server,
            ])
            #expect(started.status == 0, "\(started)")
            let own = try address("origin")
            #expect(try stage.run(["snapshot", "create", "origin", "--tag", "bridged-state"]).status == 0)
            for arguments in [
                ["branch", "origin", "forked"],
                ["run", "-d", "--snapshot", "bridged-state", "--name", "run-again", "-p", "8090:80"],
                ["restore", "origin", "bridged-state", "restored"],
            ] {
                let result = try stage.run(arguments)
                #expect(result.status == 0, "\(result)")
            }
            try withNeighbour {
                var outside: Set<String> = [own]
                for name in ["forked", "run-again", "restored"] {
                    #expect(try address(name) == own)
                    let state = try JSON(parsing: try stage.run(["inspect", name]).output).arrayValue?.first?["state"]
                    let other = try #require(state?["network"]?["outsideAddress"]?.stringValue)
                    outside.insert(other)
                    // In: what the guest has. Out: the host, who is next to it, and a neighbour that knows the host alone.
                    let script = """
                        ip -o -4 addr show eth0; ping -q -c 1 -W 20 203.0.113.2 >&2
                        ping -q -c 1 -W 20 $(ip route | sed -n 's/^default via \\([0-9.]*\\) .*/\\1/p') >&2
                        echo out
                        """
                    let shown = try stage.run(["exec", name, "sh", "-ec", script])
                    #expect(shown.text.contains("inet \(own)/") && shown.text.hasSuffix("out\n"), "\(shown)")
                    #expect(try stage.onHost("curl -sS -m 20 http://\(other)/ 2>&1") == page)
                }
                #expect(outside.count == 4)
                #expect(try stage.onHost("curl -sS -m 20 http://127.0.0.1:8090/ 2>&1") == page)
                // A machine beside them reaches a clone, and a clone it.
                let client = try stage.run([
                    "run", "--rm", "--network", "bridged", stage.image, "sh", "-c",
                    "timeout 20 wget -q -O - http://\(outside.subtracting([own]).min() ?? "")/",
                ])
                #expect(client.status == 0 && client.text == page, "\(client)")
            }
            // Killed with their monitors, or removed: nothing is left of any.
            _ = try stage.onHost("kill -9 $(pidof martlet-supervisor)")
            for name in ["origin", "forked", "run-again", "restored"] {
                #expect(try stage.run(["rm", "-f", name]).status == 0)
            }
            #expect(try stage.run(["snapshot", "rm", "bridged-state"]).status == 0)
            #expect(try traces() == before)
        }

        @Test func routedMachinesHaveAddressesOfTheHostsNetwork() throws {
            let before = try traces()
            try withNeighbour {
                let started = try stage.run([
                    "run", "-d", "--name", "routed", "--network", "routed", "--ip", "203.0.113.9", "--ip6",
                    "2001:db8:5::9", stage.image, "sleep", "1000",
                ])
                #expect(started.status == 0, "\(started)")
                let pings = "ping -q -c 1 -W 20 203.0.113.2 && ping -q -c 1 -W 20 2001:db8:5::2 && echo out"
                let out = try stage.run(["exec", "routed", "sh", "-c", pings])
                #expect(out.text.hasSuffix("out\n"), "\(out)")
                for address in ["203.0.113.9", "2001:db8:5::9"] {
                    let answer = try stage.onHost("ip netns exec neighbour ping -q -c 1 -W 20 \(address) && echo there")
                    #expect(answer.hasSuffix("there\n"), "\(answer)")
                }
                _ = try stage.onHost("kill -9 $(pidof martlet-vmm)")
                for command in ["wait", "rm"] {
                    let done = try stage.run([command, "routed"])
                    #expect(done.status == 0, "\(done)")
                }
            }
            #expect(try traces() == before)
        }

        @Test func aTapDeviceIsMadeAndGoes() throws {
            let before = try traces()
            let started = try stage.run([
                "run", "-d", "--name", "tapped", "--network", "tap=mtap0,gateway=10.77.0.1", "--ip", "10.77.0.2/24",
                stage.image, "sleep", "1000",
            ])
            #expect(started.status == 0, "\(started)")
            let answer = try stage.onHost(
                "ip addr add 10.77.0.1/24 dev mtap0 && ping -q -c 1 -W 20 10.77.0.2 && echo there")
            #expect(answer.hasSuffix("there\n"), "\(answer)")
            let second = try stage.run(["run", "--rm", "--network", "tap=mtap0", stage.image, "true"])
            #expect(second.status == 125 && second.errorText.contains("in use"), "\(second)")
            #expect(try stage.run(["rm", "-f", "tapped"]).status == 0)
            #expect(try traces() == before)
        }

        static let wrong: [([String], String)] = [
            (["--network", "routed"], "--ip"), (["--network", "routed", "--ip", "10.0.0.1", "-p", "80"], "--publish"),
            (["--network", "bridged", "--egress", "deny=all"], "--egress means nothing"),
            (["--network", "bridged", "--ip", "10.0.0.1/24"], "--ip"), (["--network", "bridged,x=1"], "x=1"),
            (["--network", "tap=a/b"], "--network"), (["--network", "tap=t,gateway=x"], "not an IPv4 address"),
        ]

        @Test(arguments: wrong) func wrongOptionsAreNamed(options: [String], words: String) throws {
            let result = try stage.run(["run", "--rm"] + options + ["nothing", "true"])
            #expect(result.status == 125 && result.errorText.contains(words), "\(result)")
        }

        @Test func ordinaryUsersAreTold() throws {
            let user = try stage.asUser(65_534)
            let result = try user.run(["run", "--rm", "--network", "bridged", "nothing", "true"])
            #expect(result.status == 125 && result.errorText.contains("needs root"), "\(result)")
        }
    }
}
