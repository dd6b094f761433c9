// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// What a running keeper says of itself in a file beside the disk: `name=value` lines. Only a hint: whether the keeper
/// lives is told by its lock, whether it serves by its socket.
struct HostRecord: Equatable {
    var keeper: Int32
    var emulator: Int32
    var socket: String
    /// Nanoseconds since 1970.
    var startedAt: UInt64
    var memoryInMiB: Int

    var text: String {
        """
        keeper=\(keeper)
        emulator=\(emulator)
        started=\(startedAt)
        memory=\(memoryInMiB)
        socket=\(socket)

        """
    }

    init(keeper: Int32, emulator: Int32, socket: String, startedAt: UInt64, memoryInMiB: Int) {
        self.keeper = keeper
        self.emulator = emulator
        self.socket = socket
        self.startedAt = startedAt
        self.memoryInMiB = memoryInMiB
    }

    init?(text: String) {
        var values: [Substring: Substring] = [:]
        for line in text.split(separator: "\n") {
            guard let equals = line.firstIndex(of: "=") else { continue }
            values[line[..<equals]] = line[line.index(after: equals)...]
        }
        guard let keeper = values["keeper"].flatMap({ Int32($0) }), let socket = values["socket"],
            let emulator = values["emulator"].flatMap({ Int32($0) }),
            let startedAt = values["started"].flatMap({ UInt64($0) }),
            let memory = values["memory"].flatMap({ Int($0) })
        else { return nil }
        self.init(
            keeper: keeper, emulator: emulator, socket: String(socket), startedAt: startedAt, memoryInMiB: memory)
    }

    init?(at path: String) {
        guard let bytes = try? Files.read(path, limit: 65_536) else { return nil }
        self.init(text: String(decoding: bytes, as: UTF8.self))
    }
}
