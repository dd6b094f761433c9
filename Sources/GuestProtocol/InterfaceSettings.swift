// SPDX-License-Identifier: Apache-2.0

#if canImport(Wire)
internal import Wire
#endif

/// What a network interface of a machine is to be: a part of `configure`, and of a clone's `identify`.
package struct InterfaceSettings: Equatable, Sendable {
    /// An address of the interface, with the length of its network's prefix.
    package struct Address: Equatable, Sendable {
        /// 4 bytes or 16, as they stand in a packet.
        package var bytes: [UInt8]
        /// In bits, at most 8 times the bytes.
        package var prefixLength: UInt8

        /// Nil for what is neither an IPv4 nor an IPv6 address, or a prefix longer than it.
        package init?(bytes: [UInt8], prefixLength: UInt8) {
            guard bytes.count == 4 || bytes.count == 16, Int(prefixLength) <= bytes.count * 8 else { return nil }
            self.bytes = bytes
            self.prefixLength = prefixLength
        }
    }

    /// The hardware address of a template's interface, which is up and says nothing until it becomes a machine's.
    /// Locally administered; no machine has it.
    package static let templateAddress: [UInt8] = [2, 0, 0, 0, 0, 0]

    /// The most addresses, and gateways, of an interface.
    package static let listLimit = 16

    /// 6 bytes, by which the guest knows the interface among its own.
    package var hardwareAddress: [UInt8]
    /// The place among the machine's virtio devices where the interface was put after the kernel had looked. Nil where
    /// it was there from the beginning.
    package var slot: UInt8?
    /// In bytes; nil leaves the device's own.
    package var mtu: UInt32?
    package var addresses: [Address] = []
    /// Where packets go for all other networks, at most one of a family.
    package var gateways: [[UInt8]] = []
    /// In a clone: the address that the interface has from the machine that was saved, 6 bytes. Nil for an interface
    /// that has `hardwareAddress` already.
    package var formerAddress: [UInt8]?

    package init(hardwareAddress: [UInt8]) { self.hardwareAddress = hardwareAddress }

    package init?(_ payload: [UInt8]) {
        hardwareAddress = []
        var reader = FieldReader(payload)
        while let field = reader.next() {
            switch field.tag {
            case 1: hardwareAddress = field.bytes
            case 2: slot = UInt8(truncatingIfNeeded: field.number)
            case 3: mtu = UInt32(truncatingIfNeeded: field.number)
            case 4:
                guard let prefixLength = field.bytes.first, addresses.count < Self.listLimit,
                    let address = Address(bytes: Array(field.bytes.dropFirst()), prefixLength: prefixLength)
                else { return nil }
                addresses.append(address)
            case 5:
                guard field.bytes.count == 4 || field.bytes.count == 16, gateways.count < Self.listLimit else {
                    return nil
                }
                gateways.append(field.bytes)
            case 6: formerAddress = field.bytes
            default: break
            }
        }
        if reader.isMalformed || hardwareAddress.count != 6 || formerAddress.map({ $0.count != 6 }) == true {
            return nil
        }
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        writer.append(1, hardwareAddress)
        if let slot { writer.append(2, number: slot) }
        if let mtu { writer.append(3, number: mtu) }
        for address in addresses { writer.append(4, [address.prefixLength] + address.bytes) }
        for gateway in gateways { writer.append(5, gateway) }
        if let formerAddress { writer.append(6, formerAddress) }
        return writer.bytes
    }
}
