// SPDX-License-Identifier: Apache-2.0

internal import KVM
package import MachineAPI
package import Platform
internal import Synchronization
internal import Virtio

/// Devices that come while the machine runs, or stands still: they take spare slots.
///
/// The guest is told nothing by the device itself. Whoever asked for it tells a program in the guest, which has the
/// driver look again: in Linux `echo LNRO0005:05 > /sys/bus/platform/drivers/virtio-mmio/bind` for slot 5.
extension Machine {
    /// Gives the guest one more disk.
    /// - Returns: the slot that it is in.
    @discardableResult
    package func attach(_ drive: Drive) throws(MachineError) -> Int {
        try life.withLock { life throws(MachineError) in
            let slot = try spareSlot(
                life, for: "drive", drive.identifier, among: configuration.drives.map(\.identifier))
            let device = try DeviceSet.openDrive(
                drive, "drives[\(drive.identifier)]", workers: devices.workers, memory: memory)
            try fill(slot, device, .drive(drive.identifier), life)
            description.withLock { configuration in
                configuration.drives.append(drive)
                configuration.spareSlotCount -= 1
            }
            return slot
        }
    }

    /// Gives the guest one more network interface.
    /// - Parameter tap: its TAP device, where it was opened before.
    /// - Returns: the slot that it is in.
    @discardableResult
    package func attach(_ interface: NetworkInterface, tap: TapDevice? = nil) throws(MachineError) -> Int {
        try life.withLock { life throws(MachineError) in
            var interface = interface
            interface.guestMAC = interface.guestMAC ?? .random()
            let slot = try spareSlot(
                life, for: "network interface", interface.identifier,
                among: configuration.networkInterfaces.map(\.identifier))
            let device = try DeviceSet.openInterface(
                interface, "network-interfaces[\(interface.identifier)]", tap: tap, memory: memory)
            try fill(slot, device, .interface(interface.identifier), life)
            description.withLock { configuration in
                configuration.networkInterfaces.append(interface)
                configuration.spareSlotCount -= 1
            }
            return slot
        }
    }

    private func spareSlot(
        _ life: borrowing MachineLife, for kind: String, _ identifier: String, among present: [String]
    ) throws(MachineError) -> Int {
        guard life.phase != .finished, !hasEnded else { throw .state("the machine has ended") }
        guard !present.contains(identifier) else {
            throw .configuration(field: identifier, problem: "the machine has a \(kind) of this name already")
        }
        guard let slot = devices.windows.firstIndex(where: { $0.device == nil }) else {
            throw .configuration(
                field: "spare-slots",
                problem: "no slot is left for the \(kind) \(identifier); give the machine more when it is made")
        }
        return slot
    }

    /// The loop and KVM know the device before the guest can see it.
    private func fill(
        _ slot: Int, _ device: VirtioMMIODevice, _ identity: DeviceIdentity, _ life: borrowing MachineLife
    ) throws(MachineError) {
        let window = devices.windows[slot]
        let loop = loop
        if life.phase == .running {
            let outcome = Mutex<SystemError?>(nil)
            try system("the device loop") { () throws(SystemError) in
                try loop.performAndWait {
                    do throws(SystemError) { try device.attach(to: loop) } catch { outcome.withLock { $0 = error } }
                }
            }
            if let error = outcome.withLock({ $0 }) { throw .system("a virtio device", error) }
        } else {
            try system("a virtio device") { () throws(SystemError) in try device.attach(to: loop) }
        }
        do throws(KVMError) { try Self.connect(device, window.slot, to: vm) } catch { throw .kvm(error) }
        window.fill(device, identity)
    }
}
