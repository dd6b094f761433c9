// SPDX-License-Identifier: Apache-2.0

package import MachineAPI

extension NetworkWish {
    /// A machine's interface, as its monitor has it.
    /// - Parameter id: the machine's.
    package func interface(of id: String) -> NetworkInterface {
        let peer: NetworkInterface.Peer =
            host == nil
            ? .socket("\(running)/\(network)/ports/\(id)") : .descriptor(MonitorProcess.networkDescriptor)
        return NetworkInterface(
            identifier: interfaceName, peer: peer, guestMAC: MachineAPI.MACAddress("\(hardwareAddress)"),
            mtu: UInt16(clamping: mtu))
    }

    /// The machine is to have the interface from its beginning, or as one more than the machine that was saved had.
    var isAdded: Bool { formerHardwareAddress == nil }
}

extension ContainerConfiguration {
    /// The most networks that a container can be in at a time: the places for devices, but for that of its disk.
    package static let networkLimit = MachineStart.spareSlots - 1

    /// The interfaces that a clone gets, and what is to become of those that it has from the machine that was saved.
    var interfacesOfClone: (added: [NetworkInterface], overrides: [NetworkInterface]) {
        let overrides = networks.filter { !$0.isAdded }.map { network in
            var interface = network.interface(of: id)
            // What the guest's driver was told of when it started stays.
            interface.mtu = nil
            return interface
        }
        return (networks.filter(\.isAdded).map { $0.interface(of: id) }, overrides)
    }
}
