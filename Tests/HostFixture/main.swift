// SPDX-License-Identifier: Apache-2.0

// What `martlet host` and `martlet host-keeper` are to a user, without all else that `martlet` is: for the tests of the
// emulated host, which need it as processes of their own.
//
//     host-fixture keeper ARGUMENTS…            the keeper
//     host-fixture start|stop|status|shell
//     host-fixture exec COMMAND…
//     host-fixture -name …               a fake QEMU (FakeGuest.swift), to be named by MARTLET_QEMU
//
// The kernel and the initramfs are named by MARTLET_KERNEL and MARTLET_INITRAMFS.

import EmulatedHost
import Glibc
import GuestProtocol
import Platform
import Sessions

func complain(_ text: String) {
    _ = try? Descriptor(owning: dup(2)).writeAll(Array("host-fixture: \(text)\n".utf8))
}

func main(_ arguments: [String]) throws -> Int32 {
    // As the keeper calls QEMU.
    if arguments.first == "-name" { return FakeGuest.run(arguments: arguments) }
    if arguments.first == "keeper" { return HostKeeper.run(arguments: Array(arguments.dropFirst())) }
    ignoreBrokenPipes()
    let host = EmulatedHost(
        try HostConfiguration(
            paths: .ofThisUser(), kernel: environmentVariable("MARTLET_KERNEL") ?? "",
            initramfs: environmentVariable("MARTLET_INITRAMFS") ?? "", programs: [],
            keeper: [try Files.resolve("/proc/self/exe"), "keeper"]))
    switch arguments.first {
    case "start":
        try host.start { complain($0) }
        return 0
    case "stop":
        print(try host.stop() ? "stopped" : "none ran")
        return 0
    case "status":
        guard let status = try host.status() else {
            print("none")
            return 1
        }
        print("keeper=\(status.keeper) emulator=\(status.emulator) processes=\(status.processes)")
        return 0
    case "shell":
        let signals = try SignalQueue(SessionClient.forwardedSignals)
        return Int32(try host.shell(signals: signals) { complain($0) }.exitStatus)
    case "exec":
        let signals = try SignalQueue(SessionClient.forwardedSignals)
        let result = try host.execute(Array(arguments.dropFirst()), signals: signals) { complain($0) }
        if case .refused(let refusal) = result.outcome {
            complain(String(decoding: refusal.message, as: UTF8.self))
        }
        return Int32(result.exitStatus)
    default:
        complain("usage: host-fixture keeper|start|stop|status|shell|exec …")
        return 2
    }
}

do {
    exit(try main(Array(CommandLine.arguments.dropFirst())))
} catch {
    complain("\(error)")
    exit(125)
}
