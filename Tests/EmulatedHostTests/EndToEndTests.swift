// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing

/// The real thing: QEMU, the kernel and the initramfs of this tree, or those that MARTLET_KERNEL and MARTLET_INITRAMFS
/// name. Fails where it cannot run.
@Suite(.serialized) struct EndToEndTests {
    private static func host() throws -> HostTestbed {
        try HostTestbed(
            kernel: try environmentVariable("MARTLET_KERNEL") ?? built(by: "Kernel/build"),
            initramfs: try environmentVariable("MARTLET_INITRAMFS") ?? built(by: "Guest/build"), isFake: false)
    }

    /// The path that a build script prints; it builds only what is not there yet.
    private static func built(by script: String) throws -> String {
        let root = try Files.resolve("\(splitPath(#filePath).directory)/../..")
        let output = try Descriptor.memoryFile("output")
        var specification = ProcessSpecification("\(root)/\(script)", [script], environment: processEnvironment())
        specification.descriptors = [-1, output.raw, 2]
        let end = try ChildProcess(specification).wait()
        try #require(end == .exited(0), "\(script) failed")
        lseek(output.raw, 0, SEEK_SET)
        let lines = String(decoding: try output.readAll(limit: 65_536), as: UTF8.self).split(separator: "\n")
        return String(try #require(lines.last))
    }

    @Test func streamsExitCodesAndKVM() throws {
        let host = try EndToEndTests.host()
        let result = try host.run("exec", "sh", "-c", "echo out; echo err >&2; exit 7")
        #expect(result.status == 7)
        #expect(result.text == "out\n")
        #expect(result.errors.hasSuffix("err\n"))
        #expect(try host.run("exec", "sh", "-c", "kill -9 $$").status == 137)
        #expect(try host.run("exec", "nosuch").status == 127)
        #expect(try host.run("exec", "/etc/passwd").status == 126)
        #expect(try host.run("exec", "test", "-w", "/dev/kvm").status == 0)
        let bytes = (0..<1_500_001).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 9) }
        #expect(try host.run("exec", "cat", input: bytes).output == bytes)
        // The same directory as outside, and files of outside.
        #expect(try host.run("exec", "pwd").text == "\(try Files.resolve("."))\n")
        try Files.writeAtomically(Array("first".utf8), to: "\(host.directory)/file")
        #expect(try host.run("exec", "cat", "\(host.directory)/file").text == "first")
        try Files.writeAtomically(Array("second".utf8), to: "\(host.directory)/file")
        #expect(try host.run("exec", "cat", "\(host.directory)/file").text == "second")
        // Nothing inside reaches a file outside.
        #expect(try host.run("exec", "sh", "-c", "echo inside > \(host.directory)/file").status == 0)
        #expect(try Files.read("\(host.directory)/file", limit: 100) == Array("second".utf8))
        #expect(try host.run("stop").text == "stopped\n")
    }

    @Test func diskLastsOverAStopAndOverKills() throws {
        let host = try EndToEndTests.host()
        let write = "cd /var/lib/martlet/$(id -u) && echo kept > file && sync"
        try #require(try host.run("exec", "sh", "-c", write).status == 0)
        #expect(try host.run("stop").text == "stopped\n")
        let read = "cat /var/lib/martlet/$(id -u)/file"
        #expect(try host.run("exec", "sh", "-c", read).text == "kept\n")

        let first = try host.processes()
        kill(first.keeper, SIGKILL)
        HostTestbed.waitForEnd(of: first.emulator)
        #expect(try host.run("exec", "sh", "-c", read).text == "kept\n")

        let second = try host.processes()
        kill(second.emulator, SIGKILL)
        HostTestbed.waitForEnd(of: second.keeper)
        #expect(try host.run("exec", "sh", "-c", read).text == "kept\n")
    }

    @Test func concurrentStarts() throws {
        let host = try EndToEndTests.host()
        let children = Box()
        for code in 1...4 { children.add(try host.spawn(["exec", "sh", "-c", "exit \(code)"])) }
        #expect(try children.wait() == [1, 2, 3, 4])
    }

    @Test func lostClientTakesItsProcessAlong() throws {
        let host = try EndToEndTests.host()
        let pipe = try Pipe()
        let child = try host.spawn(["exec", "sh", "-c", "echo $$; exec sleep 1000"], output: pipe.writing.raw)
        pipe.writing.close()
        var line = [UInt8](repeating: 0, count: 64)
        let raw = pipe.reading.raw
        let count = read(raw, &line, line.count)
        try #require(count > 1)
        let number = String(decoding: line[..<(count - 1)], as: UTF8.self)
        try child.killAndWait()
        // Waits inside until the process is gone.
        let wait = "timeout 20 tail --pid=\(number) -f /dev/null"
        #expect(try host.run("exec", "sh", "-c", wait).status == 0)
    }

    @Test func kernelThatIsNone() throws {
        let host = try HostTestbed(kernel: "/etc/passwd", initramfs: "/etc/passwd", isFake: false)
        let result = try host.run("exec", "true")
        #expect(result.status == 125)
        #expect(result.errors.contains("ended unexpectedly"))
    }
}
