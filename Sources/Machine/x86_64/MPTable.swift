// SPDX-License-Identifier: Apache-2.0

/// Processors and interrupts for kernels without ACPI (Intel MultiProcessor Specification 1.4, chapter 4).
enum MPTable {
    /// The floating pointer structure and the table, for an address that is a multiple of 16.
    static func bytes(vcpuCount: Int, address: UInt64) -> [UInt8] {
        let ioAPICIdentifier = UInt8(vcpuCount)
        var entries: [UInt8] = []
        var count: UInt16 = 0
        for index in 0..<vcpuCount {
            entries += [0, UInt8(index), 0x14, index == 0 ? 3 : 1]  // enabled; the first is the boot processor
            entries.append(little: UInt32(0x600))  // signature
            entries.append(little: UInt32(0x201))  // features: APIC, FPU
            entries.append(little: UInt64(0))
            count += 1
        }
        entries += [1, 0] + Array("ISA   ".utf8)
        entries += [2, ioAPICIdentifier, 0x11, 1]
        entries.append(little: GuestLayout.ioAPIC)
        count += 2
        for line in 0..<UInt8(GuestLayout.interruptLineCount) {
            // A vectored interrupt with the bus's own polarity and trigger: ISA's, high and edge.
            entries += [3, 0, 0, 0, 0, line, ioAPICIdentifier, line]
            count += 1
        }
        entries += [4, 3, 0, 0, 0, 0, 0, 0]  // LINT0: the 8259s
        entries += [4, 1, 0, 0, 0, 0, 0xff, 1]  // LINT1 of all: NMI
        count += 2

        var table = Array("PCMP".utf8)
        table.append(little: UInt16(44 + entries.count))
        table += [4, 0]  // revision 1.4, checksum
        table += Array("MARTLET MARTLET VMM ".utf8)  // 8 bytes of maker, 12 of product
        table.append(little: UInt32(0))
        table.append(little: UInt16(0))
        table.append(little: count)
        table.append(little: GuestLayout.localAPIC)
        table.append(little: UInt32(0))
        table += entries
        table[7] = table.balancingByte

        var pointer = Array("_MP_".utf8)
        pointer.append(little: UInt32(truncatingIfNeeded: address) + 16)
        pointer += [1, 4, 0, 0, 0, 0, 0, 0]
        pointer[10] = pointer.balancingByte
        return pointer + table
    }
}
