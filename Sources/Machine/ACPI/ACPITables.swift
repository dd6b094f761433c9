// SPDX-License-Identifier: Apache-2.0

/// A virtio device's place in the guest.
struct DeviceSlot: Equatable {
    let address: UInt64
    let interrupt: UInt32

    /// The place of device `index`, below `GuestLayout.maximumDeviceCount`.
    init(index: Int) {
        address = GuestLayout.deviceWindows + UInt64(index) * GuestLayout.deviceWindowSize
        interrupt = GuestLayout.deviceInterrupts[index]
    }
}

/// The tables of a machine without ACPI hardware of its own ("hardware-reduced", ACPI 6.5, 4.1): what there is, and
/// two registers to sleep and to reset.
struct ACPITables {
    let vcpuCount: Int
    let devices: [DeviceSlot]

    /// All tables, the RSDP first, for `address`.
    func bytes(at address: UInt64) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 36)
        func place(_ table: [UInt8]) -> UInt64 {
            bytes.pad(to: 16)
            defer { bytes += table }
            return address + UInt64(bytes.count)
        }
        let dsdt = place(differentiatedDescription())
        let fadt = place(fixedDescription(dsdt: dsdt))
        let madt = place(interruptDescription())
        var pointers: [UInt8] = []
        for table in [fadt, madt] { pointers.append(little: table) }
        let xsdt = place(Self.table("XSDT", revision: 1, pointers))
        bytes.replaceSubrange(0..<36, with: Self.rootPointer(xsdt: xsdt))
        return bytes
    }

    private static let maker = Array("MARTLE".utf8)

    /// RSDP, 5.2.5.3.
    private static func rootPointer(xsdt: UInt64) -> [UInt8] {
        var bytes = Array("RSD PTR ".utf8) + [0] + maker + [2]
        bytes.append(little: UInt32(0))
        bytes[8] = bytes.balancingByte
        bytes.append(little: UInt32(36))
        bytes.append(little: xsdt)
        bytes += [0, 0, 0, 0]
        bytes[32] = bytes.balancingByte
        return bytes
    }

    /// A table with its header, 5.2.6.
    private static func table(_ signature: String, revision: UInt8, _ body: [UInt8]) -> [UInt8] {
        var bytes = Array(signature.utf8)
        bytes.append(little: UInt32(36 + body.count))
        bytes += [revision, 0]
        bytes += maker
        bytes += Array("MARTLETV".utf8)
        bytes.append(little: UInt32(1))
        bytes += Array("MRTL".utf8)
        bytes.append(little: UInt32(1))
        bytes += body
        bytes[9] = bytes.balancingByte
        return bytes
    }

    /// FADT, 5.2.9. Offsets below are the specification's, which count the header's 36 bytes.
    private func fixedDescription(dsdt: UInt64) -> [UInt8] {
        var body = [UInt8](repeating: 0, count: 276 - 36)
        func put<Value: FixedWidthInteger>(_ value: Value, at offset: Int) { body.put(value, at: offset - 36) }
        func putPort(_ port: UInt16, at offset: Int) {
            // Generic address structure: I/O space, 8 bits wide, byte access.
            put(UInt32(0x0100_0801), at: offset)
            put(UInt64(port), at: offset + 4)
        }
        // IAPC_BOOT_ARCH: legacy devices, an i8042; no VGA, no CMOS clock.
        put(UInt16(1 << 0 | 1 << 1 | 1 << 2 | 1 << 5), at: 109)
        // Flags: WBINVD, power and sleep button are not fixed ones, reset register, hardware-reduced.
        put(UInt32(1 << 0 | 1 << 4 | 1 << 5 | 1 << 10 | 1 << 20), at: 112)
        putPort(PowerControl.resetPort, at: 116)
        put(PowerControl.resetValue, at: 128)
        put(UInt8(5), at: 131)  // minor version: 6.5
        put(dsdt, at: 140)
        putPort(PowerControl.sleepControlPort, at: 244)
        putPort(PowerControl.sleepStatusPort, at: 256)
        body.replaceSubrange(268 - 36..<276 - 36, with: Array("MARTLET ".utf8))
        return Self.table("FACP", revision: 6, body)
    }

    /// MADT, 5.2.12.
    private func interruptDescription() -> [UInt8] {
        var body: [UInt8] = []
        body.append(little: GuestLayout.localAPIC)
        body.append(little: UInt32(1))  // PCAT_COMPAT: there are 8259s too
        for index in 0..<vcpuCount {
            body += [0, 8, UInt8(index), UInt8(index), 1, 0, 0, 0]
        }
        body += [1, 12, UInt8(vcpuCount), 0]
        body.append(little: GuestLayout.ioAPIC)
        body.append(little: UInt32(0))
        return Self.table("APIC", revision: 5, body)
    }

    /// DSDT, 5.2.11.1.
    private func differentiatedDescription() -> [UInt8] {
        var terms: [[UInt8]] = []
        for index in 0..<vcpuCount {
            terms.append(
                AML.device(
                    "C" + hexadecimal(index),
                    [AML.name("_HID", AML.string("ACPI0007")), AML.name("_UID", AML.integer(UInt64(index)))]))
        }
        for (index, device) in devices.enumerated() {
            terms.append(
                AML.device(
                    "V" + hexadecimal(index),
                    [
                        AML.name("_HID", AML.string("LNRO0005")),
                        AML.name("_UID", AML.integer(UInt64(index))),
                        AML.name("_CCA", AML.integer(1)),  // its DMA is coherent
                        AML.name(
                            "_CRS",
                            AML.resources([
                                AML.memory(device.address, count: GuestLayout.deviceWindowSize),
                                AML.interrupt(device.interrupt),
                            ])),
                    ]))
        }
        terms.append(
            AML.device(
                "COM1",
                [
                    AML.name("_HID", AML.eisaIdentifier("PNP0501")),
                    AML.name("_UID", AML.integer(0)),
                    AML.name(
                        "_CRS",
                        AML.resources([
                            AML.ports(Serial16550.ports.lowerBound, count: 8), AML.interrupt(Serial16550.interruptLine),
                        ])),
                ]))
        terms.append(
            AML.device(
                "PS2K",
                [
                    AML.name("_HID", AML.eisaIdentifier("PNP0303")),
                    AML.name(
                        "_CRS",
                        AML.resources([
                            AML.ports(I8042.ports.lowerBound, count: 1), AML.ports(I8042.ports.upperBound, count: 1),
                            AML.interrupt(I8042.interruptLine),
                        ])),
                ]))
        terms.append(
            AML.device(
                "PEVT",
                [
                    AML.name("_HID", AML.string("QEMU0001")),
                    AML.name("_STA", AML.integer(0xf)),
                    AML.name("_CRS", AML.resources([AML.ports(PVPanic.ports.lowerBound, count: 1)])),
                ]))
        terms.append(
            AML.device(
                "VGEN",
                [
                    AML.name("_HID", AML.string("VMGENCTR")),
                    AML.name("_CID", AML.string("VM_Gen_Counter")),
                    AML.name("_DDN", AML.string("VM_Gen_Counter")),
                    AML.name(
                        "ADDR",
                        AML.package([AML.integer(GuestLayout.generationIdentifier), AML.integer(0)])),
                ]))
        // The generic event device, 5.6.9: an interrupt that becomes a notification.
        terms.append(
            AML.device(
                "GED_",
                [
                    AML.name("_HID", AML.string("ACPI0013")),
                    AML.name("_UID", AML.integer(0)),
                    AML.name("_CRS", AML.resources([AML.interrupt(GuestLayout.eventInterrupt)])),
                    AML.method(
                        "_EVT", argumentCount: 1,
                        [
                            AML.ifArgument(
                                0, equals: UInt64(GuestLayout.eventInterrupt),
                                [AML.notify("\\_SB_VGEN", 0x80)])
                        ]),
                ]))
        let sleep = AML.name(
            "_S5_",
            AML.package([AML.integer(UInt64(PowerControl.softOffType)), AML.integer(0), AML.integer(0), AML.integer(0)])
        )
        return Self.table("DSDT", revision: 2, AML.scope("\\_SB_", terms) + sleep)
    }

    /// Three digits.
    private func hexadecimal(_ number: Int) -> String {
        let digits = String(number, radix: 16, uppercase: true)
        return String(repeating: "0", count: 3 - digits.utf8.count) + digits
    }
}
