// SPDX-License-Identifier: Apache-2.0

import CLinux
import Glibc
import Platform
import Testing

struct ToolResult {
    var status: Int32
    var output: [UInt8]
    var errors: String
    var text: String { String(decoding: output, as: UTF8.self) }
}

/// A user of their own, with directories of their own, and the program that is to them what `martlet host` is.
final class HostTestbed {
    let directory: String
    var environment: [String]

    /// - Parameter kernel: the fake guest behaves by its name; a real kernel needs `qemu` to be nil.
    init(kernel: String? = nil, initramfs: String? = nil, isFake: Bool = true, idleInSeconds: Int = 300) throws {
        directory = "/tmp/emulated-host-test.\(getpid()).\(monotonicNanoseconds())"
        for name in ["data", "state", "run", "cache"] {
            try Files.makeDirectories("\(directory)/\(name)", permissions: 0o700)
        }
        let fakeKernel = "\(directory)/\(kernel ?? "kernel")"
        if isFake { try Files.writeAtomically([], to: fakeKernel) }
        environment = [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=\(directory)",
            "XDG_DATA_HOME=\(directory)/data", "XDG_STATE_HOME=\(directory)/state", "XDG_RUNTIME_DIR=\(directory)/run",
            "XDG_CACHE_HOME=\(directory)/cache", "MARTLET_HOST_MEMORY=1024",
            "MARTLET_HOST_IDLE_SECONDS=\(idleInSeconds)",
            "MARTLET_KERNEL=\(isFake ? fakeKernel : kernel ?? "")",
            "MARTLET_INITRAMFS=\(isFake ? fakeKernel : initramfs ?? "")",
        ]
        if isFake { environment.append("MARTLET_QEMU=\(try HostTestbed.fixture())") }
    }

    deinit {
        _ = try? run("stop")
        try? Files.removeTree(directory)
    }

    static func fixture() throws -> String {
        let directory = splitPath(try Files.resolve("/proc/self/exe")).directory
        for candidate in [
            "\(directory)/host-fixture", "\(splitPath(#filePath).directory)/../../.build/debug/host-fixture",
        ]
        where Files.exists(candidate) {
            return try Files.resolve(candidate)
        }
        throw SystemError("open", "host-fixture", code: ENOENT)
    }

    var disk: String { "\(directory)/data/martlet/host/state.ext4" }
    var consoleLog: String { "\(directory)/state/martlet/host/console.log" }

    /// Starts the program without waiting for it.
    func spawn(_ arguments: [String], input: Int32 = -1, output: Int32 = -1, errors: Int32 = -1) throws -> ChildProcess
    {
        let program = try HostTestbed.fixture()
        var specification = ProcessSpecification(program, [program] + arguments, environment: environment)
        specification.descriptors = [input, output, errors]
        specification.parentDeathSignal = nil
        return try ChildProcess(specification)
    }

    /// Runs the program to its end.
    func run(_ arguments: String..., input: [UInt8] = []) throws -> ToolResult {
        let source = try Descriptor.memoryFile("input")
        try source.writeAll(input)
        lseek(source.raw, 0, SEEK_SET)
        let output = try Descriptor.memoryFile("output")
        let errors = try Descriptor.memoryFile("errors")
        let child = try spawn(arguments, input: source.raw, output: output.raw, errors: errors.raw)
        let end = try child.wait()
        lseek(output.raw, 0, SEEK_SET)
        lseek(errors.raw, 0, SEEK_SET)
        return ToolResult(
            status: end.shellStatus, output: try output.readAll(limit: 1 << 28),
            errors: String(decoding: try errors.readAll(limit: 1 << 20), as: UTF8.self))
    }

    /// The processes that make up the running host.
    func processes() throws -> (keeper: Int32, emulator: Int32) {
        let status = try run("status")
        var numbers: [String: Int32] = [:]
        for word in status.text.split(whereSeparator: { $0 == " " || $0 == "\n" }) {
            let parts = word.split(separator: "=")
            if parts.count == 2 { numbers[String(parts[0])] = Int32(parts[1]) }
        }
        return (try #require(numbers["keeper"]), try #require(numbers["emulator"]))
    }

    /// Waits until a process that is not this one's child has ended.
    static func waitForEnd(of process: Int32) {
        let descriptor = clinux_pidfd_open(process)
        guard descriptor >= 0 else { return }
        var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        let count = poll(&entry, 1, 30_000)
        close(descriptor)
        #expect(count == 1, "process \(process) is still there after 30 s")
    }
}
