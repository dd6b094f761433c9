// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing
import Wire

extension EndToEnd {
    /// Containers on one host whose memory is on another, over a real ssh.
    @Suite(.serialized) struct RemoteMemory {
        private var stage: Stage { Stage.shared }

        /// What reaches the first stage from another one: ssh, with a server that it starts itself, and there a program
        /// that has that stage's directories, as the login of another host would.
        private struct Way {
            let ssh: String
            let martlet: String

            init(to stage: Stage, _ directory: String) throws {
                let made = try stage.shell(
                    """
                    mkdir -p \(directory); cd \(directory); umask 077
                    [ "$(id -u)" != 0 ] || mkdir -p -m 755 /run/sshd
                    for key in host user; do ssh-keygen -q -t ed25519 -N '' -f $key; done
                    cp user.pub authorized
                    cat >sshd_config <<END
                    HostKey $PWD/host
                    AuthorizedKeysFile $PWD/authorized
                    StrictModes no
                    PidFile none
                    PermitRootLogin yes
                    END
                    cat >ssh_config <<END
                    Host there
                        User $(id -un)
                        ProxyCommand $(PATH=$PATH:/usr/sbin command -v sshd) -i -f $PWD/sshd_config
                        IdentityFile $PWD/user
                        IdentitiesOnly yes
                        StrictHostKeyChecking no
                        UserKnownHostsFile /dev/null
                        LogLevel ERROR
                    END
                    """)
                #expect(made.status == 0, "\(made)")
                let exports = stage.variables.map { "export \($0.key)='\($0.value)'\n" }.joined()
                martlet = "\(directory)/martlet"
                try Files.writeAtomically(
                    Array("#!/bin/sh\n\(exports)exec \(stage.tree)/bin/martlet \"$@\"\n".utf8), to: martlet,
                    permissions: 0o755)
                ssh = "ssh -F \(directory)/ssh_config"
            }
        }

        @Test func aCloneOfMemoryThatStaysOnAnotherHost() throws {
            let run = try stage.run([
                "run", "-d", "--name", "source", "-m", "128m", stage.image, "sh", "-c",
                "head -c 8000000 /dev/urandom > /data; md5sum < /data > /sum; touch /done; sleep 100000",
            ])
            #expect(run.status == 0, "\(run)")
            defer { _ = try? stage.run(["rm", "-f", "source"]) }
            _ = try stage.run(["exec", "source", "sh", "-c", "until [ -e /done ]; do sleep 0.1; done"])
            #expect(try stage.run(["snapshot", "create", "source", "--tag", "warm"]).status == 0)
            defer { _ = try? stage.run(["snapshot", "rm", "warm"]) }
            let whole = try stage.run(["snapshot", "export", "warm"])
            let small = try stage.run(["snapshot", "export", "--without-memory", "warm"])
            #expect(small.status == 0 && small.output.count + 8_000_000 < whole.output.count, "\(small)")

            let other = try stage.another("elsewhere")
            defer { other.strike() }
            let way = try Way(to: stage, "\(other.root)/ssh")
            let imported = try other.run(["snapshot", "import", "--tag", "here"], input: small.output)
            #expect(imported.status == 0, "\(imported)")
            try expectItSaysWhatIsMissing(other)

            let server = try other.start([
                "serve-memory", "here", "--from", "ssh://there", "--ssh", way.ssh, "--remote-martlet", way.martlet,
            ])
            try server.waitForOutput(".sock\n")
            let socket = String(decoding: server.outputBytes, as: UTF8.self).split(separator: "\n")[0]
            for name in ["one", "two"] {
                let clone = try other.run([
                    "run", "-d", "--snapshot", "here", "--name", name, "--memory-server", String(socket),
                ])
                #expect(clone.status == 0, "\(clone)")
            }
            for name in ["two", "one"] {
                let check = try other.run(["exec", name, "sh", "-c", "md5sum < /data | cmp - /sum && echo whole"])
                #expect(check.text == "whole\n", "\(check)")
            }
            // The way there is cut: everything that depends on it ends, and says why.
            #expect(try stage.shell("kill -9 $(pgrep -x -P \(server.child) ssh)").status == 0)
            let ended = try server.finish(input: [], seconds: 60)
            #expect(ended.status == 1 && ended.errorText.contains("the other host has ended the stream"), "\(ended)")
            for name in ["one", "two"] {
                #expect(try other.run(["wait", name]).text == "125\n")
                let state = try JSON(parsing: try other.run(["inspect", name]).output).arrayValue?.first?["state"]
                let reason = state?["reason"]?.stringValue ?? ""
                #expect(reason.contains("it says: the other host has ended the stream"), "\(reason)")
                #expect(try other.run(["rm", name]).status == 0)
            }
            #expect(try other.onHost("ls \(socket) 2>&1 | grep -c 'No such file'") == "1\n")
            try other.expectNothingLeft()
            // What was at the other end of the way sees the end of it.
            let left = try stage.shell(
                """
                for p in $(pgrep -f '\(other.root)/[s]sh'); do timeout 20 tail --pid=$p -f /dev/null || true; done
                pgrep -af '\(other.root)/[s]sh' || true
                """)
            #expect(left.text == "", "\(left)")
        }

        /// Whatever would need the memory says where it is to be had.
        private func expectItSaysWhatIsMissing(_ other: Stage) throws {
            for arguments in [
                ["run", "--snapshot", "here"], ["restore", "source", "here", "new"], ["serve-memory", "here"],
            ] {
                let result = try other.run(arguments)
                #expect(result.status != 0 && result.errorText.contains("--from ssh://HOST"), "\(result)")
            }
            let export = try other.run(["snapshot", "export", "here"])
            #expect(export.status == 1 && export.errorText.contains("--without-memory"), "\(export)")
            #expect(try other.run(["snapshot", "ls"]).text.hasSuffix("elsewhere\n"))
            let verified = try other.run(["snapshot", "verify"])
            #expect(verified.status == 0 && verified.text.hasSuffix("its memory elsewhere\n"), "\(verified)")
            // Another host that has nothing to say, and a snapshot that is not here.
            let silent = try other.run(["serve-memory", "here", "--from", "ssh://there", "--ssh", "true"])
            #expect(silent.status == 1 && silent.errorText.contains("--remote-martlet"), "\(silent)")
            let unknown = try other.run(["serve-memory", "none", "--from", "ssh://there", "--ssh", "true"])
            #expect(unknown.status == 1 && unknown.errorText.contains("export --without-memory none"), "\(unknown)")
        }

        @Test(arguments: ["ssh://", "ssh://-oProxyCommand=x", "ssh://a b", "ssh://u@h:0", "ssh://h/x", "warm", "unix:"])
        func placesThatAreNone(place: String) throws {
            let result = try stage.run(["serve-memory", "warm", "--from", place])
            #expect(result.status == 1 && result.errorText.contains("ssh://[USER@]HOST[:PORT]"), "\(result)")
        }
    }
}
