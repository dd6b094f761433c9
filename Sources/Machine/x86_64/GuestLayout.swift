// SPDX-License-Identifier: Apache-2.0

/// Where everything lies in a guest's physical address space on x86-64. The one place that says so.
///
///         0x500  GDT                                              0xc0000000  boot timer (one page)
///        0x6000  PVH start information                            0xc0001000  virtio-mmio windows, 4 KiB each
///        0x7000  zero page (struct boot_params)                   0xfec00000  IOAPIC
///        0x8ff0  boot stack, downwards                            0xfee00000  local APIC
///        0x9000  page tables                                      0xfffbc000  identity map page and TSS (Intel)
///       0x20000  command line                                    0x100000000  memory above the hole
///       0x9fc00  MP table
///       0xdf000  generation identifier
///       0xe0000  RSDP and the ACPI tables
///      0x100000  memory: kernel, …, initrd at its end; up to 3 GiB
package enum GuestLayout {
    static let descriptorTable: UInt64 = 0x500
    static let startInformation: UInt64 = 0x6000
    static let zeroPage: UInt64 = 0x7000
    static let bootStack: UInt64 = 0x8ff0
    static let pageTables: UInt64 = 0x9000
    static let commandLine: UInt64 = 0x20000
    /// With its final zero byte; what Linux on x86 takes (COMMAND_LINE_SIZE).
    package static let commandLineCapacity = 2048
    static let multiprocessorTable: UInt64 = 0x9fc00
    static let multiprocessorTableCapacity = 0x400
    static let generationIdentifier: UInt64 = 0xd_f000
    static let acpiTables: UInt64 = 0xe0000
    static let acpiTablesCapacity = 0x2_0000
    static let highMemory: UInt64 = 0x10_0000
    static let bootTimer: UInt64 = 0xc000_0000
    static let deviceWindows: UInt64 = 0xc000_1000
    static let deviceWindowSize: UInt64 = 0x1000
    static let ioAPIC: UInt32 = 0xfec0_0000
    static let localAPIC: UInt32 = 0xfee0_0000
    static let stateSegment: UInt32 = 0xfffb_d000
    static let holeStart: UInt64 = 0xc000_0000
    static let holeEnd: UInt64 = 0x1_0000_0000

    /// Interrupt lines for virtio devices. First those that nothing on a PC lays claim to, last those that a
    /// distribution's drivers for legacy devices may ask for too. 4 is the serial port's, 9 is kept for ACPI events.
    static let deviceInterrupts: [UInt32] = [5, 6, 7, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23, 13, 14, 15, 3, 8, 12]
    /// The generic event device's.
    static let eventInterrupt: UInt32 = 9
    static let interruptLineCount: UInt32 = 24

    /// The most virtio devices a machine can have.
    package static var maximumDeviceCount: Int { deviceInterrupts.count }

    package static let maximumVCPUCount = 32
    package static let minimumMemoryInMiB: UInt64 = 64

    /// The guest-physical ranges of a machine's memory.
    package static func memoryRanges(sizeInBytes: UInt64) -> [Range<UInt64>] {
        guard sizeInBytes > holeStart else { return [0..<sizeInBytes] }
        return [0..<holeStart, holeEnd..<(holeEnd + (sizeInBytes - holeStart))]
    }

    /// What firmware would tell the guest about its memory.
    static func memoryMap(sizeInBytes: UInt64) -> [MemoryMapEntry] {
        var entries = [
            MemoryMapEntry(range: 0..<multiprocessorTable, kind: .usable),
            MemoryMapEntry(range: multiprocessorTable..<highMemory, kind: .reserved),
        ]
        for range in memoryRanges(sizeInBytes: sizeInBytes) {
            let usable = max(range.lowerBound, highMemory)..<range.upperBound
            entries.append(MemoryMapEntry(range: usable, kind: .usable))
        }
        return entries
    }

    /// Where the initrd lies: at the end of the memory below the hole, on a page's start; nil if it does not fit above
    /// `lowest`.
    static func initrdAddress(countInBytes: UInt64, sizeInBytes: UInt64, lowest: UInt64) -> UInt64? {
        let end = min(sizeInBytes, holeStart)
        guard countInBytes <= end else { return nil }
        let address = (end - countInBytes) & ~0xfff
        return address >= lowest ? address : nil
    }
}

/// An entry of the e820 map, which PVH has as well.
struct MemoryMapEntry: Equatable {
    enum Kind: UInt32 {
        case usable = 1
        case reserved = 2
    }
    let range: Range<UInt64>
    let kind: Kind
}
