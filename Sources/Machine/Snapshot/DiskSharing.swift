// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import MachineAPI

/// Whether several machines would write to one disk, which destroys it.
struct DiskSharing {
    /// A file or block device, by whatever name it is reached.
    private struct Identity: Hashable {
        let device: UInt64
        /// nil for a block device, which is the same on every file system.
        let inode: UInt64?

        /// nil where there is nothing yet: a copy that is made, or what opening will say.
        init?(_ content: Drive.Content) {
            var status = stat()
            switch content {
            case .path(let path): guard unsafe stat(path, &status) == 0 else { return nil }
            case .descriptor(let number): guard unsafe fstat(number, &status) == 0 else { return nil }
            // Never written to.
            case .extents: return nil
            }
            let isDevice = status.st_mode & S_IFMT == S_IFBLK
            device = UInt64(isDevice ? status.st_rdev : status.st_dev)
            inode = isDevice ? nil : UInt64(status.st_ino)
        }
    }

    private var owners: [Identity: String] = [:]

    /// Adds a machine; fails where it writes to what one of those before writes to.
    /// - Parameter name: of the machine, for the message.
    mutating func add(_ configuration: MachineConfiguration, name: String) throws(MachineError) {
        var own: Set<Identity> = []
        for drive in configuration.drives where !drive.isReadOnly {
            guard let identity = Identity(drive.content) else { continue }
            if let owner = owners[identity] {
                throw .configuration(
                    field: "drive_overrides",
                    problem: "the drive \(drive.identifier) of \(name) is a file that \(owner) writes to: each machine "
                        + "needs one of its own")
            }
            own.insert(identity)
        }
        for identity in own { owners[identity] = name }
    }
}
