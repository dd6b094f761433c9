// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import GuestCore

private func bytes(_ string: String) -> [UInt8] { Array(string.utf8) }

private struct FakeFiles: ProgramDirectory {
    var files: [String: ProgramFinding]

    func examine(_ path: [UInt8]) -> ProgramFinding {
        files[String(decoding: path, as: UTF8.self)] ?? .missing
    }
}

@Suite struct ProgramSearchTests {
    private let files = FakeFiles(files: [
        "/bin/sh": .executable, "/usr/bin/tool": .executable, "/bin/tool": .executable, "/bin/data": .denied,
        "/usr/bin/data": .executable, "/bin/folder": .directory, "./here": .executable, "/opt/only": .denied,
        "/loop/a": .unreachable(bytes("too many levels of symbolic links")),
    ])

    @Test(arguments: [
        ("sh", "/usr/bin:/bin", "/bin/sh"),
        ("tool", "/usr/bin:/bin", "/usr/bin/tool"),
        ("tool", "/bin/:/usr/bin", "/bin/tool"),
        // What cannot be executed does not end the search.
        ("data", "/bin:/usr/bin", "/usr/bin/data"),
        ("here", ":/bin", "./here"),
        ("here", "/bin:", "./here"),
        ("./here", "", "./here"),
        ("/bin/sh", "", "/bin/sh"),
    ])
    func finds(name: String, path: String, program: String) throws {
        #expect(try ProgramSearch.find(bytes(name), path: bytes(path), in: files) == bytes(program))
    }

    @Test(
        arguments: [
            ("nope", "/bin", 127, "exec: \"nope\": executable file not found in $PATH"),
            ("", "/bin", 127, "exec: \"\": executable file not found in $PATH"),
            ("only", "/opt", 127, "exec: \"only\": executable file not found in $PATH"),
            ("folder", "/bin", 127, "exec: \"folder\": executable file not found in $PATH"),
            ("/nope", "/bin", 127, "exec: \"/nope\": stat /nope: no such file or directory"),
            ("/opt/only", "", 126, "exec: \"/opt/only\": permission denied"),
            ("/bin/folder", "", 126, "exec: \"/bin/folder\": is a directory: permission denied"),
            ("/loop/a", "", 126, "exec: \"/loop/a\": too many levels of symbolic links"),
        ] as [(String, String, UInt8, String)])
    func refuses(name: String, path: String, exitCode: UInt8, message: String) {
        let error = #expect(throws: ProgramError.self) {
            _ = try ProgramSearch.find(bytes(name), path: bytes(path), in: files)
        }
        #expect(error?.exitCode == exitCode)
        #expect(error.map { String(decoding: $0.message, as: UTF8.self) } == message)
    }
}

@Suite struct EnvironmentTests {
    @Test func defaults() {
        var environment = Environment([bytes("HOMELESS=1"), bytes("HOME="), bytes("PATH=/bin")])
        #expect(environment.value(of: "PATH") == bytes("/bin"))
        #expect(environment.value(of: "PAT") == nil)
        environment.setDefault("HOME", bytes("/root"))
        environment.setDefault("PATH", bytes("/other"))
        environment.setDefault("NEW", bytes("x"))
        #expect(environment.variables == ["HOMELESS=1", "HOME=/root", "PATH=/bin", "NEW=x"].map(bytes))
    }
}

@Suite struct BootParametersTests {
    @Test(
        arguments: [
            ("", BootParameters.Mode.container, 1024),
            ("console=ttyS0 martlet.mode=host quiet\n", .host, 1024),
            ("martlet.port=77\n", .container, 77),
            ("martlet.port=77 martlet.port=78 martlet.mode=host martlet.mode=container", .container, 78),
            (
                "martlet.port= martlet.port=x martlet.port=4294967295 martlet.port=99999999999999999999", .container,
                1024
            ),
            ("martlet.mode=other xmartlet.port=5", .container, 1024),
        ] as [(String, BootParameters.Mode, UInt32)])
    func parses(line: String, mode: BootParameters.Mode, port: UInt32) {
        let parameters = BootParameters(commandLine: bytes(line))
        #expect(parameters.mode == mode)
        #expect(parameters.port == port)
    }
}

@Suite struct SignalSetsTests {
    private static func status(blocked: UInt64 = 0, ignored: UInt64 = 0, caught: UInt64 = 0) -> [UInt8] {
        func hex(_ value: UInt64) -> String {
            let digits = String(value, radix: 16)
            return String(repeating: "0", count: 16 - digits.count) + digits
        }
        return bytes(
            """
            Name:\tsleep
            SigQ:\t0/7700
            SigPnd:\t0000000000000000
            ShdPnd:\t0000000000000000
            SigBlk:\t\(hex(blocked))
            SigIgn:\t\(hex(ignored))
            SigCgt:\t\(hex(caught))
            CapInh:\t0000000000000000

            """)
    }

    @Test(arguments: 1...64 as ClosedRange<Int32>)
    func dispositions(signal: Int32) throws {
        let bit = UInt64(1) << UInt64(signal - 1)
        let harmless: Set<Int32> = [17, 18, 19, 20, 21, 22, 23, 28]
        let none = try #require(SignalSets(status: SignalSetsTests.status(caught: ~bit)))
        #expect(none.isDroppedThoughFatal(signal) == !harmless.contains(signal))
        for sets in [
            SignalSetsTests.status(blocked: bit), SignalSetsTests.status(ignored: bit),
            SignalSetsTests.status(caught: bit),
        ] {
            #expect(try !#require(SignalSets(status: sets)).isDroppedThoughFatal(signal))
        }
    }

    @Test func outOfRange() throws {
        let sets = SignalSets()
        for signal: Int32 in [-1, 0, 65, .max, .min] { #expect(!sets.isDroppedThoughFatal(signal)) }
    }

    @Test func anyBytesAreParsed() {
        #expect(SignalSets(status: []) == nil)
        var generator = Seeded(2)
        for _ in 0..<2_000 { _ = SignalSets(status: generator.mutated(SignalSetsTests.status(caught: 0x1234))) }
    }
}

@Suite struct TextTests {
    @Test(arguments: [0, 7, 10, -1, 1024, Int.min, Int.max])
    func numbers(number: Int) {
        #expect(text(number) == bytes(String(number)))
    }

    @Test func parts() {
        #expect(bytes("a::b:").parts(separatedBy: 0x3a) == ["a", "", "b", ""].map(bytes))
        #expect([UInt8]().parts(separatedBy: 0x3a) == [[]])
    }

    @Test(
        arguments: [
            ("0", 0), ("18446744073709551615", UInt64.max), ("18446744073709551616", nil), ("", nil), ("1a", nil),
            ("-1", nil), (" 1", nil),
        ] as [(String, UInt64?)])
    func decimals(digits: String, value: UInt64?) {
        #expect(bytes(digits).decimal(atMost: .max) == value)
    }
}

@Suite struct MountTableTests {
    /// A mount point that lies within another mount comes after it, or it would be hidden.
    @Test(arguments: [true, false]) func parentsComeFirst(isHost: Bool) {
        let targets = (isHost ? MountTable.host : MountTable.container).map { text($0.target) }
        for (index, target) in targets.enumerated() {
            for later in targets[index...].dropFirst() { #expect(!target.hasPrefix(later + [0x2f])) }
        }
        #expect(Set(targets).count == targets.count)
    }
}
