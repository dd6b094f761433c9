// SPDX-License-Identifier: Apache-2.0

internal import MachineAPI
internal import Platform
internal import Virtio

/// The files that are made for a fork's children as copies of the machine's disks, while it stands still.
struct DiskCopies {
    private var paths: [String] = []

    mutating func make(_ child: MachineOverrides, of machine: Machine) throws(MachineError) {
        for drive in child.drives where drive.isCopied {
            guard case .path(let path) = drive.content,
                let device = machine.devices.virtio.lazy.compactMap({ $0 as? BlockDevice }).first(where: {
                    $0.name == drive.identifier
                }), !device.backend.isReadOnly
            else {
                throw .configuration(
                    field: "drive_overrides",
                    problem: "\(drive.identifier) is not written to: leave it out, and the fork reads what is there")
            }
            let purpose = "a copy of the drive \(drive.identifier)"
            let file = try system(purpose) { () throws(SystemError) in
                try Descriptor.open(path, .createNew, permissions: 0o600)
            }
            paths.append(path)
            try system(purpose) { () throws(SystemError) in try device.backend.clone(to: file) }
        }
    }

    /// There will be no children.
    func remove() { for path in paths { Files.remove(path) } }

    /// Removes those of one child.
    static func remove(_ child: MachineOverrides) {
        for drive in child.drives where drive.isCopied {
            if case .path(let path) = drive.content { Files.remove(path) }
        }
    }
}
