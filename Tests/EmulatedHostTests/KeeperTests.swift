// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing

/// The keeper and its clients as processes, with a fake QEMU that speaks the guest's side.
@Suite struct KeeperTests {
    @Test func startExecStop() throws {
        let host = try HostTestbed()
        #expect(try host.run("status").status == 1)
        let both = try host.run("exec", "both")
        #expect(both.status == 0)
        #expect(both.text == "out")
        #expect(both.errors.hasSuffix("err"))
        #expect(try host.run("exec", "exit", "7").status == 7)
        let refused = try host.run("exec", "nosuch")
        #expect(refused.status == 127)
        #expect(refused.errors.contains("nosuch: not found"))
        let (keeper, emulator) = try host.processes()
        #expect(try host.run("stop").text == "stopped\n")
        HostTestbed.waitForEnd(of: keeper)
        HostTestbed.waitForEnd(of: emulator)
        #expect(try host.run("status").status == 1)
        #expect(try host.run("stop").text == "none ran\n")
        #expect(try Files.list("\(host.directory)/run/martlet").isEmpty)
    }

    @Test func bulk() throws {
        let host = try HostTestbed()
        let bytes = (0..<1_500_001).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 9) }
        #expect(try host.run("exec", "cat", input: bytes).output == bytes)
        #expect(try host.run("exec", "out", "900000").output.count == 900_000)
    }

    /// However many commands start at once: one host, and all of them get it.
    @Test func concurrentStarts() throws {
        let host = try HostTestbed()
        let outputs = try Descriptor.memoryFile("output")
        let children = Box()
        for code in 1...6 { children.add(try host.spawn(["exec", "exit", "\(code)"], errors: outputs.raw)) }
        #expect(try children.wait() == [1, 2, 3, 4, 5, 6])
        lseek(outputs.raw, 0, SEEK_SET)
        let said = String(decoding: try outputs.readAll(limit: 1 << 20), as: UTF8.self)
        #expect(said.split(separator: "\n").filter { $0.hasSuffix("starting the emulated host") }.count == 1)
    }

    @Test func killedKeeperTakesTheEmulatorAlong() throws {
        let host = try HostTestbed()
        try #require(try host.run("start").status == 0)
        let (keeper, emulator) = try host.processes()
        kill(keeper, SIGKILL)
        HostTestbed.waitForEnd(of: emulator)
        #expect(try host.run("exec", "exit", "3").status == 3)
        #expect(try host.processes().keeper != keeper)
    }

    @Test func killedEmulatorIsTold() throws {
        let host = try HostTestbed()
        try #require(try host.run("start").status == 0)
        let (keeper, emulator) = try host.processes()
        kill(emulator, SIGKILL)
        HostTestbed.waitForEnd(of: keeper)
        #expect(try host.run("exec", "exit", "3").status == 3)
    }

    @Test func crashWhileACommandRuns() throws {
        let host = try HostTestbed()
        let result = try host.run("exec", "crash")
        #expect(result.status == 125)
        #expect(result.errors.contains("ended unexpectedly"))
        #expect(result.errors.contains("BUG: unable to handle page fault"))
        #expect(try host.run("exec", "exit", "0").status == 0)
    }

    @Test func hostThatDoesNotComeUp() throws {
        let host = try HostTestbed(kernel: "panics")
        let result = try host.run("exec", "exit", "0")
        #expect(result.status == 125)
        #expect(result.errors.contains("Kernel panic - not syncing"))
        #expect(try host.run("status").status == 1)
    }

    /// Every kind of frame out of its place: the host is given up, with a reason, and the next command has a new one.
    @Test(arguments: [1, 3, 5, 8, 9, 11, 14])
    func guestThatBreaksTheProtocol(kind: Int) throws {
        let host = try HostTestbed()
        let result = try host.run("exec", "hostile", "\(kind)")
        #expect(result.status == 125)
        #expect(result.errors.contains("broke the protocol") || result.errors.contains("last words"))
        #expect(try host.run("exec", "exit", "4").status == 4)
    }

    @Test func endsWhenIdle() throws {
        let host = try HostTestbed(idleInSeconds: 0)
        // A start leaves no client behind; the host has nothing to do at once.
        #expect(try host.run("exec", "exit", "5").status == 5)
        let life = try FileLock(waitingAt: "\(host.directory)/data/martlet/host/life.lock")
        #expect(Files.exists(host.disk))
        withExtendedLifetime(life) {}
    }

    @Test func doesNotEndWhileSomethingRuns() throws {
        let host = try HostTestbed(idleInSeconds: 0)
        let pipe = try Pipe()
        let child = try host.spawn(["exec", "linger"], errors: pipe.writing.raw)
        #expect(try child.wait() == .exited(0))
        let (keeper, _) = try host.processes()
        #expect(kill(keeper, 0) == 0)
    }

    @Test func signalReachesTheProcess() throws {
        let host = try HostTestbed()
        try #require(try host.run("start").status == 0)
        let child = try host.spawn(["exec", "wait"])
        // The signal is blocked from the program's start on or ends it by itself: the status is the same.
        try child.send(SIGTERM)
        let end = try child.wait()
        #expect(end.shellStatus == 143, "\(end)")
    }

    @Test func otherBuild() throws {
        let host = try HostTestbed()
        try #require(try host.run("exec", "exit", "0").status == 0)
        let (keeper, _) = try host.processes()
        // An idle host of another build makes way, a busy one is left alone.
        try Files.writeAtomically([1], to: "\(host.directory)/kernel")
        #expect(try host.run("exec", "linger").status == 0)
        #expect(try host.processes().keeper != keeper)
        try Files.writeAtomically([1, 2], to: "\(host.directory)/kernel")
        let refused = try host.run("exec", "exit", "0")
        #expect(refused.status == 125)
        #expect(refused.errors.contains("martlet host stop"))
    }

    @Test func badInput() throws {
        let host = try HostTestbed()
        host.environment.append("MARTLET_KERNEL=/nonexistent/vmlinux")
        host.environment.removeAll { $0.hasPrefix("MARTLET_KERNEL=/tmp") }
        let noKernel = try host.run("start")
        #expect(noKernel.status == 125)
        #expect(noKernel.errors.contains("no kernel at /nonexistent/vmlinux"))

        let noMemory = try HostTestbed()
        noMemory.environment.removeAll { $0.hasPrefix("MARTLET_HOST_MEMORY") }
        noMemory.environment.append("MARTLET_HOST_MEMORY=100000000")
        #expect(try noMemory.run("start").errors.contains("more than the machine's"))

        let brokenDisk = try HostTestbed()
        try Files.makeDirectories("\(brokenDisk.directory)/data/martlet/host")
        try Files.writeAtomically([UInt8](repeating: 7, count: 70_000), to: brokenDisk.disk)
        let broken = try brokenDisk.run("start")
        #expect(broken.status == 125)
        #expect(broken.errors.contains("e2fsck -y"))
        #expect(try Files.read(brokenDisk.disk, limit: 70_000).count == 70_000)
    }
}

/// Children that are waited for together.
final class Box {
    private var statuses: [() throws -> Int32] = []
    func add(_ child: consuming ChildProcess) {
        let held = Held(child)
        statuses.append { try held.child.wait().shellStatus }
    }
    func wait() throws -> [Int32] { try statuses.map { try $0() } }

    private final class Held {
        let child: ChildProcess
        init(_ child: consuming ChildProcess) { self.child = child }
    }
}
