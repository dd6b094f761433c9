// SPDX-License-Identifier: Apache-2.0

// ELF-64 (System V ABI, chapters 4 and 5) and its Xen note (Xen, docs/misc/pvh.pandoc).
extension KernelImage {
    private static let machineNames: [UInt16: String] = [
        3: "32-bit x86", 8: "MIPS", 20: "32-bit PowerPC", 21: "PowerPC", 22: "S390", 40: "32-bit Arm", 183: "arm64",
        243: "RISC-V", 258: "LoongArch",
    ]

    static func parseELF(
        head: [UInt8], fileSize: UInt64, lowMemoryEnd: UInt64, read: KernelReader
    ) throws(KernelImageError) -> KernelImage {
        guard head.count >= 64, let machine = head.little(UInt16.self, at: 18),
            let type = head.little(UInt16.self, at: 16), let entry = head.little(UInt64.self, at: 24),
            let tableOffset = head.little(UInt64.self, at: 32), let entrySize = head.little(UInt16.self, at: 54),
            let entryCount = head.little(UInt16.self, at: 56)
        else { throw .notAKernel("it is an ELF file, cut off in its header") }
        guard head[4] == 2, head[5] == 1, machine == 62 else {
            throw .notAKernel("it is an ELF file for \(machineNames[machine] ?? "machine \(machine)"), not for x86-64")
        }
        guard type == 2 || type == 3 else {
            throw .notAKernel("it is an ELF \(type == 1 ? "object file or module" : "core dump"), not an executable")
        }
        guard entrySize == 56, entryCount > 0, entryCount <= 128 else {
            throw .notAKernel("its ELF program header table is damaged")
        }
        let table = try read(tableOffset, Int(entryCount) * 56)
        guard table.count == Int(entryCount) * 56 else {
            throw .notAKernel("it is an ELF file, cut off before its program headers")
        }

        var segments: [KernelSegment] = []
        var pvhEntry: UInt64?
        for index in 0..<Int(entryCount) {
            let header = ProgramHeader(table, at: index * 56)
            switch header.type {
            case 1: if let segment = try loadable(header, fileSize, lowMemoryEnd) { segments.append(segment) }
            case 4: if pvhEntry == nil { pvhEntry = try note(header, read) }
            case 3: throw .notAKernel("it is an ELF program for an operating system (it names an interpreter)")
            default: break
            }
        }
        guard let highest = segments.map({ $0.guestAddress + $0.guestCount }).max() else {
            throw .notAKernel("its ELF program headers load nothing")
        }
        let start = pvhEntry ?? entry
        guard segments.contains(where: { $0.guestAddress <= start && start - $0.guestAddress < $0.fileCount }) else {
            throw .notAKernel("its entry 0x\(String(start, radix: 16)) is in none of its segments")
        }
        return KernelImage(
            segments: segments, entry: pvhEntry.map { .pvh(address: $0) } ?? .linux64(address: entry),
            setupHeader: [], highestAddress: highest, commandLineLimit: GuestLayout.commandLineCapacity - 1)
    }

    private struct ProgramHeader {
        let type: UInt32
        let offset, physicalAddress, fileSize, memorySize: UInt64

        init(_ table: [UInt8], at start: Int) {
            type = table.little(UInt32.self, at: start) ?? 0
            offset = table.little(UInt64.self, at: start + 8) ?? 0
            physicalAddress = table.little(UInt64.self, at: start + 24) ?? 0
            fileSize = table.little(UInt64.self, at: start + 32) ?? 0
            memorySize = table.little(UInt64.self, at: start + 40) ?? 0
        }
    }

    private static func loadable(
        _ header: ProgramHeader, _ fileSize: UInt64, _ lowMemoryEnd: UInt64
    ) throws(KernelImageError) -> KernelSegment? {
        guard header.memorySize > 0 else { return nil }
        let (fileEnd, fileOverflow) = header.offset.addingReportingOverflow(header.fileSize)
        let (memoryEnd, memoryOverflow) = header.physicalAddress.addingReportingOverflow(header.memorySize)
        guard !fileOverflow, !memoryOverflow, header.fileSize <= header.memorySize else {
            throw .notAKernel("one of its ELF segments is damaged")
        }
        guard fileEnd <= fileSize else { throw .notAKernel("it is an ELF file, cut off within a segment") }
        guard header.physicalAddress >= GuestLayout.highMemory, memoryEnd <= GuestLayout.holeStart else {
            throw .notAKernel(
                "it wants to be loaded at 0x\(String(header.physicalAddress, radix: 16)), "
                    + "but kernels lie between 1 MiB and 3 GiB")
        }
        guard memoryEnd <= lowMemoryEnd else { throw .memoryTooSmall(neededInBytes: memoryEnd) }
        return KernelSegment(
            fileOffset: header.offset, fileCount: header.fileSize, guestAddress: header.physicalAddress,
            guestCount: header.memorySize)
    }

    /// The value of the note XEN_ELFNOTE_PHYS32_ENTRY, if the segment has it.
    private static func note(_ header: ProgramHeader, _ read: KernelReader) throws(KernelImageError) -> UInt64? {
        let notes = try read(header.offset, Int(min(header.fileSize, 64 << 10)))
        var offset = 0
        while let nameSize = notes.little(UInt32.self, at: offset),
            let valueSize = notes.little(UInt32.self, at: offset + 4),
            let type = notes.little(UInt32.self, at: offset + 8)
        {
            guard nameSize <= notes.count, valueSize <= notes.count else { return nil }
            let nameStart = offset + 12
            let valueStart = nameStart + (Int(nameSize) + 3) & ~3
            if type == 18, nameSize == 4, notes.little(UInt32.self, at: nameStart) == 0x006e_6558 {  // "Xen\0"
                return notes.little(UInt32.self, at: valueStart).map(UInt64.init)
            }
            offset = valueStart + (Int(valueSize) + 3) & ~3
        }
        return nil
    }
}
