// SPDX-License-Identifier: Apache-2.0

internal import KVM
package import MachineAPI
package import Platform
internal import Synchronization
internal import Virtio

/// Devices that come and go while the machine runs, or stands still: they take spare slots, and leave them.
///
/// The guest is told nothing by the device itself. Whoever asked for it tells a program in the guest, which has the
/// driver look again: in Linux `echo LNRO0005:05 > /sys/bus/platform/drivers/virtio-mmio/bind` for slot 5. Before a
/// device goes, such a program has the driver let go of it, by `unbind` in the same place.
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
                interface, "network-interfaces[\(interface.identifier)]", tap: tap,
                pairs: interface.queuePairs(forProcessors: configuration.machine.vcpuCount), memory: memory)
            try fill(slot, device, .interface(interface.identifier), life)
            description.withLock { configuration in
                configuration.networkInterfaces.append(interface)
                configuration.spareSlotCount -= 1
            }
            return slot
        }
    }

    /// Takes a network interface away from the guest, whose slot is a spare one from then on. A driver that still uses
    /// it finds its queues unused and its registers empty.
    package func detachInterface(_ name: String) throws(MachineError) {
        try life.withLock { life throws(MachineError) in
            guard life.phase != .finished, !hasEnded else { throw .state("the machine has ended") }
            guard let window = devices.windows.first(where: { $0.identity == .interface(name) }),
                let device = window.device
            else {
                throw .configuration(
                    field: "network-interfaces", problem: "the machine has no network interface \(name)")
            }
            // The guest first, which then asks nothing of it any more; what is under way ends with the loop's part.
            window.empty()
            do throws(KVMError) { try Self.disconnect(device, window.slot, from: vm) } catch { throw .kvm(error) }
            try onLoop(life) { () throws(SystemError) in device.detach() }
            description.withLock { configuration in
                configuration.networkInterfaces.removeAll { $0.identifier == name }
                configuration.spareSlotCount += 1
            }
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
        try onLoop(life) { () throws(SystemError) in try device.attach(to: loop) }
        do throws(KVMError) { try Self.connect(device, window.slot, to: vm) } catch { throw .kvm(error) }
        window.fill(device, identity)
    }
}
