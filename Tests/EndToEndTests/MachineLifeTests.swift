// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing

extension EndToEnd {
    /// Machines under load are paused, saved, restored, forked, saved live and as diffs. Their guest knows what its
    /// memory, its vector registers, its disk, its streams and its clock have to be, and says so when they are not.
    @Suite(.serialized) struct MachineLives {
        /// The guest as an initrd, made once.
        private static let initrd = Result {
            let root = "\(Stage.shared.root)/life"
            try Files.makeDirectories("\(root)/initrd/dev")
            let line =
                "musl-gcc -O2 -static -s -o \(root)/initrd/init \(Stage.package)/Tests/MachineFixture/guest.c && "
                + "cd \(root)/initrd && printf 'init\\ndev\\n' | cpio --quiet -o -H newc -R 0:0 >\(root)/guest.cpio"
            let result = try RunningCommand(
                "/bin/sh", ["-c", line], variables: Stage.shared.variables, hasInput: false, user: nil
            ).finish(input: [], seconds: 60)
            #expect(result.status == 0, "\(result)")
            return "\(root)/guest.cpio"
        }

        /// Runs the steps of a script where KVM works; `V` in them is the configuration's path.
        private func live(
            _ steps: String, vcpus: Int = 1, mebibytes: Int = 128, more: String = "", arguments: String = ""
        ) throws -> String {
            let stage = Stage.shared
            let configuration = """
                {"boot-source": {"kernel_image_path": "\(stage.tree)/libexec/martlet/vmlinux",
                 "initrd_path": "\(try Self.initrd.get())",
                 "boot_args": "console=ttyS0 quiet reboot=t panic=-1 \(arguments)"},
                 "machine-config": {"vcpu_count": \(vcpus), "mem_size_mib": \(mebibytes), "track_dirty_pages": true}\(more)}
                """
            let path = "\(stage.root)/life/machine-\(monotonicNanoseconds()).json"
            try Files.writeAtomically(Array(configuration.utf8), to: path)
            let fixture = splitPath(try Files.resolve("/proc/self/exe")).directory + "/machine-fixture"
            let script =
                "d=$(mktemp -d) && cd $d && truncate -s 4M disk && \(fixture) "
                + steps.replacing("V", with: path) + "; s=$?; cd / && rm -r $d; exit $s"
            let result =
                stage.isKVMUsable
                ? try RunningCommand(
                    "/bin/sh", ["-c", script], variables: stage.variables, hasInput: false, user: nil
                ).finish(input: [], seconds: 240)
                : try stage.run(["host", "exec", "--", "sh", "-c", script])
            #expect(result.status == 0, "\(result)")
            #expect(!result.text.contains("FAILED"), "\(result)")
            #expect(result.text.contains("ended: "), "\(result)")
            return result.text
        }

        @Test func pausesSnapshotsAndDiffs() throws {
            let text = try live(
                "boot V until ready lines 3 pause resume pause snapshot a.s a.m resume lines 2 pause diff b.s b.m resume "
                    + "lines 2 live c.s c.m lines 2 pause diff d.s d.m end "
                    + "restore a.s a.m resume lines 3 end join a.s a.m b.s b.m e.s e.m restore e.s e.m resume lines 3 end "
                    + "join c.s c.m d.s d.m f.s f.m restore f.s f.m resume lines 3 pause snapshot f.s f.m resume lines 2"
            )
            // The vector registers were looked at.
            #expect(text.contains("avx2 1"))
        }

        @Test func forksOfARunningMachine() throws {
            let text = try live("boot V until ready lines 3 fork 3 lines 60", vcpus: 2, mebibytes: 256)
            for child in 0..<3 { #expect(text.contains("child \(child): made after"), "\(text)") }
            // Each is another: once its kernel has seen that, no two have the same random numbers.
            let numbers = text.split(separator: "\n").filter { $0.contains(": done: ") }
                .compactMap { $0.split(separator: " ").last }
            #expect(numbers.count == 3 && Set(numbers).count == 3, "\(text)")
        }

        /// At points that nobody chose; `./soak` does it for longer.
        @Test(arguments: [(1, 1, "-"), (2, 2, "-"), (2, 3, "disk")])
        func ordealsAtRandomPoints(vcpus: Int, seed: Int, disk: String) throws {
            let text = try live(
                "boot V until ready torture \(seed) 60 \(disk) until stream lines 2", vcpus: vcpus, mebibytes: 64,
                more: disk == "-"
                    ? "" : #", "drives": [{"drive_id": "d", "is_root_device": false, "path_on_host": "disk"}]"#,
                arguments: disk == "-" ? "work=2 stream=1" : "work=2 stream=1 disk=/dev/vda")
            #expect(text.contains("ordeals, seed \(seed)"), "\(text)")
        }

        @Test func disksThatComeLaterAndMuchMemory() throws {
            _ = try live(
                "boot V until ready lines 2 attach-drive extra disk until disk pause snapshot a.s a.m end "
                    + "restore a.s a.m resume until disk until disk lines 3",
                vcpus: 2, mebibytes: 4096, more: #", "spare-slots": 2, "entropy": {}"#,
                arguments: "bind=LNRO0005:01 disk=/dev/vda")
        }
    }
}
