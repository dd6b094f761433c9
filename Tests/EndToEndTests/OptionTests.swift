// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing

extension EndToEnd {
    @Suite struct Options {
        let stage = Stage.shared

        private func shell(_ options: [String], _ script: String) throws -> CommandResult {
            try stage.run(
                ["run", "--rm"] + options + [stage.image, "sh", "-c", script], variables: ["OUTSIDE": "seen"])
        }

        @Test func environmentDirectoryUserAndHostname() throws {
            let file = "\(stage.root)/variables"
            try Files.writeAtomically(Array("# comment\nFROM_FILE=file value\nOUTSIDE\nTWICE=file\n".utf8), to: file)
            let result = try shell(
                [
                    "-e", "ONE=a b", "-e", "OUTSIDE", "-e", "TWICE=option", "--env-file", file, "-w", "/made/for/it",
                    "-u", "12:34", "--hostname", "martin",
                ],
                "echo \"$ONE|$OUTSIDE|$FROM_FILE|$TWICE|$HOSTNAME\"; pwd; id -u; id -g; hostname; echo $HOME")
            let expected = "a b|seen|file value|option|martin\n/made/for/it\n12\n34\nmartin\n/\n"
            #expect(result.text == expected, "\(result)")
        }

        @Test func processorsAndMemory() throws {
            let result = try shell(["--cpus", "3", "-m", "300m"], "nproc; grep MemTotal /proc/meminfo")
            let words = result.text.split(whereSeparator: \.isWhitespace)
            #expect(words.first == "3", "\(result)")
            let kibibytes = words.count > 2 ? Int(words[2]) ?? 0 : 0
            #expect((240_000...307_200).contains(kibibytes))
        }

        @Test func moreThanFourGibibytes() throws {
            // A page each of a file in memory above and below the hole.
            let script = """
                grep MemTotal /proc/meminfo
                mount -t tmpfs -o size=5g none /mnt 2>/dev/null || mkdir -p /mnt
                cat /proc/iomem | grep -c 'System RAM'
                """
            let result = try shell(["-m", "6g"], script)
            let words = result.text.split(whereSeparator: \.isWhitespace)
            let kibibytes = words.count > 1 ? Int(words[1]) ?? 0 : 0
            #expect((5_900_000...6_291_456).contains(kibibytes), "\(result)")
        }

        @Test func readOnlyRoot() throws {
            let result = try shell(["--read-only"], "touch /file 2>/dev/null && echo written; touch /tmp/x; true")
            #expect(!result.text.contains("written"), "\(result)")
        }

        @Test func entrypoints() throws {
            let plain = try stage.run(["run", "--rm", "--entrypoint", "/bin/echo", stage.image, "-n", "--", "x"])
            #expect(plain.text == "-- x", "\(plain)")
            let none = try stage.run(["run", "--rm", "--entrypoint", "", stage.image, "echo", "y"])
            #expect(none.text == "y\n", "\(none)")
        }

        @Test func timeLimit() throws {
            let result = try stage.run(["run", "--rm", "--timeout", "2s", stage.image, "sleep", "100"])
            #expect(result.status == 124, "\(result)")
            #expect(result.errorText.contains("time limit"))
        }

        @Test(
            arguments: [
                (["true"], 0), (["false"], 1), (["sh", "-c", "exit 255"], 255), (["/nowhere"], 127), (["nowhere"], 127),
                (["/etc/passwd"], 126), (["/etc"], 126),
            ] as [([String], Int32)])
        func exitCodes(command: [String], status: Int32) throws {
            let result = try stage.run(["run", "--rm", stage.image] + command)
            #expect(result.status == status, "\(command): \(result)")
        }
    }

    @Suite struct BadInput {
        let stage = Stage.shared

        @Test(arguments: [
            ["run"], ["run", "--rm"], ["run", "--nonsense", "IMAGE"], ["run", "--cpus", "0", "IMAGE"],
            ["run", "--cpus", "33", "IMAGE"], ["run", "--cpus", "1.5", "IMAGE"], ["run", "--memory", "0", "IMAGE"],
            ["run", "--memory", "63m", "IMAGE"], ["run", "--memory", "900000g", "IMAGE"],
            ["run", "-m", "lots", "IMAGE"],
            ["run", "--name", "/", "IMAGE"], ["run", "-w", "relative", "IMAGE"], ["run", "--hostname", "a b", "IMAGE"],
            ["run", "--env-file", "/nowhere", "IMAGE"], ["run", "-e", "=x", "IMAGE"],
            ["run", "--kernel", "/nowhere", "IMAGE"],
            ["run", "--kernel", "/etc", "IMAGE"], ["run", "--timeout", "soon", "IMAGE"],
            ["run", "--timeout", "0", "IMAGE"],
            ["run", "--stop-signal", "FOO", "IMAGE"], ["run", "--pull", "perhaps", "IMAGE"], ["run", "oci:/nowhere"],
            ["run", "docker-archive:/etc/passwd"], ["run", "dir:/nowhere"], ["run", "UPPER/case"],
            ["run", "sha256:00"],
            ["run", "--pull", "never", "registry.invalid/nothing:1"], ["run", "127.0.0.1:1/nothing:1"],
            ["run", "--kernel", "/etc/passwd", "IMAGE"],
        ])
        func isToldAndLeavesNothing(_ arguments: [String]) throws {
            let image = try stage.image
            let result = try stage.run(arguments.map { $0 == "IMAGE" ? image : $0 })
            #expect(result.status == 125, "\(arguments): \(result)")
            #expect(result.text == "")
            #expect(result.errorText.hasPrefix("martlet: "), "\(arguments): \(result)")
        }

        @Test(arguments: [
            ["ps", "--nonsense"], ["logs"], ["stop"], ["nonsense"], ["inspect"], ["host", "nonsense"],
        ])
        func wrongUse(_ arguments: [String]) throws {
            #expect(try stage.run(arguments).status == 64)
        }

        @Test(arguments: [
            ["logs", "nobody"], ["stop", "nobody"], ["kill", "nobody"], ["rm", "nobody"], ["inspect", "nobody"],
            ["wait", "nobody"], ["rmi", "nobody"],
        ])
        func unknownNames(_ arguments: [String]) throws {
            let result = try stage.run(arguments)
            #expect(result.status == 1)
            #expect(result.errorText.contains("no such"), "\(result)")
        }

        @Test func nothingIsLeft() throws {
            try stage.expectNothingLeft()
        }

        @Test(arguments: [
            "run", "ps", "logs", "stop", "kill", "rm", "inspect", "wait", "pull", "images", "rmi", "image",
        ])
        func help(_ command: String) throws {
            let result = try stage.run([command, "--help"])
            #expect(result.status == 0)
            #expect(result.text.contains("USAGE: martlet \(command)"), "\(result)")
            #expect(result.errorText == "")
        }

        @Test(arguments: ["bash", "zsh", "fish"])
        func completion(_ shell: String) throws {
            let result = try stage.run(["completion", shell])
            #expect(result.status == 0)
            #expect(result.text.contains("martlet"))
        }
    }
}
