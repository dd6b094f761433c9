// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing

extension EndToEnd {
    /// What lies between a machine and a server outside: network namespaces, of which none leads further.
    @Suite(.serialized, .enabled(if: geteuid() == 0, "routers are made by root")) struct Paths {
        let stage = Stage.shared

        /// Two routers with a link of 1280 bytes between them, who say nothing of what they drop because of that; behind
        /// them a server. Senders are told to do without being told.
        private static let layOut = """
            set -e
            for n in near back far; do ip netns add mtp-$n; ip -n mtp-$n link set lo up; done
            join() { # join SPACE NAME ADDRESS SPACE NAME ADDRESS MTU
                [ $1 = host ] && in= || in="-n mtp-$1"
                ip $in link add $2 mtu $7 type veth peer name $5 mtu $7 netns mtp-$4
                ip $in addr add $3 dev $2; ip $in link set $2 up
                ip -n mtp-$4 addr add $6 dev $5; ip -n mtp-$4 link set $5 up
            }
            join host mtp0 198.51.100.1/30 near out 198.51.100.2/30 1500
            join near in 198.51.100.5/30 back out 198.51.100.6/30 1280
            join back in 203.0.113.1/30 far out 203.0.113.2/30 1500
            ip route add 203.0.113.0/30 via 198.51.100.2
            ip -n mtp-near route add default via 198.51.100.6
            ip -n mtp-back route add default via 198.51.100.5
            ip -n mtp-far route add default via 203.0.113.1
            for n in near back; do
                ip netns exec mtp-$n sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
                ip netns exec mtp-$n nft 'add table ip f; add chain ip f o { type filter hook output priority 0; };
                    add rule ip f o ip protocol icmp drop'
            done
            ip netns exec mtp-far sh -c 'echo 1 > /proc/sys/net/ipv4/tcp_mtu_probing'
            cat /proc/sys/net/ipv4/tcp_mtu_probing; echo 1 > /proc/sys/net/ipv4/tcp_mtu_probing
            """

        @Test func aBlackHoleForWhatIsLong() throws {
            let path = "\(stage.root)/traffic"
            let compiled = try stage.shell("musl-gcc -static -Os -o '\(path)' '\(Stage.package)/Tests/Tools/traffic.c'")
            try #require(compiled.status == 0, "\(compiled)")
            let before = try stage.onHost("(\(Self.layOut)) 2>&1")
            defer {
                _ = try? stage.onHost(
                    """
                    for n in near back far; do ip netns pids mtp-$n | xargs -r kill; ip netns del mtp-$n; done
                    ip link del mtp0; echo \(before == "1\n" ? 1 : 0) > /proc/sys/net/ipv4/tcp_mtu_probing
                    """)
            }
            try #require(["0\n", "1\n", "2\n"].contains(before), "\(before)")
            // It is a black hole: what is long does not get there, what is short does.
            let pings = """
                ip netns exec mtp-far setsid '\(path)' serve 7000 7001 >/dev/null 2>&1 </dev/null &
                ping -q -M do -s 1000 -c 1 -W 20 203.0.113.2 >/dev/null && echo short
                ping -M do -s 1400 -c 1 -W 1 203.0.113.2 2>&1 | grep -E '0 received|mtu'
                """
            let answers = try stage.onHost(pings)
            try #require(answers.hasPrefix("short\n1 packets transmitted, 0 received"), "\(answers)")
            let script = """
                cat > /tmp/traffic; chmod 755 /tmp/traffic; t=/tmp/traffic
                $t calls 203.0.113.2 7000 1
                $t up 203.0.113.2 7000 300000; $t down 203.0.113.2 7000 300000
                $t udp 203.0.113.2 7001 16 1200; echo done
                """
            let machine = try stage.run(
                ["run", "--rm", "-i", "--network", "default", stage.image, "sh", "-ec", script],
                input: try Files.read(path, limit: 1 << 20))
            #expect(machine.status == 0 && machine.text == "done\n", "\(machine)")
        }
    }
}
