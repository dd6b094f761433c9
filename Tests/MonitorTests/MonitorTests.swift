// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing

/// The monitor as a program: what it says and how it ends where no machine comes to run. It is built beside the tests.
struct MonitorProgram {
    let path: String

    init() throws {
        path = splitPath(try Files.resolve("/proc/self/exe")).directory + "/martlet-vmm"
    }

    /// Runs it to its end; gives its exit status and what it wrote to standard output and standard error.
    func run(_ arguments: [String], configuration: String? = nil) throws -> (status: ProcessEnd, output: String) {
        let directory = "/tmp/martlet-monitor-\(monotonicNanoseconds())"
        try Files.makeDirectories(directory)
        defer { try? Files.removeTree(directory) }
        var arguments = ["martlet-vmm"] + arguments
        if let configuration {
            try Files.writeAtomically(Array(configuration.utf8), to: "\(directory)/machine.json")
            arguments += ["--config-file", "\(directory)/machine.json"]
        }
        let output = try Descriptor.open("\(directory)/output", .append)
        var specification = ProcessSpecification(path, arguments)
        specification.directory = directory
        specification.descriptors = [-1, output.raw, output.raw]
        let child = try ChildProcess(specification)
        let status = try child.wait()
        return (status, String(decoding: try Files.read("\(directory)/output", limit: 1 << 20), as: UTF8.self))
    }
}

@Suite struct MonitorTests {
    static let wrongArguments: [([String], String)] = [
        ([], "--config-file is missing"), (["--nonsense"], "no such argument"),
        (["--config-file"], "a value is missing"),
        (["--config-file", "x", "--id", "a/b"], "--id a/b"),
        (["--config-file", "x", "--level", "loud"], "--level loud"),
        (["--config-file", "x", "--status-fd", "-1"], "--status-fd -1"), (["--no-api=1"], "takes no value"),
    ]

    @Test(arguments: wrongArguments) func argumentsAreJudged(arguments: [String], problem: String) throws {
        let (status, output) = try MonitorProgram().run(arguments)
        #expect(status == .exited(153))
        #expect(output.contains(problem) && output.hasPrefix("martlet-vmm: "), "\(output)")
        #expect(output.utf8.filter { $0 == 0x0a }.count == 1)
    }

    @Test func closedDescriptorIsNamed() throws {
        let (status, output) = try MonitorProgram().run(
            ["--status-fd", "77"], configuration: #"{"boot-source":{"kernel_image_path":"/k"}}"#)
        #expect(status == .exited(153))
        #expect(output.contains("--status-fd 77: no such descriptor"))
    }

    static let wrongConfigurations: [(String, String)] = [
        ("", "line 1, column 1"), ("{}", "boot-source is missing"),
        (#"{"boot-source":{"kernel_image_path":"/k"},"x":1}"#, "x (line 1, column 47): there is no such field"),
        (
            #"{"boot-source":{"kernel_image_path":"/k"},"machine-config":{"vcpu_count":1,"mem_size_mib":16777216}}"#,
            "more than this host's memory"
        ),
        (
            #"{"boot-source":{"kernel_image_path":"/k"},"metrics":{"metrics_path":"/nowhere/m"}}"#,
            "metrics.metrics_path: cannot open /nowhere/m: No such file or directory"
        ),
    ]

    @Test(arguments: wrongConfigurations) func configurationIsJudged(text: String, problem: String) throws {
        let (status, output) = try MonitorProgram().run([], configuration: text)
        #expect(status == .exited(152))
        #expect(output.contains(problem), "\(output)")
        #expect(output.utf8.filter { $0 == 0x0a }.count == 1)
    }

    @Test func missingConfigurationIsNamed() throws {
        let (status, output) = try MonitorProgram().run(["--config-file", "/nowhere/machine.json"])
        #expect(status == .exited(152))
        #expect(output.contains("/nowhere/machine.json") && output.contains("No such file"))
    }

    @Test func versionAndHelp() throws {
        #expect(try MonitorProgram().run(["--version"]).status == .exited(0))
        let help = try MonitorProgram().run(["--help"])
        #expect(help.status == .exited(0) && help.output.contains("--lifeline-fd"))
    }

    /// A jail has no shared library: the program's ELF header table names no interpreter (PT_INTERP, type 3).
    @Test func programIsFullyStatic() throws {
        let file = try Descriptor.open(try MonitorProgram().path, .readOnly)
        var head = [UInt8](repeating: 0, count: 4096)
        let count = try unsafe head.withUnsafeMutableBytes { bytes in try unsafe file.readFully(into: bytes, at: 0) }
        #expect(count == 4096)
        let entries = Int(head[56]) | Int(head[57]) << 8
        let types = (0..<entries).map { head[64 + $0 * 56] }
        #expect(types.contains(1) && !types.contains(3))
    }
}
