// SPDX-License-Identifier: Apache-2.0

import CLinux
import Fabric
import FabricService
import Glibc
import Packet
import Platform

/// `fabric-fixture tap TAP SOCKET` carries records between a TAP with virtio headers and a machine's network socket, as
/// the monitor does. Says `up` when both are there, and ends with either. A number behind them is how many records of a
/// thousand get lost, and how many change places with the next, each way. `fabric-fixture probed FILE …` is `martlet-fabric`
/// that tries, at SIGUSR1, what it should not be able to do. With other arguments it is `martlet-fabric` alone.
@main struct Peer {
    static func main() throws {
        if CommandLine.arguments.count == 3, CommandLine.arguments[1] == "confined" {
            return try tryConfinement(CommandLine.arguments[2])
        }
        if CommandLine.arguments.count > 3, CommandLine.arguments[1] == "probed" {
            probe.path = strdup(CommandLine.arguments[2])
            probe.tryOpening()
            signal(SIGUSR1) { _ in
                probe.tryOpening()
                probe.tryExecuting()
            }
            return try FabricStart(arguments: Array(CommandLine.arguments.dropFirst(3))).run()
        }
        guard CommandLine.arguments.count >= 4, CommandLine.arguments[1] == "tap" else {
            return try FabricStart(arguments: Array(CommandLine.arguments.dropFirst())).run()
        }
        let tap = try TapDevice(CommandLine.arguments[2])
        tap.setOffloads([.checksums, .tcp4, .tcp6])
        let socket = try UnixSocket.connect(to: CommandLine.arguments[3], kind: .records)
        let hello = GuestMessage(driverRuns: true, features: 0x182, mtu: 1500, mac: .zero)
        try socket.writeAll(hello.bytes)
        try Descriptor(owning: 1).writeAll(Array("up\n".utf8))
        var space = [UInt8](repeating: 0, count: 70_000)
        let trouble = CommandLine.arguments.count > 4 ? UInt64(CommandLine.arguments[4]) ?? 0 : 0
        var (outward, inward) = (Disorder(perThousand: trouble, seed: 1), Disorder(perThousand: trouble, seed: 2))
        var watched = [pollfd(fd: tap.descriptor.raw, events: Int16(POLLIN), revents: 0)]
        watched.append(pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0))
        while poll(&watched, 2, -1) > 0 {
            if watched[0].revents != 0 {
                let count = read(tap.descriptor.raw, &space, space.count)
                guard count > 0 else { return }
                // What does not fit waits in the TAP's queue, as in a guest's.
                for record in outward.pass(space[..<count]) {
                    guard write(socket.raw, record, record.count) == record.count else { return }
                }
            }
            if watched[1].revents != 0 {
                let count = read(socket.raw, &space, space.count)
                guard count > 0 else { return }
                guard count >= 26 else { continue }
                for record in inward.pass(space[..<count]) { _ = write(tap.descriptor.raw, record, record.count) }
            }
        }
    }

    /// Gives up what the fabric does, tries what it must not do and what it must, and says how each went.
    private static func tryConfinement(_ directory: String) throws {
        // One that listens under an abstract name, in another process's place.
        let abstract = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var name = sockaddr_un()
        name.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &name.sun_path) { $0.copyBytes(from: [0] + Array("martlet-\(getpid())".utf8)) }
        func withName(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Bool {
            withUnsafePointer(to: name) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0
                }
            }
        }
        guard withName({ bind(abstract, $0, $1) }), listen(abstract, 1) == 0 else { return }
        // And one under a path, which no rule about files keeps anybody from.
        let outside = try UnixSocket.listen(at: "\(splitPath(directory).directory)/outside")
        let version = clinux_landlock_version()
        let namespaces = OwnNamespaces.enter(home: directory, readable: ["/etc", "/nonexistent"])
        let result = try Confinement.enter(writable: [directory], readable: ["/etc"])
        func say(_ name: String, _ worked: Bool) { print(name, worked ? "works" : "fails") }
        say("namespaces", namespaces.problem == nil)
        if let problem = namespaces.problem { print(problem) }
        say("privileges", clinux_capabilities() & CLINUX_CAP_SYS_ADMIN != 0)
        say("connect-outside", (try? UnixSocket.connect(to: "\(splitPath(directory).directory)/outside")) != nil)
        say("own-users", namespaces.hasOwnUsers)
        say("files", result.files)
        say("calls", result.calls)
        say("read-etc", (try? Files.read("/etc/hostname", limit: 4096)) != nil)
        say("read-proc", (try? Descriptor.open("/proc/self/maps", .readOnly)) != nil)
        say("write-etc", (try? Descriptor.open("/etc/hostname", .readWrite)) != nil)
        say("listen", (try? UnixSocket.listen(at: "\(directory)/socket")) != nil)
        say("remove", Files.remove("\(directory)/socket"))
        say("listen-elsewhere", (try? UnixSocket.listen(at: "\(directory)/../socket")) != nil)
        say("tcp", (try? InternetSocket.make(.stream, ipv4: true)) != nil)
        say("packet-socket", socket(17, Int32(SOCK_DGRAM.rawValue), 0) >= 0)
        say("fork", (try? ChildProcess(ProcessSpecification("/bin/true", ["true"]))) != nil)
        say(
            "executable-memory",
            mmap(nil, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
        say("signal-others", kill(1, 0) == 0)
        say("scope", version >= 6)
        let other = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        say("abstract", withName { connect(other, $0, $1) })
        outside.close()
    }
}

/// Set before the signal can come, and only read afterwards.
nonisolated(unsafe) private var probe = Probe()

/// What a thread can do, said on descriptor 4, a message each; by what a signal's handler may call.
private struct Probe {
    var path: UnsafeMutablePointer<CChar>?
    let program = strdup("/bin/true")

    func tryOpening() {
        guard let path else { return }
        let file = open(path, O_RDONLY | O_CLOEXEC)
        say(file >= 0 ? "open works\n" : "open fails\n")
        if file >= 0 { close(file) }
    }

    /// Comes back where it fails.
    func tryExecuting() {
        guard let program else { return }
        var arguments = [program, nil]
        execv(program, &arguments)
        say("execute fails\n")
    }

    private func say(_ text: StaticString) { _ = write(4, text.utf8Start, text.utf8CodeUnitCount) }
}

/// A link that loses records and lets some overtake others; the same ones for the same seed.
private struct Disorder {
    let perThousand: UInt64
    private var state: UInt64
    private var held: [UInt8]?

    init(perThousand: UInt64, seed: UInt64) {
        self.perThousand = perThousand
        state = seed
    }

    private mutating func happens() -> Bool {
        // Knuth's linear congruential generator.
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return (state >> 33) % 1000 < perThousand
    }

    mutating func pass(_ record: ArraySlice<UInt8>) -> [[UInt8]] {
        guard perThousand > 0 else { return [Array(record)] }
        if happens() { return [] }
        if let late = held {
            held = nil
            return [Array(record), late]
        }
        if happens() {
            held = Array(record)
            return []
        }
        return [Array(record)]
    }
}
