// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing
import Wire

extension EndToEnd {
    /// Machines in networks, as their users see them. Nothing is sent beyond the host: servers are machines or programs
    /// of the host.
    @Suite(.serialized) struct Networks {
        let stage = Stage.shared

        @Test func aMachineHasAnAddressAGatewayAndAName() throws {
            let script = """
                set -e
                ip -o addr show eth0 | grep -q 'inet 10\\.'
                gateway=$(ip route | sed -n 's/^default via \\([0-9.]*\\) .*/\\1/p')
                ping -q -c 1 -W 10 "$gateway"
                ping -q -c 1 -W 10 alone
                # Of its own address, not of the one that the interface had before it was this machine's.
                ip -o -6 addr show dev eth0 | grep -q ' fe80::'
                ! ip -o -6 addr show | grep -q 'fe80::ff:fe00:0/'
                grep -q "^nameserver $gateway" /etc/resolv.conf
                echo done
                """
            // Nothing has to be asked for.
            let result = try stage.run(["run", "--rm", "--name", "alone", stage.image, "sh", "-c", script])
            #expect(result.status == 0 && result.text.hasSuffix("done\n"), "\(result)")
            let without = try stage.run(["run", "--rm", "--network", "none", stage.image, "ls", "/sys/class/net"])
            #expect(without.text == "lo\n", "\(without)")
            try stage.expectNothingLeft()
        }

        @Test func machinesOfOneNetworkMeetAndOthersDoNot() throws {
            #expect(try stage.run(["network", "create", "--subnet", "10.99.0.0/24", "blue"]).text == "blue\n")
            #expect(try stage.run(["network", "create", "--subnet", "10.99.0.0/24", "red"]).text == "red\n")
            let server = "mkdir /www; echo hello from blue > /www/index.html; exec httpd -f -p 80 -h /www"
            let started = try stage.run([
                "run", "-d", "--name", "server", "--network", "blue", "--ip", "10.99.0.80", "--network-alias", "www",
                "--publish", "127.0.0.1:0:80", stage.image, "sh", "-c", server,
            ])
            #expect(started.status == 0, "\(started)")

            let fetch = "timeout 10 wget -q -O - http://10.99.0.80/"
            let near = try stage.run([
                "run", "--rm", "--network", "blue", stage.image, "sh", "-c", "ping -q -c 1 -W 10 www >&2 && \(fetch)",
            ])
            #expect(near.status == 0 && near.text == "hello from blue\n", "\(near)")
            // The same addresses, another network: nobody is there.
            let far = try stage.run([
                "run", "--rm", "--network", "red", stage.image, "sh", "-c",
                "ping -q -c 1 -W 2 www || \(fetch) || echo alone",
            ])
            #expect(far.text.hasSuffix("alone\n"), "\(far)")

            // From this machine by the published port, whose number it chose.
            let inspected = try JSON(parsing: try stage.run(["inspect", "server"]).output).arrayValue?.first
            let ports = inspected?["state"]?["network"]?["published"]?.arrayValue?.first
            let port = try #require(ports?["hostPort"]?.unsignedValue)
            #expect(port > 0)
            let fetched = try stage.shell("curl -sS -m 20 http://127.0.0.1:\(port)/")
            #expect(fetched.text == "hello from blue\n", "\(fetched)")

            let taken = try stage.run([
                "run", "--rm", "--network", "blue", "-p", "127.0.0.1:\(port):80", stage.image, "true",
            ])
            #expect(taken.status == 125 && taken.errorText.contains("\(port)"), "\(taken)")
            let twin = try stage.run(["run", "--rm", "--network", "blue", "--ip", "10.99.0.80", stage.image, "true"])
            #expect(twin.status == 125 && twin.errorText.contains("10.99.0.80"), "\(twin)")

            let inUse = try stage.run(["network", "rm", "blue"])
            #expect(inUse.status == 1 && inUse.errorText.contains("in use"), "\(inUse)")
            #expect(try stage.run(["rm", "-f", "server"]).status == 0)
            // The port went with its machine.
            #expect(try stage.shell("curl -sS -m 20 http://127.0.0.1:\(port)/ || echo gone").text == "gone\n")
            try stage.expectNothingLeft()
        }

        @Test func whatTheHostReachesAMachineReaches() throws {
            // The address of the emulated host's own gateway, or any other of the host's: nobody listens at port 9.
            let refused = try stage.run([
                "run", "--rm", "--network", "default", stage.image, "sh", "-c",
                "nc -w 10 169.254.169.254 80 </dev/null; echo metadata $?; nc -w 10 127.0.0.1 9 </dev/null; echo own $?",
            ])
            #expect(refused.text == "metadata 1\nown 1\n", "\(refused)")
            try stage.expectNothingLeft()
        }

        static let wrong: [([String], String)] = [
            (["--network", "nowhere"], "no such network: nowhere"), (["--network", "-x"], "--network"),
            (["-p", "80:80:80"], "--publish"), (["-p", "70000"], "--publish"), (["--ip", "1.2.3"], "--ip"),
            (["--mac", "01:00:00:00:00:00"], "--mac"), (["--add-host", "a"], "--add-host"),
            (["--network", "none", "-p", "80"], "--publish means nothing"), (["--egress", "all"], "--egress"),
            (["--dns", "example.org"], "--dns"),
        ]

        @Test(arguments: wrong) func wrongOptionsAreNamed(options: [String], words: String) throws {
            let result = try stage.run(["run", "--rm"] + options + [stage.image, "true"])
            #expect(result.status == 125 && result.errorText.contains(words), "\(result)")
            try stage.expectNothingLeft()
        }
    }
}
