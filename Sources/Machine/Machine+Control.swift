// SPDX-License-Identifier: Apache-2.0

package import MachineAPI
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

    /// Puts another file behind a drive, another limit on it, or both. The guest's driver is told of a file and sees the
    /// new size; that nothing uses what was on the old one is the caller's affair.
    package func updateDrive(_ name: String, path: String?, limit: RateLimitUpdate?) throws(MachineError) {
        try life.withLock { life throws(MachineError) in
            guard life.phase != .finished, !hasEnded else { throw .state("the machine has ended") }
            guard var drive = configuration.drives.first(where: { $0.identifier == name }),
                let device = devices.virtio.lazy.compactMap({ $0 as? BlockDevice }).first(where: { $0.name == name })
            else { throw .configuration(field: "drives", problem: "the machine has no drive \(name)") }
            if let path {
                drive.content = .path(path)
                let backend = try DeviceSet.openBackend(drive, "drives[\(name)]")
                try onLoop(life) { () throws(SystemError) in device.replace(backend) }
            }
            if let limit { try onLoop(life) { () throws(SystemError) in try device.updateLimit(0, limit) } }
            description.withLock { $0.updateDrive(name, path: path, limit: limit) }
        }
    }

    /// Puts other limits on a network interface.
    package func updateInterface(
        _ name: String, receive: RateLimitUpdate?, transmit: RateLimitUpdate?
    ) throws(MachineError) {
        try life.withLock { life throws(MachineError) in
            guard life.phase != .finished, !hasEnded else { throw .state("the machine has ended") }
            guard let window = devices.windows.first(where: { $0.identity == .interface(name) }),
                let device = window.device as? NetDevice
            else {
                throw .configuration(
                    field: "network-interfaces", problem: "the machine has no network interface \(name)")
            }
            try onLoop(life) { () throws(SystemError) in
                if let receive { try device.updateLimit(NetDevice.Queue.receive, receive) }
                if let transmit { try device.updateLimit(NetDevice.Queue.transmit, transmit) }
            }
            description.withLock { $0.updateInterface(name, receive: receive, transmit: transmit) }
        }
    }

    /// Does something to a device where nothing else touches it: on the loop's thread, or while that stands still.
    func onLoop(
        _ life: borrowing MachineLife, _ body: @escaping @Sendable () throws(SystemError) -> Void
    ) throws(MachineError) {
        let loop = loop
        let isRunning = life.phase == .running
        try system("the device loop") { () throws(SystemError) in
            guard isRunning else { return try body() }
            let outcome = Mutex<SystemError?>(nil)
            try loop.performAndWait {
                do throws(SystemError) { try body() } catch { outcome.withLock { $0 = error } }
            }
            if let error = outcome.withLock({ $0 }) { throw error }
        }
    }

    /// What each virtio window holds, the first first: the kind of device, nil for a spare one. For any thread.
    package var slots: [String?] {
        devices.windows.map { window in
            window.device.map { device in
                switch device {
                case let block as BlockDevice: "drive \(block.name)"
                case is NetDevice: "network interface \(window.identity?.name ?? "")"
                case is VsockDevice: "vsock"
                case is EntropyDevice: "entropy"
                default: "device"
                }
            }
        }
    }
}
