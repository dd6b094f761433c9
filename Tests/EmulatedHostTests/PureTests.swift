// SPDX-License-Identifier: Apache-2.0

import GuestProtocol
import Platform
import Testing

@testable import EmulatedHost

private func configuration() throws -> HostConfiguration {
    try HostConfiguration(keeperArguments: [
        "--data=/d", "--runtime=/r", "--logs=/l", "--store=/s", "--kernel=/k", "--initramfs=/i", "--qemu=/q",
        "--memory=2048", "--idle=300", "--identity=0123", "--fabric=/f",
    ])
}

@Suite struct HostPathsTests {
    @Test func byTheSpecification() {
        let variables = [
            "HOME": "/home/u", "XDG_DATA_HOME": "/data/", "XDG_STATE_HOME": "relative",
            "XDG_RUNTIME_DIR": "/run/user/7",
        ]
        let paths = HostPaths(user: 7, variable: { variables[$0] })
        #expect(paths.disk == "/data/martlet/host/state.ext4")
        #expect(paths.consoleLog == "/home/u/.local/state/martlet/host/console.log")
        #expect(paths.socket == "/run/user/7/martlet/host.sock")
        #expect(paths.store == "/data/martlet")
    }

    @Test func withoutARuntimeDirectory() {
        let paths = HostPaths(user: 7, variable: { $0 == "HOME" ? "/home/u" : nil })
        #expect(paths.runtime == "/tmp/martlet-7")
        #expect(paths.data == "/home/u/.local/share/martlet/host")
    }

    @Test func aDirectoryThatOthersCanWriteIsRefused() throws {
        let path = "/tmp/martlet-private-test.\(monotonicNanoseconds())"
        try Files.makeDirectory(path, permissions: 0o700)
        defer { try? Files.removeTree(path) }
        try HostPaths.checkPrivate(path)
        #expect(throws: EmulatedHostError.self) { try HostPaths.checkPrivate("/tmp") }
        #expect(throws: EmulatedHostError.self) { try HostPaths.checkPrivate("/proc/self/exe") }
    }
}

@Suite struct HostConfigurationTests {
    @Test(
        arguments: [
            (nil, nil, 24_000, 8192), (nil, nil, 4000, 2000), (nil, nil, 600, 512), (1000, "2000", 4000, 1000),
            (nil, "2000", 4000, 2000),
        ] as [(Int?, String?, Int, Int)])
    func memory(wanted: Int?, variable: String?, machine: Int, expected: Int) throws {
        #expect(
            try HostConfiguration.memory(wanted: wanted, variable: { _ in variable }, machine: machine) == expected)
    }

    @Test(
        arguments: [(0, nil), (-1, nil), (5000, nil), (nil, "many"), (nil, "99999999999999999999"), (nil, "12")]
            as [(Int?, String?)])
    func memoryThatMakesNoSense(wanted: Int?, variable: String?) {
        #expect(throws: EmulatedHostError.self) {
            try HostConfiguration.memory(wanted: wanted, variable: { _ in variable }, machine: 4000)
        }
    }

    @Test func keeperArgumentsGoAndComeBack() throws {
        var original = try configuration()
        original.paths.data = "/with space=and,comma"
        original.paths.store = ""
        #expect(try HostConfiguration(keeperArguments: original.keeperArguments) == original)
    }

    @Test(arguments: [[], ["--data"], ["data=/d"], ["--data=/d"]])
    func keeperArgumentsThatAreNotWhole(arguments: [String]) {
        #expect(throws: EmulatedHostError.self) { try HostConfiguration(keeperArguments: arguments) }
    }

    @Test func qemuThatIsMissingIsNamedWithItsPackage() {
        let error = EmulatedHostError.programMissing(name: "qemu-system-x86_64", package: "qemu-system-x86")
        #expect("\(error)".contains("apt-get install qemu-system-x86"))
    }

    @Test func fingerprintChangesWithAFile() throws {
        let path = "/tmp/martlet-fingerprint-test.\(monotonicNanoseconds())"
        defer { Files.remove(path) }
        let missing = fingerprint(of: [path])
        try Files.writeAtomically([1], to: path)
        let one = fingerprint(of: [path])
        #expect(one == fingerprint(of: [path]))
        try Files.writeAtomically([1], to: path)
        let other = fingerprint(of: [path])
        #expect(Set([missing, one, other]).count == 3)
        #expect(one.utf8.count == 16)
    }
}

@Suite struct QEMUCommandTests {
    @Test func whatTheGuestCanReach() throws {
        var configuration = try configuration()
        configuration.paths.data = "/a,b"
        let arguments = QEMUCommand(configuration: configuration, portDescriptor: 3).arguments
        #expect(arguments[0] == "/q")
        #expect(arguments.contains("local,id=share,path=/,security_model=none,readonly=on,multidevs=remap"))
        #expect(arguments.contains { $0.hasSuffix("file=/a,,b/state.ext4") })
        #expect(arguments.contains("socket,id=port,fd=3"))
        // One network, QEMU's own or a socket: nothing of it is opened on the machine's interfaces.
        #expect(
            arguments.filter { $0.contains("netdev") } == [
                "-netdev", "virtio-net-device,netdev=network,mac=52:54:00:12:34:56",
            ])
        #expect(arguments.contains("user,id=network,ipv6=off"))
        let other = QEMUCommand(configuration: configuration, portDescriptor: 3, networkDescriptor: 4).arguments
        #expect(other.contains("socket,id=network,fd=4") && other.count == arguments.count)
        #expect(!arguments.contains { $0.contains("mon") })
        for pair in [("-smp", "1"), ("-m", "2048"), ("-display", "none")] {
            #expect(arguments.firstIndex(of: pair.0).map { arguments[$0 + 1] } == pair.1)
        }
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot", "-sandbox"] { #expect(arguments.contains(flag)) }
    }
}

@Suite struct InsideEnvironmentTests {
    @Test func placesAreThoseInside() {
        let inside = InsideEnvironment(user: 1000, group: 100, directory: "/home/u/x", store: "/home/u/s")
        let request = inside.request(
            ["martlet", "ps"],
            outside: ["HOME=/home/u", "XDG_DATA_HOME=/mine", "MARTLET_HOST_MEMORY=1", "LANG=C", "PATH=/p", "broken"],
            hasInput: true)
        let variables = request.environment.map { String(decoding: $0, as: UTF8.self) }
        #expect(
            variables == [
                "HOME=/home/u", "LANG=C", "PATH=/p", "XDG_STATE_HOME=/var/lib/martlet/1000/state",
                "XDG_DATA_HOME=/var/lib/martlet/1000/data", "XDG_CACHE_HOME=/var/lib/martlet/1000/cache",
                "XDG_RUNTIME_DIR=/run/martlet-1000", "MARTLET_ADDITIONAL_STORES=/home/u/s", "MARTLET_INSIDE_HOST=1",
            ])
        #expect(request.user == Array("1000:100".utf8))
        #expect(request.directory == Array("/home/u/x".utf8))
        #expect(request.hasInput)
    }

    @Test func aPathIsThereInAnyCase() {
        let inside = InsideEnvironment(user: 0, group: 0, directory: "/", store: "/s")
        #expect(inside.variables(outside: []).contains { $0.hasPrefix("PATH=/") })
    }
}

@Suite struct HostTextTests {
    @Test func recordGoesAndComesBack() {
        let record = HostRecord(keeper: 1, emulator: 2, socket: "/a=b c", startedAt: 3, memoryInMiB: 4)
        #expect(HostRecord(text: record.text) == record)
        #expect(HostRecord(text: "keeper=1\n") == nil)
        #expect(HostRecord(text: "") == nil)
    }

    @Test func tailKeepsTheEnd() {
        var tail = Tail(limit: 10)
        tail.append(Array("abcdefgh".utf8)[...])
        tail.append(Array("ij\u{1b}[1m\nlast".utf8)[...])
        #expect(tail.bytes.count == 10)
        #expect(tail.line == "ij [1m; last" || tail.line.hasSuffix("last"))
        tail.append([UInt8](repeating: 65, count: 1000)[...])
        #expect(tail.bytes == [UInt8](repeating: 65, count: 10))
    }

    @Test func consoleLogIsBounded() throws {
        let path = "/tmp/martlet-console-test.\(monotonicNanoseconds())"
        defer {
            Files.remove(path)
            Files.remove("\(path).1")
        }
        var log = ConsoleLog(path: path)
        let piece = [UInt8](repeating: 66, count: 16_000)
        for _ in 0..<300 { log.append(piece[...]) }
        #expect(try Files.read(path, limit: ConsoleLog.limit).count <= ConsoleLog.limit)
        #expect(try Files.read("\(path).1", limit: ConsoleLog.limit).count <= ConsoleLog.limit)
    }

    @Test func shellGetsATerminal() {
        let command = EmulatedHost.terminalCommand(script: "/s", shell: "/bin/o'sh", size: (24, 80))
        #expect(command == ["/s", "-q", "-e", "-c", "stty rows 24 cols 80; exec '/bin/o'\\''sh' -i", "/dev/null"])
    }

    @Test func startReportsAreLines() {
        let report = StartReport.failed("one\ntwo")
        guard case .failed("one\ntwo") = StartReport(line: report.line.dropLast()) else {
            Issue.record("\(report.line)")
            return
        }
        #expect(StartReport(line: "") == nil)
        #expect(StartReport(line: "xyz") == nil)
    }
}
