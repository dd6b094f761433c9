// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing
import Wire

extension EndToEnd {
    /// Bytes between machines, and between a machine and its host, each looked at (Tests/Tools/traffic.c).
    @Suite(.serialized) struct Traffic {
        let stage = Stage.shared

        @Test func whatIsSentArrives() throws {
            let path = "\(stage.root)/traffic"
            let compiled = try stage.shell("musl-gcc -static -Os -o '\(path)' '\(Stage.package)/Tests/Tools/traffic.c'")
            #expect(compiled.status == 0, "\(compiled)")
            let tool = try Files.read(path, limit: 1 << 20)
            let started = try stage.run([
                "run", "-d", "--name", "server", "--network", "default", "--network-alias", "peers",
                "-p", "127.0.0.1:0:7000", "-p", "127.0.0.1:0:7001/udp", stage.image, "sh", "-ec",
                "mkfifo /tmp/go; read word < /tmp/go; exec /tmp/traffic serve 7000 7001",
            ])
            #expect(started.status == 0, "\(started)")
            let handed = try stage.run(
                [
                    "exec", "-i", "server", "sh", "-ec",
                    """
                    cat > /tmp/traffic; chmod 755 /tmp/traffic
                    until [ -p /tmp/go ]; do :; done; echo go > /tmp/go
                    until netstat -ltn | grep -q :7000; do :; done
                    """,
                ], input: tool)
            #expect(handed.status == 0, "\(handed)")

            // From a sibling: by name and alias, over IPv4 and IPv6, and the name server over both transports.
            let script = """
                cat > /tmp/traffic; chmod 755 /tmp/traffic; t=/tmp/traffic
                gateway=$(ip route | sed -n 's/^default via \\([0-9.]*\\) .*/\\1/p')
                four=$($t ask "$gateway" server 4) six=$($t ask "$gateway" server 6)
                [ "$($t ask "$gateway" server.default 4 tcp)" = "$four" ]
                [ "$($t ask "$gateway" server.default 6 tcp)" = "$six" ]
                # Both who share the alias, each time another one first.
                [ "$($t ask "$gateway" peers 4 | wc -l)" = 2 ]
                [ "$($t ask "$gateway" peers 4)" != "$($t ask "$gateway" peers 4)" ]
                $t down server 7000 4194304; $t up "$four" 7000 4194304
                $t down "$six" 7000 1048576; $t up "$six" 7000 1048576
                $t udp "$four" 7001 64 1400; $t udp "$six" 7001 8 20000
                # As QUIC has them: what every path takes, and what its discovery of a path's MTU finds.
                for size in 1200 1252 1350 1452; do $t udp "$four" 7001 32 $size; $t udp "$six" 7001 32 $size; done
                $t calls "$four" 7000 100
                echo done
                """
            let sibling = try stage.run(
                [
                    "run", "--rm", "-i", "--network", "default", "--network-alias", "peers", stage.image, "sh", "-ec",
                    script,
                ], input: tool)
            #expect(sibling.status == 0 && sibling.text == "done\n", "\(sibling)")

            // From this machine, by the published ports.
            let inspected = try JSON(parsing: try stage.run(["inspect", "server"]).output).arrayValue?.first
            let ports = try #require(inspected?["state"]?["network"]?["published"]?.arrayValue)
            func hostPort(_ transport: String) throws -> UInt64 {
                try #require(ports.first { $0["transport"] == .string(transport) }?["hostPort"]?.unsignedValue)
            }
            let (tcp, udp) = (try hostPort("tcp"), try hostPort("udp"))
            let outside = try stage.shell(
                """
                t='\(path)'
                $t down 127.0.0.1 \(tcp) 4194304 && $t up 127.0.0.1 \(tcp) 4194304 && $t udp 127.0.0.1 \(udp) 64 1400 &&
                $t udp 127.0.0.1 \(udp) 32 1200 && $t udp 127.0.0.1 \(udp) 32 1350 && $t udp 127.0.0.1 \(udp) 32 1472 &&
                $t calls 127.0.0.1 \(tcp) 100 && echo done
                """)
            #expect(outside.text == "done\n", "\(outside)")
            #expect(try stage.run(["rm", "-f", "server"]).status == 0)
            try stage.expectNothingLeft()
        }
    }
}
