// SPDX-License-Identifier: Apache-2.0

package import CLinux
internal import Platform

extension VCPU {
    package borrowing func registers() throws(KVMError) -> kvm_regs {
        var registers = kvm_regs()
        try control(descriptor, CLINUX_KVM_GET_REGS, "KVM_GET_REGS", with: &registers)
        return registers
    }

    package borrowing func setRegisters(_ registers: kvm_regs) throws(KVMError) {
        var registers = registers
        try control(descriptor, CLINUX_KVM_SET_REGS, "KVM_SET_REGS", with: &registers)
    }

    package borrowing func specialRegisters() throws(KVMError) -> kvm_sregs {
        var registers = kvm_sregs()
        try control(descriptor, CLINUX_KVM_GET_SREGS, "KVM_GET_SREGS", with: &registers)
        return registers
    }

    package borrowing func setSpecialRegisters(_ registers: kvm_sregs) throws(KVMError) {
        var registers = registers
        try control(descriptor, CLINUX_KVM_SET_SREGS, "KVM_SET_SREGS", with: &registers)
    }

    /// The floating-point unit as after FNINIT, with all SSE exceptions masked.
    package borrowing func resetFloatingPoint() throws(KVMError) {
        var state = kvm_fpu()
        state.fcw = 0x37f
        state.mxcsr = 0x1f80
        try control(descriptor, CLINUX_KVM_SET_FPU, "KVM_SET_FPU", with: &state)
    }

    /// Switches all extended states on that the guest may use (XCR0), as firmware may before it hands over. A kernel
    /// does that itself; but where a hypervisor below is not told when it does (QEMU's emulation of SVM has no intercept
    /// of XSETBV), KVM would go on with the few that a reset leaves, and the kernel do without AVX.
    package borrowing func enableExtendedStates(_ table: CPUIDTable) throws(KVMError) {
        guard let leaf = table.entries.first(where: { $0.function == 0xd && $0.index == 0 }), leaf.eax & 1 != 0 else {
            return
        }
        // struct kvm_xcrs: the count and flags, then number and value.
        var words = [UInt64](repeating: 0, count: (MemoryLayout<kvm_xcrs>.size + 7) / 8)
        words[0] = 1
        words[2] = UInt64(leaf.eax) | UInt64(leaf.edx) << 32
        try control(descriptor, CLINUX_KVM_SET_XCRS, "KVM_SET_XCRS", words: &words)
    }

    /// Sets model-specific registers, given by number and value.
    package borrowing func setModelSpecificRegisters(_ registers: [(UInt32, UInt64)]) throws(KVMError) {
        // struct kvm_msrs: the count, then number and value.
        var words: [UInt64] = [UInt64(registers.count)]
        for (number, value) in registers {
            words.append(UInt64(number))
            words.append(value)
        }
        let done = Int(try control(descriptor, CLINUX_KVM_SET_MSRS, "KVM_SET_MSRS", words: &words))
        guard done == registers.count else {
            let number = String(registers[done].0, radix: 16)
            throw .call(SystemError("ioctl", "KVM_SET_MSRS of MSR 0x\(number)", code: 22))
        }
    }

    /// Wires the local interrupt pins as a PC's firmware does: LINT0 to the 8259s, LINT1 to NMI.
    package borrowing func setLocalInterrupts() throws(KVMError) {
        // struct kvm_lapic_state: the register page's first KiB.
        var words = [UInt64](repeating: 0, count: 128)
        try control(descriptor, CLINUX_KVM_GET_LAPIC, "KVM_GET_LAPIC", words: &words)
        // Local vector table entries, Intel SDM volume 3, figure 11-8: delivery mode in bits 8 to 10.
        for (offset, mode) in [(0x350, UInt64(7)), (0x360, 4)] {
            let word = words[offset / 8]
            words[offset / 8] = word & ~0x700 | mode << 8
        }
        try control(descriptor, CLINUX_KVM_SET_LAPIC, "KVM_SET_LAPIC", words: &words)
    }

    /// Whether it runs, halts or waits for its start (KVM_MP_STATE_…).
    package borrowing func multiprocessingState() throws(KVMError) -> UInt32 {
        var state = kvm_mp_state()
        try control(descriptor, CLINUX_KVM_GET_MP_STATE, "KVM_GET_MP_STATE", with: &state)
        return state.mp_state
    }

    package borrowing func setMultiprocessingState(_ value: UInt32) throws(KVMError) {
        var state = kvm_mp_state(mp_state: value)
        try control(descriptor, CLINUX_KVM_SET_MP_STATE, "KVM_SET_MP_STATE", with: &state)
    }

    /// Where the guest is.
    borrowing func instructionPointer() throws(KVMError) -> UInt64 { try registers().rip }
}
