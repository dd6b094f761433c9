// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform

/// What `martlet host status` tells.
package struct HostStatus: Equatable, Sendable {
    package var keeper: Int32
    package var emulator: Int32
    package var uptimeInSeconds: UInt64
    package var memoryInMiB: Int
    /// Processes inside: sessions, and what outlived its session, which counts as one.
    package var processes: UInt64
    package var socket: String
    package var disk: String
    /// What the disk takes of the file system outside.
    package var diskInBytes: UInt64
    /// It was started by this build.
    package var isOfThisBuild: Bool
}

extension EmulatedHost {
    /// The running host's status; nil where none runs.
    package func status() throws(EmulatedHostError) -> HostStatus? {
        let paths = configuration.paths
        guard let record = HostRecord(at: paths.record), var connection = try open() else { return nil }
        let processes = try connection.activity()
        var status = stat()
        let isThere = unsafe stat(paths.disk, &status) == 0
        let now = wallClockNanoseconds()
        return HostStatus(
            keeper: record.keeper, emulator: record.emulator,
            uptimeInSeconds: (now > record.startedAt ? now - record.startedAt : 0) / 1_000_000_000,
            memoryInMiB: record.memoryInMiB, processes: processes, socket: record.socket, disk: paths.disk,
            diskInBytes: isThere ? UInt64(max(0, status.st_blocks)) * 512 : 0,
            isOfThisBuild: connection.identity == configuration.identity)
    }
}
