// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform

/// What the probe's guest has proved by the time it reports a number on `ProbeGuest.port`.
enum ProbeStage: UInt8 {
    case longMode = 1
    case exchange = 2
    case save = 3
    case restore = 4
    /// One more round of the counted loop.
    case loop = 5
    /// cmpxchg16b ran and did the wrong thing.
    case wrongResult = 0xff

    /// What the guest does after it has reported this stage; nil before the first.
    static func pending(after stage: ProbeStage?) -> String {
        switch stage {
        case nil: "entry into 64-bit mode"
        case .longMode, .wrongResult: "instruction cmpxchg16b"
        case .exchange: "instruction xsave"
        case .save: "instruction xrstor"
        case .restore, .loop: "the counted loop"
        }
    }
}

/// A program of a few instructions that wants what every 64-bit kernel wants, and reports by port how far it got.
enum ProbeGuest {
    static let port: UInt16 = 0x10
    static let loopIterations: UInt64 = 100_000
    static let sizeInBytes = 0x8000

    private static let tables = (top: 0x1000, directories: 0x2000, pages: 0x3000)
    private static let codeAddress = 0x4000
    private static let operandAddress = 0x5000
    // 0x6000: 4 KiB for xsave, zero, aligned to 64 bytes.

    private static let code: [UInt8] = [
        0xb0, 0x01,  // mov al, 1
        0xe6, 0x10,  // out 0x10, al            in 64-bit mode
        0xbf, 0x00, 0x50, 0x00, 0x00,  // mov edi, 0x5000
        0xb8, 0x01, 0x00, 0x00, 0x00,  // mov eax, 1
        0xba, 0x02, 0x00, 0x00, 0x00,  // mov edx, 2
        0xbb, 0x03, 0x00, 0x00, 0x00,  // mov ebx, 3
        0xb9, 0x04, 0x00, 0x00, 0x00,  // mov ecx, 4
        0xf0, 0x48, 0x0f, 0xc7, 0x0f,  // lock cmpxchg16b [rdi]
        0x75, 0x38,  // jnz wrong
        0xb0, 0x02,  // mov al, 2
        0xe6, 0x10,  // out 0x10, al            cmpxchg16b works
        0x31, 0xc9,  // xor ecx, ecx
        0x31, 0xd2,  // xor edx, edx
        0xb8, 0x03, 0x00, 0x00, 0x00,  // mov eax, 3            x87 and SSE
        0x0f, 0x01, 0xd1,  // xsetbv
        0xbe, 0x00, 0x60, 0x00, 0x00,  // mov esi, 0x6000
        0x0f, 0xae, 0x26,  // xsave [rsi]
        0xb0, 0x03,  // mov al, 3
        0xe6, 0x10,  // out 0x10, al            xsave works
        0xb8, 0x03, 0x00, 0x00, 0x00,  // mov eax, 3
        0x0f, 0xae, 0x2e,  // xrstor [rsi]
        0xb0, 0x04,  // mov al, 4
        0xe6, 0x10,  // out 0x10, al            xrstor works
        // again:
        0xb9, 0xa0, 0x86, 0x01, 0x00,  // mov ecx, 100000
        0x48, 0xff, 0xc9,  // loop: dec rcx
        0x75, 0xfb,  // jnz loop
        0xb0, 0x05,  // mov al, 5
        0xe6, 0x10,  // out 0x10, al            a round is done
        0xeb, 0xf0,  // jmp again
        // wrong:
        0xb0, 0xff,  // mov al, 0xff
        0xe6, 0x10,  // out 0x10, al
        0xf4,  // hlt
    ]

    /// Puts program, operand and page tables into the guest's memory, which is zero and `sizeInBytes` long.
    static func load(into memory: borrowing MemoryMapping) {
        func store(_ value: UInt64, at address: Int) {
            precondition(address <= sizeInBytes - 8)
            unsafe memory.start.storeBytes(of: value, toByteOffset: address, as: UInt64.self)
        }
        // Present and writable; the first 2 MiB map to themselves.
        store(UInt64(tables.directories) | 3, at: tables.top)
        store(UInt64(tables.pages) | 3, at: tables.directories)
        store(0x83, at: tables.pages)
        // What cmpxchg16b compares RDX:RAX with.
        store(1, at: operandAddress)
        store(2, at: operandAddress + 8)
        for (index, byte) in code.enumerated() {
            unsafe memory.start.storeBytes(of: byte, toByteOffset: codeAddress + index, as: UInt8.self)
        }
    }

    /// Puts the vCPU at the program's start, in 64-bit mode.
    static func prepare(_ vcpu: borrowing VCPU) throws(KVMError) {
        var special = try vcpu.specialRegisters()
        let data = kvm_segment(flat: true, code: false)
        special.cs = kvm_segment(flat: true, code: true)
        special.ds = data
        special.es = data
        special.fs = data
        special.gs = data
        special.ss = data
        special.cr3 = UInt64(tables.top)
        special.cr0 = 0x8000_0033  // PG, NE, ET, MP, PE
        special.cr4 = 0x4_0620  // OSXSAVE, OSXMMEXCPT, OSFXSR, PAE
        special.efer = 0x500  // LMA, LME
        try vcpu.setSpecialRegisters(special)
        var registers = kvm_regs()
        registers.rip = UInt64(codeAddress)
        registers.rflags = 2
        try vcpu.setRegisters(registers)
    }
}

extension kvm_segment {
    /// A segment over the whole address space: 64-bit code, or data.
    init(flat: Bool, code: Bool) {
        self.init()
        limit = 0xffff_ffff
        selector = code ? 0x08 : 0x10
        type = code ? 11 : 3
        present = 1
        s = 1
        l = code ? 1 : 0
        db = code ? 0 : 1
        g = 1
    }
}
