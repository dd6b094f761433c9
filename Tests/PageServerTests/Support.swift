// SPDX-License-Identifier: Apache-2.0

import Glibc
import MachineAPI
import Platform
import Synchronization
import Testing
import Wire

@testable import PageServer

/// The server's thread and what it said.
final class Running: Sendable {
    let stop: EventCounter
    let lines = Mutex<[String]>([])
    private let thread = Mutex<ThreadBox?>(nil)

    private final class ThreadBox: @unchecked Sendable {  // Joined by its one owner.
        private var thread: Platform.Thread?
        init(_ thread: consuming Platform.Thread) { self.thread = consume thread }
        func join() { thread.take()?.join() }
    }

    convenience init(_ memory: String, _ socket: String) throws {
        try self.init(socket) { listener, stop, log in
            try PageServer(try MemoryImage(path: memory), listener: listener, stop: stop, log: log)
        }
    }

    init(
        _ socket: String,
        _ make: @escaping @Sendable (consuming Descriptor, Int32, @escaping (String) -> Void) throws -> PageServer
    ) throws {
        stop = try EventCounter()
        // Clients can connect once this returns.
        let listener = try UnixSocket.listen(at: socket).release()
        let thread = try Platform.Thread(name: "pages", stackSizeInBytes: 1 << 20) { [self] in
            do {
                let server = try make(Descriptor(owning: listener), stop.descriptor.raw) { line in
                    self.lines.withLock { $0.append(line) }
                }
                try server.run()
            } catch {
                lines.withLock { $0.append("\(error)") }
            }
        }
        let box = ThreadBox(thread)
        self.thread.withLock { $0 = box }
    }

    func end() {
        stop.signal()
        join()
    }

    /// Waits for its end, which comes by itself.
    func join() {
        thread.withLock { box in
            box?.join()
            box = nil
        }
    }
}

/// Memory that is served, and the connection to who serves it.
struct Client: ~Copyable {
    let faults: Userfault
    let memory: MemoryMapping
    let connection: Descriptor

    init(_ socket: String, size: Int, snapshot: String? = nil) throws {
        let faults = try Userfault()
        let memory = try MemoryMapping(count: size, shared: false, noReserve: true)
        let connection = try UnixSocket.connect(to: socket)
        try faults.register(memory.start, count: UInt64(size))
        let handoff = MemoryHandoff(
            regions: [
                .init(address: UInt64(UInt(bitPattern: memory.start)), size: UInt64(size), offset: 0)
            ], snapshot: snapshot)
        try connection.send(handoff.json.encoded(), with: faults.descriptor)
        self.faults = faults
        self.memory = memory
        self.connection = connection
    }

    borrowing func bytes(_ offset: Int, _ count: Int) -> [UInt8] {
        Array(UnsafeRawBufferPointer(start: memory.start + offset, count: count))
    }

    /// Waits for the server to hang up.
    borrowing func isGivenUp() throws -> Bool {
        var byte: UInt8 = 0
        return read(connection.raw, &byte, 1) == 0
    }
}

/// The page behind the memory of a snapshot of ours (Docs/SNAPSHOT-FORMAT.md).
func snapshotTrailer(memorySize: Int, snapshot: UInt8, kind: UInt32) -> [UInt8] {
    var bytes = Array("MARTMEMY".utf8)
    bytes.appendInteger(1 as UInt32)
    bytes.appendInteger(1 as UInt32)
    bytes.appendInteger(UInt64(memorySize))
    bytes += [UInt8](repeating: snapshot, count: 16)
    bytes.appendInteger(kind)
    bytes += [UInt8](repeating: 0, count: 60 - bytes.count)
    bytes.appendInteger(CRC32C.of(bytes))
    return bytes + [UInt8](repeating: 0, count: 4096 - bytes.count)
}

/// A thread, and the error that it ended with.
final class Ending: Sendable {
    private let text = Mutex<String?>(nil)
    private let finished: EventCounter

    init(_ body: @escaping @Sendable () throws -> Void) throws {
        finished = try EventCounter()
        _ = try Platform.Thread(name: "other host", stackSizeInBytes: 1 << 20) { [self] in
            do { try body() } catch { text.withLock { $0 = "\(error)" } }
            finished.signal()
        }
    }

    func wait() -> String? {
        var poller = pollfd(fd: finished.descriptor.raw, events: Int16(POLLIN), revents: 0)
        _ = poll(&poller, 1, -1)
        return text.withLock { $0 }
    }
}
