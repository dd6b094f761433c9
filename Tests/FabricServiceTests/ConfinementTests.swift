// SPDX-License-Identifier: Apache-2.0

import FabricAPI
import FabricService
import Glibc
import Platform
import Testing
import Wire

@Suite struct Confined {
    /// Root becomes an ordinary user as well; anybody else is one.
    static let users: [uid_t] = geteuid() == 0 ? [0, 61_234] : [geteuid()]

    /// A directory of a user's, with a file that no fabric has to do with.
    private static func directory(of user: uid_t) throws -> TemporaryDirectory {
        let directory = try TemporaryDirectory()
        try Files.makeDirectories("\(directory.path)/networks", permissions: 0o700)
        try Files.writeAtomically(definition().json.encoded(), to: "\(directory.path)/networks/blue.json")
        try Files.writeAtomically(Array("secret".utf8), to: "\(directory.path)/diary", permissions: 0o600)
        // The one that was built is where the user may not get.
        try #require(try run("/bin/cp", [try fixture(), "\(directory.path)/fixture"]).end == .exited(0))
        for path in ["", "/ports", "/networks", "/networks/blue.json", "/diary", "/fixture"] {
            try #require(chown(directory.path + path, user, user) == 0)
        }
        return directory
    }

    /// A command that is run as a user.
    private static func command(_ arguments: [String], as user: uid_t) -> [String] {
        user == geteuid()
            ? arguments
            : ["/usr/bin/setpriv", "--reuid=\(user)", "--regid=\(user)", "--clear-groups", "--"] + arguments
    }

    @Test func whatIsMissingIsSaid() {
        let refused = OwnNamespaces.Result(problem: "unshare: Operation not permitted")
        var has = FabricConfinement(namespaces: refused, landlock: 0, seccomp: false)
        #expect(has.missing?.contains("no namespaces of its own: unshare") == true)
        #expect(has.missing?.contains("no Landlock") == true && has.missing?.contains("no seccomp") == true)
        has = FabricConfinement(namespaces: OwnNamespaces.Result(), landlock: 5, seccomp: true)
        #expect(has.missing?.contains("version 5") == true)
        has.landlock = 6
        #expect(has.missing == nil)
    }

    @Test(arguments: users) func whatIsGivenUp(user: uid_t) throws {
        let directory = try Self.directory(of: user)
        let command = Self.command(["\(directory.path)/fixture", "confined", "\(directory.path)/ports"], as: user)
        let (end, text) = try run(command[0], Array(command.dropFirst()))
        #expect(end == .exited(0), "\(text)")
        let lines = text.split(separator: "\n").map(String.init)
        // Without Landlock in the kernel, files are as open as the user's are.
        let hasFiles = lines.contains("files works")
        for wanted in [
            "calls works", "read-etc works", "listen works", "remove works", "tcp works", "packet-socket fails",
            "fork fails", "executable-memory fails", "signal-others fails", "privileges fails",
        ] + (hasFiles ? ["read-proc fails", "write-etc fails", "listen-elsewhere fails"] : [])
            + (lines.contains("scope works") ? ["abstract fails"] : [])
            // Who may have namespaces says the host.
            + (lines.contains("namespaces works")
                ? ["connect-outside fails", "own-users \(user == 0 ? "fails" : "works")"] : [])
        {
            #expect(lines.contains(wanted), "\(wanted): \(text)")
        }
    }

    /// `martlet-fabric` itself, as it serves a network, and what its thread can do then.
    @Test(arguments: users) func aFabricThatServes(user: uid_t) throws {
        let directory = try Self.directory(of: user)
        let ready = try Pipe()
        let told = try Pipe()
        let command = Self.command(
            [
                "\(directory.path)/fixture", "probed", "\(directory.path)/diary", "--definition",
                "\(directory.path)/networks/blue.json", "--directory", "\(directory.path)/running", "--ready-fd", "3",
            ], as: user)
        var specification = ProcessSpecification(command[0], command, environment: ["PATH=/usr/bin:/bin"])
        specification.descriptors = [-1, 2, 2, ready.writing.raw, told.writing.raw]
        specification.parentDeathSignal = SIGKILL
        let fabric = try ChildProcess(specification)
        defer { _ = try? fabric.killAndWait() }
        let reading = ready.reading
        let telling = told.reading
        ready.writing.close()
        told.writing.close()
        var byte: UInt8 = 0
        try #require(read(reading.raw, &byte, 1) == 0)
        func hear() throws -> String {
            var line: [UInt8] = []
            while line.last != UInt8(ascii: "\n") {
                try #require(read(telling.raw, &byte, 1) == 1)
                line.append(byte)
            }
            return String(decoding: line, as: UTF8.self)
        }
        // Before it had given up anything.
        #expect(try hear() == "open works\n")

        // Whoever runs the tests is this user, or root, who has no number in a user namespace of the fabric's.
        let client = try Client("\(directory.path)/running/control")
        guard case .attached(let endpoint) = try client.ask(.attach(.init(id: "a", name: "a"))),
            case .inspected(let state) = try client.ask(.inspect)
        else {
            Issue.record("no inspection")
            return
        }
        try UnixSocket.connect(to: endpoint.socketPath, kind: .records).close()
        let confinement = try #require(state["confinement"])
        #expect(confinement["seccomp"] == true)
        let hasNamespaces = confinement["namespaces"] == true
        let hasFiles = hasNamespaces || confinement["landlock"]?.unsignedValue ?? 0 > 0
        let status = String(decoding: try Files.read("/proc/\(fabric.pid)/status", limit: 65_536), as: UTF8.self)
        #expect(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"))
        #expect(status.contains("Uid:\t\(user)\t\(user)\t\(user)\t\(user)\n"))
        if hasNamespaces {
            let root = try Files.list("/proc/\(fabric.pid)/root")
            #expect(root.contains("etc") && !root.contains("usr"))
            let users = try ["self", "\(fabric.pid)"].map { try Files.readSymbolicLink("/proc/\($0)/ns/user") }
            #expect((users[0] == users[1]) == (user == 0))
        }
        if user != 0 { #expect(status.contains("CapEff:\t0000000000000000\n")) }
        kill(fabric.pid, SIGUSR1)
        #expect(try hear() == "open \(hasFiles ? "fails" : "works")\n")
        #expect(try hear() == "execute fails\n")
        // It goes on.
        guard case .inspected = try Client("\(directory.path)/running/control").ask(.inspect) else {
            Issue.record("no inspection")
            return
        }
    }
}
