// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import MachineAPI
internal import Platform
internal import Synchronization
internal import Virtio
internal import Wire

// Zone 1: one small plain thread, which waits for the end of the server.

/// The server of a machine's memory, as the machine holds it: pages that are missing come from there (userfaultfd(2)).
///
/// Once the server is gone, whoever waits for a page waits for ever, and whoever is let out would find zeros: a guest
/// must not run on with these, nor a device write them to a disk. So the process is ended then, at once, as long as
/// everybody waits; nothing is finished first.
final class ServedMemory: Sendable {
    private let connection: Descriptor
    private let faults: Userfault
    private let stop: EventCounter
    private let thread: Mutex<MachineLife.ThreadBox?>
    /// Sockets of the machine's that are to be removed when it is ended so.
    private let leftovers = Mutex<[String]>([])

    /// Registers fresh memory with the server that listens at a unix socket, or is connected to it, as Firecracker does.
    /// - Parameters:
    ///   - snapshot: whose memory it is to be, which a server of ours compares; nil where nobody knows.
    ///   - lost: ends the process, being told why.
    init(
        of memory: GuestMemory, at socket: HostFile, snapshot: SnapshotIdentifier? = nil,
        lost: @escaping @Sendable (String) -> Never
    ) throws(MachineError) {
        let purpose = "the memory server at \(socket)"
        faults = try Self.makeFaults()
        switch socket {
        case .path(let path):
            connection = try system(purpose) { () throws(SystemError) in try UnixSocket.connect(to: path) }
        case .descriptor(let number):
            do throws(DescriptorProblem) {
                connection = try StartingDescriptor.socket(number, listens: false)
            } catch {
                throw .configuration(field: "mem_backend", problem: error.description)
            }
        }
        stop = try system(purpose) { () throws(SystemError) in try EventCounter() }
        thread = Mutex(nil)
        try system(purpose) { () throws(SystemError) in
            for region in memory.regions { try unsafe faults.register(region.hostStart, count: region.count) }
            let handoff = MemoryHandoff(
                regions: memory.regions.map { region in
                    MemoryHandoff.Region(
                        address: unsafe UInt64(UInt(bitPattern: region.hostStart)), size: region.count,
                        offset: region.offset, pageSize: memory.pageSize)
                }, snapshot: snapshot.map { "\($0)" })
            try connection.send(handoff.json.encoded(), with: faults.descriptor)
            try connection.setNonBlocking()
            let started = try Platform.Thread(name: "memory", stackSizeInBytes: 64 << 10) { [self] in
                guard let reason = watch() else { return }
                for path in leftovers.withLock({ $0 }) { Files.remove(path) }
                lost("\(purpose) is gone (\(reason)), and with it what it had not handed over: the machine is ended")
            }
            let box = MachineLife.ThreadBox(started)
            thread.withLock { $0 = box }
        }
    }

    private static func makeFaults() throws(MachineError) -> Userfault {
        do throws(SystemError) { return try Userfault() } catch {
            guard error.code == EPERM else { throw .system("page faults of the machine's", error) }
            throw .configuration(
                field: "mem_backend",
                problem: "this user may not have page faults of KVM's handled: give it read and write access to "
                    + "/dev/userfaultfd (chgrp kvm, chmod 660), or set vm.unprivileged_userfaultfd to 1")
        }
    }

    /// Waits for the server's end: nil when the machine's comes first.
    private func watch() -> String? {
        do throws(SystemError) {
            let epoll = try Epoll()
            try epoll.add(connection.raw, [.readable, .peerClosed], token: 0)
            try epoll.add(stop.descriptor.raw, .readable, token: 1)
            var events = EpollEvents(capacity: 2)
            var space = [UInt8](repeating: 0, count: 256)
            var words: [UInt8] = []
            while true {
                for index in 0..<(try epoll.wait(&events)) {
                    if events[index].token == 1 { return nil }
                    // All that a server of ours says is why it has no memory for this machine.
                    let count = unsafe read(connection.raw, &space, space.count)
                    if count > 0, words.count < space.count { words += space[..<count] }
                    if count == 0 {
                        let text = String(decoding: words.filter { (0x20..<0x7f).contains($0) }, as: UTF8.self)
                        return text.isEmpty ? "it closed its connection" : "it says: \(text)"
                    }
                    if count < 0, clinux_errno() != EAGAIN { return SystemError("read").reason }
                }
            }
        } catch {
            return "it cannot be watched: \(error)"
        }
    }

    /// A socket that the machine has made.
    func remember(_ path: String?) {
        if let path { leftovers.withLock { $0.append(path) } }
    }

    /// The machine has ended: the server may go.
    func end() {
        stop.signal()
        thread.withLock { box in
            box?.join()
            box = nil
        }
    }

    /// What a forked process has no use for.
    func openDescriptors() -> [Int32] { [connection.raw, faults.descriptor.raw, stop.descriptor.raw] }
}

/// Where a machine's memory comes from that is not there yet.
enum MemorySource {
    case file(MemoryBase)
    case server(ServedMemory)
}
