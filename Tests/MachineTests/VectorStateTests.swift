// SPDX-License-Identifier: Apache-2.0

import CLinux
import Platform
import Testing

@testable import KVM
@testable import Machine

/// A guest that keeps its vector registers over a save and a restore, through a snapshot's file.
///
/// Its code is a program's, not a kernel's, so that it also runs where KVM interprets what kernels do.
@Suite struct VectorStateTests {
    @Test(.enabled(if: VectorGuest.runsHere(.ymm), "there is no KVM here whose guests have AVX"))
    func ymm() throws { try checkRegisters(.ymm) }

    @Test(.enabled(if: VectorGuest.runsHere(.zmm), "there is no KVM here whose guests have AVX-512"))
    func zmm() throws { try checkRegisters(.zmm) }

    private func checkRegisters(_ width: VectorGuest.Width) throws {
        let pattern = (0..<UInt8(width.byteCount)).map { $0 &* 5 &+ 1 }
        let saved: VCPUState
        let memory: [UInt8]
        do {
            let guest = try VectorGuest(width)
            guest.write(pattern, at: VectorGuest.source)
            try guest.begin()
            #expect(try guest.runToItsWord() == 1)
            saved = try guest.captured()
            memory = guest.read(0, count: VectorGuest.size)
        }
        #expect(!memory[VectorGuest.result..<VectorGuest.result + pattern.count].elementsEqual(pattern))

        let old = try #require(snapshotCorpus("state").first { $0.name == "version-1-one-vcpu.state" })
        var file = try MachineState(reading: old.bytes)
        file.vcpus = [saved]
        let kept = try #require(try MachineState(reading: file.encoded()).vcpus.first)
        #expect(kept == saved)

        // Something else is in the registers of whoever goes on.
        let other = try VectorGuest(width)
        other.write([UInt8](repeating: 0xa5, count: pattern.count), at: VectorGuest.source)
        try other.begin()
        #expect(try other.runToItsWord() == 1)
        let next = try VectorGuest(width)
        next.write(memory, at: 0)
        try next.restore(kept)
        #expect(try next.runToItsWord() == 2)
        #expect(next.read(VectorGuest.result, count: pattern.count) == pattern)
    }
}

/// A VM with a program that loads registers from memory, writes 1 where there is no memory, stores the registers
/// elsewhere, and writes 2.
private struct VectorGuest: ~Copyable {
    enum Width {
        /// ymm0 and ymm15.
        case ymm
        /// zmm0, zmm31 and k3.
        case zmm

        var byteCount: Int { self == .ymm ? 64 : 136 }

        /// The state components of XCR0 that it needs (Intel SDM, volume 1, 13.1). A processor has them with the
        /// instructions, whatever CPUID says to guests.
        fileprivate var components: UInt32 { self == .ymm ? 0x7 : 0xe7 }

        fileprivate var code: [UInt8] {
            switch self {
            case .ymm:
                [
                    0xc5, 0xfe, 0x6f, 0x07,  // vmovdqu ymm0, [rdi]
                    0xc5, 0x7e, 0x6f, 0x7f, 0x20,  // vmovdqu ymm15, [rdi + 32]
                    0xc7, 0x03, 1, 0, 0, 0,  // mov dword [rbx], 1
                    0xc5, 0xfe, 0x7f, 0x87, 0x00, 0x04, 0, 0,  // vmovdqu [rdi + 1024], ymm0
                    0xc5, 0x7e, 0x7f, 0xbf, 0x20, 0x04, 0, 0,  // vmovdqu [rdi + 1056], ymm15
                    0xc7, 0x03, 2, 0, 0, 0,  // mov dword [rbx], 2
                ]
            case .zmm:
                [
                    0x62, 0xf1, 0xfe, 0x48, 0x6f, 0x07,  // vmovdqu64 zmm0, [rdi]
                    0x62, 0x61, 0xfe, 0x48, 0x6f, 0x7f, 0x01,  // vmovdqu64 zmm31, [rdi + 64]
                    0xc4, 0xe1, 0xf8, 0x90, 0x9f, 0x80, 0, 0, 0,  // kmovq k3, [rdi + 128]
                    0xc7, 0x03, 1, 0, 0, 0,  // mov dword [rbx], 1
                    0x62, 0xf1, 0xfe, 0x48, 0x7f, 0x47, 0x10,  // vmovdqu64 [rdi + 1024], zmm0
                    0x62, 0x61, 0xfe, 0x48, 0x7f, 0x7f, 0x11,  // vmovdqu64 [rdi + 1088], zmm31
                    0xc4, 0xe1, 0xf8, 0x91, 0x9f, 0x80, 0x04, 0, 0,  // kmovq [rdi + 1152], k3
                    0xc7, 0x03, 2, 0, 0, 0,  // mov dword [rbx], 2
                ]
            }
        }
    }

    static let size = 1 << 20
    static let source = 0x8000
    static let result = source + 1024
    private static let start = 0x6000
    private static let tables = 0x1000
    private static let noMemory: UInt64 = 0x4000_0000
    private static let limitInMilliseconds: UInt64 = 10_000

    private let memory: MemoryMapping
    private let vm: VM
    private let vcpu: VCPU
    private let host: HostAbilities

    static func runsHere(_ width: Width) -> Bool {
        guard let kvm = try? KVMSystem(), let table = try? kvm.supportedCPUID() else { return false }
        let leaf = table.entries.first { $0.function == 0xd && $0.index == 0 }
        return leaf.map { $0.eax & width.components == width.components } ?? false
    }

    init(_ width: Width) throws {
        let kvm = try KVMSystem()
        let supported = try kvm.supportedCPUID()
        let memory = try MemoryMapping(count: Self.size, shared: false)
        let vm = try kvm.createVM()
        try vm.createChipset(stateSegment: 0xfffb_d000)
        try unsafe vm.setMemory(slot: 0, guestAddress: 0, host: memory.start, countInBytes: UInt64(Self.size))
        let host = try kvm.abilities(vm, supported: supported)
        let vcpu = try vm.createVCPU(index: 0)
        try VCPUKick.prepare()
        self.memory = memory
        self.vm = vm
        self.vcpu = vcpu
        self.host = host
        write(width.code, at: Self.start)
    }

    /// At the program's start, with the rights of a program.
    borrowing func begin() throws {
        // Four levels; the first 2 MiB and the 2 MiB without memory map to themselves, for programs.
        let user: UInt64 = 7
        let large: UInt64 = 0x87
        store(UInt64(Self.tables + 0x1000) | user, at: Self.tables)
        store(UInt64(Self.tables + 0x2000) | user, at: Self.tables + 0x1000)
        store(UInt64(Self.tables + 0x3000) | user, at: Self.tables + 0x1008)
        store(large, at: Self.tables + 0x2000)
        store(Self.noMemory | large, at: Self.tables + 0x3000)
        try vcpu.setCPUID(host.cpuid)
        try vcpu.enableExtendedStates(host.cpuid)
        var special = try vcpu.specialRegisters()
        var data = kvm_segment(flat: true, code: false)
        data.dpl = 3
        data.selector |= 3
        var code = kvm_segment(flat: true, code: true)
        code.dpl = 3
        code.selector |= 3
        (special.cs, special.ds, special.es, special.ss) = (code, data, data, data)
        (special.fs, special.gs) = (data, data)
        special.cr3 = UInt64(Self.tables)
        special.cr0 = 0x8005_0033  // PG, AM, WP, NE, ET, MP, PE
        special.cr4 = 0x4_0620  // OSXSAVE, OSXMMEXCPT, OSFXSR, PAE
        special.efer = 0xd01  // NXE, LMA, LME, SCE
        try vcpu.setSpecialRegisters(special)
        try vcpu.setMultiprocessingState(0)
        var registers = kvm_regs()
        registers.rip = UInt64(Self.start)
        registers.rflags = 2
        registers.rsp = 0xf000
        registers.rdi = UInt64(Self.source)
        registers.rbx = Self.noMemory
        try vcpu.setRegisters(registers)
    }

    /// Runs it until it writes where there is no memory, and gives what it writes.
    borrowing func runToItsWord() throws -> UInt64? {
        let watchdog = try Watchdog(vcpu.makeKick(), limitInMilliseconds: Self.limitInMilliseconds)
        let exit = Result { () throws(KVMError) in try vcpu.run() }
        watchdog.end()
        guard case .memoryWrite(Self.noMemory, let data) = try exit.get() else {
            Issue.record("the guest left for \(exit)")
            return nil
        }
        let word = data.number
        // The access is complete when the vCPU was about to run again.
        let kick = vcpu.makeKick()
        kick.request()
        guard case .interrupted = try vcpu.run() else { throw SystemError("KVM_RUN", "an access", code: 5) }
        kick.clear()
        return word
    }

    borrowing func captured() throws -> VCPUState { try vcpu.captureState(host) }

    borrowing func restore(_ state: VCPUState) throws { try vcpu.restore(state, host, setsFrequency: false) }

    borrowing func write(_ bytes: [UInt8], at address: Int) {
        unsafe UnsafeMutableRawBufferPointer(start: memory.start + address, count: bytes.count).copyBytes(from: bytes)
    }

    borrowing func read(_ address: Int, count: Int) -> [UInt8] {
        unsafe [UInt8](UnsafeRawBufferPointer(start: memory.start + address, count: count))
    }

    private borrowing func store(_ value: UInt64, at address: Int) {
        unsafe memory.start.storeBytes(of: value, toByteOffset: address, as: UInt64.self)
    }
}
