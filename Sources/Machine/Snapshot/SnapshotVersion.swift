// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// The versions of state files.
package enum SnapshotVersion {
    /// The one that this monitor writes.
    package static let current = SnapshotFile.version

    /// The one that a file has, which may be newer than what this monitor reads.
    package static func of(_ path: String) throws(MachineError) -> UInt32 {
        let bytes = try system("the state file \(path)") { () throws(SystemError) in
            try Files.read(path, limit: SnapshotFile.sizeLimitInBytes)
        }
        do throws(SnapshotFileError) {
            _ = try SnapshotFile(reading: bytes, known: [])
        } catch .newer(let version, _) {
            return version
        } catch .unknownSection {
            // None is known here.
        } catch {
            throw .snapshot(path: path, error)
        }
        return (0..<4).reduce(0) { $0 | UInt32(bytes[8 + $1]) << UInt32(8 * $1) }
    }
}
