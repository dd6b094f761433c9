// SPDX-License-Identifier: Apache-2.0

package import MachineAPI

/// What of a machine is another than in the one that it goes on from, by the names of that one's configuration.
package struct MachineOverrides: Equatable, Sendable {
    package struct Drive: Equatable, Sendable {
        package var identifier: String
        package var content: MachineAPI.Drive.Content
        /// Of a fork: the file is not there yet, and is to be a copy of the machine's.
        package var isCopied: Bool

        package init(identifier: String, content: MachineAPI.Drive.Content, isCopied: Bool = false) {
            self.identifier = identifier
            self.content = content
            self.isCopied = isCopied
        }
    }

    package struct Interface: Equatable, Sendable {
        package var identifier: String
        package var peer: NetworkInterface.Peer
        /// Of a fork: the back end is a descriptor that comes to its process by itself, and what `peer` says is nothing.
        package var isHanded = false
        /// The address in the device's configuration. Linux looks at that when its driver starts, not at a restore.
        package var guestMAC: MachineAPI.MACAddress?

        package init(identifier: String, peer: NetworkInterface.Peer, guestMAC: MachineAPI.MACAddress? = nil) {
            self.identifier = identifier
            self.peer = peer
            self.guestMAC = guestMAC
        }
    }

    package var drives: [Drive] = []
    package var networkInterfaces: [Interface] = []
    /// The unix socket of the vsock device; nil for that of the state.
    package var vsockPath: String?
    /// The socket that listens for it already, by its number.
    package var vsockListener: Int32?
    /// Where the console's output goes; nil for where it went. The limit on it stays, unless this has one.
    package var serial: Serial?

    package init() {}

    /// Descriptors of the monitor that saved the machine are none of this one's: what was one is to be overridden.
    func checkDescriptors(of saved: MachineConfiguration) throws(MachineError) {
        for drive in saved.drives {
            guard let number = drive.content.descriptors.first,
                !drives.contains(where: { $0.identifier == drive.identifier })
            else { continue }
            throw .configuration(
                field: "drive_overrides",
                problem: "the saved machine's drive \(drive.identifier) was descriptor \(number) of its monitor: "
                    + "say what it is here")
        }
        for interface in saved.networkInterfaces {
            guard case .descriptor(let number) = interface.peer,
                !networkInterfaces.contains(where: { $0.identifier == interface.identifier })
            else { continue }
            throw .configuration(
                field: "network_overrides",
                problem: "the saved machine's interface \(interface.identifier) was descriptor \(number) of its "
                    + "monitor: say what it is here")
        }
    }

    /// The configuration of the machine, which was saved with `saved`.
    func apply(to saved: MachineConfiguration) throws(MachineError) -> MachineConfiguration {
        var result = saved
        for override in drives {
            guard let index = result.drives.firstIndex(where: { $0.identifier == override.identifier }) else {
                throw .configuration(
                    field: "drive_overrides", problem: "the saved machine has no drive \(override.identifier)")
            }
            result.drives[index].content = override.content
            if case .extents = override.content { result.drives[index].isReadOnly = true }
        }
        for override in networkInterfaces {
            guard let index = result.networkInterfaces.firstIndex(where: { $0.identifier == override.identifier })
            else {
                throw .configuration(
                    field: "network_overrides",
                    problem: "the saved machine has no network interface \(override.identifier)")
            }
            result.networkInterfaces[index].peer = override.peer
            if let address = override.guestMAC { result.networkInterfaces[index].guestMAC = address }
        }
        if let vsockPath {
            guard result.vsock != nil else {
                throw .configuration(field: "vsock_override", problem: "the saved machine has no vsock device")
            }
            result.vsock?.socketPath = vsockPath
        }
        // What listens is another's, if not this one's.
        result.vsock?.listener = vsockListener
        if let serial {
            result.serial.outputPath = serial.outputPath
            result.serial.limit = serial.limit ?? result.serial.limit
        }
        return result
    }
}
