// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform

/// The disk that keeps what is written inside under /var/lib/martlet: a sparse file with an ext4 file system, made once
/// and never made anew. All of this runs under the keeper's life lock.
struct StateDisk {
    static let sizeInBytes: UInt64 = 32 << 30

    var path: String

    /// Makes the disk where it is missing, else mends what a crash left (a replay of the journal, as a rule).
    /// - Parameter progress: told what is done where that takes time.
    func prepare(progress: (String) -> Void) throws(EmulatedHostError) {
        removeRemains()
        if Files.exists(path) {
            try check()
        } else {
            progress("making the emulated host's disk")
            try make()
        }
    }

    private var temporary: String { "\(path).new" }

    private func removeRemains() {
        Files.remove(temporary)
    }

    private func make() throws(EmulatedHostError) {
        guard let mke2fs = findProgram("mke2fs") else { throw .programMissing(name: "mke2fs", package: "e2fsprogs") }
        do throws(EmulatedHostError) {
            try platform { () throws(SystemError) in
                try Descriptor.open(temporary, .createNew, permissions: 0o600).truncate(to: StateDisk.sizeInBytes)
            }
            // Checksums of what describes the files are worked out at every change of it, which takes an emulated processor
            // longer than the change; the journal has its own.
            let (status, output) = try runTool([
                mke2fs, "-q", "-F", "-t", "ext4", "-L", "martlet", "-m", "0", "-O", "^metadata_csum",
                "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0", temporary,
            ])
            guard status == 0 else { throw .diskNotMade(path: path, report: output) }
            try platform { () throws(SystemError) in
                try Descriptor.open(temporary, .readWrite).synchronize()
                try Files.rename(temporary, to: path)
            }
        } catch {
            removeRemains()
            throw error
        }
    }

    private func check() throws(EmulatedHostError) {
        guard let e2fsck = findProgram("e2fsck") else { throw .programMissing(name: "e2fsck", package: "e2fsprogs") }
        let (status, output) = try runTool([e2fsck, "-p", path])
        // 1 and 2: errors were corrected (e2fsck(8)); 4 and more: they were not.
        guard status == 0 || status == 1 || status == 2 else { throw .diskBroken(path: path, report: output) }
    }

    /// Runs a tool to its end; gives its status and the end of what it said, on one line.
    private func runTool(_ command: [String]) throws(EmulatedHostError) -> (status: Int32, output: String) {
        let pipe = try platform { () throws(SystemError) in try Pipe() }
        var specification = ProcessSpecification(
            command[0], command, environment: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"])
        specification.descriptors = [-1, pipe.writing.raw, pipe.writing.raw]
        specification.parentDeathSignal = SIGKILL
        let child = try platform { () throws(SystemError) in try ChildProcess(specification) }
        pipe.writing.close()
        var tail = Tail(limit: 1000)
        var space = [UInt8](repeating: 0, count: 4096)
        while true {
            let raw = pipe.reading.raw
            let count = unsafe space.withUnsafeMutableBytes { buffer in
                retryingInterrupts { unsafe read(raw, buffer.baseAddress, buffer.count) }
            }
            if count <= 0 { break }
            tail.append(space[..<count])
        }
        pipe.reading.close()
        let end = try platform { () throws(SystemError) in try child.wait() }
        return (end.shellStatus, tail.line)
    }
}
