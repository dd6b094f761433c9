// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Platform

/// A model-specific register by its number.
package struct ModelSpecificRegister: Equatable, Sendable {
    package var number: UInt32
    package var value: UInt64

    package init(number: UInt32, value: UInt64) {
        self.number = number
        self.value = value
    }

    package enum Number {
        package static let timestampCounter: UInt32 = 0x10
        package static let timestampDeadline: UInt32 = 0x6e0
    }
}

/// All that KVM keeps of a vCPU. Structures are kept as KVM lays them out (linux/kvm.h, asm/kvm.h), which never changes.
package struct VCPUState: Equatable, Sendable {
    /// The parts that are structures of KVM's.
    package enum Part: CaseIterable, Sendable {
        case registers
        case specialRegisters
        case extendedControlRegisters
        case debugRegisters
        case localAPIC
        case events
        /// The whole XSAVE area, as long as the host's (KVM_CAP_XSAVE2).
        case extendedState
        /// What a hypervisor in the guest has of its own; empty where the host has no such state.
        case nested

        /// In bytes; nil where the host says.
        package var size: Int? {
            switch self {
            case .registers: MemoryLayout<kvm_regs>.size
            case .specialRegisters: MemoryLayout<kvm_sregs>.size
            case .extendedControlRegisters: MemoryLayout<kvm_xcrs>.size
            case .debugRegisters: MemoryLayout<kvm_debugregs>.size
            case .localAPIC: 1024
            case .events: MemoryLayout<kvm_vcpu_events>.size
            case .extendedState, .nested: nil
            }
        }
    }

    package var parts: [Part: [UInt8]] = [:]
    /// KVM_MP_STATE_…
    package var multiprocessing: UInt32 = 0
    package var cpuid = CPUIDTable(entries: [])
    /// Those that KVM lists and could read.
    package var modelSpecificRegisters: [ModelSpecificRegister] = []
    /// 0 where KVM does not say.
    package var timestampFrequencyInKHz: UInt32 = 0

    package init() {}
}

extension VCPU {
    /// Takes everything. The vCPU does not run, and has completed the access that it left the guest for.
    package borrowing func captureState(_ host: HostAbilities) throws(KVMError) -> VCPUState {
        var state = VCPUState()
        // First, for reading it settles what INIT and SIPI have left pending; the events last, after all side effects.
        state.multiprocessing = try multiprocessingState()
        state.parts[.registers] = try read(.registers, CLINUX_KVM_GET_REGS, "KVM_GET_REGS")
        state.parts[.specialRegisters] = try read(.specialRegisters, CLINUX_KVM_GET_SREGS, "KVM_GET_SREGS")
        state.parts[.extendedState] = try readExtendedState(host)
        state.parts[.extendedControlRegisters] = try read(
            .extendedControlRegisters, CLINUX_KVM_GET_XCRS, "KVM_GET_XCRS")
        state.parts[.debugRegisters] = try read(.debugRegisters, CLINUX_KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS")
        state.parts[.localAPIC] = try read(.localAPIC, CLINUX_KVM_GET_LAPIC, "KVM_GET_LAPIC")
        state.timestampFrequencyInKHz = timestampFrequencyInKHz()
        state.cpuid = try cpuid()
        state.modelSpecificRegisters = try modelSpecificRegisters(host.modelSpecificRegisters)
        state.parts[.nested] = try readNestedState(host)
        state.parts[.events] = try read(.events, CLINUX_KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS")
        return state
    }

    /// Gives a new vCPU a kept state, whose parts have the right sizes.
    /// - Parameter setsFrequency: the host's time-stamp counter is scaled to that of the state.
    package borrowing func restore(
        _ state: VCPUState, _ host: HostAbilities, setsFrequency: Bool
    ) throws(KVMError) {
        try setCPUID(state.cpuid)
        if setsFrequency {
            try control(descriptor, CLINUX_KVM_SET_TSC_KHZ, "KVM_SET_TSC_KHZ", UInt(state.timestampFrequencyInKHz))
        }
        try setMultiprocessingState(state.multiprocessing)
        try write(state, .specialRegisters, CLINUX_KVM_SET_SREGS, "KVM_SET_SREGS")
        try write(state, .extendedControlRegisters, CLINUX_KVM_SET_XCRS, "KVM_SET_XCRS")
        try write(state, .extendedState, CLINUX_KVM_SET_XSAVE, "KVM_SET_XSAVE")
        // The local APIC after its base, which is among the special registers; the deadline after the local APIC, whose
        // mode it needs.
        let late = ModelSpecificRegister.Number.timestampDeadline
        try restoreModelSpecificRegisters(state.modelSpecificRegisters.filter { $0.number != late })
        try write(state, .localAPIC, CLINUX_KVM_SET_LAPIC, "KVM_SET_LAPIC")
        try restoreModelSpecificRegisters(state.modelSpecificRegisters.filter { $0.number == late })
        try write(state, .registers, CLINUX_KVM_SET_REGS, "KVM_SET_REGS")
        try write(state, .debugRegisters, CLINUX_KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS")
        if host.nestedStateSize > 0, let kept = state.parts[.nested], !kept.isEmpty, try readNestedState(host) != kept {
            try write(state, .nested, CLINUX_KVM_SET_NESTED_STATE, "KVM_SET_NESTED_STATE")
        }
        try write(state, .events, CLINUX_KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS")
    }

    /// The guest is told that it stood still, so that it does not take that for a hang of its own. A guest without a
    /// clock of KVM's cannot be told.
    package borrowing func tellOfPause() {
        _ = clinux_ioctl(descriptor.raw, CLINUX_KVM_KVMCLOCK_CTRL, 0)
    }

    // MARK: - Parts

    private borrowing func read(
        _ part: VCPUState.Part, _ request: UInt, _ name: StaticString
    ) throws(KVMError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: part.size ?? 0)
        try control(descriptor, request, name, bytes: &bytes)
        return bytes
    }

    private borrowing func write(
        _ state: VCPUState, _ part: VCPUState.Part, _ request: UInt, _ name: StaticString
    ) throws(KVMError) {
        // The kernel reads as much as the structure is long, whatever is there.
        guard var bytes = state.parts[part], part.size == nil || bytes.count == part.size else {
            throw .call(SystemError("ioctl", "\(name): a state of another size", code: 22))
        }
        try control(descriptor, request, name, bytes: &bytes)
    }

    private borrowing func readExtendedState(_ host: HostAbilities) throws(KVMError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: host.extendedStateSize)
        if host.hasLargeExtendedState {
            try control(descriptor, CLINUX_KVM_GET_XSAVE2, "KVM_GET_XSAVE2", bytes: &bytes)
        } else {
            try control(descriptor, CLINUX_KVM_GET_XSAVE, "KVM_GET_XSAVE", bytes: &bytes)
        }
        return bytes
    }

    /// struct kvm_nested_state: flags and format, its size, the rest.
    private borrowing func readNestedState(_ host: HostAbilities) throws(KVMError) -> [UInt8] {
        guard host.nestedStateSize >= 8 else { return [] }
        var bytes = [UInt8](repeating: 0, count: host.nestedStateSize)
        for index in 0..<4 { bytes[4 + index] = UInt8(truncatingIfNeeded: host.nestedStateSize >> (8 * index)) }
        try control(descriptor, CLINUX_KVM_GET_NESTED_STATE, "KVM_GET_NESTED_STATE", bytes: &bytes)
        var used = 0
        for index in 0..<4 { used |= Int(bytes[4 + index]) << (8 * index) }
        return Array(bytes.prefix(used))
    }

    private borrowing func timestampFrequencyInKHz() -> UInt32 {
        UInt32(max(0, clinux_ioctl(descriptor.raw, CLINUX_KVM_GET_TSC_KHZ, 0)))
    }

    private borrowing func cpuid() throws(KVMError) -> CPUIDTable {
        var words = [UInt64](repeating: 0, count: 1 + 256 * 5)
        words[0] = 256
        try control(descriptor, CLINUX_KVM_GET_CPUID2, "KVM_GET_CPUID2", words: &words)
        return CPUIDTable(words: words)
    }

    // MARK: - Model-specific registers

    /// Those of `numbers` that can be read. KVM stops at the first that cannot, which is left out.
    package borrowing func modelSpecificRegisters(_ numbers: [UInt32]) throws(KVMError) -> [ModelSpecificRegister] {
        var result: [ModelSpecificRegister] = []
        var rest = numbers[...]
        while !rest.isEmpty {
            var words: [UInt64] = [UInt64(rest.count)]
            for number in rest { words += [UInt64(number), 0] }
            let count = Int(try control(descriptor, CLINUX_KVM_GET_MSRS, "KVM_GET_MSRS", words: &words))
            for index in 0..<min(count, rest.count) {
                result.append(
                    ModelSpecificRegister(
                        number: UInt32(truncatingIfNeeded: words[1 + 2 * index]), value: words[2 + 2 * index]))
            }
            rest = rest.dropFirst(count + 1)
        }
        return result
    }

    /// Sets them; one that KVM refuses must have its value already.
    private borrowing func restoreModelSpecificRegisters(
        _ registers: [ModelSpecificRegister]
    ) throws(KVMError) {
        var rest = registers[...]
        while let first = rest.first {
            var words: [UInt64] = [UInt64(rest.count)]
            for register in rest { words += [UInt64(register.number), register.value] }
            let raw = descriptor.raw
            let count = unsafe words.withUnsafeMutableBytes { bytes in
                Int(retryingInterrupts { unsafe clinux_ioctl_pointer(raw, CLINUX_KVM_SET_MSRS, bytes.baseAddress) })
            }
            guard count >= 0 else { throw .call(SystemError("ioctl", "KVM_SET_MSRS")) }
            guard count < rest.count else { return }
            let refused = rest.dropFirst(count).first ?? first
            let present = try modelSpecificRegisters([refused.number])
            guard present.first?.value == refused.value else {
                let number = String(refused.number, radix: 16)
                let value = String(refused.value, radix: 16)
                throw .call(SystemError("ioctl", "KVM_SET_MSRS of MSR 0x\(number) to 0x\(value)", code: 22))
            }
            rest = rest.dropFirst(count + 1)
        }
    }
}
