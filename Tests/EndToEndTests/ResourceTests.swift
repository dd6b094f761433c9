// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing

extension EndToEnd {
    /// What a machine takes, and what happens where there is too little of it.
    @Suite(.serialized) struct Resources {
        let stage = Stage.shared

        /// Bytes of a monitor's memory beside the guest's, by its mappings: a stretch of 64 MiB and more is the guest's
        /// memory, with the parts of files that are mapped into it.
        private static let ownMemory = """
            for p in /proc/[0-9]*; do
                read -r c < $p/comm 2>/dev/null || continue
                [ "$c" = martlet-vmm ] || continue
                awk '/^[0-9a-f]+-[0-9a-f]+ / {
                         split($1, place, "-")
                         if (place[1] != end) { if (size < 65536) sum += stretch; size = stretch = 0 }
                         end = place[2]
                     }
                     /^Size:/ { size += $2 }
                     /^Rss:/ { stretch += $2 }
                     END { if (size < 65536) sum += stretch; print sum }' $p/smaps
            done
            """

        /// After much has gone through its devices as at the start.
        @Test func theMonitorStaysSmall() throws {
            let script = """
                cat /bin/busybox > /dev/null; yes 0123456789abcde | head -c 4000000; head -c 1000000 > /dev/null
                echo done >&2; cat > /dev/null
                """
            let command = try stage.start(
                ["run", "--rm", "-i", "--cpus", "2", "-m", "256m", stage.image, "sh", "-c", script], hasInput: true)
            try command.sendAll([UInt8](repeating: 7, count: 1_000_000))
            try command.waitForErrors("done\n")
            let kibibytes = try stage.onHost(Self.ownMemory).split(separator: "\n").compactMap { Int($0) }
            command.closeInput()
            #expect(try command.finish(input: [], seconds: 60).status == 0)
            #expect(kibibytes.count == 1)
            #expect((1...5 << 10).contains(kibibytes.first ?? 0), "\(kibibytes) KiB")
            try stage.expectNothingLeft()
        }

        /// The store's file system has room for so much: wherever it ends, that is said, and what was begun is gone.
        @Test(arguments: ["16k", "256k", "1m", "1900k"]) func aFullDisk(size: String) throws {
            let data = "\(stage.root)/small-\(size)"
            // Mounts of the test's own; the store is in them, and the end of the script is theirs.
            let script = """
                mkdir -p '\(data)'; mount -t tmpfs -o size=\(size) none '\(data)'
                export XDG_DATA_HOME='\(data)' TMPDIR='\(data)'
                martlet='\(stage.tree)/bin/martlet'
                $martlet run --rm '\(try stage.image)' echo hello; echo "status $?"
                $martlet pull -q '\(try stage.image)'; echo "status $?"
                cd '\(data)'; find . -type f -size +0 | grep -v host/ || true
                mount -o remount,size=64m none '\(data)'
                $martlet pull -q '\(try stage.image)' > /dev/null; echo "status $?"
                """
            let namespace = getuid() == 0 ? "-m" : "-rm"
            try Files.writeAtomically(Array(script.utf8), to: "\(stage.root)/full-disk")
            // An emulated host that runs already is not started in there.
            _ = try stage.onHost("true")
            let result = try stage.shell("unshare \(namespace) sh '\(stage.root)/full-disk'")
            #expect(result.text == "status 125\nstatus 1\nstatus 0\n", "\(result)")
            let complaints = result.errorText.split(separator: "\n")
            #expect(complaints.count == 2 && complaints.allSatisfy { $0.contains("room") || $0.contains("space") })
            try stage.expectNothingLeft()
        }
    }
}
