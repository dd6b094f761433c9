// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import KVM

/// The processor's state at a kernel's entry, and the tables in memory that it needs.
struct ProcessorState {
    /// Selectors as Linux's boot protocol has them: code at 0x10, data at 0x18.
    private static let codeSelector: UInt16 = 0x10
    private static let dataSelector: UInt16 = 0x18
    private static let taskSelector: UInt16 = 0x20

    let entry: KernelEntry

    private var isLong: Bool { if case .linux64 = entry { true } else { false } }

    /// The global descriptor table (Intel SDM volume 3, 3.4.5): two empty ones, code, data, task state.
    func descriptorTable() -> [UInt8] {
        let code: UInt64 = isLong ? 0x00af_9b00_0000_ffff : 0x00cf_9b00_0000_ffff
        var bytes: [UInt8] = []
        for descriptor in [0, 0, code, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067] {
            bytes.append(little: descriptor)
        }
        return bytes
    }

    /// Tables that map the first GiB to itself, in pages of 2 MiB; only 64-bit entries need them.
    func pageTables() -> [UInt8] {
        guard isLong else { return [] }
        var bytes = [UInt8](repeating: 0, count: 3 * 4096)
        bytes.put(GuestLayout.pageTables + 0x1000 | 3, at: 0)
        bytes.put(GuestLayout.pageTables + 0x2000 | 3, at: 0x1000)
        for index in 0..<512 { bytes.put(UInt64(index) << 21 | 0x83, at: 0x2000 + index * 8) }
        return bytes
    }

    /// Puts the boot processor at the entry. All others wait for it to start them.
    func apply(to vcpu: borrowing VCPU) throws(KVMError) {
        var special = try vcpu.specialRegisters()
        special.gdt = kvm_dtable(base: GuestLayout.descriptorTable, limit: 5 * 8 - 1, padding: (0, 0, 0))
        special.idt = kvm_dtable(base: 0, limit: 0, padding: (0, 0, 0))
        special.cs = flatSegment(selector: Self.codeSelector, type: 11, long: isLong)
        let data = flatSegment(selector: Self.dataSelector, type: 3, long: false)
        special.ds = data
        special.es = data
        special.fs = data
        special.gs = data
        special.ss = data
        special.tr = kvm_segment()
        special.tr.selector = Self.taskSelector
        special.tr.limit = 0x67
        special.tr.type = 11
        special.tr.present = 1
        special.cr0 = 0x11  // ET, PE
        special.cr4 = 0
        special.efer = 0
        var registers = kvm_regs()
        registers.rflags = 2
        switch entry {
        case .pvh(let address):
            registers.rip = address
            registers.rbx = GuestLayout.startInformation
        case .linux64(let address):
            registers.rip = address
            registers.rsi = GuestLayout.zeroPage
            registers.rsp = GuestLayout.bootStack
            registers.rbp = GuestLayout.bootStack
            special.cr3 = GuestLayout.pageTables
            special.cr4 = 0x20  // PAE
            special.cr0 |= 0x8000_0000  // PG
            special.efer = 0x500  // LMA, LME
        }
        try vcpu.setSpecialRegisters(special)
        try vcpu.setRegisters(registers)
        try vcpu.resetFloatingPoint()
    }

    private func flatSegment(selector: UInt16, type: UInt8, long: Bool) -> kvm_segment {
        var segment = kvm_segment()
        segment.limit = 0xffff_ffff
        segment.selector = selector
        segment.type = type
        segment.present = 1
        segment.s = 1
        segment.l = long ? 1 : 0
        segment.db = long ? 0 : 1
        segment.g = 1
        return segment
    }

    /// What firmware sets on every processor and KVM's reset state lacks: fast string operations on
    /// (IA32_MISC_ENABLE), memory write-back by default (IA32_MTRR_DEF_TYPE).
    static let modelSpecificRegisters: [(UInt32, UInt64)] = [(0x1a0, 1), (0x2ff, 0x806)]
}
