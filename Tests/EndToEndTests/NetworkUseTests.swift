// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing
import Wire

extension EndToEnd {
    /// What networks are used for besides: ports, captures, rules; and what becomes of it all when a process is killed.
    /// The server "outside" is a socket of this test's, on this machine's loopback.
    @Suite(.serialized) struct NetworkUse {
        let stage = Stage.shared

        private func outside() throws -> Descriptor {
            try InternetSocket.listen(at: SocketAddress(ipv4: 0x7F00_0001, port: 0), backlog: 16)
        }

        private func published(by name: String) throws -> [JSON] {
            let inspected = try JSON(parsing: try stage.run(["inspect", name]).output).arrayValue?.first
            return inspected?["state"]?["network"]?["published"]?.arrayValue ?? []
        }

        /// Ranges, equal ports of two loopback addresses, a half-closed stream, a port that is taken.
        @Test func publishedPortsAreThisMachines() throws {
            // What counts answers after the end of what it counts.
            let script = """
                nc -l -p 9001 -e cat & exec nc -l -p 80 -e sh -c 'wc -c; echo done'
                """
            #expect(try stage.run(["network", "create", "ports"]).status == 0)
            let started = try stage.run([
                "run", "-d", "--name", "one", "--network", "ports", "-p", "127.0.0.2:0:80", "-p", "127.0.0.2:0:53/udp",
                "-p", "127.0.0.2:18990-18992:9000-9002", stage.image, "sh", "-c", script,
            ])
            #expect(started.status == 0, "\(started)")
            let ports = try published(by: "one").map { UInt16($0["hostPort"]?.unsignedValue ?? 0) }
            try #require(ports.count == 3 && ports[0] > 0 && ports[1] > 0 && ports[2] == 18_990)
            let taken = try stage.run([
                "run", "--rm", "--network", "ports", "-p", "127.0.0.2:\(ports[0]):80", stage.image, "echo", "ran",
            ])
            #expect(taken.status == 125 && taken.text.isEmpty, "\(taken)")
            #expect(taken.errorText.contains("127.0.0.2:\(ports[0])/tcp is used"), "\(taken)")
            let other = try stage.run([
                "run", "--rm", "--network", "ports", "-p", "127.0.0.3:\(ports[0]):80", stage.image, "echo", "ran",
            ])
            #expect(other.status == 0 && other.text == "ran\n", "\(other)")

            // Both listen: 9001 and 80.
            let listen = "until cat /proc/net/tcp* | grep ':2329 ' && cat /proc/net/tcp* | grep ':0050 '; do :; done"
            #expect(try stage.run(["exec", "one", "sh", "-c", listen]).status == 0)
            let middle = try connected(to: 2, 18_991)
            try middle.writeAll(Array("middle".utf8))
            #expect(try answer(of: middle) == Array("middle".utf8))
            // Half-closed: what comes back comes after the end of what goes there.
            let counted = try connected(to: 2, ports[0])
            try counted.writeAll([UInt8](repeating: 7, count: 100_000))
            InternetSocket.finishSending(counted)
            let text = try [answer(of: counted), counted.readAll(limit: 1000)].joined()
            #expect(String(decoding: text, as: UTF8.self) == "100000\ndone\n")
            #expect(try stage.run(["rm", "-f", "one"]).status == 0)
            #expect(try stage.run(["network", "rm", "ports"]).status == 0)
        }

        /// A socket connected to 127.0.0.`last`, whose calls wait.
        private func connected(to last: UInt32, _ port: UInt16) throws -> Descriptor {
            let socket = try InternetSocket.make(.stream, ipv4: true)
            try socket.setNonBlocking(false)
            _ = try InternetSocket.connect(socket, to: SocketAddress(ipv4: 0x7F00_0000 | last, port: port))
            return socket
        }

        /// The first of what comes.
        private func answer(of socket: borrowing Descriptor) throws -> [UInt8] {
            var entry = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
            try #require(poll(&entry, 1, 60_000) == 1)
            var space = [UInt8](repeating: 0, count: 65_536)
            let count = recv(socket.raw, &space, space.count, 0)
            try #require(count >= 0)
            return Array(space[..<count])
        }

        @Test func capturesAreWholeAndReadByWireshark() throws {
            #expect(try stage.run(["network", "create", "seen"]).status == 0)
            let capture = try stage.start(["network", "capture", "seen"])
            // Its first block, which says who writes.
            try capture.waitForOutput("martlet-fabric")
            let pinged = try stage.run([
                "run", "--rm", "--network", "seen", stage.image, "sh", "-c",
                "ping -q -c 3 -W 10 $(ip route | sed -n 's/^default via \\([0-9.]*\\) .*/\\1/p')",
            ])
            #expect(pinged.status == 0, "\(pinged)")
            capture.signal(SIGINT)
            let result = try capture.finish(input: [], seconds: 60)
            #expect(result.status == 0 && result.errorText.contains("frames captured"), "\(result.errorText)")
            try Files.writeAtomically(result.output, to: "\(stage.root)/seen.pcapng")
            let read = try stage.shell(
                "tshark -r \(stage.root)/seen.pcapng -Y icmp -T fields -e icmp.type 2>\(stage.root)/tshark.err")
            #expect(read.text.split(separator: "\n").filter { $0 == "8" }.count == 3, "\(read)")
            #expect(read.text.split(separator: "\n").filter { $0 == "0" }.count == 3, "\(read)")
            let errors = try stage.shell("cat \(stage.root)/tshark.err").text
            #expect(!errors.contains("cut short"), "\(errors)")
            let nobody = try stage.run(["network", "capture", "nobody"])
            #expect(nobody.status == 1 && nobody.errorText.contains("nobody"), "\(nobody)")
            #expect(try stage.run(["network", "rm", "seen"]).status == 0)
        }

        @Test func aPolicyHoldsAtOnceAndTheHostIsReachedWhereAllowed() throws {
            let server = try outside()
            let port = try InternetSocket.localAddress(server).port
            let call = ["nc", "-w", "10", "198.19.255.254", "\(port)"]
            #expect(try stage.run(["network", "create", "ruled"]).status == 0)
            let refused = try stage.run(["run", "--rm", "--network", "ruled", stage.image] + call)
            #expect(refused.status == 1, "\(refused)")
            // Whichever of its networks leads outside.
            #expect(try stage.run(["network", "create", "--internal", "inner"]).status == 0)
            let started = try stage.run([
                "run", "-d", "--name", "caller", "--network", "inner", "--network", "ruled", "--network",
                "host-access=on", stage.image, "sleep", "1000",
            ])
            #expect(started.status == 0, "\(started)")
            func reaches() throws -> Bool {
                let child = try stage.start(["exec", "caller"] + call)
                // A refusal is the command's end; a connection is taken, and ended.
                var entries = [server.raw, child.ended].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
                try #require(poll(&entries, 2, 60_000) > 0)
                var peer = SocketAddress(ipv4: 0, port: 0)
                let connection = try InternetSocket.accept(on: server, peer: &peer)
                let reached = connection != nil
                connection?.close()
                _ = try child.finish(input: [], seconds: 60)
                return reached
            }
            #expect(try reaches())
            #expect(try stage.run(["network", "policy", "ruled", "--egress", "deny=all:\(port)"]).status == 0)
            #expect(try stage.run(["network", "policy", "ruled"]).text == "deny=all:\(port)\n")
            #expect(try !reaches())
            #expect(try stage.run(["network", "policy", "ruled", "--clear"]).status == 0)
            #expect(try reaches())
            #expect(try stage.run(["rm", "-f", "caller"]).status == 0)
            #expect(try stage.run(["network", "rm", "ruled", "inner"]).status == 0)
        }

        @Test func aMachineOutlivesItsFabric() throws {
            let server = try outside()
            let port = try InternetSocket.localAddress(server).port
            #expect(try stage.run(["network", "create", "--host-access", "killed"]).status == 0)
            let web = "mkdir /www; echo still here > /www/index.html; exec httpd -f -p 80 -h /www"
            let started = try stage.run([
                "run", "-d", "--name", "survivor", "--network", "killed", "-p", "127.0.0.1:0:80", stage.image, "sh",
                "-c", web,
            ])
            #expect(started.status == 0, "\(started)")
            let number = try #require(try published(by: "survivor").first?["hostPort"]?.unsignedValue)
            let fetch = "curl -sS -m 10 --retry 60 --retry-delay 1 --retry-all-errors http://127.0.0.1:\(number)/"
            #expect(try stage.shell(fetch).text == "still here\n")
            let before = try stage.run(["exec", "survivor", "ip", "-4", "-o", "addr", "show", "eth0"]).text

            // A connection outward, over which something has gone, so that it stands on all sides.
            let held = try stage.start(
                ["exec", "-i", "survivor", "nc", "198.19.255.254", "\(port)"], hasInput: true)
            var peer = SocketAddress(ipv4: 0, port: 0)
            var entry = pollfd(fd: server.raw, events: Int16(POLLIN), revents: 0)
            try #require(poll(&entry, 1, 60_000) == 1)
            guard let connection = try InternetSocket.accept(on: server, peer: &peer) else {
                Issue.record("nobody has connected")
                return
            }
            try connection.setNonBlocking(false)
            try connection.writeAll(Array("welcome\n".utf8))
            try held.waitForOutput("welcome")

            let kill = "kill -9 $(pgrep -f '^martlet-fabric --definition .*/killed.json')"
            #expect(try stage.onHost("\(kill) && echo killed") == "killed\n")
            // The machine, its address and its port are as they were.
            let back =
                "for i in 1 2 3 4 5 6 7 8 9 10; do ping -q -c 1 -W 3 survivor >/dev/null && exec ip -4 -o addr show eth0; done"
            #expect(try stage.run(["exec", "survivor", "sh", "-c", back]).text == before)
            #expect(try stage.shell(fetch).text == "still here\n")
            // What was sent into the connection is answered by a reset: nobody waits for ever.
            let ended = try held.finish(input: Array("anybody there?\n".utf8), seconds: 60)
            #expect(ended.text == "welcome\n", "\(ended)")

            if !stage.isKVMUsable {
                // The fabric of the emulated host itself.
                let outer = try stage.shell(
                    "kill -9 $(pgrep -f '^martlet-fabric --definition \(stage.root)/run/martlet/host-network') && echo killed"
                )
                #expect(outer.text == "killed\n")
                #expect(try stage.shell(fetch).text == "still here\n")
            }
            #expect(try stage.run(["rm", "-f", "survivor"]).status == 0)
            #expect(try stage.run(["network", "rm", "killed"]).status == 0)
        }
    }
}
