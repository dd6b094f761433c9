// SPDX-License-Identifier: Apache-2.0

internal import GuestProtocol
internal import Packet
internal import Platform

extension ContainerConfiguration {
    /// Who the guest is. The machine's id is longer than a machine-id(5), whose digits its first ones are.
    /// - Parameters:
    ///   - isClone: it was made from one that ran, whose addresses and files it gives up.
    ///   - networks: its places in its networks.
    ///   - slot: where the first of a clone's interfaces was put that its original did not have.
    func identity(isClone: Bool, networks: MachineNetworks, slot: Int?) -> Identity {
        var result = Identity()
        result.isClone = isClone
        if isClone {
            result.originalSample = originalSample.flatMap(RandomSample.bytes) ?? []
            result.hosts = hostsFile(networks)
            result.interfaces = networks.settings(firstSlot: slot)
            if !networks.places.isEmpty { result.resolvConf = networks.resolvConf }
        }
        result.clock = wallClockNanoseconds()
        result.hostname = Array(process.hostname.utf8)
        result.machineID = Array(id.utf8.prefix(32))
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<8 { result.entropy.append(contentsOf: withBytes(of: generator.next())) }
        return result
    }

    /// What the guest is to become.
    /// - Parameters:
    ///   - rootSlot: where the disk was put after the guest's kernel had looked; nil where it was there before.
    ///   - networks: the machine's places in its networks.
    ///   - present: the address under which the guest's kernel knows the first one's interface, where that is another.
    func guestConfiguration(
        rootSlot: Int?, networks: MachineNetworks, present: MACAddress? = nil
    ) -> Configuration {
        var result = Configuration()
        result.root = .image
        result.rootDevice = Array(rootDevice.utf8)
        result.isReadOnly = isReadOnly
        result.rootSlot = rootSlot.map { UInt8(truncatingIfNeeded: $0) }
        result.hostname = Array(process.hostname.utf8)
        result.hosts = hostsFile(networks)
        // Interfaces come behind the disk, in the same way.
        result.interfaces = networks.settings(firstSlot: rootSlot.map { $0 + 1 }, present: present)
        if !networks.places.isEmpty { result.resolvConf = networks.resolvConf }
        return result
    }

    func hostsFile(_ networks: MachineNetworks) -> [UInt8] {
        let names = networks.hosts(hostname: process.hostname) ?? "127.0.1.1\t\(process.hostname)\n"
        return Array("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\(names)".utf8)
    }

    /// The process that is wanted.
    var processRequest: ProcessRequest {
        var request = ProcessRequest()
        request.arguments = process.arguments.map { Array($0.utf8) }
        request.environment = process.environment.map { Array($0.utf8) }
        request.directory = Array(process.workingDirectory.utf8)
        request.user = Array(process.user.utf8)
        request.hasInput = hasInput
        request.isMain = true
        return request
    }
}

private func withBytes(of value: UInt64) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
}
