// SPDX-License-Identifier: Apache-2.0
//
// martlet-supervisor: started by `martlet run` in a machine's directory, with the client's socket as descriptor 3 and
// the directory's lock, held, as descriptor 4.

internal import Glibc
internal import GuestProtocol
internal import Platform
internal import Worker

func standardError(_ text: String) {
    try? Descriptor.open("/dev/stderr", .append).writeAll(Array("martlet-supervisor: \(text)\n".utf8))
}

guard CommandLine.arguments.count == 2, let root = CommandLine.arguments.last, root.hasPrefix("/") else {
    standardError("started by martlet run only: martlet-supervisor STATE-DIRECTORY")
    exit(64)
}
let client = Descriptor(owning: 3)
// For as long as this process lives, however it ends.
let lock = FileLock(adopting: Descriptor(owning: 4))
// Nothing that this process starts is to keep them.
try? client.setInherited(false)
try? lock.descriptor.setInherited(false)

do {
    let configuration = try MachineConfiguration.load()
    let supervisor = try Supervisor(
        configuration: configuration, store: MachineStore(root: root), foreground: try client.duplicate())
    client.close()
    try supervisor.run()
} catch {
    standardError("\(error)")
    exit(1)
}
exit(0)
