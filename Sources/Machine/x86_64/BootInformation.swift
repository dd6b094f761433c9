// SPDX-License-Identifier: Apache-2.0

/// What a kernel is told at its start, besides ACPI.
struct BootInformation {
    var memoryMap: [MemoryMapEntry]
    /// Where the initrd lies in the guest.
    var initrd: Range<UInt64>?
    /// Whether there are ACPI tables.
    var hasACPI: Bool

    private var rsdp: UInt64 { hasACPI ? GuestLayout.acpiTables : 0 }

    /// struct hvm_start_info with its lists behind it (Xen, public/arch-x86/hvm/start_info.h), for
    /// `GuestLayout.startInformation`.
    func startInformation() -> [UInt8] {
        let modules = GuestLayout.startInformation + 0x40
        let map = GuestLayout.startInformation + 0x80
        var bytes: [UInt8] = []
        bytes.append(little: UInt32(0x336e_c578))
        bytes.append(little: UInt32(1))  // version
        bytes.append(little: UInt32(0))  // flags
        bytes.append(little: UInt32(initrd == nil ? 0 : 1))
        bytes.append(little: initrd == nil ? 0 : modules)
        bytes.append(little: GuestLayout.commandLine)
        bytes.append(little: rsdp)
        bytes.append(little: map)
        bytes.append(little: UInt32(memoryMap.count))
        bytes.append(little: UInt32(0))
        bytes.pad(to: 0x40)
        if let initrd {
            bytes.append(little: initrd.lowerBound)
            bytes.append(little: initrd.upperBound - initrd.lowerBound)
        }
        bytes.pad(to: 0x40)
        while bytes.count < 0x80 { bytes.append(0) }
        for entry in memoryMap {
            bytes.append(little: entry.range.lowerBound)
            bytes.append(little: entry.range.upperBound - entry.range.lowerBound)
            bytes.append(little: entry.kind.rawValue)
            bytes.append(little: UInt32(0))
        }
        return bytes
    }

    /// struct boot_params (Linux, Documentation/arch/x86/zero-page.rst), for `GuestLayout.zeroPage`.
    /// - Parameter setupHeader: a bzImage's own; empty for an ELF.
    func zeroPage(setupHeader: [UInt8]) -> [UInt8] {
        var page = [UInt8](repeating: 0, count: 4096)
        if setupHeader.isEmpty {
            page.put(UInt16(0xaa55), at: 0x1fe)
            page.put(UInt32(0x5372_6448), at: 0x202)  // "HdrS"
            page.put(UInt16(0x20c), at: 0x206)
            page.put(UInt32(0x100_0000), at: 0x230)  // kernel_alignment
            page.put(UInt32(GuestLayout.commandLineCapacity - 1), at: 0x238)
        } else {
            page.replaceSubrange(0x1f1..<(0x1f1 + setupHeader.count), with: setupHeader)
        }
        page[0x210] = 0xff  // type_of_loader: none with a number of its own
        page[0x211] |= 1  // LOADED_HIGH
        page.put(UInt32(truncatingIfNeeded: GuestLayout.commandLine), at: 0x228)
        if let initrd {
            page.put(UInt32(truncatingIfNeeded: initrd.lowerBound), at: 0x218)
            page.put(UInt32(truncatingIfNeeded: initrd.upperBound - initrd.lowerBound), at: 0x21c)
        }
        page.put(rsdp, at: 0x070)
        page[0x1e8] = UInt8(memoryMap.count)
        for (index, entry) in memoryMap.enumerated() {
            let start = 0x2d0 + index * 20
            page.put(entry.range.lowerBound, at: start)
            page.put(entry.range.upperBound - entry.range.lowerBound, at: start + 8)
            page.put(entry.kind.rawValue, at: start + 16)
        }
        return page
    }
}
