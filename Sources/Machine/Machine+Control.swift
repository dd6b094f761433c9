// SPDX-License-Identifier: Apache-2.0

internal import MachineAPI
internal import Platform
internal import Synchronization
internal import Virtio

/// What is asked of a machine that was started, beside pausing, saving and adding to it.
extension Machine {
    /// Presses Ctrl, Alt and Delete on the guest's keyboard, which a guest with a driver for it takes as the wish to
    /// reboot.
    package func sendCtrlAltDel() throws(MachineError) {
        guard !hasEnded else { throw .state("the machine has ended") }
        guard devices.ports.keyboard.pressCtrlAltDelete() else {
            throw .state("the guest reads nothing of what its keyboard says")
        }
    }

    /// Puts another file behind a drive. The guest's driver is told and sees the new size; that nothing uses what was
    /// on the old one is the caller's affair.
    package func replaceFile(ofDrive name: String, path: String) throws(MachineError) {
        try life.withLock { life throws(MachineError) in
            guard life.phase != .finished, !hasEnded else { throw .state("the machine has ended") }
            guard var drive = configuration.drives.first(where: { $0.identifier == name }),
                let device = devices.virtio.lazy.compactMap({ $0 as? BlockDevice }).first(where: { $0.name == name })
            else { throw .configuration(field: "drives", problem: "the machine has no drive \(name)") }
            drive.content = .path(path)
            let backend = try DeviceSet.openBackend(drive, "drives[\(name)]")
            if life.phase == .running {
                try system("the device loop") { () throws(SystemError) in
                    try loop.performAndWait { device.replace(backend) }
                }
            } else {
                device.replace(backend)
            }
            description.withLock { configuration in
                for index in configuration.drives.indices where configuration.drives[index].identifier == name {
                    configuration.drives[index].content = drive.content
                }
            }
        }
    }

    /// What each virtio window holds, the first first: the kind of device, nil for a spare one. For any thread.
    package var slots: [String?] {
        devices.windows.map { window in
            window.device.map { device in
                switch device {
                case let block as BlockDevice: "drive \(block.name)"
                case is NetDevice: "network interface"
                case is VsockDevice: "vsock"
                case is EntropyDevice: "entropy"
                default: "device"
                }
            }
        }
    }
}
