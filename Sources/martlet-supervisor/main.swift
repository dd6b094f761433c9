// SPDX-License-Identifier: Apache-2.0
//
// martlet-supervisor: started by `martlet run` in a machine's directory, with the client's socket as descriptor 3 and
// the directory's lock, held, as descriptor 4.

internal import Glibc
internal import GuestProtocol
internal import Platform
internal import Worker

/// Says why the machine cannot be, to the client that waits and to the diagnostics file that is standard error.
func report(_ error: any Error, to client: borrowing Descriptor) {
    let text = Array("\(error)".utf8)
    var bytes: [UInt8] = []
    Frame(.failure, payload: Refusal(exitCode: 125, message: text).payload).write(to: &bytes)
    try? client.writeAll(bytes)
    try? Descriptor(owning: 2).writeAll(Array("martlet-supervisor: ".utf8) + text + [0x0A])
}

func supervise(stateDirectory: String, client: borrowing Descriptor, lock: borrowing FileLock) throws {
    // Nothing that this process starts is to keep them.
    try client.setInherited(false)
    try lock.descriptor.setInherited(false)
    let configuration = try ContainerConfiguration.load()
    // Before all else: a fabric that has to be started does so while the monitor starts.
    let networks = try NetworkLease.all(of: configuration)
    let store = MachineStore(root: stateDirectory)
    let supervisor: Supervisor
    do {
        supervisor = try Supervisor(
            configuration: configuration, store: store, networks: networks, foreground: try client.duplicate())
    } catch {
        // What never ran is not kept: its reason is told to who wanted it.
        try? store.removeOwn(configuration.id)
        throw error
    }
    try supervisor.run()
}

/// Gives the exit status.
func main() -> Int32 {
    guard CommandLine.arguments.count == 2, CommandLine.arguments[1].hasPrefix("/") else {
        try? Descriptor(owning: 2).writeAll(Array("martlet-supervisor is started by martlet run, not by hand\n".utf8))
        return 64
    }
    let client = Descriptor(owning: 3)
    // For as long as this process lives, however it ends.
    let lock = FileLock(adopting: Descriptor(owning: 4))
    do {
        try supervise(stateDirectory: CommandLine.arguments[1], client: client, lock: lock)
        return 0
    } catch {
        report(error, to: client)
        return 1
    }
}

exit(main())
