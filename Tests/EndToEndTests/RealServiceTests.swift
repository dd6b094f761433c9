// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing
import Wire

extension EndToEnd {
    /// Servers that others have written, in machines, and their clients on this machine and in other machines. Each byte
    /// that matters is compared; nothing is timed.
    @Suite(.serialized, .enabled(if: geteuid() == 0, "debootstrap, which makes the image, needs root"))
    struct RealServices {
        let stage = Stage.shared

        /// Debian with servers (Examples/debian-image), made once for this user: the layout is in the user's own cache.
        private static let debian = Result {
            let path = "\(Stage.shared.root)/debian"
            var variables = Stage.shared.variables
            let home = environmentVariable("HOME") ?? "/root"
            variables["XDG_CACHE_HOME"] = environmentVariable("XDG_CACHE_HOME") ?? "\(home)/.cache"
            let made = try RunningCommand(
                "\(Stage.package)/Examples/debian-image", [path], variables: variables, hasInput: false, user: nil
            ).finish(input: [], seconds: 900)
            #expect(made.status == 0, "\(made)")
            let image = "oci:\(path):latest"
            let pulled = try Stage.shared.run(["pull", "--quiet", image], seconds: 600)
            #expect(pulled.status == 0, "\(pulled)")
            return image
        }

        /// Runs a script in a machine until it has said "ready" and calls `body` with the ports of the host's for those of
        /// the machine's that it names, in their order.
        private func serve(
            _ name: String, ports: [String], options: [String] = [], _ script: String, input: [UInt8]? = nil,
            _ body: ([String]) throws -> Void
        ) throws {
            let image = try Self.debian.get()
            let published = ports.flatMap { ["-p", $0] }
            let running = try stage.start(
                ["run", "--rm", "-i", "--name", name, "-m", "512m", "--network", "default"] + published + options + [
                    image, "bash", "-euc", script,
                ], hasInput: true)
            if let input { try running.sendAll(input) }
            running.closeInput()
            try running.waitForOutput("ready\n")
            let inspected = try JSON(parsing: try stage.run(["inspect", name]).output).arrayValue?.first
            let state = inspected?["state"]?["network"]?["published"]?.arrayValue ?? []
            try #require(state.count == ports.count)
            try body(state.map { "\($0["hostPort"]?.unsignedValue ?? 0)" })
            #expect(try stage.run(["rm", "-f", name]).status == 0)
            _ = try running.finish(input: [], seconds: 60)
        }

        /// Runs a script in a machine of the same network.
        private func beside(_ script: String) throws -> CommandResult {
            try stage.run([
                "run", "--rm", "-m", "512m", "--network", "default", try Self.debian.get(), "bash", "-euc", script,
            ])
        }

        /// HTTP/1.1 and HTTP/2, IPv4 and IPv6, from this machine and from a sibling, who finds the server by its name,
        /// over UDP and over TCP.
        @Test func aWebServer() throws {
            let script = """
                rm /etc/nginx/sites-enabled/default; head -c 1500000 /dev/urandom > /var/www/html/blob
                echo 'server { listen 80; listen [::]:80; listen 81 http2; listen [::]:81 http2; root /var/www/html; }' \\
                    > /etc/nginx/conf.d/served.conf
                nginx; sha256sum < /var/www/html/blob; echo ready; sleep infinity
                """
            let ports = ["127.0.0.1:0:80", "127.0.0.1:0:81", "[::1]:0:80"]
            try serve("web", ports: ports, script) { ports in
                let sum = try stage.run(["exec", "web", "sh", "-c", "sha256sum < /var/www/html/blob"]).text
                let here = try stage.shell(
                    """
                    curl -sS -m 60 'http://127.0.0.1:\(ports[0])/blob' | sha256sum
                    curl -sS -m 60 --http2-prior-knowledge 'http://127.0.0.1:\(ports[1])/blob' | sha256sum
                    curl -sS -m 60 'http://[::1]:\(ports[2])/blob' | sha256sum
                    curl -sS -m 60 --http2-prior-knowledge -o /dev/null -w '%{http_version}\\n' \
                        'http://127.0.0.1:\(ports[1])/'
                    """)
                #expect(here.status == 0 && here.text == sum + sum + sum + "2\n", "\(here)")
                let there = try beside(
                    """
                    gateway=$(ip route | sed -n 's/^default via \\([0-9.]*\\) .*/\\1/p')
                    [ "$(dig +short @$gateway web A)" = "$(dig +tcp +short @$gateway web.default A)" ]
                    address=$(dig +short @$gateway web AAAA)
                    [ "$(dig +short @$gateway -x $address)" = web.default. ]
                    dig @$gateway web. TXT | grep -q 'status: NOERROR'
                    dig +tcp @$gateway nobody.default A | grep -q 'status: NXDOMAIN'
                    curl -4sS -m 60 http://web/blob | sha256sum
                    curl -6sS -m 60 http://web.default/blob | sha256sum
                    curl -sS -m 60 --http2-prior-knowledge "http://[$address]:81/blob" | sha256sum
                    """)
                #expect(there.status == 0 && there.text == sum + sum + sum, "\(there)")
            }
        }

        /// A table goes in with COPY and comes out with it, and the server says that it has what was sent.
        @Test func aDatabase() throws {
            let script = """
                echo 'host all all all trust' >> /etc/postgresql/15/main/pg_hba.conf
                pg_ctlcluster 15 main start -o '-c listen_addresses=* -c fsync=off'; echo ready; sleep infinity
                """
            try serve("database", ports: ["127.0.0.1:0:5432"], script) { ports in
                let result = try stage.shell(
                    """
                    cd '\(stage.root)'
                    seq 20000 | awk '{ print $1 "\\t" $1 * 7919 % 1000003 "\\trow number " $1 }' > rows
                    psql -qAtX -v ON_ERROR_STOP=1 -h 127.0.0.1 -p \(ports[0]) -U postgres -d postgres <<'SQL'
                    create unlogged table t (n int, m int, words text);
                    \\copy t from rows
                    select count(*), sum(m), md5(string_agg(words, ',' order by n)) from t;
                    \\copy (select * from t order by n) to back
                    SQL
                    awk '{ n++; m += $2 } END { printf "%d|%.0f|", n, m }' rows
                    cut -f 3 rows | paste -sd , | tr -d '\\n' | md5sum | cut -d ' ' -f 1
                    cmp rows back && echo same
                    """)
                let lines = result.text.split(separator: "\n")
                try #require(result.status == 0 && lines.count == 3, "\(result)")
                #expect(lines[0] == lines[1] && lines[2] == "same", "\(result)")
            }
        }

        /// Many small requests of many clients; a pipeline of them; a value that is larger than any window.
        @Test func aStoreOfKeys() throws {
            let script = """
                redis-server --daemonize yes --protected-mode no --save '' >/dev/null
                until redis-cli ping 2>/dev/null; do :; done; echo ready; sleep infinity
                """
            try serve("store", ports: ["127.0.0.1:0:6379"], script) { ports in
                let result = try stage.shell(
                    """
                    cd '\(stage.root)'; p=\(ports[0])
                    redis-benchmark -p $p -n 500 -c 20 -q -t set,get,lrange_100 > bench
                    tr '\\r' '\\n' < bench | grep -c 'requests per second'
                    redis-cli -p $p flushall
                    seq 2000 | awk '{ print "SET key:" $1 " value:" $1 }' | redis-cli -p $p --pipe | tail -n 1
                    redis-cli -p $p dbsize; redis-cli -p $p get key:1999
                    head -c 1000000 /dev/urandom | base64 -w 0 > value; redis-cli -p $p -x set large < value
                    redis-cli -p $p --raw get large | tr -d '\\n' | cmp - value && echo same
                    """)
                let wanted = "OK\nerrors: 0, replies: 2000\n2000\nvalue:1999\nOK\nsame\n"
                #expect(result.status == 0 && result.text.hasSuffix("\n" + wanted), "\(result)")
                #expect(result.text.first.map { "3456".contains($0) } == true, "\(result)")
            }
        }

        /// Streams both ways, from this machine and from a sibling; there datagrams as well. Each has a server of its own: it
        /// does not listen for a moment after each.
        @Test func aMeasurement() throws {
            let script = """
                for port in 5201 5202 5203 5204 5205 5206; do iperf3 -s -1 -D -p $port; done
                until [ $(ss -ltn | grep -c :520) = 6 ]; do :; done; echo ready; sleep infinity
                """
            // Of a report in JSON: no error, and something that arrived.
            let check = """
                check() {
                    iperf3 -J "$@" > report || { cat report; return 1; }
                    ! grep '"error"' report || return 1
                    tr -d ' \\t\\n' < report | grep -qE '"sum(_received)?":\\{[^}]*"bytes":[1-9]' && echo arrived
                }

                """
            try serve("iperf", ports: ["127.0.0.1:0:5201", "127.0.0.1:0:5202"], script) { ports in
                let here = try stage.shell(
                    "cd '\(stage.root)'\n" + check + """
                        check -c 127.0.0.1 -p \(ports[0]) -n 4M; check -c 127.0.0.1 -p \(ports[1]) -n 4M -R
                        """)
                #expect(here.status == 0 && here.text == "arrived\narrived\n", "\(here)")
                let there = try beside(
                    "cd /tmp\n" + check + """
                        check -c iperf -p 5203 -n 4M; check -6 -c iperf -p 5204 -n 4M -R
                        check -c iperf -p 5205 -u -b 10M -l 1200 -n 300K; check -c iperf -p 5206 -u -b 10M -l 1200 -n 300K -R
                        """)
                #expect(there.status == 0 && there.text == "arrived\narrived\narrived\narrived\n", "\(there)")
            }
        }

        /// A large file by scp and sftp, there and back.
        @Test func filesByASecureShell() throws {
            let keys = try stage.shell(
                "cd '\(stage.root)'; ssh-keygen -q -t ed25519 -N '' -f key; head -c 3000000 /dev/urandom > file; cat key.pub"
            )
            try #require(keys.status == 0, "\(keys)")
            let script = """
                mkdir -p /run/sshd ~/.ssh; cat > ~/.ssh/authorized_keys; chmod -R go= ~/.ssh
                ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
                /usr/sbin/sshd -o UseDNS=no; echo ready; sleep infinity
                """
            try serve("shell", ports: ["127.0.0.1:0:22"], script, input: keys.output) { ports in
                let options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -i key"
                let result = try stage.shell(
                    """
                    cd '\(stage.root)'
                    printf 'put file /tmp/file\\nget /tmp/file back\\n' | sftp -q \(options) -P \(ports[0]) -b - root@127.0.0.1 >&2
                    scp -q \(options) -P \(ports[0]) file root@127.0.0.1:/tmp/again
                    ssh \(options) -p \(ports[0]) root@127.0.0.1 'sha256sum < /tmp/again; seq 5000' > said
                    cmp file back; { sha256sum < file; seq 5000; } | cmp - said; echo same
                    """)
                #expect(result.status == 0 && result.text == "same\n", "\(result)")
            }
        }
    }
}
